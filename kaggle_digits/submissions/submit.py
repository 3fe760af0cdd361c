"""A submission: written, checked, sent once, waited for, and found again."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from kaggle_digits.arrays import Float32, Int64
from kaggle_digits.data.csv import load_sample
from kaggle_digits.errors import (
    DataError,
    KaggleDigitsError,
    NetworkError,
    NotReachedError,
    RefusedError,
    ScoringError,
    UsageError,
)
from kaggle_digits.files import lock, replacing, sha256, write_bytes
from kaggle_digits.hosts import Host, Standing, Submission
from kaggle_digits.submissions import TIMEOUT
from kaggle_digits.submissions.ledger import Entry, Ledger, updated
from kaggle_digits.training.observer import Observer
from kaggle_digits.workspace import CLASSES, SAMPLE_CSV, SUBMISSION_COLUMNS, Workspace

DIGEST_LENGTH = 12
"""How much of the file's SHA-256 its description and its name at the host end in, to find it again in the list."""
LOOK_UP_PAUSES = (0.0, 2.0, 5.0)
"""Seconds before each look for a submission whose answer was lost."""
LAG = 30.0
"""Seconds after a lost answer for which the next `submit` looks for the submission before it gives up."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between two looks at a pending submission; the pause doubles from the first to the longest."""


@dataclass(frozen=True)
class Sent:
    """What became of a `submit`.

    Attributes
    ----------
    entry : Entry
        The submission's line in the ledger; without a reference if it was a dry run.
    description : str
        The message it was sent with.
    was_known : bool
        True if the file had been submitted before, and nothing was sent.
    """

    entry: Entry
    description: str
    was_known: bool = False


@dataclass(frozen=True)
class ScoreBoard:
    """What `score` shows.

    Attributes
    ----------
    submissions : list of tuple of Submission and Entry or None
        Those at the host, newest first, each with its line in the ledger.
    standing : Standing or None
        None if the host's leaderboard could not be read.
    """

    submissions: list[tuple[Submission, Entry | None]]
    standing: Standing | None


def submission_file(workspace: Workspace, run: str) -> Path:
    """Return the path of a run's submission."""
    return workspace.submissions / run / "submission.csv"


def ledger_of(workspace: Workspace) -> Ledger:
    """Return the ledger of a competition."""
    return Ledger(workspace.submissions / "ledger.csv")


def entry_of_run(workspace: Workspace, run: str) -> Entry | None:
    """Return the last line in the ledger of a run's submission file as it is now, or None.

    By its digest: the run may have been trained again since another file of it was submitted.
    """
    path = submission_file(workspace, run)
    entries = [entry for entry in ledger_of(workspace).entries() if entry.run == run]
    if not entries or not path.is_file():
        return None
    digest = sha256(path)
    return next((entry for entry in reversed(entries) if entry.sha256 == digest), None)


def write_submission(path: Path, ids: Int64, softmax: Float32) -> None:
    """Write a submission, the likeliest digit of each row, and check it.

    Parameters
    ----------
    path : pathlib.Path
        The file; it appears whole or not at all.
    ids : ndarray of int64, shape (m,)
        From ``sample_submission.csv``.
    softmax : ndarray of float32, shape (m, 10)
        Of the test rows.
    """
    import pandas as pd

    key, target = SUBMISSION_COLUMNS
    if len(ids) != len(softmax):
        raise DataError(
            f"There are {len(softmax):,} predictions for {len(ids):,} rows of {SAMPLE_CSV}.",
            "Train on the data that is here now, with another --run name.",
        )
    with replacing(path) as temporary:
        pd.DataFrame({key: ids, target: softmax.argmax(1)}).to_csv(temporary, index=False, lineterminator="\n")
        read_submission(temporary, ids)


