"""Average the softmaxes of a run's folds, and of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from kaggle_digits.arrays import Float32, UInt8
from kaggle_digits.data.csv import Data
from kaggle_digits.errors import DataError
from kaggle_digits.evaluation.calibration import calibrate
from kaggle_digits.evaluation.metrics import mean_softmax, summarise
from kaggle_digits.runs.directory import RUN_JSON, FoldsRun, MeanRun, Run, check_data, create_run, read_run
from kaggle_digits.workspace import CLASSES, Workspace


def ensemble_folds(run: FoldsRun, data: Data) -> None:
    """Ensemble the folds of a run: the mean for test rows, the out-of-fold predictions for training rows."""
    if len(run.trained_folds()) < run.info.folds:
        raise run.unfinished()
    numbers, labels = range(run.info.folds), data.train.labels
    oof, folds = gather_oof(run, numbers, labels)
    tests = [run.fold_test_softmax(fold, len(data.test.ids)) for fold in numbers]
    facts = {"calibration": calibrate(oof, labels, folds, tests), "folds": _fold_rows(run)}
    run.write_ensemble(oof, mean_softmax(tests), summarise(oof, labels) | facts)


def gather_oof(run: FoldsRun, finished: Sequence[int], labels: UInt8) -> tuple[Float32, UInt8]:
    """Return the out-of-fold softmaxes [n, 10], zero for unfinished folds, and the split [n], for labels [n]."""
    split = run.split(len(labels))
    oof = np.zeros((len(labels), CLASSES), np.float32)
    for fold in finished:
        oof[split == fold] = run.val_softmax(fold)
    return oof, split


def is_current(run: FoldsRun, data: Data) -> bool:
    """Return whether a run has a valid ensemble of all rows, made from its current folds."""
    try:
        run.oof_softmax(len(data.train.labels))
        run.test_softmax(len(data.test.ids))
        return run.ensemble_metrics().folds == _fold_rows(run)
    except DataError:
        return False


def check_members(run: Run) -> None:
    """Raise a `DataError` if a member of a mean of runs has changed since the mean was made."""
    if not isinstance(run, MeanRun):
        return
    known = run.ensemble_metrics().runs
    for member in run.members():
        files = member.ensemble_metrics().files
        if known.get(member.name, files) != files:
            raise DataError(
                f"The run {member.name} has changed since the mean {run.name} was made.",
                f"Average it again with: {run.command()}.",
            )


def check_mean(path: Path, members: list[str], data: Data) -> MeanRun | None:
    """Return the mean of runs in a directory, or None if there is none.

    `UsageError` if it is no mean, or has members that are not in `members`; `DataError` if it is of other data.
    """
    if not (path / RUN_JSON).exists():
        return None
    run = read_run(path)
    if not isinstance(run, MeanRun):
        raise run.other_recipe("is not a mean of runs")
    check_data(run, data.hashes)
    if not set(run.info.members) <= set(members):
        raise run.other_recipe(f"is the mean of {', '.join(run.info.members)}, not of {', '.join(members)}")
    return run


def average_runs(path: Path, members: list[str], workspace: Workspace, data: Data) -> MeanRun:
    """Average runs into a mean, which is created or gets more members; errors as of `check_mean`."""
    run = check_mean(path, members, data)
    if run is None or run.info.members != members:
        names = [word for member in members for word in ("--run", member)]
        command = workspace.words("ensemble", *names, "--name", path.name)
        spec = {"competition": workspace.competition.name, "members": members, "data": data.hashes}
        run = cast(MeanRun, create_run(path, spec, command))
    ensemble_runs(run, data)
    return run


def ensemble_runs(run: MeanRun, data: Data) -> None:
    """Ensemble the members of `run`: average their softmaxes of the training and of the test rows."""
    members, labels = run.members(), data.train.labels
    oof = mean_softmax(member.oof_softmax(len(labels)) for member in members)
    test = mean_softmax(member.test_softmax(len(data.test.ids)) for member in members)
    # The members may have different splits, so there are no common folds for cross-fitting. Any parts will do:
    # every row already has out-of-fold predictions.
    parts = (np.arange(len(labels)) % 5).astype(np.uint8)
    facts = {
        # Of the training rows, whose mean has one network per run. The mean of a test row has more networks, so
        # that its best temperature is lower.
        "calibration": calibrate(oof, labels, parts, []),
        "runs": {member.name: member.ensemble_metrics().files for member in members},
    }
    run.write_ensemble(oof, test, summarise(oof, labels) | facts)


def _fold_rows(run: FoldsRun) -> list[dict[str, Any]]:
    names = ("rows", "errors", "accuracy", "log_loss", "epochs", "seconds", "files")
    metrics = [run.fold_metrics(fold) for fold in range(run.info.folds)]
    return [{"fold": fold} | {name: of_fold[name] for name in names} for fold, of_fold in enumerate(metrics)]
