"""Tests of submissions: validate a file, send it once, wait for its score, and find it after a lost response."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Clock, Listener, sample_bytes, write_files
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kaggle_digits import Workspace
from kaggle_digits.errors import (
    CredentialsError,
    DataError,
    KaggleDigitsError,
    NetworkError,
    NotReachedError,
    RefusedError,
    ScoringError,
    WriteError,
)
from kaggle_digits.files import lock, sha256
from kaggle_digits.hosts import Host, Standing, Submission
from kaggle_digits.submissions.ledger import Entry, Ledger
from kaggle_digits.submissions.submit import (
    SEARCH_PAUSES,
    Sent,
    ledger_of,
    read_scores,
    read_submission,
    send,
    wait_for_score,
    write_submission,
)
from kaggle_digits.training.observer import Observer

IDS = np.arange(1, 31)
VALID = "ImageId,Label\n" + "".join(f"{i},{i % 10}\n" for i in IDS)


def one_hot(digits: np.ndarray) -> np.ndarray:
    return np.eye(10, dtype=np.float32)[digits]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(digits=st.lists(st.integers(0, 9), min_size=1, max_size=50))
def test_write_submission_follows_the_sample(tmp_path: Path, digits: list[int]) -> None:
    path, ids = tmp_path / "submission.csv", np.arange(1, len(digits) + 1)
    write_submission(path, ids, one_hot(np.array(digits)))
    read_submission(path, ids)
    assert (
        path.read_bytes()
        == ("ImageId,Label\n" + "".join(f"{i},{d}\n" for i, d in zip(ids, digits, strict=True))).encode()
    )


def test_write_submission_rejects_wrong_number_of_predictions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="29 predictions for 30 rows"):
        write_submission(tmp_path / "submission.csv", IDS, one_hot(np.zeros(29, int)))
    assert list(tmp_path.glob("*.csv")) == []


ROWS = VALID.splitlines()


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + VALID,
        VALID.replace("\n", "\r\n"),
        VALID.removesuffix("\n"),
        VALID + "\n",
        VALID.replace("ImageId,Label", '"ImageId","Label"'),
        re.sub(r"(\d+),(\d)", r'"\1","\2"', VALID),
        "\n".join([ROWS[0], *reversed(ROWS[1:])]),
    ],
    ids=["BOM", "CRLF", "no last line break", "empty last line", "quoted header", "quoted values", "other order"],
)
def test_read_submission_rewrites_csv_of_other_programs(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(text.encode())
    notices: list[str] = []
    assert read_submission(path, IDS, notices.append) == VALID.encode()
    assert notices == [
        "mine.csv is rewritten before it is sent, in the format and order of sample_submission.csv."
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the header is ''"),
        (VALID.replace("Label", "label"), "line 1: the header is 'ImageId,label', not 'ImageId,Label'"),
        (VALID.replace("ImageId,Label", '"ImageId,Label"'), "line 1: the header"),
        (VALID.replace(",", ";"), "line 1: the header is 'ImageId;Label'"),
        (VALID.replace("3,3\n", "3;3\n", 1), "line 4: expected 2 values, got 1"),
        ("\n".join(f"{i},{row}" for i, row in enumerate(ROWS)), "line 1: the header is '0,ImageId,Label'"),
        (
            "\n".join([ROWS[0], *(f"{i},{row}" for i, row in enumerate(ROWS[1:]))]),
            "line 2: expected 2 values, got 3",
        ),
        (VALID.replace("3,3\n", "3,10\n", 1), "line 4: the label is '10'"),
        (VALID.replace("3,3\n", "3,3.0\n", 1), "line 4: the label is '3.0'"),
        (VALID.replace("3,3\n", "3.0,3\n", 1), "line 4: the id '3.0' is not in sample_submission.csv"),
        (VALID.replace("3,3\n", "3,\n", 1), "line 4: the label is ''"),
        (VALID.replace("3,3\n", "3,٣\n", 1), "line 4: the label is"),
        (VALID.replace("3,3\n", '"3,3\n', 1), "line 31: unexpected end of data"),
        (VALID.replace("3,3\n", "4,3\n", 1), "line 5: the id '4' occurs more than once"),
        ("\n".join([ROWS[0], *(f"{i},1" for i in range(30))]), "line 2: the id '0' is not in"),
        (VALID.replace("3,3\n", "", 1), "1 of 30 ids of sample_submission.csv are missing, the first is 3"),
        (VALID.replace("3,3\n", "3,3\n3,3\n", 1), "line 5: the id '3' occurs more than once"),
        (VALID + "31,1\n", "line 32: the id '31' is not in"),
        (VALID + 2_000 * "\n", "more than 2,048 bytes"),
    ],
)
def test_read_submission_names_invalid_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "submission.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_submission(path, IDS)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
@example(b"\xff\xfe")
@example(b"ImageId,Label\n1,1\r2,2")
def test_read_submission_raises_only_data_errors_for_any_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "submission.csv"
    path.write_bytes(content)
    with pytest.raises(DataError):
        read_submission(path, IDS)


class FakeHost:
    """A host whose responses and errors are set by a test."""

    def __init__(self) -> None:
        self.sent: list[Submission] = []
        self.left: int | None = 5
        self.outcomes: list[tuple[str, float | None, str]] = []
        self.uploads: list[bytes] = []
        self.fail_upload = False
        self.lose_response = False
        self.hidden_polls = 0
        self.polls = 0
        self.ledger: Ledger | None = None
        self.seen_in_ledger: list[str] = []
        self.clock: Clock | None = None
        self.upload_seconds = self.lag = self.unreadable_for = 0.0
        self.made_at: list[float] = []

    def allowance(self) -> int | None:
        return self.left

    def upload(self, csv: Path) -> str:
        if self.fail_upload:
            raise NetworkError("The upload failed.", "Try later.")
        if self.clock is not None:
            self.clock.now += self.upload_seconds
        self.uploads.append(csv.read_bytes())
        return csv.name

    def create(self, upload: str, description: str) -> str:
        ref = str(len(self.sent) + 1)
        self.sent.insert(
            0, Submission(ref, "2026-11-24T10:00:00+00:00", description, "PENDING", None, "", "", upload)
        )
        if self.clock is not None:
            self.made_at.append(self.clock.slept)
        if self.lose_response:
            raise NetworkError("Kaggle cannot be reached.", "Try later.")
        return self.sent[0].ref

    def submissions(self) -> Iterator[Submission]:
        self.polls += 1
        if self.sent and self.clock is not None:
            age = self.clock.slept - self.made_at[-1]
            if age < self.unreadable_for:
                raise NetworkError("Kaggle reports an error.", "Try later.")
            if age < self.lag:
                return
        if self.sent and self.hidden_polls > 0:
            self.hidden_polls -= 1
            return
        if self.sent and self.ledger is not None:
            self.seen_in_ledger.append(",".join(entry.ref for entry in self.ledger.entries()))
        for i, submission in enumerate(self.sent):
            if i == 0 and self.outcomes:
                status, score, reason = self.outcomes[0] if len(self.outcomes) == 1 else self.outcomes.pop(0)
                submission = replace(submission, status=status, score=score, reason=reason)
            yield submission

    def without_retries(self) -> FakeHost:
        return self

    def standing(self) -> Standing:
        return Standing(3, 50)


def submit(
    host: Host,
    workspace: Workspace,
    csv: Path,
    *,
    dry_run: bool = False,
    wait: bool = True,
    timeout: float = 600,
    observer: Observer | None = None,
    **options: Any,
) -> Sent:
    """Send a file and wait for its score, as `kaggle_digits.submit` does for a run."""
    sent = send(host, workspace, csv, dry_run=dry_run, **options)
    if dry_run or not wait:
        return sent
    return replace(sent, entry=wait_for_score(host, workspace, sent.entry, timeout, observer or Observer()))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace.at(tmp_path)
    write_files(workspace.data, {"sample_submission.csv": sample_bytes(30)})
    return workspace


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "submission.csv"
    path.write_text(VALID)
    return path


@pytest.fixture
def host(clock: Clock) -> FakeHost:
    host = FakeHost()
    host.outcomes = [("COMPLETE", 0.99757, "")]
    return host


def test_submit_scores_and_records_submission(workspace: Workspace, csv: Path, host: FakeHost) -> None:
    sent = submit(host, workspace, csv, run="fast", cv=0.995, message="hello")
    assert not sent.was_known
    (entry,) = ledger_of(workspace).entries()
    assert entry == sent.entry
    assert (entry.run, entry.ref, entry.status) == ("fast", "1", "COMPLETE")
    assert (entry.score, entry.cv, entry.rank) == (0.99757, 0.995, 3)
    assert host.sent[0].description == f"hello {sha256(csv)[:12]}"


def test_submit_records_reference_before_first_poll(workspace: Workspace, csv: Path, host: FakeHost) -> None:
    host.ledger = ledger_of(workspace)
    submit(host, workspace, csv)
    assert host.seen_in_ledger[0] == "1"  # the first poll after the submission


def test_submit_waits_for_pending_score(workspace: Workspace, csv: Path, host: FakeHost) -> None:
    host.outcomes = [("PENDING", None, "")] * 3 + [("COMPLETE", 0.9, "")]
    seen: list[str] = []
    assert submit(host, workspace, csv, observer=Listener(waiting=seen.append)).entry.score == 0.9
    assert seen == ["PENDING"] * 3 + ["COMPLETE"]


def test_submit_stops_waiting_at_timeout(workspace: Workspace, csv: Path, host: FakeHost) -> None:
    host.outcomes = [("PENDING", None, "")]
    with pytest.raises(NetworkError, match="still pending after 0 seconds"):
        submit(host, workspace, csv, timeout=0)
    assert ledger_of(workspace).entries()[0].status == "PENDING"


def test_submit_does_not_poll_without_wait(workspace: Workspace, csv: Path, host: FakeHost) -> None:
    assert submit(host, workspace, csv, wait=False).entry.status == "PENDING"


def test_submit_sends_a_file_once(workspace: Workspace, csv: Path, host: FakeHost) -> None:
    first = submit(host, workspace, csv)
    second = submit(host, workspace, csv)
    assert second.was_known
    assert second.entry == first.entry
    assert len(host.sent) == 1


def test_submit_waits_for_earlier_pending_submission(workspace: Workspace, csv: Path, host: FakeHost) -> None:
    submit(host, workspace, csv, wait=False)
    second = submit(host, workspace, csv)
    assert second.was_known
    assert second.entry.status == "COMPLETE"


def test_submit_again_sends_the_file_again(workspace: Workspace, csv: Path, host: FakeHost) -> None:
    submit(host, workspace, csv)
    assert not submit(host, workspace, csv, again=True).was_known
    assert [entry.ref for entry in ledger_of(workspace).entries()] == ["1", "2"]


def test_submit_adopts_submission_listed_by_host(workspace: Workspace, csv: Path, host: FakeHost) -> None:
    submit(host, workspace, csv)
    ledger_of(workspace).path.unlink()
    assert submit(host, workspace, csv, run="fast", cv=0.995).was_known
    assert len(host.sent) == 1
    (entry,) = ledger_of(workspace).entries()
    assert (entry.ref, entry.run, entry.cv) == ("1", "fast", 0.995)


@pytest.mark.parametrize("again", [False, True])
def test_submit_stops_when_file_was_submitted_elsewhere_during_upload(
    workspace: Workspace, csv: Path, host: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    other, upload = Workspace.at(tmp_path / "elsewhere"), host.upload
    write_files(other.data, {"sample_submission.csv": sample_bytes(30)})

    def submit_elsewhere(path: Path) -> str:
        monkeypatch.setattr(host, "upload", upload)
        assert not submit(host, other, csv, wait=False).was_known
        return upload(path)

    monkeypatch.setattr(host, "upload", submit_elsewhere)
    sent = submit(host, workspace, csv, run="fast", again=again)
    assert (sent.was_known, len(host.sent), sent.entry.score) == (not again, 1 + again, 0.99757)
    assert (sent.entry.ref, sent.entry.run, sent.entry.sha256) == (str(1 + again), "fast", sha256(csv))
    assert [entry.ref for entry in ledger_of(workspace).entries()] == ["1", "2"][: 1 + again]


def test_submit_recognizes_digest_in_upper_case(workspace: Workspace, csv: Path, host: FakeHost) -> None:
    submit(host, workspace, csv)
    path = ledger_of(workspace).path
    path.write_text(path.read_text().replace(sha256(csv), sha256(csv).upper()))
    host.sent.clear()  # so that only the ledger knows it
    assert submit(host, workspace, csv, wait=False).was_known
    assert len(host.uploads) == 1


def test_submit_refuses_empty_ledger_until_read_scores_restores_it(
    workspace: Workspace, csv: Path, host: FakeHost
) -> None:
    """The list does not say which file of which run it was, but the digest in its file name does."""
    own = write_files(workspace.submissions / "fast", {"submission.csv": VALID.encode()}) / "submission.csv"
    first = submit(host, workspace, own, run="fast", cv=0.995, message="fast, CV 0.99500")
    csv.write_text(VALID.replace("7,7", "7,8"))
    second = submit(host, workspace, csv, message="by hand")
    ledger_of(workspace).path.write_bytes(b"")
    for call in (partial(submit, host, workspace, csv), partial(read_scores, host, workspace)):
        with pytest.raises(DataError, match="line 1") as caught:
            call()
        assert "Move it away" in caught.value.remedy
        assert "the command: score" in caught.value.remedy
    ledger_of(workspace).path.rename(csv.with_name("damaged.csv"))
    board = read_scores(host, workspace)
    restored = ledger_of(workspace).entries()
    assert [(entry.ref, entry.run, entry.sha256, entry.cv) for entry in restored] == [
        ("1", "fast", first.entry.sha256, 0.995),
        ("2", "", "", None),
    ]
    assert [entry.ref for _, entry in board.submissions] == ["2", "1"]
    again = submit(host, workspace, csv)
    assert (again.was_known, again.entry.ref, again.entry.sha256) == (True, "2", second.entry.sha256)
    assert submit(host, workspace, own, wait=False).was_known
    assert len(host.uploads) == 2


def test_submit_records_lost_response_when_list_fails(
    workspace: Workspace, csv: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with again=True, a submission that may have been made is searched for before the file is sent."""
    host.lose_response = True
    submissions = host.submissions

    def unreachable() -> Iterator[Submission]:
        if host.sent:
            raise NetworkError("Kaggle cannot be reached.", "Try later.")
        return submissions()

    monkeypatch.setattr(host, "submissions", unreachable)
    with pytest.raises(NetworkError):
        submit(host, workspace, csv, run="fast")
    (entry,) = ledger_of(workspace).entries()
    assert (entry.ref, entry.status) == ("", "UNKNOWN")
    monkeypatch.setattr(host, "submissions", submissions)
    sent = submit(host, workspace, csv, again=True)
    assert sent.was_known
    assert (sent.entry.ref, sent.entry.run, sent.entry.status) == ("1", "fast", "COMPLETE")
    assert len(host.sent) == 1
    assert len(ledger_of(workspace).entries()) == 1


