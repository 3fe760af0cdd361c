"""Tests of submissions: validate a file, send it once, wait for its score, and find it after a lost response."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Clock, Listener, sample_bytes, write_files
from hypothesis import given, settings
from hypothesis import strategies as st

from kaggle_digits import Workspace
from kaggle_digits.data.csv import Sample
from kaggle_digits.errors import (
    DataError,
    KaggleDigitsError,
    NetworkError,
    NotReachedError,
    RefusedError,
    ScoringError,
    WriteError,
)
from kaggle_digits.files import lock, sha256
from kaggle_digits.hosts import Standing, Submission
from kaggle_digits.submissions.ledger import Entry, Ledger
from kaggle_digits.submissions.submit import (
    SEARCH_PAUSES,
    ScoreBoard,
    Sent,
    ledger_of,
    read_scores,
    read_submission,
    send,
    wait_for_score,
    write_submission,
)
from kaggle_digits.training.observer import Observer

SAMPLE = Sample("ImageId", "Label", np.arange(1, 31))
VALID = "ImageId,Label\n" + "".join(f"{i},{i % 10}\n" for i in SAMPLE.ids)


def one_hot(digits: np.ndarray) -> np.ndarray:
    return np.eye(10, dtype=np.float32)[digits]


@settings(max_examples=50)
@given(digits=st.lists(st.integers(0, 9), min_size=1, max_size=50))
def test_write_submission_follows_the_sample(tmp_path: Path, digits: list[int]) -> None:
    path, ids = tmp_path / "submission.csv", np.arange(len(digits)) + 7
    sample = Sample("id", "digit", ids)
    write_submission(path, sample, ids, one_hot(np.array(digits)))
    assert read_submission(path, sample) == path.read_bytes()
    assert (
        path.read_bytes()
        == ("id,digit\n" + "".join(f"{i},{d}\n" for i, d in zip(ids, digits, strict=True))).encode()
    )


def test_write_submission_gives_each_digit_the_id_of_its_row(tmp_path: Path) -> None:
    """Also if the test rows have another order than the sample."""
    path, sample = tmp_path / "submission.csv", Sample("id", "digit", np.array([4, 2, 9]))
    write_submission(path, sample, np.array([9, 4, 2]), one_hot(np.array([1, 2, 3])))
    assert path.read_text() == "id,digit\n4,2\n2,3\n9,1\n"


ROWS = VALID.splitlines()


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + VALID.replace("\n", "\r\n"),
        VALID.removesuffix("\n"),
        re.sub(r"(\w+),(\w+)", r'"\1","\2"', VALID),
        "\n".join([ROWS[0], "", *reversed(ROWS[1:])]),
    ],
    ids=["BOM and CRLF", "no last line break", "quoted", "other order and an empty line"],
)
def test_read_submission_rewrites_csv_of_other_programs(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(text.encode())
    notices: list[str] = []
    assert read_submission(path, SAMPLE, notices.append) == VALID.encode()
    assert notices == [
        "mine.csv is rewritten before it is sent, in the format and order of sample_submission.csv."
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the header is not ImageId,Label"),
        (VALID.replace(",", ";"), "line 1: the header is not ImageId,Label"),
        (VALID.replace("3,3\n", "3;3\n", 1), "line 4: '3;3' is not an id"),
        (VALID.replace("3,3\n", "3,3,3\n", 1), "line 4: '3,3,3' is not an id"),
        (VALID.replace("3,3\n", "3,10\n", 1), "line 4: '3,10' is not"),
        (VALID.replace("3,3\n", "3,3.0\n", 1), "line 4: '3,3.0' is not"),
        (VALID.replace("3,3\n", "3.0,3\n", 1), "line 4: '3.0,3' is not"),
        (VALID.replace("3,3\n", "3,\n", 1), "line 4: '3,' is not"),
        (VALID.replace("3,3\n", "3,٣\n", 1), "line 4"),
        (VALID.replace("3,3\n", '"3,3\n', 1), "unexpected end of data"),
        (
            VALID.replace("3,3\n", "4,3\n", 1),
            "line 5: '4,4' is not an id of sample_submission.csv that occurs once",
        ),
        (VALID.replace("3,3\n", "", 1), "1 of 30 ids are missing, the first is 3"),
        (VALID + "31,1\n", "line 32: '31,1' is not an id"),
    ],
)
def test_read_submission_names_invalid_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "submission.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"submission\.csv is damaged: {message}"):
        read_submission(path, SAMPLE)


class FakeHost:
    """A host whose responses and errors are set by a test."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.sent: list[Submission] = []
        self.left: int | None = 5
        self.outcomes: list[tuple[str, float | None, str]] = []
        self.uploads: list[bytes] = []
        self.fail_upload = False
        self.lose_response = False
        self.polls = 0
        self.upload_seconds = self.lag = self.unreadable_for = self.made_at = 0.0

    def allowance(self) -> int | None:
        return self.left

    def upload(self, csv: Path) -> str:
        if self.fail_upload:
            raise NetworkError("The upload failed.", "Try later.")
        self.clock.now += self.upload_seconds
        self.uploads.append(csv.read_bytes())
        return csv.name

    def fail(self, *arguments: str) -> str:
        raise NetworkError("Kaggle cannot be reached.", "Try later.")

    def create(self, upload: str, description: str) -> str:
        ref = str(len(self.sent) + 1)
        self.sent.insert(0, Submission(ref, "2026-11-24T10:00:00+00:00", description, "PENDING", None, "", upload))
        self.made_at = self.clock.slept
        if self.lose_response:
            self.fail()
        return self.sent[0].ref

    def submissions(self) -> Iterator[Submission]:
        self.polls += 1
        age = self.clock.slept - self.made_at
        if self.sent and age < self.unreadable_for:
            self.fail()
        if age < self.lag:
            return
        for i, submission in enumerate(self.sent):
            if i == 0 and self.outcomes:
                status, score, reason = self.outcomes[0] if len(self.outcomes) == 1 else self.outcomes.pop(0)
                submission = replace(submission, status=status, score=score, reason=reason)
            yield submission

    def without_retries(self) -> FakeHost:
        return self

    def standing(self) -> Standing:
        return Standing(3, 50)