def read_submission(path: Path, ids: Int64) -> bytes:
    """Read a submission file, once, and check its encoding, header, rows, ids and labels.

    Parameters
    ----------
    path : pathlib.Path
        The file, which may be a pipe.
    ids : ndarray of int64, shape (m,)
        What ``sample_submission.csv`` asks for, in its order.

    Returns
    -------
    bytes
        The content, which is what has to be sent: the file may be another one by then.

    Raises
    ------
    DataError
        If the host would refuse it, or score it as something else than was meant; the error names the line.
    """

    def refuse(detail: str) -> NoReturn:
        raise DataError(
            f"{path}, {detail}.", "Mend the file, or write a run's own again with the command: ensemble."
        )

    # More than a right file can have, with CRLF, and an end of what a wrong one or a device may send.
    most = 100 + sum(len(str(key)) + len(",0\r\n") for key in ids.tolist()) * 2
    try:
        with open(path, "rb") as stream:
            content = stream.read(most)
        lines = content.decode("utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError:
        raise DataError(f"There is no {path}.", "Write it with the command: train.") from None
    except OSError as error:
        refuse(f"which cannot be read: {error.strerror or error}")
    except UnicodeDecodeError:
        refuse("which is no text in UTF-8")
    lines = [line.removesuffix("\r") for line in lines]
    header = ",".join(SUBMISSION_COLUMNS)
    if lines[0] != header:
        refuse(f"line 1: the header is {lines[0][:60]!r}, not {header!r}")
    for number, (line, wanted) in enumerate(zip(lines[1:], ids.tolist(), strict=False), start=2):
        key, comma, label = line.partition(",")
        if not comma or key != str(wanted):
            refuse(f"line {number}: {line[:60]!r} does not begin with the id {wanted}")
        if not (label.isascii() and label.isdigit() and len(label) == 1 and int(label) < CLASSES):
            refuse(f"line {number}: the label is {label[:60]!r}, not a digit from 0 to 9")
    if len(content) == most:
        refuse(f"which goes on after its {len(ids) + 1:,} lines")
    if len(lines) - 1 != len(ids):
        refuse(f"line {len(lines)} is the last, where {len(ids) + 1:,} lines are wanted")
    return content


def submit(
    host: Host,
    workspace: Workspace,
    csv: Path,
    *,
    run: str = "",
    cv: float | None = None,
    message: str = "",
    dry_run: bool = False,
    again: bool = False,
    wait: bool = True,
    timeout: float = TIMEOUT,
    observer: Observer | None = None,
) -> Sent:
    """Check a submission file, send it once, and wait for its score.

    A file that was submitted before, by the ledger's or the host's word, is not sent again unless `again`. The
    file is uploaded first, which submits nothing. Then its line goes into the ledger, and only then is the host
    asked to make the submission: from that line on it counts as possibly made, whatever happens to the answer or
    to this process, and it is looked for in the host's list. As long as it is not known what became of it, the
    file is not sent again unless `again`.

    Parameters
    ----------
    host : Host
        Where to.
    workspace : Workspace
        Whose sample and ledger to use.
    csv : pathlib.Path
        The file.
    run : str
        The run it came from, for the ledger.
    cv : float, optional
        The run's out-of-fold accuracy, for the ledger.
    message : str
        The description, to which the first digits of the file's SHA-256 are added.
    dry_run : bool
        Check everything and send nothing.
    again : bool
        Send a file that was submitted before.
    wait : bool
        Wait for the score.
    timeout : float
        Seconds to wait for it.
    observer : Observer, optional
        Told of the status at each look.

    Raises
    ------
    DataError
        If the file is not one to submit.
    RefusedError
        If the host refuses, or today's allowance is used up.
    NetworkError
        If the host did not take the file, or the score is still pending at the timeout.
    ScoringError
        If the host scored the submission as an error.
    """
    if not timeout >= 0:
        raise UsageError(f"{timeout} seconds is no time to wait.", "Choose a --timeout from 0.")
    content = read_submission(csv, load_sample(workspace.data))
    digest = hashlib.sha256(content).hexdigest()
    # One line of bounded length, as the host gives it back.
    description = f"{' '.join(message.split())[:200]} {digest[:DIGEST_LENGTH]}".strip()
    entry = Entry(
        time=_now(), run=run, sha256=digest, ref="", status="UNKNOWN", cv=None if cv is None else round(cv, 5)
    )
    ledger = ledger_of(workspace)
    with lock(workspace.submissions / ".lock", "Another submission is under way."):
        made = _find_made(host, workspace, entry, again, dry_run)
        if dry_run:
            return Sent(made or entry, description, was_known=made is not None)
        if made is not None:
            ledger.record(made)
            sent = Sent(made, description, was_known=True)
        else:
            left = host.allowance()
            if left is not None and left <= 0:
                raise RefusedError(
                    "Today's submissions are used up.", "Submit again after midnight UTC; the file stays."
                )
            with _private_copy(workspace, content, digest) as copy:
                upload = host.upload(copy)
            sent = Sent(_make(host, workspace, entry, upload, description, left), description)
    if not wait or sent.entry.status == "COMPLETE":
        return sent
    return replace(sent, entry=_wait(host, workspace, sent.entry, timeout, observer or Observer()))


def read_scores(host: Host, workspace: Workspace) -> ScoreBoard:
    """Ask the host for all submissions and the rank on the leaderboard, and update the ledger.

    What only the ledger knows comes last. A rank is written to the entry of the best submission, for it is this
    one that has the rank.
    """
    ledger = ledger_of(workspace)
    submissions = list(host.submissions())
    standing = _standing(host)
    best = max((s.score for s in submissions if s.score is not None), default=None)
    rows: list[tuple[Submission, Entry | None]] = []
    for submission, entry in _matched(submissions, ledger.entries()):
        if entry is not None:
            rank = standing.rank if standing and submission.score == best else None
            now = updated(replace(entry, ref=submission.ref), submission.status, submission.score, rank)
            if now != entry:
                ledger.record(now)
            entry = now
        rows.append((submission, entry))
    listed = {submission.ref for submission in submissions}
    rows += [(_as_submission(entry), entry) for entry in reversed(ledger.entries()) if entry.ref not in listed]
    return ScoreBoard(rows, standing)


def _as_submission(entry: Entry) -> Submission:
    return Submission(entry.ref, entry.time, "", entry.status, entry.score, "only in the ledger", "")


@contextmanager
def _private_copy(workspace: Workspace, content: bytes, digest: str) -> Iterator[Path]:
    """Yield a copy of what was checked, under a name that tells the file in the host's list."""
    folder = workspace.submissions / ".upload"
    path = folder / f"submission-{digest[:DIGEST_LENGTH]}.csv"
    try:
        write_bytes(path, content)
        yield path
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="microseconds")


