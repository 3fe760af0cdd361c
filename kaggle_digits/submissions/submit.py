"""Write and validate submission files, submit each file once, and wait for its score."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from kaggle_digits.arrays import Float32, Int64
from kaggle_digits.calls import command
from kaggle_digits.data.csv import load_sample
from kaggle_digits.errors import (
    DataError,
    KaggleDigitsError,
    NetworkError,
    NotReachedError,
    RefusedError,
    ScoringError,
)
from kaggle_digits.files import lock, replacing, sha256, write_bytes
from kaggle_digits.hosts import Host, Standing, Submission
from kaggle_digits.submissions.ledger import Entry, Ledger, updated
from kaggle_digits.training.observer import Observer
from kaggle_digits.workspace import CLASSES, SAMPLE_CSV, SUBMISSION_COLUMNS, Workspace

if TYPE_CHECKING:
    import pandas as pd

DIGEST_LENGTH = 12
"""Digits of the file's SHA-256 at the end of its description and file name, to find it in the host's list."""
SEARCH_PAUSES = (0.0, 2.0, 5.0)
"""Seconds before each search for a submission whose response was lost."""
LAG = 30.0
"""Seconds after a lost response during which the next `submit` still searches for it: the host's list may lag."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between two polls of a pending submission; the pause doubles from the first to the longest."""


@dataclass(frozen=True)
class Sent:
    """The result of `submit`.

    Attributes
    ----------
    entry : Entry
        The submission's entry in the ledger; for a dry run, an entry without a reference.
    description : str
        The description at the host.
    was_known : bool
        True if the file had been submitted before, and nothing was sent.
    """

    entry: Entry
    description: str
    was_known: bool = False


@dataclass(frozen=True)
class ScoreBoard:
    """The result of `score`.

    Attributes
    ----------
    submissions : list of tuple of Submission and Entry or None
        The submissions at the host, newest first, each with its entry in the ledger.
    standing : Standing or None
        None if the host's leaderboard could not be read.
    """

    submissions: list[tuple[Submission, Entry | None]]
    standing: Standing | None

    def to_frame(self) -> pd.DataFrame:
        """Return one row per submission: ``time, ref, run, status, score, cv, gap``; unknown values are None."""
        import pandas as pd

        rows = [
            (s.time, s.ref, entry.run if entry else "", s.status, s.score, entry and entry.cv, entry and entry.gap)
            for s, entry in self.submissions
        ]
        return pd.DataFrame(rows, columns=["time", "ref", "run", "status", "score", "cv", "gap"])

    def _repr_html_(self) -> str:
        """Return the submissions and the rank, for a notebook."""
        rank = ""
        if self.standing and self.standing.rank is not None:
            rank = f"<p>Rank {self.standing.rank:,} of {self.standing.teams:,}</p>"
        table: str = self.to_frame().to_html(index=False, float_format="{:.5f}".format)
        return table + rank


def submission_file(workspace: Workspace, run: str) -> Path:
    """Return the path of a run's submission file."""
    return workspace.submissions / run / "submission.csv"


def ledger_of(workspace: Workspace) -> Ledger:
    """Return the ledger of a competition."""
    return Ledger(workspace.submissions / "ledger.csv")


def entry_of_run(workspace: Workspace, run: str) -> Entry | None:
    """Return the last ledger entry of a run's current submission file, or None.

    Entries are compared by SHA-256: if the run was trained again, older entries are of another file.
    """
    path = submission_file(workspace, run)
    entries = [entry for entry in ledger_of(workspace).entries() if entry.run == run]
    if not entries or not path.is_file():
        return None
    digest = sha256(path)
    return next((entry for entry in reversed(entries) if entry.sha256 == digest), None)


def write_submission(path: Path, ids: Int64, softmax: Float32) -> None:
    """Write a submission file with the most probable digit of each row, and validate it.

    Parameters
    ----------
    path : pathlib.Path
        The file, which is written atomically.
    ids : ndarray of int64, shape (m,)
        The ids from ``sample_submission.csv``.
    softmax : ndarray of float32, shape (m, 10)
        The predicted probabilities of the test rows.

    Raises
    ------
    DataError
        If there are not as many predictions as ids.
    WriteError
        If the file cannot be written.
    """
    import pandas as pd

    key, target = SUBMISSION_COLUMNS
    if len(ids) != len(softmax):
        raise DataError(
            f"There are {len(softmax):,} predictions for {len(ids):,} rows of {SAMPLE_CSV}.",
            "Train on the current data, under another run name.",
        )
    with replacing(path) as temporary:
        pd.DataFrame({key: ids, target: softmax.argmax(1)}).to_csv(temporary, index=False, lineterminator="\n")
        read_submission(temporary, ids)