def test_read_scores_finds_lost_response(
    workspace: Workspace, csv: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(host, workspace, csv, run="fast")
    (entry,) = ledger_of(workspace).entries()
    ledger_of(workspace).path.unlink()
    ledger_of(workspace).record(Entry(entry.time, "fast", entry.sha256, "", "UNKNOWN"))
    read_scores(host, workspace)
    assert ledger_of(workspace).entries()[0].ref == "1"


def test_submit_does_not_send_while_an_entry_is_unresolved(
    workspace: Workspace, csv: Path, host: FakeHost
) -> None:
    ledger_of(workspace).record(Entry("2026-11-24T10:00:00+00:00", "fast", sha256(csv), "", "UNKNOWN"))
    for dry_run in (False, True):
        with pytest.raises(NetworkError, match="may have been made"):
            submit(host, workspace, csv, dry_run=dry_run)
    assert host.sent == []


def test_submit_polls_again_after_network_errors(
    workspace: Workspace, csv: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    submissions = host.submissions

    def fail_every_second_time() -> Iterator[Submission]:
        calls.append(1)
        if host.sent and len(calls) % 2:
            raise NetworkError("Kaggle cannot be reached.", "Try later.")
        return submissions()

    monkeypatch.setattr(host, "submissions", fail_every_second_time)
    assert submit(host, workspace, csv).entry.status == "COMPLETE"


def test_submit_returns_score_when_leaderboard_fails(
    workspace: Workspace, csv: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable() -> Standing:
        raise NetworkError("Kaggle's leaderboard cannot be read.", "Try later.")

    monkeypatch.setattr(host, "standing", unreadable)
    entry = submit(host, workspace, csv).entry
    assert (entry.score, entry.rank) == (0.99757, None)


def test_read_scores_gives_rank_to_best_submission(workspace: Workspace, csv: Path, host: FakeHost) -> None:
    submit(host, workspace, csv)
    host.sent[0] = replace(host.sent[0], status="COMPLETE", score=0.99757)
    host.outcomes = [("COMPLETE", 0.9, "")]
    assert submit(host, workspace, csv, again=True).entry.rank is None
    assert [entry.rank for entry in ledger_of(workspace).entries()] == [3, None]


def test_submit_dry_run_of_known_file_changes_nothing(workspace: Workspace, csv: Path, host: FakeHost) -> None:
    submit(host, workspace, csv, wait=False)
    ledger_of(workspace).path.unlink()
    sent = submit(host, workspace, csv, dry_run=True)
    assert sent.was_known
    assert not ledger_of(workspace).path.exists()


def test_submit_repeats_error_of_known_file(workspace: Workspace, csv: Path, host: FakeHost) -> None:
    host.outcomes = [("ERROR", None, "no such id")]
    for _ in range(2):
        with pytest.raises(ScoringError, match="no such id"):
            submit(host, workspace, csv)
    assert len(host.sent) == 1


def test_submit_finds_lost_response(workspace: Workspace, csv: Path, host: FakeHost) -> None:
    host.lose_response = True
    sent = submit(host, workspace, csv, run="fast", cv=0.995)
    assert (sent.entry.ref, sent.entry.run, sent.entry.cv) == ("1", "fast", 0.995)
    assert len(host.sent) == 1


def test_submit_again_does_not_mistake_first_submission_for_lost_second(
    workspace: Workspace, csv: Path, host: FakeHost
) -> None:
    submit(host, workspace, csv)
    host.lose_response = True
    assert submit(host, workspace, csv, again=True).entry.ref == "2"


def test_submit_again_does_not_mistake_late_first_submission_for_second(
    workspace: Workspace, csv: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(upload: str, description: str) -> str:
        raise NetworkError("Kaggle cannot be reached.", "Try later.")

    submit(host, workspace, csv, wait=False)
    monkeypatch.setattr(host, "create", down)
    host.hidden_polls = 1
    with pytest.raises(NetworkError, match="may have been made"):
        submit(host, workspace, csv, again=True)
    assert [entry.ref for entry in ledger_of(workspace).entries()] == ["1", ""]


def test_submit_waits_for_list_that_lags(workspace: Workspace, csv: Path, host: FakeHost) -> None:
    host.lose_response, host.hidden_polls = True, len(SEARCH_PAUSES) + 2
    with pytest.raises(NetworkError, match="may have been made, but is not listed"):
        submit(host, workspace, csv, run="fast")
    sent = submit(host, workspace, csv)
    assert sent.was_known
    assert (sent.entry.ref, sent.entry.run) == ("1", "fast")
    assert len(host.sent) == 1


@pytest.mark.parametrize("lag", [12, 60, 600, 1e9])
def test_submit_makes_one_submission_after_slow_upload_and_lost_response(
    workspace: Workspace, csv: Path, host: FakeHost, clock: Clock, lag: float
) -> None:
    """The list cannot be read at first and then lags."""
    host.clock, host.upload_seconds, host.lag, host.lose_response = clock, 40, lag, True
    host.unreadable_for = 20
    started = clock.now
    with pytest.raises(NetworkError, match="may have been made"):
        submit(host, workspace, csv)
    (entry,) = ledger_of(workspace).entries()
    assert datetime.fromisoformat(entry.time).timestamp() == pytest.approx(started + 40, abs=0.01)
    for _ in range(3):
        with suppress(NetworkError):
            submit(host, workspace, csv)
    assert len(host.sent) == 1
    clock.sleep(max(lag, host.unreadable_for))
    assert submit(host, workspace, csv).entry.ref == "1"
    assert len(host.sent) == 1


@pytest.mark.parametrize("error", [RefusedError, CredentialsError])
def test_submit_reports_unclear_response_when_list_is_refused(
    workspace: Workspace,
    csv: Path,
    host: FakeHost,
    monkeypatch: pytest.MonkeyPatch,
    error: type[KaggleDigitsError],
) -> None:
    """For example, a proxy requires a sign-in after the upload."""
    submissions = host.submissions

    def refuse() -> Iterator[Submission]:
        if host.sent:
            raise error("Kaggle refuses.", "Accept the rules.")
        return submissions()

    host.lose_response = True
    monkeypatch.setattr(host, "submissions", refuse)
    with pytest.raises(NetworkError, match="may have been made"):
        submit(host, workspace, csv)


def test_submit_again_adds_entry_for_submission_made_elsewhere(
    workspace: Workspace, csv: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(upload: str, description: str) -> str:
        raise NetworkError("Kaggle cannot be reached.", "Try later.")

    submit(host, workspace, csv)
    ledger_of(workspace).path.unlink()
    monkeypatch.setattr(host, "create", down)
    with pytest.raises(NetworkError):
        submit(host, workspace, csv, again=True)
    read_scores(host, workspace)
    assert [entry.ref for entry in ledger_of(workspace).entries()] == ["1", ""]


def test_submit_sends_unresolved_file_only_with_again(
    workspace: Workspace, csv: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    create = host.create

    def down(upload: str, description: str) -> str:
        raise NetworkError("Kaggle cannot be reached.", "Try later.")

    monkeypatch.setattr(host, "create", down)
    with pytest.raises(NetworkError, match="cannot be reached: the submission may have been made"):
        submit(host, workspace, csv)
    monkeypatch.setattr(host, "create", create)
    slept = clock.slept
    with pytest.raises(NetworkError, match="may have been made") as caught:
        submit(host, workspace, csv)
    assert clock.slept - slept == sum(SEARCH_PAUSES)
    assert "kaggle-digits --root" in caught.value.remedy
    assert "--again" in caught.value.remedy
    assert not submit(host, workspace, csv, again=True).was_known
    # The first entry is kept, because the first submission may still be listed later.
    assert [entry.ref for entry in ledger_of(workspace).entries()] == ["", "1"]


def test_submit_again_keeps_entry_of_lost_response(workspace: Workspace, csv: Path, host: FakeHost) -> None:
    host.lose_response, host.hidden_polls = True, 1000
    with pytest.raises(NetworkError, match="may have been made"):
        submit(host, workspace, csv, run="fast")
    host.lose_response = False
    submit(host, workspace, csv, run="fast", again=True, wait=False)
    lines = [(entry.ref, entry.status) for entry in ledger_of(workspace).entries()]
    assert lines == [("", "UNKNOWN"), ("2", "PENDING")]
    host.hidden_polls = 0
    read_scores(host, workspace)
    assert [entry.ref for entry in ledger_of(workspace).entries()] == ["1", "2"]


def test_submit_returns_first_submission_while_second_is_unresolved(
    workspace: Workspace, csv: Path, host: FakeHost
) -> None:
    submit(host, workspace, csv)
    host.lose_response, host.hidden_polls = True, 1000
    with pytest.raises(NetworkError):
        submit(host, workspace, csv, again=True)
    host.hidden_polls, host.sent[:1] = 0, []
    assert submit(host, workspace, csv).entry.ref == "1"
    assert [entry.ref for entry in ledger_of(workspace).entries()] == ["1", ""]


@pytest.mark.parametrize("description", ["", "the best one", "changed 0123456789ab"])
def test_submit_recognizes_file_name_when_description_was_edited(
    workspace: Workspace, csv: Path, host: FakeHost, description: str
) -> None:
    submit(host, workspace, csv, run="fast")
    host.sent[0] = replace(host.sent[0], description=description)
    ledger_of(workspace).path.unlink()
    assert submit(host, workspace, csv).was_known
    assert len(host.sent) == 1


def test_submit_sends_validated_bytes(
    workspace: Workspace, csv: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace_file() -> int:
        csv.write_text(VALID.replace("7,7", "7,8"))
        return 5

    monkeypatch.setattr(host, "allowance", replace_file)
    entry = submit(host, workspace, csv).entry
    assert host.uploads == [VALID.encode()]
    assert entry.sha256 == hashlib.sha256(VALID.encode()).hexdigest()


def test_submit_does_not_block_on_pipe(workspace: Workspace, csv: Path, host: FakeHost) -> None:
    csv.unlink()
    os.mkfifo(csv)
    with pytest.raises(DataError, match="is a pipe or a device, not a regular file"):
        submit(host, workspace, csv)
    assert host.uploads == []


def test_read_submission_limits_bytes_read() -> None:
    with pytest.raises(DataError, match="/dev/zero"):
        read_submission(Path("/dev/zero"), IDS)


@pytest.mark.parametrize("error", [RefusedError, WriteError, NotReachedError])
def test_submit_leaves_no_entry_when_host_refuses(
    workspace: Workspace,
    csv: Path,
    host: FakeHost,
    monkeypatch: pytest.MonkeyPatch,
    error: type[KaggleDigitsError],
) -> None:
    def refuse(upload: str, description: str) -> str:
        raise error("No.", "Try something else.")

    monkeypatch.setattr(host, "create", refuse)
    polls = host.polls
    with pytest.raises(error):
        submit(host, workspace, csv)
    assert ledger_of(workspace).entries() == []
    assert host.polls == polls + 2  # no search for a submission that was not made


@pytest.mark.parametrize("is_removed", [True, False])
def test_submit_reports_refusal_on_full_disk(
    workspace: Workspace, csv: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch, is_removed: bool
) -> None:
    """The entry of the attempt is cut off, which needs no space. If that fails, too, it blocks the file."""

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    def refuse(upload: str, description: str) -> str:
        disk.setattr(Path, "replace", full)
        if not is_removed:
            disk.setattr(os, "truncate", full)
        raise RefusedError("No.", "Try something else.")

    with pytest.MonkeyPatch.context() as disk:
        disk.setattr(host, "create", refuse)
        with pytest.raises(RefusedError, match="No"):
            submit(host, workspace, csv)
    assert [entry.status for entry in ledger_of(workspace).entries()] == ["UNKNOWN"] * (not is_removed)
    if is_removed:
        assert submit(host, workspace, csv).entry.ref == "1"


def test_submit_leaves_no_entry_when_upload_fails(workspace: Workspace, csv: Path, host: FakeHost) -> None:
    host.fail_upload = True
    with pytest.raises(NetworkError, match="upload failed"):
        submit(host, workspace, csv)
    assert ledger_of(workspace).entries() == []
    host.fail_upload = False
    assert submit(host, workspace, csv).entry.ref == "1"


def test_read_scores_includes_entries_only_in_ledger(workspace: Workspace, host: FakeHost) -> None:
    ledger_of(workspace).record(Entry("2026-11-01T10:00:00+00:00", "old", "0" * 64, "77", "COMPLETE", 0.991))
    ((submission, entry),) = read_scores(host, workspace).submissions
    assert (submission.ref, submission.score, submission.reason) == ("77", 0.991, "only in the ledger")
    assert entry is not None
    assert entry.run == "old"


def test_submit_checks_allowance_before_upload(workspace: Workspace, csv: Path, host: FakeHost) -> None:
    host.left = 0
    with pytest.raises(RefusedError, match="has been reached"):
        submit(host, workspace, csv)
    assert host.sent == []


def test_submit_continues_with_unknown_allowance(workspace: Workspace, csv: Path, host: FakeHost) -> None:
    host.left = None
    assert submit(host, workspace, csv).entry.ref == "1"


def test_submit_does_not_send_invalid_file(workspace: Workspace, csv: Path, host: FakeHost) -> None:
    csv.write_text(VALID.replace("7,7", "7,77"))
    with pytest.raises(DataError, match="line 8"):
        submit(host, workspace, csv)
    assert host.sent == []


def test_submit_dry_run_sends_nothing(workspace: Workspace, csv: Path, host: FakeHost) -> None:
    sent = submit(host, workspace, csv, dry_run=True, message="hello")
    assert sent.description == f"hello {sha256(csv)[:12]}"
    assert host.sent == []
    assert ledger_of(workspace).entries() == []


def test_submit_shows_reason_of_scoring_error(workspace: Workspace, csv: Path, host: FakeHost) -> None:
    host.outcomes = [("ERROR", None, "Evaluation Exception: no such id.")]
    with pytest.raises(ScoringError, match="Evaluation Exception: no such id"):
        submit(host, workspace, csv)
    assert ledger_of(workspace).entries()[0].status == "ERROR"


def test_submit_rejects_a_second_submit_at_the_same_time(workspace: Workspace, csv: Path, host: FakeHost) -> None:
    with lock(workspace.submissions / ".lock", ""), pytest.raises(WriteError, match="Another submission"):
        submit(host, workspace, csv)


def test_read_scores_updates_ledger(workspace: Workspace, csv: Path, host: FakeHost) -> None:
    submit(host, workspace, csv, wait=False, cv=0.995)
    board = read_scores(host, workspace)
    ((submission, entry),) = board.submissions
    assert submission.score == 0.99757
    assert entry is not None
    assert entry.gap == pytest.approx(0.00257)
    assert ledger_of(workspace).entries() == [entry]
    assert entry.rank == 3
    assert board.standing is not None
    assert board.standing.percentile == 6.0
