"""Run directories of two types: a run of folds, and a mean of runs."""

from __future__ import annotations

import html
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from kaggle_digits.arrays import Float32, UInt8
from kaggle_digits.data.csv import present_hashes
from kaggle_digits.errors import DataError, UsageError
from kaggle_digits.files import read_errors, read_json, replacing, write_json
from kaggle_digits.runs import schema
from kaggle_digits.runs.artefacts import METRICS, ArtefactFolder, FoldFolder, versions
from kaggle_digits.runs.schema import CREATE_AGAIN, read_document
from kaggle_digits.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

RUN_JSON = "run.json"
_REMOVE = "Remove the folder of the run and create the run again, or restore the file."


@dataclass(frozen=True)
class Run:
    """Base class of both types of runs, which have a name, an ensemble and a report."""

    path: Path  # its directory, whose name is the run's name
    info: schema.RunInfo = field(compare=False, repr=False)  # the content of ``run.json`` when it was read
    INFO: ClassVar[type[schema.RunInfo]] = schema.RunInfo  # the type of `info`

    @classmethod
    def new(cls, path: Path, spec: dict[str, Any], command: Sequence[str]) -> Self:
        """Return an unfinished run with `spec`, versions and command; `with_status` writes it."""
        processor = platform.processor() or platform.machine()
        origin = {
            "status": "unfinished",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "updated": _now(),
            "command": list(command),
            "versions": versions(),
            "machine": {"system": platform.platform(), "processor": processor, "cores": os.cpu_count()},
        }
        return cls(path, cls.INFO.model_validate({"version": 1, "name": path.name, **spec, **origin}))

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def ensemble(self) -> ArtefactFolder:
        """The folder of its ensemble."""
        return ArtefactFolder(self.path / "ensemble")

    @property
    def is_finished(self) -> bool:
        """Whether all folds are trained and the ensemble is written."""
        return self.info.status == "finished" and self.ensemble.is_finished

    def with_status(self, status: schema.Status, train_seconds: float | None = None) -> Self:
        """Write the run's status, which also makes it the latest run, and return the updated run."""
        document = self.info.as_json() | {"status": status, "updated": _now()}
        known = document.pop("train_seconds", None)
        if status == "finished" and (train_seconds or known):
            document["train_seconds"] = train_seconds or known
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

    def other_recipe(self, why: str) -> UsageError:
        """Return the error for a command that cannot continue the run."""
        remedy = f"Choose another name for the run, or the recipe that it was made with: {self.command()}"
        return UsageError(f"The run {self.name} {why}.", remedy)

    def require_ensemble(self) -> None:
        """Raise a `DataError` if the run has no ensemble."""
        if not self.ensemble.is_finished:
            raise self.unfinished()

    def ensemble_metrics(self) -> schema.EnsembleMetrics:
        """Return the ensemble's ``metrics.json``; `DataError` if it is missing or damaged."""
        return read_document(self.ensemble.path / METRICS, schema.EnsembleMetrics)

    def oof_softmax(self, rows: int | None = None) -> Float32:
        """Return the out-of-fold softmaxes of all training rows, float32 [n, 10]; `rows` is n if known."""
        return self.ensemble.softmax("oof", rows)

    def test_softmax(self, rows: int | None = None) -> Float32:
        """Return the ensemble's softmaxes of the test rows, float32 [m, 10]; `rows` is m if known."""
        return self.ensemble.softmax("test", rows)

    def to_frame(self) -> pd.DataFrame:
        """Return a table of its parts."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        """Return its parts and its out-of-fold accuracy, for a notebook."""
        table: str = self.to_frame().to_html(index=False, float_format="{:.5f}".format)
        total = ""
        if self.ensemble.is_finished:
            metrics = self.ensemble_metrics()
            total = f", out-of-fold accuracy {metrics.accuracy:.5f}, {metrics.errors:,} errors"
        return f"<p><b>{html.escape(self.name)}</b>: {self.info.status}{total}</p>{table}"

    def weighted_networks(self) -> list[tuple[FoldsRun, FoldFolder, float]]:
        """Return all folds of the ensemble with the weights of their networks in the mean, which sum to 1."""
        raise NotImplementedError

    def networks(self) -> list[FoldFolder]:
        """Return the finished folds of the ensemble, each of them once."""
        return list(dict.fromkeys(fold for _, fold, _ in self.weighted_networks() if fold.is_finished))


@dataclass(frozen=True)
class FoldsRun(Run):
    """A run of folds: one preset, one split, one seed."""

    info: schema.FoldsInfo = field(compare=False, repr=False)
    INFO = schema.FoldsInfo

    def describe(self) -> str:
        """Return a short description of the run."""
        network = f"{self.info.network}, " if self.info.network else ""
        return f"{network}{self.info.preset}, {self.info.folds} folds, seed {self.info.seed}"

    def weighted_networks(self) -> list[tuple[FoldsRun, FoldFolder, float]]:
        """Return all folds with their equal weights."""
        return [(self, self.fold(number), 1 / self.info.folds) for number in range(self.info.folds)]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per finished fold: ``fold, preprocessing, rows, errors, accuracy, log_loss, seconds``."""
        import pandas as pd

        rows = [{"fold": number} | fold.metrics().as_json() for number, fold in self.trained_folds().items()]
        names = ["fold", "preprocessing", "rows", "errors", "accuracy", "log_loss", "seconds"]
        return pd.DataFrame(rows, columns=names)

    @property
    def split_file(self) -> Path:
        """The file of the split."""
        return self.path / "folds.csv"

    def write_split(self, split: UInt8) -> None:
        """Write the split."""
        import pandas as pd

        table = pd.DataFrame({"row": np.arange(len(split)), "fold": split})
        with replacing(self.split_file) as temporary:
            table.to_csv(temporary, index=False)

    def split(self, rows: int | None = None) -> UInt8:
        """Return the split, uint8 [n]: for each row of ``train.csv``, the fold whose validation set has it."""
        import pandas as pd

        with read_errors(self.split_file, CREATE_AGAIN):
            table = pd.read_csv(self.split_file)
            if table["row"].tolist() != list(range(rows or len(table))):
                raise ValueError("its rows are not those of train.csv")
            if set(table["fold"]) != set(range(self.info.folds)):
                raise ValueError("its folds are not those of run.json")
            split: UInt8 = table["fold"].to_numpy(np.uint8)
            return split

    def fold(self, number: int) -> FoldFolder:
        """Return the folder of a fold, which need not exist."""
        return FoldFolder(self.path / f"fold-{number}")

    def trained_folds(self) -> dict[int, FoldFolder]:
        """Return the finished folds by number."""
        folds = {number: self.fold(number) for number in range(self.info.folds)}
        return {number: fold for number, fold in folds.items() if fold.is_finished}