def _matched(submissions: Iterable[Submission], entries: Sequence[Entry]) -> list[tuple[Submission, Entry | None]]:
    """Pair the submissions, newest first, with their entries.

    By the reference, or by the digest where the answer with the reference was lost. Of several lost answers about
    one file, the oldest entry goes with the oldest submission, and no entry with two.
    """
    by_ref = {entry.ref: entry for entry in entries if entry.ref}
    lost = [entry for entry in entries if not entry.ref]
    pairs: list[tuple[Submission, Entry | None]] = []
    for submission in reversed(list(submissions)):
        entry = by_ref.get(submission.ref) or next((e for e in lost if _is_of(submission, e.sha256)), None)
        if entry in lost:
            lost.remove(entry)
        pairs.append((submission, entry))
    return pairs[::-1]


def _is_of(submission: Submission, digest: str) -> bool:
    """Tell whether a submission is of the file with this SHA-256.

    By the name that the file was uploaded under, or by the end of the description, which can be edited on the
    host's site. Sizes tell nothing: all valid submissions to a competition have the same.
    """
    mark = digest[:DIGEST_LENGTH]
    return len(mark) == DIGEST_LENGTH and (mark in submission.file_name or submission.description.endswith(mark))


def _find_made(host: Host, workspace: Workspace, entry: Entry, again: bool, dry_run: bool) -> Entry | None:
    """Return the entry of a submission of the same file that was made before, by whomever; None to make one.

    With `again` only one counts whose answer was lost: it may have been made after all.

    Raises
    ------
    NetworkError
        If it is not known whether one was made, and not `again`.
    """
    ledger = ledger_of(workspace)
    entries = ledger.entries()
    known = [old for old in entries if old.sha256 == entry.sha256 and old.ref]
    lost = [old for old in entries if old.sha256 == entry.sha256 and not old.ref]
    if not lost and (again or known):
        return None if again else known[-1]
    for look in range(1 + (_looks_left(lost[-1]) if lost else 0)):
        if look:
            time.sleep(LOOK_UP_PAUSES[-1])
        for submission, old in _matched(host.submissions(), entries):
            if _is_of(submission, entry.sha256) and (old is None or not old.ref):
                found = replace(old or replace(entry, time=submission.time), ref=submission.ref)
                return updated(found, submission.status, submission.score)
    if again or known or not lost:
        return None if again or not known else known[-1]
    when = lost[-1].time[:16].replace("T", " ")
    problem = f"The answer to a submission of this file ({when} UTC) was lost"
    raise _unresolved(host, workspace, lost[-1], problem, dry_run)


def _looks_left(lost: Entry) -> int:
    """Return how many more looks a submission whose answer was lost is worth, by its age."""
    try:
        age = time.time() - datetime.fromisoformat(lost.time).timestamp()
    except ValueError:  # somebody has edited the ledger
        return 0
    return int(min(max(0.0, LAG - age), LAG) / LOOK_UP_PAUSES[-1])


