"""Write and validate submission files, submit each file once, and wait for its score."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from kaggle_digits.arrays import Float32, Int64
from kaggle_digits.data.csv import Sample, load_sample
from kaggle_digits.errors import KaggleDigitsError, NetworkError, NotReachedError, RefusedError, ScoringError
from kaggle_digits.files import lock, read_errors, replacing, sha256, write_bytes
from kaggle_digits.hosts import Host, Standing, Submission
from kaggle_digits.submissions.ledger import Entry, Ledger, updated
from kaggle_digits.training.observer import Observer
from kaggle_digits.workspace import CLASSES, SAMPLE_CSV, Workspace

if TYPE_CHECKING:
    import pandas as pd

DIGEST_LENGTH = 12
"""Digits of the file's SHA-256 at the end of its description and file name, to find it in the host's list."""
SEARCH_PAUSES = (0.0, 2.0, 5.0)
"""Seconds before each search for a submission whose response was lost: the host's list may lag."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between two polls of a pending submission; the pause doubles from the first to the longest."""
_Pair = tuple[Submission, Entry | None]  # a submission at the host, and its entry in the ledger


@dataclass(frozen=True)
class Sent:
    """The result of `submit`."""

    entry: Entry  # in the ledger; for a dry run, an entry without a reference
    description: str  # at the host
    was_known: bool = False  # the file had been submitted before, and nothing was sent


@dataclass(frozen=True)
class ScoreBoard:
    """The result of `score`."""

    submissions: list[tuple[Submission, Entry]]  # at the host, newest first, each with its entry in the ledger
    standing: Standing | None  # None if the host's leaderboard could not be read

    def to_frame(self) -> pd.DataFrame:
        """Return one row per submission: ``time, ref, run, status, score, cv, gap``; unknown values are None."""
        import pandas as pd

        rows = [
            (s.time, s.ref, entry.run, s.status, s.score, entry.cv, entry.gap) for s, entry in self.submissions
        ]
        return pd.DataFrame(rows, columns=["time", "ref", "run", "status", "score", "cv", "gap"])

    def _rank(self) -> str:
        if self.standing is None or self.standing.rank is None:
            return ""
        return f"Rank {self.standing.rank:,} of {self.standing.teams:,}"

    def __repr__(self) -> str:
        table: str = self.to_frame().to_string(index=False, float_format="{:.5f}".format)
        return f"{table}\n{self._rank()}".strip()

    def _repr_html_(self) -> str:
        """Return the submissions and the rank, for a notebook."""
        table: str = self.to_frame().to_html(index=False, float_format="{:.5f}".format)
        return f"{table}<p>{self._rank()}</p>"


def submission_file(workspace: Workspace, run: str) -> Path:
    """Return the path of a run's submission file."""
    return workspace.submissions / run / "submission.csv"


def ledger_of(workspace: Workspace) -> Ledger:
    """Return the ledger of a competition."""
    return Ledger(workspace.submissions / "ledger.csv")


def entry_of_run(workspace: Workspace, run: str) -> Entry | None:
    """Return the last ledger entry of a run's current submission file, or None."""
    entries = [entry for entry in reversed(ledger_of(workspace).entries()) if entry.run == run]
    return next((entry for entry in entries if is_current(workspace, entry)), None)


def is_current(workspace: Workspace, entry: Entry) -> bool:
    """Tell whether the file of a ledger entry is still the submission of its run, which was not trained again."""
    path = submission_file(workspace, entry.run)
    return path.is_file() and sha256(path) == entry.sha256


def write_submission(path: Path, sample: Sample, ids: Int64, softmax: Float32) -> None:
    """Write a submission like the sample: the most probable digit of each row of `softmax`, by its id."""
    import pandas as pd

    digits = pd.Series(softmax.argmax(1), ids).loc[sample.ids.tolist()]
    with replacing(path) as temporary:
        digits.to_csv(temporary, header=[sample.target], index_label=sample.key, lineterminator="\n")


def read_submission(path: Path, sample: Sample, notice: Callable[[str], None] = lambda sentence: None) -> bytes:
    """Return a submission file in the order of the sample, as `write_submission` writes it; `notice` a change."""
    header = [sample.key, sample.target]
    labels: dict[str, str] = dict.fromkeys(map(str, sample.ids.tolist()), "")
    digits = list(map(str, range(CLASSES)))
    with read_errors(path, "Fix the file, or write the submission of a run again with the command: ensemble."):
        content = path.read_bytes()
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        if next(reader, []) != header:
            raise ValueError(f"line 1: the header is not {','.join(header)}")
        for row in filter(None, reader):
            if len(row) != 2 or labels.get(row[0]) != "" or row[1] not in digits:
                row_text = ",".join(row)[:60]
                why = f"{row_text!r} is not an id of {SAMPLE_CSV} that occurs once, and a digit from 0 to 9"
                raise ValueError(f"line {reader.line_num}: {why}")
            labels[row[0]] = row[1]
        if missing := [key for key, label in labels.items() if not label]:
            raise ValueError(f"{len(missing):,} of {len(labels):,} ids are missing, the first is {missing[0]}")
    canonical = "".join(f"{key},{label}\n" for key, label in [header, *labels.items()]).encode()
    if content != canonical:
        notice(f"{path.name} is rewritten before it is sent, in the format and order of {SAMPLE_CSV}.")
    return canonical