@dataclass(frozen=True)
class MeanRun(Run):
    """A mean of other runs of the same competition, its members."""

    info: schema.MeanInfo = field(compare=False, repr=False)
    INFO = schema.MeanInfo

    def describe(self) -> str:
        """Return a short description of the run."""
        return f"mean of {', '.join(self.info.members)}"

    def to_frame(self) -> pd.DataFrame:
        """Return one row per member: ``run, rows, errors, accuracy, log_loss``, out-of-fold."""
        import pandas as pd

        rows = [{"run": run.name} | run.ensemble_metrics().as_json() for run in self.members()]
        return pd.DataFrame(rows, columns=["run", "rows", "errors", "accuracy", "log_loss"])

    def members(self) -> list[FoldsRun | MeanRun]:
        """Return the members; `DataError` if one does not exist."""
        return [read_run(self.path.parent / name) for name in self.info.members]

    def weighted_networks(self) -> list[tuple[FoldsRun, FoldFolder, float]]:
        """Return the folds of all members with their weights."""
        networks = [network for member in self.members() for network in member.weighted_networks()]
        return [(run, fold, weight / len(self.info.members)) for run, fold, weight in networks]


def read_run(path: Path) -> FoldsRun | MeanRun:
    """Return the run in a directory; `DataError` if its ``run.json`` is missing or damaged."""
    if "members" in read_json(path / RUN_JSON, _REMOVE):
        return MeanRun(path, read_document(path / RUN_JSON, schema.MeanInfo, _REMOVE))
    return FoldsRun(path, read_document(path / RUN_JSON, schema.FoldsInfo, _REMOVE))


