"""Average the softmaxes of a run's folds, and of several runs."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from kaggle_digits.arrays import Float32, Int64, UInt8
from kaggle_digits.data.csv import Data
from kaggle_digits.errors import DataError
from kaggle_digits.evaluation.calibration import calibrate
from kaggle_digits.evaluation.metrics import mean_softmax, summarise
from kaggle_digits.runs.artefacts import ENSEMBLE_FILES
from kaggle_digits.runs.directory import RUN_JSON, FoldsRun, MeanRun, Run, check_data, read_run
from kaggle_digits.workspace import CLASSES, Workspace


def write_ensemble(run: FoldsRun | MeanRun, data: Data) -> None:
    """Average the predictions of a run's folds or of a mean's members, and calibrate and write their mean."""
    labels, test_rows = data.train.labels, len(data.test.ids)
    if isinstance(run, MeanRun):
        members = run.members()
        oof = mean_softmax(member.oof_softmax(len(labels)) for member in members)
        tests = [member.test_softmax(test_rows) for member in members]
        # Of the training rows, whose mean has one network per run. The mean of a test row has more networks, so
        # that its best temperature is lower.
        calibration = calibrate(oof, labels, _any_parts(labels), [])
        parts: dict[str, Any] = {"runs": {member.name: member.ensemble_metrics().files for member in members}}
    else:
        if len(run.trained_folds()) < run.info.folds:
            raise run.unfinished()
        _, _, folds, oof = read_predictions(run, labels)
        tests = [fold.softmax("test", test_rows) for fold in run.trained_folds().values()]
        calibration, parts = calibrate(oof, labels, folds, tests), {"folds": _fold_rows(run)}
    softmaxes = dict(zip(ENSEMBLE_FILES, (oof, mean_softmax(tests)), strict=True))
    run.ensemble.write_files(softmaxes, summarise(oof, labels) | {"calibration": calibration} | parts)


def read_predictions(run: FoldsRun | MeanRun, labels: UInt8) -> tuple[Int64, UInt8, UInt8, Float32]:
    """Return the rows with out-of-fold predictions, [k], their labels, parts for cross-fitting, and softmaxes."""
    if isinstance(run, MeanRun):
        return np.arange(len(labels)), labels, _any_parts(labels), run.oof_softmax(len(labels))
    split, finished = run.split(len(labels)), run.trained_folds()
    oof = np.zeros((len(labels), CLASSES), np.float32)
    for number, fold in finished.items():
        inside = split == number
        oof[inside] = fold.softmax("val", int(inside.sum()))
    rows = np.flatnonzero(np.isin(split, list(finished)))
    return rows, labels[rows], split[rows], oof[rows]


def is_current(run: FoldsRun, data: Data) -> bool:
    """Return whether a run has a valid ensemble of all rows, made from its current folds."""
    with suppress(DataError):
        run.oof_softmax(len(data.train.labels))
        run.test_softmax(len(data.test.ids))
        return run.ensemble_metrics().folds == _fold_rows(run)
    return False


def check_ensemble(run: Run) -> None:
    """Raise a `DataError` if a run has no ensemble, or if a member of a mean has changed since it was made."""
    run.require_ensemble()
    for name, files in run.ensemble_metrics().runs.items():
        if read_run(run.path.parent / name).ensemble_metrics().files != files:
            raise DataError(
                f"The run {name} has changed since the mean {run.name} was made.",
                f"Average it again with: {run.command()}.",
            )


def check_mean(path: Path, members: list[str], data: Data) -> MeanRun | None:
    """Return the mean of runs in a directory, or None if there is none.

    `UsageError` if it is no mean, or cannot get these members; `DataError` if it is of other data.
    """
    if not (path / RUN_JSON).exists():
        return None
    run = read_run(path)
    if not isinstance(run, MeanRun):
        raise run.other_recipe("is not a mean of runs")
    check_data(run, data.hashes)
    if run.name in members or not set(run.info.members) <= set(members):
        raise run.other_recipe(f"is the mean of {', '.join(run.info.members)}, not of {', '.join(members)}")
    return run


def average_runs(path: Path, members: list[str], workspace: Workspace, data: Data) -> MeanRun:
    """Average runs into a mean, which is created or gets more members; errors as of `check_mean`."""
    run = check_mean(path, members, data)
    if run is None or run.info.members != members:
        names = [word for member in members for word in ("--run", member)]
        command = workspace.words("ensemble", *names, "--name", path.name)
        spec = {"competition": workspace.competition.name, "members": members, "data": data.hashes}
        run = MeanRun.new(path, spec, command).with_status("unfinished")
    write_ensemble(run, data)
    return run


def _any_parts(labels: UInt8) -> UInt8:
    """Return five parts of the rows of a mean, whose members may have different splits, for cross-fitting."""
    # Any parts will do: cross-fitting only has to fit the temperature on other rows than it is measured on.
    return (np.arange(len(labels)) % 5).astype(np.uint8)


def _fold_rows(run: FoldsRun) -> list[dict[str, Any]]:
    names = {"rows", "errors", "accuracy", "log_loss", "epochs", "seconds", "files"}
    return [{"fold": n} | fold.metrics().model_dump(include=names) for n, fold in run.trained_folds().items()]