def send(
    host: Host,
    workspace: Workspace,
    path: Path,
    *,
    run: str = "",
    cv: float | None = None,
    message: str = "",
    dry_run: bool = False,
    again: bool = False,
    notice: Callable[[str], None] = lambda sentence: None,
    confirm: Callable[[], None] = lambda: None,
) -> Sent:
    """Validate a submission file and send it once; `wait_for_score` waits for its score.

    A file that was submitted before, or may have been, according to the ledger or the host's list, is not sent
    again unless `again` is true. The file is uploaded first, which submits nothing. Then its entry is written to
    the ledger, and after that the host is asked to make the submission. With this order, a submission that may
    have been made always has an entry, even if the response is lost or the process is killed. The entry is removed
    only if the host refuses or was not reached. `confirm` is called before the upload; it raises to prevent it.
    """
    content = read_submission(path, load_sample(workspace.data), notice)
    digest = hashlib.sha256(content).hexdigest()
    digests = {digest, sha256(path)}  # earlier versions sent files as they are
    # One short line, because the host changes line breaks and cuts long descriptions.
    description = f"{' '.join(message.split())[:200]} {digest[:DIGEST_LENGTH]}".strip()
    cv = None if cv is None else round(cv, 5)
    entry = Entry(_now(), run, digest, ref="", status="UNKNOWN", cv=cv)
    with lock(workspace.submissions / ".lock", "Another submission is running."):
        made = _find_made(host, workspace, entry, digests, again)
        if made is None:
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
            confirm()
            # The name identifies the file in the host's list.
            copy = workspace.submissions / ".upload" / f"submission-{digest[:DIGEST_LENGTH]}.csv"
            try:
                write_bytes(copy, content)
                upload = host.upload(copy)
            finally:
                shutil.rmtree(copy.parent, ignore_errors=True)
            # The upload may have taken minutes, in which the file was submitted from another folder or machine.
            listed = list(host.submissions())
            made = _listed_as(entry, digests, _matched(listed, ledger_of(workspace).entries()), again)
            if made is None:
                return Sent(_make(host, workspace, entry, upload, description, listed), description)
        if not dry_run:
            ledger_of(workspace).record(made)
        return Sent(made, description, was_known=True)


def wait_for_score(host: Host, workspace: Workspace, entry: Entry, timeout: float, observer: Observer) -> Entry:
    """Poll the host until a submission is scored or `timeout` seconds have passed, and update its entry."""
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
                "the same file again with --again.",
            )
        if submission and status == "COMPLETE":
            entry = updated(entry, status, submission.score)
            ledger.record(entry)
            with suppress(KaggleDigitsError):  # only the rank is missing then
                read_scores(host, workspace)
            return next((e for e in ledger.entries() if e.is_same_submission(entry)), entry)
        left = deadline - time.monotonic()
        if left <= 0:
            raise NetworkError(
                f"Submission {entry.ref} is still {status.lower()} after {timeout:.0f} seconds.",
                "It was submitted and is in the ledger; check its score later with the command: score.",
            )
        time.sleep(min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE)


def read_scores(host: Host, workspace: Workspace) -> ScoreBoard:
    """Read all submissions and the rank from the host, update the ledger, and add entries for new submissions."""
    ledger, standing = ledger_of(workspace), None
    submissions = list(host.submissions())
    with suppress(KaggleDigitsError):  # scores are shown without the rank
        standing = host.standing()
    best = max((s.score for s in submissions if s.score is not None), default=None)
    entries = ledger.entries()
    rows: list[tuple[Submission, Entry]] = []
    for submission, entry in _matched(submissions, entries):
        # The leaderboard ranks a team by its best score.
        rank = standing.rank if standing and submission.score == best else None
        known = replace(entry or _new_entry(workspace, submission), ref=submission.ref)
        now = updated(known, submission.status, submission.score, rank)
        if now not in entries:
            ledger.record(now)
        rows.insert(0, (submission, now))
    listed = {submission.ref for submission in submissions}
    for entry in reversed(ledger.entries()):
        if entry.ref not in listed:
            only = Submission(entry.ref, entry.time, "", entry.status, entry.score, "only in the ledger")
            rows.append((only, entry))
    return ScoreBoard(rows, standing)


