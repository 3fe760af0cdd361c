"""The mean of softmaxes: of a run's folds, and of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kaggle_digits.arrays import Float32, UInt8
from kaggle_digits.data.csv import Data
from kaggle_digits.errors import DataError
from kaggle_digits.evaluation.calibration import calibrate
from kaggle_digits.evaluation.metrics import mean_softmax, summarise
from kaggle_digits.runs.directory import FoldsRun, MeanRun, Run
from kaggle_digits.workspace import CLASSES


def ensemble_folds(run: FoldsRun, data: Data) -> None:
    """Ensemble the finished folds of a run: mean on the test rows, each training row by the fold it validates.

    Parameters
    ----------
    run : FoldsRun
        Has all its folds.
    data : Data
        The rows.

    Raises
    ------
    DataError
        If an artefact is missing, damaged or of another shape than the data.
    """
    numbers, labels = range(run.info.folds), data.train.labels
    oof, folds = gather_oof(run, numbers, labels)
    tests = [run.fold_test_softmax(fold, len(data.test.ids)) for fold in numbers]
    facts = {
        "calibration": calibrate(oof, labels, folds, tests),
        "folds": [_fold_row(run, fold) for fold in numbers],
    }
    run.write_ensemble(oof, mean_softmax(tests), summarise(oof, labels) | facts)


def gather_oof(run: FoldsRun, finished: Sequence[int], labels: UInt8) -> tuple[Float32, UInt8]:
    """Return the softmaxes of the rows that finished folds validate, zeros elsewhere, and the split.

    Parameters
    ----------
    run : FoldsRun
        Has these folds.
    finished : sequence of int
        Folds.
    labels : ndarray of uint8, shape (n,)
        Of the training rows.

    Returns
    -------
    ndarray of float32, shape (n, 10), ndarray of uint8, shape (n,)
        Softmaxes, and the fold of each row.

    Raises
    ------
    DataError
        If an artefact is missing, damaged or of another shape than the data.
    """
    split = run.split(len(labels))
    oof = np.zeros((len(labels), CLASSES), np.float32)
    for fold in finished:
        oof[split == fold] = run.val_softmax(fold)
    return oof, split


def is_current(run: FoldsRun, data: Data) -> bool:
    """Tell whether a run has an undamaged ensemble of its folds as they are now, and of all rows of the data."""
    if not run.has_valid_ensemble(len(data.train.labels), len(data.test.ids)):
        return False
    return run.ensemble_metrics().folds == [_fold_row(run, fold) for fold in range(run.info.folds)]


def check_members(run: Run) -> None:
    """Raise a `DataError` if the members of a mean of runs are others now than when it was made."""
    if not isinstance(run, MeanRun):
        return
    known = run.ensemble_metrics().runs
    for member in run.members():
        files = member.ensemble_metrics().files
        if known.get(member.name, files) != files:
            raise DataError(
                f"The run {member.name} has changed since {run.name} was made of it.",
                f"Average it again with: {run.command()}.",
            )


def ensemble_runs(run: MeanRun, data: Data) -> None:
    """Ensemble the members of `run`: means of their softmaxes, of the test and of the training rows.

    The temperature is that of a training row's mean, of as many networks as there are runs. A test row's is of
    more networks, and needs a lower one.
    """
    members, labels = run.members(), data.train.labels
    oof = mean_softmax(member.oof_softmax(len(labels)) for member in members)
    test = mean_softmax(member.test_softmax(len(data.test.ids)) for member in members)
    # For cross-fitting any parts do: no network is new to the rows of one and not of another.
    parts = (np.arange(len(labels)) % 5).astype(np.uint8)
    facts = {
        "calibration": calibrate(oof, labels, parts, []),
        "runs": {member.name: member.ensemble_metrics().files for member in members},
    }
    run.write_ensemble(oof, test, summarise(oof, labels) | facts)


def _fold_row(run: FoldsRun, fold: int) -> dict[str, Any]:
    metrics = run.fold_metrics(fold)
    names = ("rows", "errors", "accuracy", "log_loss", "epochs", "seconds", "files")
    return {"fold": fold} | {name: metrics[name] for name in names}