def read_submission(path: Path, ids: Int64) -> bytes:
    """Read a submission file and validate its encoding, header, rows, ids and labels.

    Parameters
    ----------
    path : pathlib.Path
        The file, which may be a pipe: it is read only once.
    ids : ndarray of int64, shape (m,)
        The ids from ``sample_submission.csv``, in its order.

    Returns
    -------
    bytes
        The validated content. Send this and not the file, which may change after the validation.

    Raises
    ------
    DataError
        If the file is missing or not valid; the message has the number of the line.
    """

    def refuse(detail: str) -> NoReturn:
        raise DataError(
            f"{path}, {detail}.",
            f"Fix the file, or write the submission of a run again with {command('ensemble')}.",
        )

    # More bytes than a valid file can have, even with CRLF. The limit is needed because a device may never end.
    size_limit = 100 + sum(len(str(key)) + len(",0\r\n") for key in ids.tolist()) * 2
    try:
        with open(path, "rb") as stream:
            content = stream.read(size_limit)
        lines = content.decode("utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.", f"Write it with {command('train')}.") from None
    except OSError as error:
        refuse(f"the file cannot be read: {error.strerror or error}")
    except UnicodeDecodeError:
        refuse("the file is not UTF-8 text")
    lines = [line.removesuffix("\r") for line in lines]
    header = ",".join(SUBMISSION_COLUMNS)
    if lines[0] != header:
        refuse(f"line 1: the header is {lines[0][:60]!r}, not {header!r}")
    for number, (line, expected_id) in enumerate(zip(lines[1:], ids.tolist(), strict=False), start=2):
        key, comma, label = line.partition(",")
        if not comma or key != str(expected_id):
            refuse(f"line {number}: {line[:60]!r} does not start with the id {expected_id}")
        if not (label.isascii() and label.isdigit() and len(label) == 1 and int(label) < CLASSES):
            refuse(f"line {number}: the label is {label[:60]!r}, not a digit from 0 to 9")
    if len(content) == size_limit:
        refuse(f"the file has more than {len(ids) + 1:,} lines")
    if len(lines) - 1 != len(ids):
        refuse(f"expected {len(ids) + 1:,} lines, got {len(lines):,}")
    return content


def send(
    host: Host,
    workspace: Workspace,
    csv: Path,
    *,
    run: str = "",
    cv: float | None = None,
    message: str = "",
    dry_run: bool = False,
    again: bool = False,
    notice: Callable[[str], None] = lambda sentence: None,
) -> Sent:
    """Validate a submission file and send it once; `wait_for_score` waits for its score.

    A file that was submitted before, according to the ledger or the host's list, is not sent again unless `again`
    is true. The file is uploaded first, which submits nothing. Then its entry is written to the ledger, and after
    that the host is asked to make the submission. With this order, a submission that may have been made always has
    an entry, even if the response is lost or the process is killed. While it is unknown whether the submission was
    made, it is searched for in the host's list, and the file is not sent again unless `again` is true.

    Parameters
    ----------
    host : Host
        The host that the file is submitted to.
    workspace : Workspace
        The folders with the sample submission and the ledger.
    csv : pathlib.Path
        The submission file.
    run : str
        The name of the run that the file belongs to, for the ledger.
    cv : float, optional
        The run's out-of-fold accuracy, for the ledger.
    message : str
        The description at the host. The first digits of the file's SHA-256 are appended to it.
    dry_run : bool
        Validate the file and search for earlier submissions, but send nothing.
    again : bool
        Send the file even if it was submitted before.
    notice : callable
        Called with a sentence that says how many submissions are left today.

    Returns
    -------
    Sent
        The submission's entry in the ledger, and whether it was submitted before.

    Raises
    ------
    DataError
        If the file or the ledger is not valid.
    CredentialsError
        If the host does not accept the credentials.
    RefusedError
        If the host refuses the submission, or the daily limit has been reached.
    NetworkError
        If the host cannot be reached, or it is unknown whether the submission was made.
    WriteError
        If the ledger cannot be written, or another submission is running.
    """
    content = read_submission(csv, load_sample(workspace.data))
    digest = hashlib.sha256(content).hexdigest()
    # One short line, because the host changes line breaks and cuts long descriptions.
    description = f"{' '.join(message.split())[:200]} {digest[:DIGEST_LENGTH]}".strip()
    entry = Entry(
        time=_now(), run=run, sha256=digest, ref="", status="UNKNOWN", cv=None if cv is None else round(cv, 5)
    )
    ledger = ledger_of(workspace)
    with lock(workspace.submissions / ".lock", "Another submission is running."):
        made = _find_made(host, workspace, entry, again, dry_run)
        if made is not None:
            if not dry_run:
                ledger.record(made)
            return Sent(made, description, was_known=True)
        # Before the upload, so that no file is uploaded that cannot be submitted today.
        left = host.allowance()
        if left is not None:
            notice(f"{left} submission{'s are' if left != 1 else ' is'} left today.")
        if dry_run:
            return Sent(entry, description)
        if left is not None and left <= 0:
            raise RefusedError(
                "The daily limit of submissions has been reached.", "Submit the file after midnight UTC."
            )
        with _private_copy(workspace, content, digest) as copy:
            upload = host.upload(copy)
        return Sent(_make(host, workspace, entry, upload, description, left), description)


