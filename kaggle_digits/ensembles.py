"""The mean of softmaxes: of a run's folds, and of several runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from kaggle_digits.arrays import Float32, UInt8
from kaggle_digits.errors import DataError
from kaggle_digits.metrics import summarise
from kaggle_digits.runs import Run


def mean_softmax(softmaxes: Iterable[Float32]) -> Float32:
    """Return the mean of softmaxes, float32 [m, 10] each, with equal weights, added up in float64.

    Equal weights, since any others would be fitted on the few rows that are out-of-fold errors.
    """
    mean: Float32 = np.stack(list(softmaxes)).mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def ensemble_folds(run: Run, labels: UInt8) -> None:
    """Ensemble the finished folds of a run: mean on the test rows, each training row by the fold it validates.

    Parameters
    ----------
    run : Run
        Has all its folds.
    labels : ndarray of uint8, shape (n,)
        Of the training rows.

    Raises
    ------
    DataError
        If an artefact is missing, damaged or of another shape than the data.
    """
    folds = run.folds()
    if len(folds) != len(labels):
        raise DataError(
            f"{run.path / 'folds.csv'} has {len(folds):,} rows, train.csv {len(labels):,}.",
            "Make it again with the run's train command and --retrain.",
        )
    numbers = range(int(folds.max()) + 1)
    oof = np.full((len(labels), 10), np.nan, np.float32)
    for fold in numbers:
        softmax = run.val_softmax(fold)
        if len(softmax) != (folds == fold).sum():
            raise DataError(
                f"{run.path / 'folds.csv'} is not the split that fold {fold} was trained with.",
                "Make it again with the run's train command and --retrain.",
            )
        oof[folds == fold] = softmax
    test = mean_softmax(run.fold_test_softmax(fold) for fold in numbers)
    run.write_ensemble(oof, test, summarise(oof, labels) | {"folds": [_fold_row(run, k) for k in numbers]})


def ensemble_runs(run: Run, members: list[Run], labels: UInt8) -> None:
    """Ensemble several ensembled runs on the same data into `run`: means, on the test and the training rows."""
    oof = mean_softmax(member.oof_softmax() for member in members)
    test = mean_softmax(member.test_softmax() for member in members)
    run.write_ensemble(oof, test, summarise(oof, labels) | {"runs": [member.name for member in members]})


def _fold_row(run: Run, fold: int) -> dict[str, Any]:
    metrics = run.fold_metrics(fold)
    names = ("rows", "errors", "accuracy", "log_loss", "epochs", "seconds")
    return {"fold": fold} | {name: metrics[name] for name in names}
