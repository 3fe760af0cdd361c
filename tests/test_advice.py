"""What `submit` says about a run before it is sent."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import competition_files, small_digits, write_files
from kaggle_server import KaggleServer

from kaggle_digits import Workspace, find_run
from kaggle_digits.arrays import Float32
from kaggle_digits.data.csv import load_data, load_sample
from kaggle_digits.files import sha256, write_bytes
from kaggle_digits.runs.directory import MeanRun
from kaggle_digits.runs.summary import compare_with_best_score, explain_choice
from kaggle_digits.submissions.ledger import Entry
from kaggle_digits.submissions.submit import ledger_of, submission_file, write_submission

RunCli = Callable[..., "subprocess.CompletedProcess[str]"]

ROWS = 100


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace.at(tmp_path)
    write_files(workspace.data, competition_files(ROWS))
    return workspace


def add_run(workspace: Workspace, name: str, wrong: range, finished: bool = True) -> None:
    """Add a run whose out-of-fold predictions of some rows are wrong."""
    labels = small_digits(ROWS)[1]
    predicted = (labels + np.isin(np.arange(ROWS), wrong)) % 10
    softmax: Float32 = np.eye(10, dtype=np.float32)[predicted]
    data = load_data(workspace.data)
    spec = {"competition": workspace.competition.name, "members": ["x"], "data": data.hashes}
    run = MeanRun.new(workspace.runs / name, spec, ["kaggle-digits"]).with_status("unfinished")
    metrics = {"rows": ROWS, "errors": len(wrong), "accuracy": 1 - len(wrong) / ROWS, "log_loss": 0.1}
    if finished:
        calibration = {"temperature": 1.0, "log_loss_after": 0.1}
        softmaxes = {"oof_softmax.npy": softmax, "test_softmax.npy": softmax}
        run.ensemble.write_files(softmaxes, metrics | {"calibration": calibration})
        run.with_status("finished")
        write_bytes(submission_file(workspace, name), name.encode())


def add_score(workspace: Workspace, run: str, score: float) -> None:
    number = 1 + len(ledger_of(workspace).entries())
    path = submission_file(workspace, run)
    digest = sha256(path) if run and path.exists() else "0" * 64
    entry = Entry(f"2026-01-0{number}", run, digest, f"ref{number}", "COMPLETE", score)
    ledger_of(workspace).record(entry)


def test_explain_choice_names_the_run_and_why(workspace: Workspace) -> None:
    add_run(workspace, "begun", range(0), finished=False)
    words = explain_choice(workspace, find_run(workspace))
    assert words == "No run of the present data is finished. The latest one is begun."
    add_run(workspace, "chosen", range(2))
    add_run(workspace, "worse", range(5))
    words = "The run is chosen (CV 0.98000), the finished one with the best out-of-fold accuracy."
    assert explain_choice(workspace, find_run(workspace)) == words
    add_run(workspace, "new", range(0), finished=False)
    assert explain_choice(workspace, find_run(workspace)) == f"{words} new is newer, but not finished."


@pytest.mark.parametrize(
    ("wrong", "verdict"),
    [
        (range(30, 32), "new is better, by more than chance would explain (p = 0.00012)"),
        (range(20, 38), "new is not better or worse than chance would explain (p = 0.87)"),
        (range(90), "new is worse, by more than chance would explain"),
    ],
)
def test_compare_with_best_score_says_whether_the_run_is_better(
    workspace: Workspace, wrong: range, verdict: str
) -> None:
    for name, score in (("best", 0.99), ("other", 0.98)):
        add_run(workspace, name, range(20))
        add_score(workspace, name, score)
    add_run(workspace, "new", wrong)
    words, is_worse = compare_with_best_score(workspace, find_run(workspace, "new"))
    assert is_worse == ("new is worse" in verdict)
    assert words.startswith("The best score so far is 0.99000, of the run best. Out-of-fold, ")
    assert verdict in words


def test_compare_with_best_score_needs_a_score_of_another_run(workspace: Workspace) -> None:
    add_run(workspace, "new", range(3))
    run = find_run(workspace, "new")
    assert compare_with_best_score(workspace, run) == ("", False)
    add_score(workspace, "other", 0.9)
    add_score(workspace, "new", 0.9)  # as good as the best
    assert compare_with_best_score(workspace, run) == ("", False)
    add_score(workspace, "ne", 0.91)  # a run that was removed, and whose name begins like that of another run
    assert "of the run ne. Its predictions are not there any more" in compare_with_best_score(workspace, run)[0]
    add_score(workspace, "", 0.92)
    assert compare_with_best_score(workspace, run) == (
        "The best score so far is 0.92000, of a file that belongs to no run.",
        False,
    )


@pytest.mark.parametrize("retrained", ["new", "best"])
def test_compare_with_best_score_does_not_credit_a_run_that_was_trained_again(
    workspace: Workspace, retrained: str
) -> None:
    for name in ("best", "new"):
        add_run(workspace, name, range(3))
    add_score(workspace, retrained, 0.9)
    write_bytes(submission_file(workspace, retrained), b"trained again")
    words, is_worse = compare_with_best_score(workspace, find_run(workspace, "new"))
    assert not is_worse
    assert words.startswith(
        f"The best score so far is 0.90000, of the run {retrained}. Its predictions are not there"
    )


@pytest.fixture
def worse(workspace: Workspace, kaggle: KaggleServer) -> KaggleServer:
    """A workspace with the runs "best", which is scored, and "worse", and its host."""
    for name, wrong in (("best", range(2)), ("worse", range(40))):
        add_run(workspace, name, wrong)
    add_score(workspace, "best", 0.99)
    softmax: Float32 = np.eye(10, dtype=np.float32)[np.zeros(30, int)]
    sample = load_sample(workspace.data)
    write_submission(submission_file(workspace, "worse"), sample, sample.ids, softmax)
    return kaggle


def test_submit_needs_yes_for_a_worse_run_without_a_terminal(worse: KaggleServer, call_cli: RunCli) -> None:
    submit = ("submit", "--run", "worse")
    refused = call_cli(*submit)
    assert (refused.returncode, worse.submissions) == (2, [])
    assert refused.stderr.splitlines()[-2:] == [
        "Error: worse was not submitted: it is worse than the run with the best score so far, by more than chance "
        "would explain.",
        "Choose another run, or submit it all the same with --yes.",
    ]
    preview = call_cli(*submit, "--dry-run")
    assert (preview.returncode, worse.submissions) == (0, [])
    assert "Out-of-fold, worse is worse, by more than chance would explain" in preview.stderr
    assert call_cli(*submit, "--yes").returncode == 0
    known = call_cli(*submit)  # sends nothing, so nothing has to be confirmed
    assert (known.returncode, len(worse.submissions)) == (0, 1)
    assert "was submitted before" in known.stdout


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 2), ("", 2)])
def test_submit_asks_before_it_sends_a_worse_run_in_a_terminal(
    worse: KaggleServer, call_cli: RunCli, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    terminal = io.StringIO(f"{answer}\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    result = call_cli("submit", "--run", "worse", "--json")
    assert (result.returncode, len(worse.submissions)) == (code, code == 0)
    assert "Submit worse all the same? [y/N]" in result.stderr
    assert "Submit" not in result.stdout
