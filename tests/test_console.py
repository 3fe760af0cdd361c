"""The display of training progress in the terminal."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from kaggle_digits.console import Spinner, TrainingView, err, out, show_error, show_runs
from kaggle_digits.training.fold import FoldTask, Progress
from kaggle_digits.training.presets import find_preset

SETTINGS = find_preset("lenet").settings


def tasks(seeds: int, folds: int) -> list[FoldTask]:
    split = np.zeros(0, np.uint8)
    return [FoldTask("lenet", SETTINGS, seed, fold, split) for seed in range(seeds) for fold in range(folds)]


def progress(seed: int, fold: int, epoch: int, is_epoch_end: bool = True) -> Progress:
    return Progress(seed, fold, epoch, 4, epoch / 4, 0.5, 0.9, 1000.0, is_epoch_end)


def shown(view: TrainingView) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=80).print(view._table())
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def watch(all_tasks: list[FoldTask], missing: list[FoldTask], height: int = 24) -> TrainingView:
    view = TrainingView()
    view._console = Console(file=io.StringIO(), height=height, width=80)
    view.start("it", all_tasks, missing)
    return view


def test_training_view_has_one_row_per_fold() -> None:
    all_tasks = tasks(1, 3)
    view = watch(all_tasks, all_tasks[1:])
    view.progress(progress(0, 1, 2))
    lines = shown(view)
    assert [line.split()[0] for line in lines[2:5]] == ["0", "1", "2"]
    assert "done" in lines[2]
    assert "2/4" in lines[3]
    assert "waiting" in lines[4]
    view.finished(all_tasks[1])
    view.finished(all_tasks[2])
    assert shown(view)[-1].endswith("elapsed")


def test_training_view_shows_only_running_folds_if_there_are_many() -> None:
    all_tasks = tasks(3, 10)
    view = watch(all_tasks, all_tasks[2:])
    view.progress(progress(0, 2, 1))
    view.progress(progress(1, 7, 3))
    lines = shown(view)
    assert [line.split()[0] for line in lines[2:4]] == ["0/2", "1/7"]
    assert len(lines) == 5
    assert lines[-1].startswith("2 of 30 folds done, ")
    view.finished(all_tasks[2])
    assert [line.split()[0] for line in shown(view)[2:3]] == ["1/7"]
    assert shown(view)[-1].startswith("3 of 30 folds done, ")


def test_training_view_shows_what_each_fold_is_doing() -> None:
    all_tasks = tasks(1, 4)
    view = watch(all_tasks, all_tasks)
    for task in all_tasks[:3]:
        view.started(task)
    view.progress(progress(0, 0, 4))
    view.progress(progress(0, 1, 4, is_epoch_end=False))
    states = ["predicting", "4/4", "starting", "waiting"]
    assert all(state in line for state, line in zip(states, shown(view)[2:6], strict=True))


def test_training_view_shows_folds_that_are_starting_if_there_are_many() -> None:
    all_tasks = tasks(1, 22)
    view = watch(all_tasks, all_tasks)
    view.started(all_tasks[0])
    view.started(all_tasks[1])
    assert [line.split()[0] for line in shown(view)[2:4]] == ["0", "1"]
    assert shown(view)[-1].startswith("0 of 22 folds done, 0:00 elapsed")


def test_training_view_clock_runs_between_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    all_tasks = tasks(1, 1)
    view = watch(all_tasks, all_tasks)
    now = view._started
    monkeypatch.setattr("time.monotonic", lambda: now + 3661.2)
    assert shown(view)[-1].startswith("1:01:01 elapsed")


@pytest.mark.parametrize("width", [40, 60])
def test_training_view_fits_narrow_terminals(width: int) -> None:
    all_tasks = tasks(1, 2)
    view = watch(all_tasks, all_tasks)
    view._console = Console(file=io.StringIO(), height=24, width=width)
    view.progress(progress(0, 1, 2))
    stream = io.StringIO()
    Console(file=stream, width=width).print(view._table())
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    assert "…" not in stream.getvalue()
    assert "2/4" in lines[3]
    assert "0.90000" in lines[3]


@pytest.mark.parametrize("variables", [{}, {"FORCE_COLOR": "1", "TERM": "xterm"}, {"TERM": "dumb"}])
def test_training_view_prints_one_line_per_epoch_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    """Many CI systems set FORCE_COLOR. The editor Emacs is a terminal that cannot move the cursor."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stderr.isatty", lambda: variables == {"TERM": "dumb"})
    all_tasks = tasks(2, 2)
    with Spinner("Working") as spinner, TrainingView() as view:
        spinner.update("Still working")
        view.start("it", all_tasks, all_tasks[1:])
        view.progress(progress(1, 0, 1))
        view.progress(progress(1, 0, 2, is_epoch_end=False))
        view.progress(progress(1, 0, 2))
        view.notice("A worker was lost.")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Training it: folds 0/1, 1/0, 1/1."
    assert [line.split("  ")[:2] for line in lines[1:3]] == [["fold 1/0", "epoch 1/4"], ["fold 1/0", "epoch 2/4"]]
    assert lines[3:] == ["A worker was lost."]


def test_console_uses_colors_but_no_line_breaks_with_force_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert (out().color_system is None, out().is_terminal, out().width > 1000) == (False, False, True)


@pytest.mark.parametrize("tty", [True, False])
@pytest.mark.parametrize("code", ["\x1b[2J", "\x1b]8;;http://evil\x1b\\", "\x9b2J", "\r", "\u202e"])
def test_console_prints_no_control_characters_of_texts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, code: str, tty: bool
) -> None:
    """From a file that was copied from elsewhere, or from a server."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{name}.isatty", lambda: tty)
    monkeypatch.setenv("TERM", "xterm")
    text = f"one{code}two"
    err().print(text, markup=False)
    show_error(text, text)
    unknown = dict.fromkeys(("trained", "folds", "rows", "errors", "accuracy", "score"))
    show_runs([{"name": text, "status": text, **unknown}])
    with TrainingView() as view:
        view.notice(text)
    found = capsys.readouterr()
    assert code not in found.out + found.err
    assert found.out.count("onetwo") == 2
    assert found.err.count("onetwo") == 4
