"""Run directories of two types: a run of folds, and a mean of runs."""

from __future__ import annotations

import html
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from kaggle_digits.arrays import Float32, UInt8
from kaggle_digits.data.csv import present_hashes
from kaggle_digits.errors import DataError, UsageError
from kaggle_digits.files import read_json, replacing, write_json
from kaggle_digits.runs.artefacts import (
    METRICS,
    FoldCheckpoint,
    check_fold,
    checked_file,
    read_history,
    read_numbers,
    read_softmax,
    versions,
    write_ensemble,
)
from kaggle_digits.runs.schema import (
    FINISHED,
    RETRAIN,
    UNFINISHED,
    EnsembleMetrics,
    FoldMetrics,
    FoldsInfo,
    MeanInfo,
    RunInfo,
    Status,
    damaged,
    read_document,
    validated,
)
from kaggle_digits.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

RUN_JSON = "run.json"
OTHER_FILES = ("index.html", "ledger.csv")
"""The files next to the folders of runs or of their submissions, so that no run can have their names."""
_REMOVE = "Remove it and create it again."


@dataclass(frozen=True)
class Run:
    """Base class of both types of runs, which have a name, an ensemble and a report.

    Attributes
    ----------
    path : pathlib.Path
        Its directory, whose name is the run's name.
    info : RunInfo
        The content of ``run.json`` when it was read.
    """

    path: Path
    info: RunInfo = field(compare=False)

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def report_folder(self) -> Path:
        """The folder of the run's report."""
        return self.path / "report"

    @property
    def log_file(self) -> Path:
        """The file with the output of libraries during training."""
        return self.path / "workers.log"

    @property
    def is_finished(self) -> bool:
        """Whether all folds are trained and the ensemble is written."""
        return self.info.status == FINISHED and self.has_ensemble()

    def with_status(self, status: Status, train_seconds: float | None = None) -> Self:
        """Write the run's status, which also makes it the latest run, and return the updated run."""
        document = self.info.as_json() | {"status": status, "updated": _now()}
        document.pop("train_seconds", None)
        kept = self.info.train_seconds if status == FINISHED else None
        if (seconds := train_seconds or kept) is not None:
            document["train_seconds"] = seconds
        write_json(self.path / RUN_JSON, document)
        return replace(self, info=type(self.info).model_validate(document))

    def command(self) -> str:
        """Return the command line that made the run, with its current folders."""
        words = self.info.command[1:]
        while words and words[0] in ("--competition", "--root"):
            words = words[2:]
        return Workspace.at(self.path.parents[2], self.path.parent.name).command(*words)

    def unfinished(self) -> DataError:
        """Return the error that says how to finish the run."""
        return DataError(f"The run {self.name} is not finished.", f"Finish it with: {self.command()}.")

    def require_ensemble(self) -> None:
        """Raise a `DataError` if the run has no ensemble."""
        if not self.has_ensemble():
            raise self.unfinished()

    def has_ensemble(self) -> bool:
        """Return whether the ensemble is complete. Its metrics are written last."""
        return (self.path / "ensemble" / METRICS).exists()

    def has_valid_ensemble(self, train_rows: int | None = None, test_rows: int | None = None) -> bool:
        """Return whether the ensemble is complete and valid, with these numbers of rows."""
        try:
            self.ensemble_metrics()
            self.oof_softmax(train_rows)
            self.test_softmax(test_rows)
        except DataError:
            return False
        return True

    def write_ensemble(self, oof: Float32, test: Float32, metrics: dict[str, Any]) -> None:
        """Write the ensemble: softmaxes of the training rows [n, 10] and the test rows [m, 10], and metrics."""
        write_ensemble(self.path / "ensemble", oof, test, metrics)

    def ensemble_metrics(self) -> EnsembleMetrics:
        """Return the ensemble's ``metrics.json``; `DataError` if it is missing or damaged."""
        return read_document(self.path / "ensemble" / METRICS, EnsembleMetrics, _REMOVE)

    def oof_softmax(self, rows: int | None = None) -> Float32:
        """Return the out-of-fold softmaxes of all training rows, float32 [n, 10]; `rows` is n if known."""
        return read_softmax(self.path / "ensemble", "oof_softmax.npy", rows)

    def test_softmax(self, rows: int | None = None) -> Float32:
        """Return the ensemble's softmaxes of the test rows, float32 [m, 10]; `rows` is m if known."""
        return read_softmax(self.path / "ensemble", "test_softmax.npy", rows)

    def describe(self) -> str:
        """Return a short description of the run."""
        raise NotImplementedError

    def to_frame(self) -> pd.DataFrame:
        """Return a table of its parts."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        """Return its parts and its out-of-fold accuracy, for a notebook."""
        table: str = self.to_frame().to_html(index=False, float_format="{:.5f}".format)
        total = ""
        if self.has_ensemble():
            metrics = self.ensemble_metrics()
            total = f", out-of-fold accuracy {metrics.accuracy:.5f}, {metrics.errors:,} errors"
        return f"<p><b>{html.escape(self.name)}</b>: {self.info.status}{total}</p>{table}"

    def shares(self) -> list[tuple[FoldsRun, float]]:
        """Return the runs of folds in the ensemble with their weights in the mean, which sum to 1."""
        raise NotImplementedError

    def weighted_networks(self) -> list[tuple[FoldsRun, int, float]]:
        """Return all folds of the ensemble with the weights of their networks in the mean, which sum to 1."""
        return [
            (run, fold, share / run.info.folds) for run, share in self.shares() for fold in range(run.info.folds)
        ]

    def networks(self) -> list[tuple[FoldsRun, int]]:
        """Return the trained folds of the ensemble."""
        return [(run, fold) for run, _ in self.shares() for fold in range(run.info.folds) if run.is_trained(fold)]


@dataclass(frozen=True)
class FoldsRun(Run):
    """A run of folds: one preset, one split, one seed."""

    info: FoldsInfo = field(compare=False)

    def describe(self) -> str:
        """Return a short description of the run."""
        return f"{self.info.preset}, {self.info.folds} folds, seed {self.info.seed}"

    def shares(self) -> list[tuple[FoldsRun, float]]:
        """Return the run itself."""
        return [(self, 1.0)]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per finished fold: ``fold, preprocessing, rows, errors, accuracy, log_loss, seconds``."""
        import pandas as pd

        names = ["preprocessing", "rows", "errors", "accuracy", "log_loss", "seconds"]
        folds = self.trained_folds()
        table = pd.DataFrame([[self.fold_metrics(fold)[name] for name in names] for fold in folds], columns=names)
        table.insert(0, "fold", folds)
        return table

    def remove_partial_files(self) -> None:
        """Remove temporary files that a killed process has left."""
        for leftover in self.path.rglob(".*.tmp"):
            leftover.unlink(missing_ok=True)

    def has_split(self) -> bool:
        """Return whether the split is written."""
        return (self.path / "folds.csv").exists()

    def write_split(self, split: UInt8) -> None:
        """Write the split."""
        import pandas as pd

        table = pd.DataFrame({"row": np.arange(len(split)), "fold": split})
        with replacing(self.path / "folds.csv") as temporary:
            table.to_csv(temporary, index=False)

    def split(self, rows: int | None = None) -> UInt8:
        """Return the split, uint8 [n]: for each row of ``train.csv``, the fold whose validation set has it."""
        path = self.path / "folds.csv"
        numbers, split = read_numbers(path, ("row", "fold")).T
        if not np.array_equal(numbers, np.arange(len(numbers))):
            raise damaged(path, "its rows are not numbered from 0")
        if set(split) != set(range(self.info.folds)):
            raise damaged(path, "its folds are not those of run.json")
        if rows not in (None, len(split)):
            raise damaged(path, f"it has {len(split):,} rows, but train.csv has {rows:,}")
        folds: UInt8 = split.astype(np.uint8)
        return folds

    def fold_folder(self, fold: int) -> Path:
        """Return the directory of a fold."""
        return self.path / f"fold-{fold}"

    def is_trained(self, fold: int) -> bool:
        """Return whether a fold is finished. Its metrics are written last."""
        return (self.fold_folder(fold) / METRICS).exists()

    def is_started(self, fold: int) -> bool:
        """Return whether a fold has a checkpoint."""
        return FoldCheckpoint(self.fold_folder(fold)).exists()

    def trained_folds(self) -> list[int]:
        """Return the finished folds."""
        return [fold for fold in range(self.info.folds) if self.is_trained(fold)]

    def check_fold(self, fold: int, test_rows: int | None = None) -> None:
        """Raise a `DataError` that names the first artefact of a finished fold that is missing or damaged."""
        check_fold(self.fold_folder(fold), int((self.split() == fold).sum()), test_rows)

    def is_valid_fold(self, fold: int, test_rows: int | None = None) -> bool:
        """Return whether all artefacts of a finished fold are there and valid."""
        try:
            self.check_fold(fold, test_rows)
        except DataError:
            return False
        return True

    def fold_metrics(self, fold: int) -> FoldMetrics:
        """Return a finished fold's ``metrics.json``; `DataError` if it is missing or damaged."""
        return read_document(self.fold_folder(fold) / METRICS, FoldMetrics, RETRAIN)

    def history(self, fold: int) -> list[dict[str, float]]:
        """Return a finished fold's epochs, as many as its metrics say; `DataError` if they are damaged."""
        return read_history(self.fold_folder(fold))

    def model_file(self, fold: int) -> Path:
        """Return the path of a finished fold's network."""
        return checked_file(self.fold_folder(fold), "model.keras")

    def val_softmax(self, fold: int) -> Float32:
        """Return a finished fold's softmaxes of its validation rows, float32 [n_k, 10]."""
        return read_softmax(self.fold_folder(fold), "val_softmax.npy", int((self.split() == fold).sum()))

    def fold_test_softmax(self, fold: int, rows: int | None = None) -> Float32:
        """Return a finished fold's softmaxes of the test rows, float32 [m, 10]; `rows` is m if known."""
        return read_softmax(self.fold_folder(fold), "test_softmax.npy", rows)


