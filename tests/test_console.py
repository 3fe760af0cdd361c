"""Output in the terminal: tables, the progress of a training, and texts of others."""

from __future__ import annotations

import io
from pathlib import Path

import click
import numpy as np
import pytest
from rich.console import Console

from kaggle_digits import console
from kaggle_digits.console import SubmissionView, TrainingView
from kaggle_digits.hosts import Standing, Submission
from kaggle_digits.prediction.predict import Prediction
from kaggle_digits.submissions.ledger import Entry
from kaggle_digits.submissions.submit import ScoreBoard, Sent
from kaggle_digits.training.fold import FoldTask, Progress
from kaggle_digits.training.presets import describe_settings, find_preset
from kaggle_digits.workspace import Workspace

ROW = {"name": "default-k8-s0", "status": "finished", "trained": 3, "folds": 8, "errors": 1234}
ROW |= {"score": 0.99757, "accuracy": 0.99586}


def terminal(
    monkeypatch: pytest.MonkeyPatch, columns: int = 80, lines: int = 24, is_terminal: bool = True
) -> None:
    """Let stdout and stderr seem to be a terminal, or a file."""
    for name, value in {"TERM": "xterm", "COLUMNS": str(columns), "LINES": str(lines), "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{name}.isatty", lambda: is_terminal)


def tasks(seeds: int, folds: int) -> list[FoldTask]:
    settings, split = find_preset("lenet").settings, np.zeros(0, np.uint8)
    return [FoldTask(settings, seed, fold, split) for seed in range(seeds) for fold in range(folds)]


def progress(seed: int, fold: int, epoch: int, is_epoch_end: bool = True) -> Progress:
    return Progress(seed, fold, epoch, 4, epoch / 4, 0.5, 0.9, 1000.0, is_epoch_end)


def shown(view: TrainingView, width: int = 80) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width).print(view._table())
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def watch(all_tasks: list[FoldTask], missing: list[FoldTask]) -> TrainingView:
    view = TrainingView()
    view._console = Console(file=io.StringIO(), height=24, width=80)
    view.start("it", all_tasks, missing)
    return view