def wait_for_score(host: Host, workspace: Workspace, entry: Entry, timeout: float, observer: Observer) -> Entry:
    """Poll the host until a submission is scored, and update the ledger.

    Parameters
    ----------
    host : Host
        The host that has the submission.
    workspace : Workspace
        The folders with the ledger.
    entry : Entry
        The submission's entry in the ledger.
    timeout : float
        Maximum time to wait, in seconds.
    observer : Observer
        Called with the status at each poll.

    Returns
    -------
    Entry
        The updated entry.

    Raises
    ------
    NetworkError
        If the score is still pending at the timeout.
    ScoringError
        If the host scored the submission as an error.
    """
    ledger = ledger_of(workspace)
    deadline, pause = time.monotonic() + timeout, FIRST_PAUSE
    polled = host.without_retries()
    while True:
        try:
            submission = next((s for s in polled.submissions() if s.ref == entry.ref), None)
        except NetworkError:
            submission = None  # Poll again until the deadline.
        status = submission.status if submission else "UNKNOWN"
        observer.waiting(status)
        if submission and status == "ERROR":
            ledger.record(updated(entry, status, None))
            reason = submission.reason.rstrip(".") or "no reason given"
            raise ScoringError(
                f"Submission {entry.ref} was scored as an error: {reason}.",
                "If the file is not valid, fix it and submit the new file; if the host had an error, send "
                f"the same file again with {command('--again')}.",
            )
        if submission and status == "COMPLETE":
            entry = updated(entry, status, submission.score)
            ledger.record(entry)
            with suppress(KaggleDigitsError):
                read_scores(host, workspace)
            return next((e for e in ledger.entries() if e.is_same_submission(entry)), entry)
        left = deadline - time.monotonic()
        if left <= 0:
            raise NetworkError(
                f"Submission {entry.ref} is still {status.lower()} after {timeout:.0f} seconds.",
                f"It was submitted and is in the ledger; check its score later with {command('score')}.",
            )
        time.sleep(min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE)