@dataclass(frozen=True)
class MeanRun(Run):
    """A mean of other runs of the same competition, its members."""

    info: MeanInfo = field(compare=False)

    def describe(self) -> str:
        """Return a short description of the run."""
        return f"mean of {', '.join(self.info.members)}"

    def to_frame(self) -> pd.DataFrame:
        """Return one row per member: ``run, rows, errors, accuracy, log_loss``, out-of-fold."""
        import pandas as pd

        names = ["rows", "errors", "accuracy", "log_loss"]
        rows = [[run.name, *(run.ensemble_metrics()[name] for name in names)] for run in self.members()]
        return pd.DataFrame(rows, columns=["run", *names])

    def members(self) -> list[Run]:
        """Return the members; `UsageError` if one does not exist."""
        return [_existing(self.path.parent / name) for name in self.info.members]

    def shares(self, inside: Sequence[str] = ()) -> list[tuple[FoldsRun, float]]:
        """Return the runs of folds with their weights; `inside` has the means that contain this one."""
        if self.name in inside:
            raise damaged(self.path / RUN_JSON, "the run is a member of itself", _REMOVE)
        shares: dict[str, tuple[FoldsRun, float]] = {}
        for member in self.members():
            parts = member.shares((*inside, self.name)) if isinstance(member, MeanRun) else member.shares()
            for run, share in parts:
                _, known = shares.get(run.name, (run, 0.0))
                shares[run.name] = run, known + share / len(self.info.members)
        return list(shares.values())