def _unresolved(
    host: Host, workspace: Workspace, lost: Entry, problem: str, dry_run: bool = False
) -> NetworkError:
    """Return the error of a submission whose answer was lost and that is not listed; note if it was counted."""
    ledger, left = ledger_of(workspace), None
    with suppress(KaggleDigitsError):
        left = host.allowance()
    counted = lost.status == "PENDING" or ledger.was_counted(lost, left)
    if counted and not dry_run:
        ledger.mark_counted(lost)
    known = "has been counted, but is not listed yet" if counted else "may have been made, but is not listed"
    return NetworkError(
        f"{problem}: the submission {known}.",
        f"Look for it with: {workspace.command('score')}; only --again sends the file once more.",
    )


def _make(
    host: Host, workspace: Workspace, entry: Entry, upload: str, description: str, left: int | None
) -> Entry:
    """Make a submission of an uploaded file, and return its entry once the reference is in the ledger.

    The entry is there before the host is asked, with the time of just before. It is forgotten only if the host
    refuses. If the answer is lost the submission may have been made: it is looked up in the list, and if it is
    not there, the entry stays for the next `submit` or `score` to resolve. With the status PENDING if the host
    has counted it, for of the allowance, which was `left` before, less is left.
    """
    ledger = ledger_of(workspace)
    listed = list(host.submissions())
    for submission, old in _matched(listed, ledger.entries()):
        if old is None and _is_of(submission, entry.sha256):
            # Made elsewhere: it gets a line of its own, so as not to be taken for the one that is made now.
            known = replace(entry, time=submission.time, ref=submission.ref)
            ledger.record(updated(known, submission.status, submission.score))
    before = {submission.ref for submission in listed}
    # Not the time when `submit` began: the upload may have taken minutes.
    entry = replace(entry, time=_now())
    ledger.record_attempt(entry, left)
    try:
        ref = host.create(upload, description)
    except NotReachedError:
        ledger.forget(entry)
        raise
    except NetworkError as error:
        found = _look_up(host, ledger, entry, before)
        if found is None:
            raise _unresolved(host, workspace, entry, error.problem.rstrip(".")) from error
        ref = found
    except KaggleDigitsError:
        ledger.forget(entry)
        raise
    entry = replace(entry, ref=ref, status="PENDING")
    ledger.record(entry)
    return entry


def _look_up(host: Host, ledger: Ledger, entry: Entry, before: set[str]) -> str | None:
    """Return the reference of a submission whose answer was lost, or None if it is not listed.

    Not one that was listed `before`, nor one of another entry which is listed only now. A host's list may lag, or
    fail for as long as the answer did, so look several times.
    """
    entries = ledger.entries()
    for pause in LOOK_UP_PAUSES:
        time.sleep(pause)
        with suppress(KaggleDigitsError):  # what is in the way of the list says nothing of the submission
            fresh = [submission for submission in host.submissions() if submission.ref not in before]
            for submission, old in _matched(fresh, entries):
                if old is not None and old.is_same_sending(entry):
                    return submission.ref
    return None


def _wait(host: Host, workspace: Workspace, entry: Entry, timeout: float, observer: Observer) -> Entry:
    ledger = ledger_of(workspace)
    deadline, pause = time.monotonic() + timeout, FIRST_PAUSE
    brief = host.without_retries()
    while True:
        try:
            submission = next((s for s in brief.submissions() if s.ref == entry.ref), None)
        except NetworkError:
            submission = None  # There is time left; the deadline bounds the patience.
        status = submission.status if submission else "UNKNOWN"
        observer.waiting(status)
        if submission and status == "ERROR":
            ledger.record(updated(entry, status, None))
            raise ScoringError(
                f"Submission {entry.ref} was scored as an error: {submission.reason.rstrip('.') or 'no reason'}.",
                "If the reason is in the file, fix it and submit the new one; if it was trouble at the host, send "
                "the same file once more with --again.",
            )
        if submission and status == "COMPLETE":
            entry = updated(entry, status, submission.score)
            ledger.record(entry)
            with suppress(KaggleDigitsError):
                read_scores(host, workspace)
            return next((e for e in ledger.entries() if e.is_same_sending(entry)), entry)
        left = deadline - time.monotonic()
        if left <= 0:
            raise NetworkError(
                f"Submission {entry.ref} is still {status.lower()} after {timeout:.0f} seconds.",
                "It is in the ledger and counts; look for its score later with the command: score.",
            )
        time.sleep(min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE)


def _standing(host: Host) -> Standing | None:
    """Return the rank on the leaderboard, or None: a score is worth showing without it."""
    try:
        return host.standing()
    except KaggleDigitsError:
        return None