def _new_entry(workspace: Workspace, submission: Submission) -> Entry:
    """Return an entry for a submission that has none, with the run whose file it is of and the CV, if known."""
    cv = re.search(r"\bCV ([01]\.\d{5})\b", submission.description)
    files = {sha256(path): path for path in workspace.submissions.glob("*/submission.csv")}
    digest = next((digest for digest in files if _is_of(submission, digest)), "")
    run = files[digest].parent.name if digest else ""
    entry = Entry(submission.time, run, digest, submission.ref, "UNKNOWN", cv=float(cv[1]) if cv else None)
    return updated(entry, submission.status, submission.score)


def _now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="microseconds")


def _matched(submissions: Iterable[Submission], entries: Iterable[Entry]) -> list[_Pair]:
    """Pair the submissions, given with the newest first and returned with the oldest first, with their entries.

    They are matched by reference or, if the response with the reference was lost, by digest. If there are several
    such entries for one file, the oldest entry is paired with the oldest submission. Each entry is used once.
    """
    by_ref = {entry.ref: entry for entry in entries if entry.ref}
    lost = [entry for entry in entries if not entry.ref]
    pairs: list[_Pair] = []
    for submission in reversed(list(submissions)):
        entry = by_ref.get(submission.ref) or next((e for e in lost if _is_of(submission, e.sha256)), None)
        if entry in lost:
            lost.remove(entry)
        pairs.append((submission, entry))
    return pairs


def _is_of(submission: Submission, digest: str) -> bool:
    """Return whether a submission is of the file with this SHA-256."""
    # Not only in the description, because the user can edit it on the host's site.
    mark = digest[:DIGEST_LENGTH]
    return bool(mark) and (mark in submission.file_name or submission.description.endswith(mark))


def _find_made(host: Host, workspace: Workspace, entry: Entry, digests: set[str], again: bool) -> Entry | None:
    """Return the entry of an earlier submission of the file, or None; with `again`, only if it was lost."""
    entries = ledger_of(workspace).entries()
    same = [old for old in entries if old.sha256 in digests]
    known, lost = [old for old in same if old.ref], [old for old in same if not old.ref]
    if known and not again:
        return known[-1]
    if again and not lost:
        return None
    for pause in SEARCH_PAUSES if lost else (0.0,):
        time.sleep(pause)
        if made := _listed_as(entry, digests, _matched(host.submissions(), entries), again):
            return made
    if not lost or again:
        return None
    when = lost[-1].time[:16].replace("T", " ")
    raise _unresolved(workspace, f"The response to a submission of this file ({when} UTC) was lost")


def _listed_as(entry: Entry, digests: set[str], pairs: list[_Pair], again: bool) -> Entry | None:
    """Return the entry of a listed submission of the same file, or None; with `again`, only if it was lost."""
    for submission, old in pairs:
        is_lost = old is not None and not old.ref
        if any(_is_of(submission, digest) for digest in digests) and (is_lost or not again):
            # One that was made elsewhere has no entry, or one without the digest.
            known = old if old is not None and old.sha256 else replace(entry, time=submission.time)
            return updated(replace(known, ref=submission.ref), submission.status, submission.score)
    return None


def _unresolved(workspace: Workspace, problem: str) -> NetworkError:
    """Return the error for a submission that may have been made."""
    return NetworkError(
        f"{problem}: the submission may have been made, but is not listed.",
        f"Check for it with: {workspace.command('score')}; the file is sent again only with --again.",
    )


def _make(
    host: Host, workspace: Workspace, entry: Entry, upload: str, description: str, listed: list[Submission]
) -> Entry:
    """Make a submission of an uploaded file, write its reference to the ledger and return its entry."""
    ledger = ledger_of(workspace)
    for submission, old in _matched(listed, ledger.entries()):
        if old is None and _is_of(submission, entry.sha256):
            # Submitted elsewhere: give it its own entry, so that it is not mistaken for the new submission.
            ledger.record(_new_entry(workspace, submission))
    # The time of the request, not of the call of `submit`: the upload may have taken minutes.
    entry = replace(entry, time=_now())
    ledger.record(entry)
    try:
        ref = host.create(upload, description)
    except KaggleDigitsError as error:
        if isinstance(error, NotReachedError) or not isinstance(error, NetworkError):
            ledger.forget(entry)
            raise
        ref = _search(host, ledger, entry)
        if not ref:
            raise _unresolved(workspace, error.problem.rstrip(".")) from error
    entry = replace(entry, ref=ref, status="PENDING")
    ledger.record(entry)
    return entry


def _search(host: Host, ledger: Ledger, entry: Entry) -> str:
    """Return the reference of the submission of an entry whose response was lost, or ""."""
    entries = ledger.entries()
    for pause in SEARCH_PAUSES:
        time.sleep(pause)
        with suppress(KaggleDigitsError):  # an error of the list does not say whether the submission was made
            for submission, old in _matched(host.submissions(), entries):
                if old is not None and old.is_same_submission(entry):
                    return submission.ref
    return ""