@dataclass
class Sender:
    """A host, a workspace without a ledger, and a valid file to send."""

    host: FakeHost
    workspace: Workspace
    csv: Path

    def submit(
        self, *, wait: bool = True, timeout: float = 600, observer: Observer | None = None, **options: Any
    ) -> Sent:
        """Send the file and wait for its score, as `kaggle_digits.submit` does for a run."""
        sent = send(self.host, self.workspace, options.pop("csv", self.csv), **options)
        if options.get("dry_run") or not wait:
            return sent
        entry = wait_for_score(self.host, self.workspace, sent.entry, timeout, observer or Observer())
        return replace(sent, entry=entry)

    def read_scores(self) -> ScoreBoard:
        return read_scores(self.host, self.workspace)

    @property
    def ledger(self) -> Ledger:
        return ledger_of(self.workspace)

    def refs(self) -> list[str]:
        return [entry.ref for entry in self.ledger.entries()]


@pytest.fixture
def sender(tmp_path: Path, clock: Clock) -> Sender:
    write_files(tmp_path, {"submission.csv": VALID.encode()})
    sender = Sender(FakeHost(clock), Workspace.at(tmp_path), tmp_path / "submission.csv")
    sender.host.outcomes = [("COMPLETE", 0.99757, "")]
    write_files(sender.workspace.data, {"sample_submission.csv": sample_bytes(30)})
    return sender


@pytest.fixture
def host(sender: Sender) -> FakeHost:
    return sender.host


def test_submit_scores_and_records_submission(sender: Sender, host: FakeHost) -> None:
    sent = sender.submit(run="fast", cv=0.995, message="hello")
    assert not sent.was_known
    (entry,) = sender.ledger.entries()
    assert entry == sent.entry
    assert (entry.run, entry.ref, entry.status) == ("fast", "1", "COMPLETE")
    assert (entry.score, entry.cv, entry.rank) == (0.99757, 0.995, 3)
    assert host.sent[0].description == f"hello {sha256(sender.csv)[:12]}"


def test_submit_waits_for_pending_score(sender: Sender, host: FakeHost) -> None:
    host.outcomes = [("PENDING", None, "")] * 3 + [("COMPLETE", 0.9, "")]
    seen: list[str] = []
    assert sender.submit(observer=Listener(waiting=seen.append)).entry.score == 0.9
    assert seen == ["PENDING"] * 3 + ["COMPLETE"]