def run_folder(workspace: Workspace, name: str) -> Path:
    """Return the directory of the run called `name`, which need not exist; `UsageError` if it is not valid."""
    is_valid = name.isprintable() and not name.startswith(".") and "/" not in name
    if not is_valid or not 1 <= len(name.encode()) <= 200:
        raise UsageError(
            f"{name[:50]!r} is not a valid run name.",
            "Choose another name for the run, of at most 200 bytes, without / and without a leading dot.",
        )
    return workspace.runs / name


def find_run(workspace: Workspace, name: str | Run | None = None) -> FoldsRun | MeanRun:
    """Return the run called `name`, or the only one whose name begins with it; without a name, the best one.

    Instead of a name, all functions accept a run.

    The best run is the finished run of the present data with the highest out-of-fold accuracy; of equal runs, the
    one that was updated last. If none of them is finished, it is the one that was updated last.

    Raises
    ------
    UsageError
        If there is no run with this name, or no run at all.
    DataError
        If its ``run.json`` is damaged, or there are only runs of other data.
    """
    names = run_names(workspace)
    name = name.name if isinstance(name, Run) else name
    if name is not None:
        matching = [name] if name in names else [known for known in names if known.startswith(name)]
        if len(matching) != 1:
            problem = f"There is no run called {name!r}, and {len(matching) or 'none'} begin like it."
            raise UsageError(problem, "List all runs with the command: runs.")
        return read_run(workspace.runs / matching[0])
    if not names:
        problem = f"There is no run of {workspace.competition.name} yet."
        raise UsageError(problem, "Train one with the command: train.")
    # If all runs are damaged, reading one raises the error.
    runs = list_runs(workspace) or [read_run(workspace.runs / names[0])]
    present = present_hashes(workspace.data)
    best = max(runs, key=lambda run: _quality(run, present))  # the first of equal runs, which is the latest
    check_data(best, present)
    return best


def _quality(run: Run, present: Mapping[str, str]) -> float:
    """Return the out-of-fold accuracy of a finished run, -1 if unfinished, -2 if damaged or of other data."""
    with suppress(DataError):  # damaged runs are reported when they are requested by name
        check_data(run, present)
        return run.ensemble_metrics().accuracy if run.is_finished else -1.0
    return -2.0


def check_data(run: Run, hashes: Mapping[str, str]) -> None:
    """Raise a `DataError` if a run was made from other data; `hashes` are the SHA-256 of the present files."""
    if others := [name for name, known in run.info.data.items() if hashes.get(name, known) != known]:
        raise DataError(
            f"The run {run.name} was made from different data: another {' and '.join(others)}.",
            "Restore its data, choose another run, or train one with another name.",
        )


def run_names(workspace: Workspace) -> list[str]:
    """Return the names of all runs of the competition, also of damaged ones."""
    return sorted(path.parent.name for path in workspace.runs.glob(f"*/{RUN_JSON}"))


def list_runs(workspace: Workspace) -> list[FoldsRun | MeanRun]:
    """Return the competition's runs that are not damaged, the most recently updated first."""
    runs = []
    for name in run_names(workspace):
        with suppress(DataError):
            runs.append(read_run(workspace.runs / name))
    return sorted(runs, key=lambda run: (run.info.updated, run.name), reverse=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