def read_run(path: Path) -> FoldsRun | MeanRun:
    """Return the run in a directory; `DataError` if its ``run.json`` is missing or damaged."""
    document = read_json(path / RUN_JSON)
    if "members" in document:
        return MeanRun(path, validated(path / RUN_JSON, document, MeanInfo, _REMOVE))
    return FoldsRun(path, validated(path / RUN_JSON, document, FoldsInfo, _REMOVE))


def create_run(path: Path, spec: dict[str, Any], command: Sequence[str]) -> FoldsRun | MeanRun:
    """Create a run: write ``run.json`` with `spec`, versions, command and the status unfinished."""
    document = {
        "version": 1,
        "name": path.name,
        **spec,
        "status": UNFINISHED,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "updated": _now(),
        "command": list(command),
        "versions": versions(),
        "machine": {
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
        },
    }
    write_json(path / RUN_JSON, document)
    return read_run(path)


def run_folder(workspace: Workspace, name: str) -> Path:
    """Return the directory of the run called `name`, which need not exist; `UsageError` if it is not valid."""
    if (
        not name.isprintable()
        or name.startswith(".")
        or "/" in name
        or not 1 <= len(name.encode()) <= 200
        or name.lower() in OTHER_FILES
    ):
        raise UsageError(
            f"{name[:50]!r} is not a valid run name.",
            "Choose another name for the run, of at most 200 bytes, without / and without a leading dot, that is "
            f"not {' or '.join(OTHER_FILES)}.",
        )
    return workspace.runs / name