@pytest.mark.parametrize("columns", [50, 80])
def test_tables_fit_the_terminal_and_cut_off_nothing(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(monkeypatch, columns)
    console.show_runs([ROW])
    console.show_runs([ROW | {"name": "default-k8-s0-" + "x" * 50}])
    console.show_settings(describe_settings())
    printed = click.unstyle(capsys.readouterr().out)
    assert max(map(len, printed.splitlines())) <= columns
    assert "…" not in printed
    assert printed.count("x") >= 50
    assert all(word in printed for word in ("finished", "1,234", "0.99757", "0.99586"))
    assert all(f"\n{setting['name']} " in printed for setting in describe_settings())
    assert ("default-k8-s0  finished" in printed) == (columns == 80)


def test_tables_have_one_line_per_row_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(monkeypatch, columns=40, is_terminal=False)
    console.show_runs([ROW | {"name": "x" * 300, "score": None}])
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["run", "status", "folds", "errors", "accuracy", "score"]
    assert row == "x" * 300 + "  finished    3/8   1,234   0.99586"


def test_training_view_shows_what_each_fold_is_doing() -> None:
    all_tasks = tasks(1, 5)
    view = watch(all_tasks, all_tasks[1:])
    for task in all_tasks[1:4]:
        view.started(task)
        view.preparing(task, "importing TensorFlow")
    view.progress(progress(0, 1, 4))
    view.progress(progress(0, 2, 2, is_epoch_end=False))
    assert any("importing TensorFlow" in line for line in shown(view))
    view.started(all_tasks[3])
    lines = shown(view)
    assert [line.split()[0] for line in lines[2:7]] == list("01234")
    states = ["done", "predicting", "2/4", "starting", "waiting"]
    assert all(state in line for state, line in zip(states, lines[2:7], strict=True))
    assert lines[-1].endswith("left")
    narrow = shown(view, width=50)
    assert max(map(len, narrow)) <= 50
    assert sum("0.90000" in line for line in narrow) == 2
    assert "…" not in "".join(narrow)
    for task in all_tasks[1:]:
        view.finished(task)
    assert shown(view)[-1].endswith("elapsed")


def test_training_view_shows_only_folds_being_trained_if_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    all_tasks = tasks(3, 10)
    view = watch(all_tasks, all_tasks[2:])
    view.progress(progress(0, 2, 1))
    view.started(all_tasks[17])
    now = view._started
    monkeypatch.setattr("time.monotonic", lambda: now + 3661.2)
    assert [line.split()[0] for line in shown(view)[2:-1]] == ["0/2", "1/7"]
    view.finished(all_tasks[2])
    assert [line.split()[0] for line in shown(view)[2:-1]] == ["1/7"]
    assert shown(view)[-1].startswith("3 of 30 folds done, 1:01:01 elapsed")


def test_training_view_draws_the_table_again_in_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(monkeypatch)
    with TrainingView() as view:
        view.start("it", tasks(1, 1), tasks(1, 1))
        view.notice("A worker was lost.")
        view.finished(tasks(1, 1)[0])
    printed = capsys.readouterr().err
    assert printed.index("waiting") < printed.index("A worker was lost.") < printed.index("done")


@pytest.mark.parametrize("variables", [{"FORCE_COLOR": "1"}, {"TERM": "dumb"}])
def test_training_view_prints_one_line_per_epoch_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    """Many CI systems set FORCE_COLOR. The editor Emacs is a terminal that cannot move the cursor."""
    terminal(monkeypatch, columns=200, is_terminal="TERM" in variables)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    all_tasks = tasks(2, 2)
    with console.spinner("Working") as status, TrainingView() as view:
        SubmissionView(status).waiting("PENDING")
        view.start("it", all_tasks, all_tasks[1:])
        view.progress(progress(1, 0, 1))
        view.progress(progress(1, 0, 2, is_epoch_end=False))
        view.progress(progress(1, 0, 2))
        view.notice("A worker was lost.")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Training it: folds 0/1, 1/0, 1/1."
    assert [line.split("  ")[:2] for line in lines[1:3]] == [["fold 1/0", "epoch 1/4"], ["fold 1/0", "epoch 2/4"]]
    assert lines[3:] == ["A worker was lost."]


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("code", ["\x1b[2J", "\x1b]8;;http://evil\x1b\\"])
def test_console_prints_texts_as_they_are_but_for_control_characters(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, code: str, is_terminal: bool
) -> None:
    """From a file that was copied from elsewhere, or from a server."""
    terminal(monkeypatch, is_terminal=is_terminal)
    text = f"one{code}two:cat:[bold]"  # neither markup nor emoji
    console.show_error(text, text)
    console.say(text)
    console.show_runs([ROW | {"name": text}])
    with TrainingView() as view:
        view.notice(text)
    found = capsys.readouterr()
    assert code not in found.out + found.err
    assert (found.out.count("onetwo:cat:[bold]"), found.err.count("onetwo:cat:[bold]")) == (2, 3)


@pytest.mark.parametrize(("name", "among"), [("rehearsal", " among local baselines"), ("digit-recognizer", "")])
def test_show_scores_and_show_sent_say_what_a_rank_is_among(
    name: str, among: str, capsys: pytest.CaptureFixture[str]
) -> None:
    submission = Submission("1", "2026-01-31T12:05", "", "COMPLETE", 0.9925, "")
    entry = Entry(submission.time, "it", "", "1", "COMPLETE", 0.9925, 0.98667, 1)
    competition = Workspace.at(competition=name).competition
    console.show_sent(Sent(entry, ""), False, competition)
    console.show_scores(ScoreBoard([(submission, entry)], Standing(1, 4)), competition)
    printed = capsys.readouterr().out
    assert f"Score 0.99250 (CV 0.98667, +0.00583), rank 1{among}\n" in printed
    assert f"Rank 1 of 4{among} (top 25.0 %).\n" in printed


@pytest.mark.parametrize("columns", [50, 80])
def test_show_prediction_shows_picture_and_probabilities(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal(monkeypatch, columns)
    image = np.zeros((28, 28), np.uint8)
    image[0, 1], image[:2, 2] = 255, 255
    networks = np.eye(10, dtype=np.float32)[[4, 4, 4, 4, 9]]
    console.show_prediction([Prediction(Path("a" * 100 + ".png"), image, networks[0], networks, 1.2)])
    lines = click.unstyle(capsys.readouterr().out).splitlines()
    assert lines[0] == "a" * 100 + ".png: 4 (probably not a digit)"
    assert max(map(len, lines[1:])) <= columns
    assert any(line.startswith(" =@") for line in lines)
    assert sum("1.0000" in line for line in lines) == 1
    assert any("80% of the networks predict 4" in line for line in lines)
