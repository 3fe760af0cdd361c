"""Check whether a run can be continued, and find out which of its folds have to be trained."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kaggle_digits.arrays import UInt8
from kaggle_digits.data.csv import Data
from kaggle_digits.errors import DataError, UsageError
from kaggle_digits.runs.artefacts import different_versions, versions
from kaggle_digits.runs.directory import RUN_JSON, FoldsRun, MeanRun, Run, check_data, create_run, read_run
from kaggle_digits.runs.schema import FoldMetrics, FoldsInfo, MeanInfo
from kaggle_digits.training.fold import FoldTask
from kaggle_digits.training.presets import Preset, find_preset
from kaggle_digits.workspace import Workspace


@dataclass(frozen=True)
class Recipe:
    """The preset, settings and seed of a run of folds."""

    preset: Preset  # with the chosen number of folds and settings
    seed: int  # of the split and of all random numbers in training

    @classmethod
    def make(cls, preset: str, folds: int | None, settings: Mapping[str, object], seed: int) -> Recipe:
        """Return the recipe of a preset with some changes; raise a `UsageError` if they are not valid."""
        changed = find_preset(preset).with_settings(settings)
        return cls(changed if folds is None else replace(changed, folds=folds), seed)

    def changes(self) -> list[str]:
        """Return the settings that differ from the preset's own, as ``key=value``."""
        own = find_preset(self.preset.name).settings.model_dump()
        return [f"{key}={value}" for key, value in self.preset.settings.model_dump().items() if value != own[key]]

    def run_name(self, seeds: int = 1) -> str:
        """Return the default name of a run: preset, folds, seeds and changed settings."""
        numbers = f"s{self.seed}" if seeds == 1 else f"s{self.seed}..{self.seed + seeds - 1}"
        return "-".join([self.preset.name, f"k{self.preset.folds}", numbers, *self.changes()])

    def command(self, workspace: Workspace, run: str) -> str:
        """Return the command that trains a run of this recipe."""
        words = ["train", "--preset", self.preset.name]
        words += ["--folds", str(self.preset.folds), "--seed", str(self.seed)]
        for change in self.changes():
            words += ["--set", change]
        if run != self.run_name():
            words += ["--run", run]
        return workspace.command(*words)

    def spec(self, workspace: Workspace, data: Data) -> dict[str, Any]:
        """Return the fields of ``run.json`` for this recipe."""
        return {
            "competition": workspace.competition.name,
            "preset": self.preset.name,
            "folds": self.preset.folds,
            "seed": self.seed,
            "settings": self.preset.settings.model_dump(),
            "data": data.hashes,
        }


@dataclass
class RunPlan:
    """The folds of a run that have to be trained."""

    run: FoldsRun
    tasks: list[FoldTask]  # of all folds
    missing: set[int] = field(default_factory=set)  # the folds to train; existing ones are kept until then
    has_damaged_folds: bool = False  # whether finished folds have to be trained again

    def kept_metrics(self) -> list[FoldMetrics]:
        """Return the metrics of the finished folds that are not trained again."""
        return [self.run.fold_metrics(task.fold) for task in self.tasks if task.fold not in self.missing]

    def tasks_to_train(self) -> list[FoldTask]:
        """Return the tasks of the missing folds, with the same network as the folds that are kept."""
        network = next((metrics.network for metrics in self.kept_metrics()), None)
        return [replace(task, network=network) for task in self.tasks if task.fold in self.missing]

    def other_versions(self) -> str:
        """Return a text with the versions of finished folds that differ from the current ones, or an empty one."""
        now = versions()
        found = (different_versions(metrics.versions, now) for metrics in self.kept_metrics())
        return next(filter(None, found), "")

    def is_from_scratch(self) -> bool:
        """Return whether all folds have to be trained, and none has a checkpoint."""
        return len(self.missing) == len(self.tasks) and not any(map(self.run.is_started, self.missing))


def fold_tasks(recipe: Recipe, split: UInt8, tensorboard: bool = False) -> list[FoldTask]:
    """Return the tasks of all folds of a recipe."""
    return [
        FoldTask(recipe.preset.name, recipe.preset.settings, recipe.seed, fold, split, tensorboard)
        for fold in range(recipe.preset.folds)
    ]