def test_submit_stops_waiting_at_timeout(sender: Sender, host: FakeHost) -> None:
    host.outcomes = [("PENDING", None, "")]
    with pytest.raises(NetworkError, match="still pending after 0 seconds"):
        sender.submit(timeout=0)
    assert sender.ledger.entries()[0].status == "PENDING"


def test_submit_sends_a_file_once(sender: Sender, host: FakeHost) -> None:
    assert sender.submit(wait=False).entry.status == "PENDING"
    second, third = sender.submit(), sender.submit()
    assert second.was_known
    assert second.entry.status == "COMPLETE"
    assert third == second
    assert len(host.sent) == 1


def test_submit_again_sends_the_file_again(sender: Sender) -> None:
    sender.submit()
    assert not sender.submit(again=True).was_known
    assert sender.refs() == ["1", "2"]


def test_submit_adopts_submission_listed_by_host(sender: Sender, host: FakeHost) -> None:
    sender.submit()
    sender.ledger.path.unlink()
    assert sender.submit(dry_run=True).was_known
    assert not sender.ledger.path.exists()
    assert sender.submit(run="fast", cv=0.995).was_known
    assert len(host.sent) == 1
    (entry,) = sender.ledger.entries()
    assert (entry.ref, entry.run, entry.cv) == ("1", "fast", 0.995)


