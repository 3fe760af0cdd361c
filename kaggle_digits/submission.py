"""A submission: written, checked, sent once, waited for, and found again."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from kaggle_digits.arrays import Float32, Int64
from kaggle_digits.competition import CLASSES, SAMPLE_CSV, SUBMISSION_COLUMNS
from kaggle_digits.data import load_sample
from kaggle_digits.errors import (
    DataError,
    KaggleDigitsError,
    NetworkError,
    NothingSentError,
    RefusedError,
    ScoringError,
    UsageError,
)
from kaggle_digits.files import Workspace, lock, replacing, sha256
from kaggle_digits.hosts import Host, Standing, Submission
from kaggle_digits.ledger import Entry, Ledger, updated

DIGEST_LENGTH = 12
"""How much of the file's SHA-256 ends a description, by which a lost answer is found again."""
LOOK_UP_PAUSES = (0.0, 2.0, 5.0)
"""Seconds before each look for a submission whose answer was lost."""
LAG = 30.0
"""Seconds after a sending without an answer in which it may yet appear in the host's list."""
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
        check_submission(temporary, ids)


def check_submission(path: Path, ids: Int64) -> None:
    """Check a submission file: its encoding, header, rows, ids and labels.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    ids : ndarray of int64, shape (m,)
        What ``sample_submission.csv`` asks for, in its order.

    Raises
    ------
    DataError
        If the host would refuse it, or score it as something else than was meant; the error names the line.
    """

    def refuse(detail: str) -> NoReturn:
        raise DataError(
            f"{path}, {detail}.", "Mend the file, or write a run's own again with the command: ensemble."
        )

    try:
        lines = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
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
    if len(lines) - 1 != len(ids):
        refuse(f"line {len(lines)} is the last, where {len(ids) + 1:,} lines are wanted")


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
    timeout: float = 600.0,
    on_wait: Callable[[str], None] = lambda status: None,
) -> Sent:
    """Check a submission file, send it once, and wait for its score.

    A file that was submitted before, by the ledger's or the host's word, is not sent again unless `again`. The
    reference is in the ledger before the first look at the score, and an answer that is lost on its way back is
    looked up in the host's list, and in what is left of the day's allowance, so that nothing is sent twice.

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
    on_wait : callable
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
    check_submission(csv, load_sample(workspace.data))
    digest = sha256(csv)
    # One line of bounded length, as the host gives it back.
    description = f"{' '.join(message.split())[:200]} {digest[:DIGEST_LENGTH]}".strip()
    entry = Entry(
        time=datetime.now(UTC).isoformat(timespec="microseconds"),
        run=run,
        sha256=digest,
        ref="",
        status="UNKNOWN",
        cv="" if cv is None else f"{cv:.5f}",
    )
    ledger = ledger_of(workspace)
    with lock(workspace.submissions / ".lock", "Another submission is under way."):
        entries = ledger.entries()
        known = _find_known(host, entries, entry, again)
        if dry_run:
            return Sent(known or entry, description, was_known=known is not None)
        if known is not None:
            ledger.record(known)
            sent = Sent(known, description, was_known=True)
        else:
            left = host.allowance()
            if left is not None and left <= 0:
                raise RefusedError(
                    "Today's submissions are used up.", "Submit again after midnight UTC; the file stays."
                )
            sent = Sent(_send(host, ledger, csv, entry, description, left), description)
    if not wait or sent.entry.status == "COMPLETE":
        return sent
    return replace(sent, entry=_wait(host, workspace, sent.entry, timeout, on_wait))


def read_scores(host: Host, workspace: Workspace) -> ScoreBoard:
    """Ask the host for all submissions and the place on the leaderboard, and bring the ledger up to date.

    What only the ledger knows comes last. A rank is written to the entry of the best submission, for it is this
    one that holds the place.
    """
    ledger = ledger_of(workspace)
    submissions = list(host.submissions())
    standing = _standing(host)
    best = max((s.score for s in submissions if s.score is not None), default=None)
    entries = ledger.entries()
    rows: list[tuple[Submission, Entry | None]] = []
    for submission in submissions:
        entry = _entry_of(submission, entries)
        if entry is not None:
            place = standing.place if standing and submission.score == best else None
            now = updated(replace(entry, ref=submission.ref), submission.status, submission.score, place)
            if now != entry:
                ledger.record(now)
            entry = now
        rows.append((submission, entry))
    listed = {submission.ref for submission in submissions}
    rows += [(_as_submission(entry), entry) for entry in reversed(ledger.entries()) if entry.ref not in listed]
    return ScoreBoard(rows, standing)


def _as_submission(entry: Entry) -> Submission:
    score = float(entry.score) if entry.score else None
    return Submission(entry.ref, entry.time, "", entry.status, score, "only in the ledger", "")


def _entry_of(submission: Submission, entries: list[Entry]) -> Entry | None:
    """Return a submission's entry: by its reference, or by its digest where the reference was lost."""
    by_ref = next((entry for entry in entries if entry.ref == submission.ref), None)
    return by_ref or next((e for e in entries if not e.ref and _is_about(submission, e.sha256)), None)