def find_run(workspace: Workspace, name: str | None = None) -> FoldsRun | MeanRun:
    """Return the run called `name`, or the only one whose name begins with it; without a name, the best one.

    The best run is the finished run of the present data with the highest out-of-fold accuracy; of equal runs, the
    one that was updated last. If none of them is finished, it is the one that was updated last.

    Raises
    ------
    UsageError
        If there is no run with this name, or no run at all.
    DataError
        If its ``run.json`` is damaged, or there are only runs of other data.
    """
    if name is not None:
        return _existing(_completed(run_folder(workspace, name)))
    runs = list_runs(workspace)
    if not runs:
        return read_run(_folders(workspace)[0])  # all runs are damaged; this raises the error
    present = present_hashes(workspace.data)
    fitting = [run for run in runs if not run.info.data.differences(present)] or runs[:1]
    best, highest = fitting[0], -1.0
    for run in fitting:
        if run.is_finished:
            with suppress(DataError):  # skip damaged runs; they are reported when they are requested by name
                if (accuracy := run.ensemble_metrics().accuracy) > highest:
                    best, highest = run, accuracy
    check_data(best, present)
    return best


def check_data(run: Run, hashes: Mapping[str, str]) -> None:
    """Raise a `DataError` if a run was made from other data; `hashes` are the SHA-256 of the present files."""
    if others := run.info.data.differences(hashes):
        raise DataError(
            f"The run {run.name} was made from different data: another {' and '.join(others)}.",
            "Restore its data, choose another run, or train one with another name.",
        )


def list_runs(workspace: Workspace) -> list[FoldsRun | MeanRun]:
    """Return the competition's runs that are not damaged, the most recently updated first."""
    runs = []
    for folder in workspace.runs.glob(f"*/{RUN_JSON}"):
        with suppress(DataError):
            runs.append(read_run(folder.parent))
    return sorted(runs, key=lambda run: (run.info.updated, run.name), reverse=True)


def damaged_runs(workspace: Workspace) -> Iterator[str]:
    """Yield the names of the runs whose ``run.json`` is damaged."""
    for folder in sorted(workspace.runs.glob(f"*/{RUN_JSON}")):
        try:
            read_run(folder.parent)
        except DataError:
            yield folder.parent.name


def _folders(workspace: Workspace) -> list[Path]:
    """Return the directories of all runs; `UsageError` if there is none."""
    folders = sorted(path.parent for path in workspace.runs.glob(f"*/{RUN_JSON}"))
    if not folders:
        raise UsageError(
            f"There is no run of {workspace.competition.name} yet.", "Train one with the command: train."
        )
    return folders


def _completed(path: Path) -> Path:
    """Return the directory of a run; if it does not exist, that of the only run whose name begins like it."""
    if (path / RUN_JSON).exists():
        return path
    matching = sorted(
        found.parent for found in path.parent.glob(f"*/{RUN_JSON}") if found.parent.name.startswith(path.name)
    )
    if len(matching) > 1:
        raise UsageError(
            f"Several runs of {path.parent.name} begin with {path.name!r}.",
            f"Choose one of: {', '.join(other.name for other in matching)}.",
        )
    return matching[0] if matching else path


def _existing(path: Path) -> FoldsRun | MeanRun:
    if not (path / RUN_JSON).exists():
        raise UsageError(
            f"There is no run called {path.name!r} for {path.parent.name}.",
            "List all runs with the command: runs.",
        )
    return read_run(path)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