def plan_run(
    run: FoldsRun, recipe: Recipe, split: UInt8, data: Data, *, retrain: bool = False, tensorboard: bool = False
) -> RunPlan:
    """Find out which folds of a run have to be trained. `split` is written if the run has none yet.

    `DataError` if an artefact is damaged and `retrain` is false.
    """
    run.remove_partial_files()
    split, is_new = _open_split(run, split, retrain)
    tasks = fold_tasks(recipe, split, tensorboard)
    trained, test_rows = set(run.trained_folds()), len(data.test.ids)
    damaged: set[int] = set()
    if retrain:
        damaged = {fold for fold in trained if is_new or not run.is_valid_fold(fold, test_rows)}
    else:
        for fold in sorted(trained):
            run.check_fold(fold, test_rows)
    return RunPlan(run, tasks, set(range(recipe.preset.folds)) - trained | damaged, bool(damaged))


def finished_folds(
    path: Path, recipe: Recipe, workspace: Workspace, data: Data, *, retrain: bool = False
) -> set[int]:
    """Return the folds of a run that `plan_run` would not train again, and change nothing; errors as there."""
    if not (path / RUN_JSON).exists():
        return set()
    run = open_folds_run(path, recipe, workspace, data)
    trained = set(run.trained_folds())
    if not retrain:
        return trained
    valid = {fold for fold in trained if run.is_valid_fold(fold, len(data.test.ids))}
    # With --retrain, all folds are trained again if none is damaged.
    return valid if valid != trained else set()


def open_folds_run(path: Path, recipe: Recipe, workspace: Workspace, data: Data) -> FoldsRun:
    """Open the run in a directory, or create it if it does not exist.

    `UsageError` if it has another recipe, `DataError` if it was made from other data, or is damaged.
    """
    if not (path / RUN_JSON).exists():
        run = create_run(path, recipe.spec(workspace, data), shlex.split(recipe.command(workspace, path.name)))
    else:
        run = read_run(path)
        if not isinstance(run, FoldsRun):
            raise _other_recipe(run, "already exists and is a mean of runs")
        _check_recipe(run, FoldsInfo.model_validate(run.info.as_json() | recipe.spec(workspace, data)))
        check_data(run, data.hashes)
    assert isinstance(run, FoldsRun)  # noqa: S101 (for the type checker: a spec of a recipe has folds)
    return run


def open_mean_run(path: Path, members: list[str], workspace: Workspace, data: Data) -> MeanRun:
    """Open the mean of runs in a directory, create it if it does not exist, or add missing members to it.

    `UsageError` if it is no mean, or has members that are not in `members`; `DataError` as in `open_folds_run`.
    """
    check_mean(path, members, data)
    run = read_run(path) if (path / RUN_JSON).exists() else None
    if run is None or run.info.as_json().get("members") != members:
        spec = {"competition": workspace.competition.name, "members": members, "data": data.hashes}
        names = [word for member in members for word in ("--run", member)]
        run = create_run(path, spec, shlex.split(workspace.command("ensemble", *names, "--name", path.name)))
    assert isinstance(run, MeanRun)  # noqa: S101 (for the type checker)
    return run


def check_mean(path: Path, members: list[str], data: Data) -> None:
    """Raise the errors of `open_mean_run`, and change nothing."""
    if not (path / RUN_JSON).exists():
        return
    run = read_run(path)
    if not isinstance(run, MeanRun):
        raise _other_recipe(run, "is not a mean of runs")
    check_data(run, data.hashes)
    known: MeanInfo = run.info
    if known.members != members and not set(known.members) < set(members):
        raise _other_recipe(run, f"is the mean of {', '.join(known.members)}, not of {', '.join(members)}")


def _check_recipe(run: FoldsRun, wanted: FoldsInfo) -> None:
    """Raise a `UsageError` if a run has another recipe."""
    for name in ("competition", "preset", "folds", "seed"):
        was, value = run.info[name], wanted[name]
        if was != value:
            raise _other_recipe(run, f"has another recipe: its {name} is {was}, not {value}")
    settings = wanted.settings.as_json()
    for name, was in run.info.settings.as_json().items():
        # Settings that another version has, but this one does not, are ignored.
        if name in settings and settings[name] != was:
            raise _other_recipe(run, f"has another recipe: its {name} is {was}, not {settings[name]}")


def _other_recipe(run: Run, why: str) -> UsageError:
    return UsageError(
        f"The run {run.name} {why}.",
        f"Choose another name for the run, or the recipe that it was made with: {run.command()}",
    )


def _open_split(run: FoldsRun, split: UInt8, retrain: bool) -> tuple[UInt8, bool]:
    """Return the run's split, and whether it was written; replace a damaged one only if `retrain` is true."""
    if run.has_split():
        try:
            return run.split(len(split)), False
        except DataError:
            if not retrain:
                raise
    run.write_split(split)
    return split, True