@pytest.mark.parametrize("again", [False, True])
def test_submit_stops_when_file_was_submitted_elsewhere_during_upload(
    sender: Sender, host: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    other, upload = Workspace.at(tmp_path / "elsewhere"), host.upload
    write_files(other.data, {"sample_submission.csv": sample_bytes(30)})

    def submit_elsewhere(path: Path) -> str:
        monkeypatch.setattr(host, "upload", upload)
        assert not send(host, other, sender.csv).was_known
        return upload(path)

    monkeypatch.setattr(host, "upload", submit_elsewhere)
    sent = sender.submit(run="fast", again=again)
    assert (sent.was_known, len(host.sent), sent.entry.score) == (not again, 1 + again, 0.99757)
    assert (sent.entry.ref, sent.entry.run, sent.entry.sha256) == (str(1 + again), "fast", sha256(sender.csv))
    assert sender.refs() == ["1", "2"][: 1 + again]


def test_submit_refuses_empty_ledger_until_read_scores_restores_it(sender: Sender, host: FakeHost) -> None:
    """The list does not say which file of which run it was, but the digest in its file name does."""
    own = write_files(sender.workspace.submissions / "fast", {"submission.csv": VALID.encode()}) / "submission.csv"
    first = sender.submit(csv=own, run="fast", cv=0.995, message="fast, CV 0.99500")
    sender.csv.write_text(VALID.replace("7,7", "7,8"))
    second = sender.submit(message="by hand")
    sender.ledger.path.write_bytes(b"")
    for call in (sender.submit, sender.read_scores):
        with pytest.raises(DataError, match="line 1") as caught:
            call()
        assert "move it away" in caught.value.remedy
        assert "the command: score" in caught.value.remedy
    sender.ledger.path.rename(sender.csv.with_name("damaged.csv"))
    board = sender.read_scores()
    restored = sender.ledger.entries()
    assert [(entry.ref, entry.run, entry.sha256, entry.cv) for entry in restored] == [
        ("1", "fast", first.entry.sha256, 0.995),
        ("2", "", "", None),
    ]
    assert [entry.ref for _, entry in board.submissions] == ["2", "1"]
    again = sender.submit()
    assert (again.was_known, again.entry.ref, again.entry.sha256) == (True, "2", second.entry.sha256)
    assert sender.submit(csv=own, wait=False).was_known
    assert len(host.uploads) == 2


def test_submit_records_lost_response_when_list_fails(sender: Sender, host: FakeHost, clock: Clock) -> None:
    """Also with again=True, a submission that may have been made is searched for before the file is sent."""
    host.lose_response, host.unreadable_for = True, 1000
    with pytest.raises(NetworkError):
        sender.submit(run="fast")
    (entry,) = sender.ledger.entries()
    assert (entry.ref, entry.status) == ("", "UNKNOWN")
    clock.sleep(1000)
    sent = sender.submit(again=True)
    assert sent.was_known
    assert (sent.entry.ref, sent.entry.run, sent.entry.status) == ("1", "fast", "COMPLETE")
    assert len(host.sent) == 1
    assert len(sender.ledger.entries()) == 1


def test_submit_polls_again_after_network_errors(sender: Sender, host: FakeHost) -> None:
    host.unreadable_for = 20
    assert sender.submit().entry.status == "COMPLETE"


def test_submit_returns_score_when_leaderboard_fails(
    sender: Sender, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "standing", host.fail)
    entry = sender.submit().entry
    assert (entry.score, entry.rank) == (0.99757, None)


def test_read_scores_gives_rank_to_best_submission(sender: Sender, host: FakeHost) -> None:
    sender.submit()
    host.sent[0] = replace(host.sent[0], status="COMPLETE", score=0.99757)
    host.outcomes = [("COMPLETE", 0.9, "")]
    assert sender.submit(again=True).entry.rank is None
    assert [entry.rank for entry in sender.ledger.entries()] == [3, None]


def test_submit_shows_reason_of_scoring_error(sender: Sender, host: FakeHost) -> None:
    host.outcomes = [("ERROR", None, "Evaluation Exception: no such id.")]
    for _ in range(2):
        with pytest.raises(ScoringError, match="Evaluation Exception: no such id"):
            sender.submit()
    assert len(host.sent) == 1
    assert sender.ledger.entries()[0].status == "ERROR"


def test_submit_finds_lost_response(sender: Sender, host: FakeHost) -> None:
    host.lose_response = True
    sent = sender.submit(run="fast", cv=0.995)
    assert (sent.entry.ref, sent.entry.run, sent.entry.cv) == ("1", "fast", 0.995)
    assert len(host.sent) == 1


def test_submit_again_does_not_mistake_first_submission_for_lost_second(sender: Sender, host: FakeHost) -> None:
    sender.submit()
    host.lose_response = True
    assert sender.submit(again=True).entry.ref == "2"


def test_submit_again_does_not_mistake_late_first_submission_for_second(
    sender: Sender, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender.submit(wait=False)
    monkeypatch.setattr(host, "create", host.fail)
    host.lag = 1
    with pytest.raises(NetworkError, match="may have been made"):
        sender.submit(again=True)
    assert sender.refs() == ["1", ""]


def test_submit_makes_one_submission_after_slow_upload_and_lost_response(
    sender: Sender, host: FakeHost, clock: Clock
) -> None:
    """The list cannot be read at first and then lags."""
    host.upload_seconds, host.unreadable_for, host.lag, host.lose_response = 40, 20, 600, True
    started = clock.now
    with pytest.raises(NetworkError, match="may have been made"):
        sender.submit()
    (entry,) = sender.ledger.entries()
    assert datetime.fromisoformat(entry.time).timestamp() == pytest.approx(started + 40, abs=0.01)
    for _ in range(3):
        with suppress(NetworkError):
            sender.submit()
    assert len(host.sent) == 1
    clock.sleep(600)
    assert sender.submit().entry.ref == "1"
    assert len(host.sent) == 1


def test_submit_sends_unresolved_file_only_with_again(
    sender: Sender, host: FakeHost, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    create = host.create

    monkeypatch.setattr(host, "create", host.fail)
    with pytest.raises(NetworkError, match="cannot be reached: the submission may have been made"):
        sender.submit()
    monkeypatch.setattr(host, "create", create)
    slept = clock.slept
    with pytest.raises(NetworkError, match="may have been made") as caught:
        sender.submit()
    assert clock.slept - slept == sum(SEARCH_PAUSES)
    assert "kaggle-digits --root" in caught.value.remedy
    assert "--again" in caught.value.remedy
    assert not sender.submit(again=True).was_known
    # The first entry is kept, because the first submission may still be listed later.
    assert sender.refs() == ["", "1"]


def test_submit_again_keeps_entry_of_lost_response(sender: Sender, host: FakeHost) -> None:
    host.lose_response, host.lag = True, 1e9
    with pytest.raises(NetworkError, match="may have been made"):
        sender.submit(run="fast")
    host.lose_response = False
    sender.submit(run="fast", again=True, wait=False)
    lines = [(entry.ref, entry.status) for entry in sender.ledger.entries()]
    assert lines == [("", "UNKNOWN"), ("2", "PENDING")]
    host.lag = 0
    sender.read_scores()
    assert sender.refs() == ["1", "2"]


def test_submit_recognizes_file_name_when_description_was_edited(sender: Sender, host: FakeHost) -> None:
    sender.submit(run="fast")
    host.sent[0] = replace(host.sent[0], description="changed 0123456789ab")
    sender.ledger.path.unlink()
    assert sender.submit().was_known
    assert len(host.sent) == 1


@pytest.mark.parametrize("is_listed", [True, False])
def test_submit_recognizes_file_that_was_sent_as_it_is(sender: Sender, host: FakeHost, is_listed: bool) -> None:
    """Earlier versions did not rewrite files, and knew them by the SHA-256 of their bytes."""
    sender.csv.write_text(VALID.removesuffix("\n"))
    if is_listed:
        host.create(f"submission-{sha256(sender.csv)[:12]}.csv", "")
    else:
        sender.ledger.record(Entry("2026-11-01T10:00:00+00:00", "", sha256(sender.csv), "1", "COMPLETE", 0.99))
    sent = sender.submit(wait=False)
    assert (sent.was_known, sent.entry.ref, host.uploads) == (True, "1", [])


@pytest.mark.parametrize("error", [RefusedError, NotReachedError])
def test_submit_leaves_no_entry_when_host_refuses(
    sender: Sender, host: FakeHost, monkeypatch: pytest.MonkeyPatch, error: type[KaggleDigitsError]
) -> None:
    def refuse(upload: str, description: str) -> str:
        raise error("No.", "Try something else.")

    monkeypatch.setattr(host, "create", refuse)
    polls = host.polls
    with pytest.raises(error):
        sender.submit()
    assert sender.ledger.entries() == []
    assert host.polls == polls + 2  # no search for a submission that was not made


def test_submit_leaves_no_entry_when_upload_fails(sender: Sender, host: FakeHost) -> None:
    host.fail_upload = True
    with pytest.raises(NetworkError, match="upload failed"):
        sender.submit()
    assert sender.ledger.entries() == []
    host.fail_upload = False
    assert sender.submit().entry.ref == "1"


def test_read_scores_includes_entries_only_in_ledger(sender: Sender) -> None:
    sender.ledger.record(Entry("2026-11-01T10:00:00+00:00", "old", "0" * 64, "77", "COMPLETE", 0.991))
    ((submission, entry),) = sender.read_scores().submissions
    assert (submission.ref, submission.score, submission.reason) == ("77", 0.991, "only in the ledger")
    assert entry is not None
    assert entry.run == "old"


def test_submit_checks_allowance_before_upload(sender: Sender, host: FakeHost) -> None:
    host.left = 0
    with pytest.raises(RefusedError, match="has been reached"):
        sender.submit()
    assert host.uploads == []
    host.left = None  # the host does not say
    assert sender.submit().entry.ref == "1"


def test_submit_does_not_send_invalid_file(sender: Sender, host: FakeHost) -> None:
    sender.csv.write_text(VALID.replace("7,7", "7,77"))
    with pytest.raises(DataError, match="line 8"):
        sender.submit()
    assert host.uploads == []


def test_submit_dry_run_sends_nothing(sender: Sender, host: FakeHost) -> None:
    sent = sender.submit(dry_run=True, message="hello")
    assert sent.description == f"hello {sha256(sender.csv)[:12]}"
    assert host.sent == []
    assert sender.ledger.entries() == []


def test_submit_rejects_a_second_submit_at_the_same_time(sender: Sender) -> None:
    with lock(sender.workspace.submissions / ".lock", ""), pytest.raises(WriteError, match="Another submission"):
        sender.submit()


def test_read_scores_updates_ledger(sender: Sender) -> None:
    sender.submit(wait=False, cv=0.995)
    board = sender.read_scores()
    ((submission, entry),) = board.submissions
    assert submission.score == 0.99757
    assert entry is not None
    assert entry.gap == pytest.approx(0.00257)
    assert sender.ledger.entries() == [entry]
    assert entry.rank == 3
    assert board.standing is not None
    assert board.standing.percentile == 6.0
