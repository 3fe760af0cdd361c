"""Simulate faults in thousands of cases with a model of the host: a file must be submitted at most once."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TypeVar

import pytest
from conftest import Clock, sample_bytes, write_files
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kaggle_digits import Workspace
from kaggle_digits.errors import KaggleDigitsError, NetworkError, RefusedError
from kaggle_digits.hosts import Standing, Submission
from kaggle_digits.submissions.submit import ledger_of, read_scores, send, wait_for_score
from kaggle_digits.training.observer import Observer

FILES = {name: f"ImageId,Label\n1,{digit}\n2,{digit}\n" for name, digit in (("a", 1), ("b", 2))}

FAULTS = st.dictionaries(
    st.integers(0, 9), st.sampled_from(["kill before", "kill after", "down", "lost"]), max_size=2
)
T = TypeVar("T")


class Killed(BaseException):
    """The process is killed."""


@dataclass
class ModelHost:
    """A host in memory, with random faults."""

    clock: Clock  # the host's time is `Clock.slept`
    # All submissions, oldest first: the time, the content of the file, and the submission as it will be listed.
    made: list[tuple[float, bytes, Submission]] = field(default_factory=list)
    lag: float = 0.0  # seconds until a submission is listed
    upload_seconds: float = 0.0  # duration of an upload
    # Faults of the next calls, keyed by the number of the call: "kill before" or "kill after" the call is handled,
    # "down" (not handled), "lost" (handled, but the response is lost).
    faults: dict[int, str] = field(default_factory=dict)
    fault_of_create: str = ""  # the fault of the call that makes a submission; also "refused"
    calls: int = 0  # the number of calls since the faults were set
    uploads: dict[str, bytes] = field(default_factory=dict)
    during_upload: Callable[[], None] = lambda: None  # what happens meanwhile

    def _call(self, handle: Callable[[], T], fault: str = "") -> T:
        fault = fault or self.faults.get(self.calls, "")
        self.calls += 1
        if fault == "kill before":
            raise Killed
        if fault == "down":
            raise NetworkError("The host cannot be reached.", "Try later.")
        response = handle()
        if fault == "kill after":
            raise Killed
        if fault == "lost":
            raise NetworkError("The host's response was lost.", "Try later.")
        return response

    def allowance(self) -> int | None:
        return self._call(lambda: 1000)

    def upload(self, csv: Path) -> str:
        def handle() -> str:
            self.clock.sleep(self.upload_seconds)
            self.during_upload()
            self.uploads[csv.name] = csv.read_bytes()
            return csv.name

        return self._call(handle)

    def create(self, upload: str, description: str) -> str:
        def handle() -> str:
            if self.fault_of_create == "refused":
                raise RefusedError("No.", "Try something else.")
            ref = str(len(self.made) + 1)
            listed = Submission(ref, "2026-11-24T10:00:00+00:00", description, "COMPLETE", 0.9, "", upload)
            self.made.append((self.clock.slept, self.uploads[upload], listed))
            return ref

        return self._call(handle, self.fault_of_create)

    def submissions(self) -> list[Submission]:
        return self._call(self.listed)

    def listed(self) -> list[Submission]:
        return [s for when, _, s in reversed(self.made) if self.clock.slept - when >= self.lag]

    def standing(self) -> Standing:
        return Standing(None, 0)

    def without_retries(self) -> ModelHost:
        return self


class OneSubmissionPerFile(RuleBasedStateMachine):
    """A user submits two files repeatedly, also from a second folder, while faults of all types occur."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.workspaces = [Workspace.at(self.root), Workspace.at(self.root / "elsewhere")]
        for workspace in self.workspaces:
            write_files(workspace.data, {"sample_submission.csv": sample_bytes(2)})
        write_files(self.root, {f"{name}.csv": text.encode() for name, text in FILES.items()})
        self.patch = pytest.MonkeyPatch()
        self.clock = Clock()
        self.patch.setattr("time.time", self.clock.read)
        self.patch.setattr("time.sleep", self.clock.sleep)
        self.host = ModelHost(self.clock)
        self.asked_again = dict.fromkeys(FILES, 0)
        self.entries = [0, 0]

    def teardown(self) -> None:
        self.patch.undo()
        shutil.rmtree(self.root)

    @initialize(
        lag=st.sampled_from([0, 5, 12, 29, 31, 60, 600]),
        upload_seconds=st.sampled_from([0, 1, 40]),
    )
    def set_host(self, lag: float, upload_seconds: float) -> None:
        self.host.lag, self.host.upload_seconds = lag, upload_seconds

    @rule(
        name=st.sampled_from(list(FILES)),
        again=st.sampled_from([False, False, False, True]),
        dry_run=st.sampled_from([False, False, False, True]),
        faults=FAULTS,
        fault_of_create=st.sampled_from(["", "kill before", "kill after", "down", "lost", "refused"]),
        place=st.integers(0, 1),
        both=st.booleans(),
    )
    def submit(
        self,
        name: str,
        again: bool,
        dry_run: bool,
        faults: dict[int, str],
        fault_of_create: str,
        place: int,
        both: bool,
    ) -> None:
        # Another folder knows only what is listed.
        place, both = (place, both) if self.host.lag == 0 else (0, False)
        workspace, other = self.workspaces[place], self.workspaces[1 - place]
        self.host.faults, self.host.fault_of_create, self.host.calls = faults, fault_of_create, 0
        self.asked_again[name] += again and not dry_run
        before, unresolved, meanwhile = len(self.host.made), self.unresolved(workspace), 0

        def submit_elsewhere() -> None:
            """The other folder submits the same file during the upload, without faults."""
            nonlocal meanwhile
            host = replace(self.host, faults={}, fault_of_create="", during_upload=lambda: None)
            with suppress(NetworkError):  # an earlier submission from there may have been made
                meanwhile += not send(host, other, self.root / f"{name}.csv").was_known

        self.host.during_upload = submit_elsewhere if both else lambda: None
        with suppress(NetworkError, Killed):
            try:
                sent = send(self.host, workspace, self.root / f"{name}.csv", again=again, dry_run=dry_run)
            except RefusedError:  # no submission was made, and no entry blocks the next one
                assert self.unresolved(workspace) <= unresolved
                return
            # The result is correct.
            ref, content = sent.entry.ref, FILES[name].encode()
            assert not ref or any(s.ref == ref and c == content for _, c, s in self.host.made)
            assert len(self.host.made) - before == meanwhile + (not (dry_run or sent.was_known))
            if not dry_run:
                wait_for_score(self.host, workspace, sent.entry, 0, Observer())
        assert len(self.host.made) <= before + meanwhile + (not dry_run)

    def unresolved(self, workspace: Workspace) -> int:
        return sum(not entry.ref for entry in ledger_of(workspace).entries())

    @rule(faults=FAULTS, place=st.integers(0, 1))
    def score(self, faults: dict[int, str], place: int) -> None:
        self.host.faults, self.host.calls = faults, 0
        with suppress(KaggleDigitsError, Killed):
            read_scores(self.host, self.workspaces[place])

    @rule(seconds=st.sampled_from([1, 10, 30, 100, 1000]))
    def wait(self, seconds: float) -> None:
        self.clock.sleep(seconds)

    @precondition(lambda self: self.host.made)
    @rule(data=st.data(), description=st.sampled_from(["", "the best", "0123456789ab"]))
    def edit_description(self, data: st.DataObject, description: str) -> None:
        """The user edits a description on the host's site."""
        i = data.draw(st.integers(0, len(self.host.made) - 1))
        when, content, submission = self.host.made[i]
        self.host.made[i] = (when, content, replace(submission, description=description))

    @precondition(lambda self: len(self.host.listed()) == len(self.host.made))
    @rule(place=st.integers(0, 1))
    def delete_ledger(self, place: int) -> None:
        """Only while all submissions are listed: otherwise there would be no record of the other ones."""
        ledger_of(self.workspaces[place]).path.unlink(missing_ok=True)
        self.entries[place] = 0

    @invariant()
    def one_submission_per_file_unless_again(self) -> None:
        for name, text in FILES.items():
            made = sum(content == text.encode() for _, content, _ in self.host.made)
            assert made <= 1 + self.asked_again[name]

    @invariant()
    def no_entry_is_removed(self) -> None:
        entries, self.entries = self.entries, [len(ledger_of(place).entries()) for place in self.workspaces]
        assert all(now >= before for now, before in zip(self.entries, entries, strict=True))

    @invariant()
    def no_entry_has_the_reference_of_another_file(self) -> None:
        contents = {s.ref: content for _, content, s in self.host.made}
        for entry in chain.from_iterable(ledger_of(place).entries() for place in self.workspaces):
            if entry.ref and entry.sha256:
                assert entry.sha256 == hashlib.sha256(contents[entry.ref]).hexdigest()


@pytest.mark.slow
def test_submit_makes_one_submission_after_any_faults() -> None:
    run_state_machine_as_test(
        OneSubmissionPerFile, settings=settings(max_examples=300, stateful_step_count=20, deadline=None)
    )