def _is_about(submission: Submission, digest: str) -> bool:
    return len(digest) >= DIGEST_LENGTH and submission.description.endswith(digest[:DIGEST_LENGTH])


def _find_known(host: Host, entries: list[Entry], entry: Entry, again: bool) -> Entry | None:
    """Return the entry of a submission of the same file that was made before, by whomever; None to send it.

    With `again` only one counts whose answer was lost: it may have come to be after all.

    Raises
    ------
    NetworkError
        If the answer was lost, and the host has counted the submission but does not list it.
    """
    known = [old for old in entries if old.sha256 == entry.sha256 and old.ref]
    lost = _lost(entries, entry.sha256)
    if lost is None and (again or known):
        return None if again else known[-1]
    refs = {old.ref for old in entries}
    looks = 1 if lost is None else 1 + _looks_left(lost)
    for look in range(looks):
        if look:
            time.sleep(LOOK_UP_PAUSES[-1])
        for submission in host.submissions():
            if submission.ref not in refs and _is_about(submission, entry.sha256):
                found = lost or replace(entry, time=submission.time)
                return updated(replace(found, ref=submission.ref), submission.status, submission.score)
    if lost is not None and lost.status == "PENDING" and not again:
        raise NetworkError(_COUNTED, _LOOK_LATER)
    return known[-1] if known and not again else None


def _looks_left(lost: Entry) -> int:
    """Return how many looks it takes until a sending whose answer was lost should be in the host's list."""
    try:
        age = (datetime.now(UTC) - datetime.fromisoformat(lost.time)).total_seconds()
    except (ValueError, TypeError):  # somebody has edited the ledger
        return 0
    return int(min(max(0.0, LAG - age), LAG) / LOOK_UP_PAUSES[-1])


def _lost(entries: list[Entry], digest: str) -> Entry | None:
    """Return the entry of a sending of this file whose reference never arrived."""
    return next((entry for entry in entries if entry.sha256 == digest and not entry.ref), None)


_COUNTED = "The answer to a submission of this file was lost: it has been counted, but is not listed yet."
_LOOK_LATER = "Look for it later with the command: score; --again would send the file a second time."


def _send(host: Host, ledger: Ledger, csv: Path, entry: Entry, description: str, left: int | None) -> Entry:
    """Submit a file, and return its entry once the reference is in the ledger.

    The entry is there before the file is sent: whatever happens then, the next `submit` or `score` looks it up.
    It is forgotten only when nothing can have come to be; PENDING without a reference means that something has,
    for of the allowance, which was `left` before, less is left.
    """
    before = {submission.ref for submission in host.submissions()}
    if lost := _lost(ledger.entries(), entry.sha256):
        ledger.forget(lost)
    ledger.record(entry)
    try:
        ref = host.submit(csv, description)
    except NothingSentError:
        ledger.forget(entry)
        raise
    except NetworkError:
        found = _look_up(host, entry.sha256, before)
        if found is None:
            now_left = host.allowance()
            if now_left is not None and (left is None or now_left < left):
                ledger.record(replace(entry, status="PENDING"))
                raise NetworkError(_COUNTED, _LOOK_LATER) from None
            raise
        ref = found
    except KaggleDigitsError:
        ledger.forget(entry)
        raise
    entry = replace(entry, ref=ref, status="PENDING")
    ledger.record(entry)
    return entry


def _look_up(host: Host, digest: str, before: set[str]) -> str | None:
    """Return the reference of a submission whose answer was lost; a host's list may lag, so look several times."""
    for pause in LOOK_UP_PAUSES:
        time.sleep(pause)
        for submission in host.submissions():
            if submission.ref not in before and _is_about(submission, digest):
                return submission.ref
    return None


def _wait(host: Host, workspace: Workspace, entry: Entry, timeout: float, on_wait: Callable[[str], None]) -> Entry:
    ledger = ledger_of(workspace)
    deadline, pause = time.monotonic() + timeout, FIRST_PAUSE
    brief = host.impatient()
    while True:
        try:
            submission = next((s for s in brief.submissions() if s.ref == entry.ref), None)
        except NetworkError:
            submission = None  # There is time left; the deadline bounds the patience.
        status = submission.status if submission else "UNKNOWN"
        on_wait(status)
        if submission and status == "ERROR":
            ledger.record(updated(entry, status, None))
            raise ScoringError(
                f"Submission {entry.ref} was scored as an error: {submission.reason.rstrip('.') or 'no reason'}.",
                "Mend the file as the reason says, then submit it again.",
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
    """Return the place on the leaderboard, or None: a score is worth showing without it."""
    try:
        return host.standing()
    except KaggleDigitsError:
        return None
