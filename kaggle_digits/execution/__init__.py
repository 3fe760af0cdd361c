"""Training of folds at one of several places: on this machine, on a Dask cluster or at Kaggle."""

import pkgutil
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from kaggle_digits.data.csv import Data
from kaggle_digits.errors import KaggleDigitsError, UsageError
from kaggle_digits.execution import places
from kaggle_digits.training.fold import FoldTask
from kaggle_digits.training.observer import Observer
from kaggle_digits.workspace import Workspace

LOG = "workers.log"
"""The file of a run to which the output of libraries is appended."""


@dataclass(frozen=True, eq=False)
class Job:
    """A fold to train, and the folder to write it to."""

    task: FoldTask
    folder: Path

    @property
    def log_file(self) -> Path:
        """The file of the run to which the output of libraries is appended."""
        return self.folder.parent / LOG


@dataclass(frozen=True)
class Options:
    """The options of a training that only some places have."""

    workers: int | None = None  # how many folds are trained in parallel
    tensorboard: bool = False  # write event files into the folders of the folds
    wait: bool = True  # until the folds are trained
    retrain: bool = False  # the folds were finished before

    def check(self, on: str | None, allowed: Collection[str]) -> None:
        """Raise a `UsageError` if an option is set that is not `allowed` at a place."""
        flags = {
            "--workers": ("workers", self.workers is not None),
            "--tensorboard": ("tensorboard", self.tensorboard),
            "--dry-run, --no-wait and --cancel": ("wait", not self.wait),
        }
        for flag, (name, is_set) in flags.items():
            if is_set and name not in allowed:
                where = f"with --on {on}" if on else "on this machine; they are for kernels at Kaggle"
                raise UsageError(f"{flag} cannot be used {where}.", f"Leave out {flag}, or choose another --on.")


class Place:
    """A place where folds can be trained.

    Each is a module in ``execution/places/``, with the text `NAMES`, which says how the option ``--on`` names it,
    and the function ``open_place(on, workspace, options)``, which returns the place that `on` names, or None if it
    names another one. It raises a `UsageError` for options that the place does not have.
    """

    def train(self, jobs: Sequence[Job], data: Data, observer: Observer) -> Generator[Job, None, None]:
        """Train folds, write each into its folder, and yield it when it is finished."""
        raise NotImplementedError

    def preview(self, runs: Sequence[Path], jobs: Sequence[Job], data: Data) -> dict[str, Any]:
        """Return what `train` would send for runs in these folders, if the place works on without this command."""
        raise NotImplementedError

    def cancel(self, runs: Sequence[Path]) -> list[str]:
        """End what trains folds of the runs in these folders, and return the addresses of what has ended."""
        raise NotImplementedError


def find_place(on: str | None, workspace: Workspace, options: Options) -> Place:
    """Return the place that `on` names, None for this machine; `UsageError` if there is none."""
    modules = [import_module(f"{places.__name__}.{found.name}") for found in pkgutil.iter_modules(places.__path__)]
    for module in modules:
        place: Place | None = module.open_place(on, workspace, options)
        if place is not None:
            return place
    names = ", or ".join(module.NAMES for module in modules if module.NAMES)
    raise UsageError(f"Folds cannot be trained on {on!r}.", f"Choose {names}.")


def raise_failures(failures: dict[Job, KaggleDigitsError]) -> None:
    """Raise the first error of the folds that failed, if there is any; it names the other ones."""
    if not failures:
        return
    (failed, error), *_ = failures.items()
    others = sorted((job.task for job in failures if job is not failed), key=lambda task: (task.seed, task.fold))
    also = f" Also failed: {', '.join(task.title for task in others)}." if others else ""
    raise type(error)(error.problem + also, error.remedy)