def read_scores(host: Host, workspace: Workspace) -> ScoreBoard:
    """Read all submissions and the rank on the leaderboard from the host, and update the ledger.

    Entries that are only in the ledger come last. The rank is written to the entry of the best submission, because
    the leaderboard ranks a team by its best score.
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
    """Yield a copy of the validated content, with a file name that identifies it in the host's list."""
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
    """Pair the submissions, newest first, with their ledger entries.

    They are matched by reference or, if the response with the reference was lost, by digest. If there are several
    such entries for one file, the oldest entry is paired with the oldest submission. Each entry is used once.
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
    """Return whether a submission is of the file with this SHA-256.

    The digest is in the name of the uploaded file and at the end of the description. Both are checked, because
    the user can edit the description on the host's site. The file size is no help: all valid submissions to a
    competition have the same size.
    """
    mark = digest[:DIGEST_LENGTH]
    return len(mark) == DIGEST_LENGTH and (mark in submission.file_name or submission.description.endswith(mark))


def _find_made(host: Host, workspace: Workspace, entry: Entry, again: bool, dry_run: bool) -> Entry | None:
    """Return the entry of an earlier submission of the same file, or None if the file has to be submitted.

    With `again`, only submissions whose response was lost are searched for: they may have been made.

    Raises
    ------
    NetworkError
        If it is unknown whether a submission was made, and `again` is false.
    """
    ledger = ledger_of(workspace)
    entries = ledger.entries()
    known = [old for old in entries if old.sha256 == entry.sha256 and old.ref]
    lost = [old for old in entries if old.sha256 == entry.sha256 and not old.ref]
    if not lost and (again or known):
        return None if again else known[-1]
    for attempt in range(1 + (_remaining_searches(lost[-1]) if lost else 0)):
        if attempt:
            time.sleep(SEARCH_PAUSES[-1])
        for submission, old in _matched(host.submissions(), entries):
            if _is_of(submission, entry.sha256) and (old is None or not old.ref):
                found = replace(old or replace(entry, time=submission.time), ref=submission.ref)
                return updated(found, submission.status, submission.score)
    if again or known or not lost:
        return None if again or not known else known[-1]
    when = lost[-1].time[:16].replace("T", " ")
    problem = f"The response to a submission of this file ({when} UTC) was lost"
    raise _unresolved(host, workspace, lost[-1], problem, dry_run)


def _remaining_searches(lost: Entry) -> int:
    """Return how often to search again for a submission whose response was lost, which depends on its age."""
    try:
        age = time.time() - datetime.fromisoformat(lost.time).timestamp()
    except ValueError:  # the time was edited by hand
        return 0
    return int(min(max(0.0, LAG - age), LAG) / SEARCH_PAUSES[-1])


def _unresolved(
    host: Host, workspace: Workspace, lost: Entry, problem: str, dry_run: bool = False
) -> NetworkError:
    """Return the error for a submission that is not listed; update its entry if the host has counted it."""
    ledger, left = ledger_of(workspace), None
    with suppress(KaggleDigitsError):
        left = host.allowance()
    counted = lost.status == "PENDING" or ledger.was_counted(lost, left)
    if counted and not dry_run:
        ledger.mark_counted(lost)
    known = "has been counted, but is not listed yet" if counted else "may have been made, but is not listed"
    return NetworkError(
        f"{problem}: the submission {known}.",
        f"Check for it with: {command(workspace.command('score'))}; "
        f"the file is sent again only with {command('--again')}.",
    )


def _make(
    host: Host, workspace: Workspace, entry: Entry, upload: str, description: str, left: int | None
) -> Entry:
    """Make a submission of an uploaded file, write its reference to the ledger and return its entry.

    The entry is written before the request is sent, and removed only if the host refuses or was not reached. If
    the response is lost, the submission may have been made. It is searched for in the host's list; if it is not
    there, the entry is kept, and the next `submit` or `score` searches again. The entry gets the status PENDING if
    the host has counted the submission, which is the case if the allowance is now lower than `left`.
    """
    ledger = ledger_of(workspace)
    listed = list(host.submissions())
    for submission, old in _matched(listed, ledger.entries()):
        if old is None and _is_of(submission, entry.sha256):
            # Submitted elsewhere: give it its own entry, so that it is not mistaken for the new submission.
            known = replace(entry, time=submission.time, ref=submission.ref)
            ledger.record(updated(known, submission.status, submission.score))
    before = {submission.ref for submission in listed}
    # The time of the request, not of the call of `submit`: the upload may have taken minutes.
    entry = replace(entry, time=_now())
    ledger.record_attempt(entry, left)
    try:
        ref = host.create(upload, description)
    except NotReachedError:
        ledger.forget(entry)
        raise
    except NetworkError as error:
        found = _search(host, ledger, entry, before)
        if found is None:
            raise _unresolved(host, workspace, entry, error.problem.rstrip(".")) from error
        ref = found
    except KaggleDigitsError:
        ledger.forget(entry)
        raise
    entry = replace(entry, ref=ref, status="PENDING")
    ledger.record(entry)
    return entry


def _search(host: Host, ledger: Ledger, entry: Entry, before: set[str]) -> str | None:
    """Return the reference of a submission whose response was lost, or None if it is not listed.

    Submissions that were listed `before`, and late ones of other entries, are skipped. The search is repeated,
    because the host's list may lag or fail for some time.
    """
    entries = ledger.entries()
    for pause in SEARCH_PAUSES:
        time.sleep(pause)
        with suppress(KaggleDigitsError):  # an error of the list does not say whether the submission was made
            fresh = [submission for submission in host.submissions() if submission.ref not in before]
            for submission, old in _matched(fresh, entries):
                if old is not None and old.is_same_submission(entry):
                    return submission.ref
    return None


def _standing(host: Host) -> Standing | None:
    """Return the rank on the leaderboard, or None if it cannot be read: scores are shown without it."""
    try:
        return host.standing()
    except KaggleDigitsError:
        return None
