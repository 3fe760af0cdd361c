"""Find out whether a run can be continued and which of its folds have to be trained; nothing is written here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from kaggle_digits.arrays import UInt8
from kaggle_digits.data.csv import Data
from kaggle_digits.data.folds import make_folds
from kaggle_digits.errors import DataError, UsageError
from kaggle_digits.runs.artefacts import check_fold, different_versions, versions
from kaggle_digits.runs.directory import (
    RUN_JSON,
    FoldsRun,
    MeanRun,
    Run,
    check_data,
    create_run,
    read_run,
    run_folder,
)
from kaggle_digits.runs.schema import FoldMetrics, FoldsInfo
from kaggle_digits.training.fold import FoldTask
from kaggle_digits.training.recipe import Recipe
from kaggle_digits.workspace import Workspace


@dataclass
class RunPlan:
    """A run of one seed, which need not exist yet, and its folds that have to be trained."""

    path: Path
    recipe: Recipe
    split: UInt8  # [n]
    is_new_split: bool  # not written yet
    known: FoldsRun | None  # None if it does not exist yet
    damaged: set[int]  # finished folds that have to be trained again
    missing: set[int]  # all folds to train; existing ones are kept until then

    def open(self, workspace: Workspace, data: Data) -> FoldsRun:
        """Return the run, and create it and its split if they do not exist."""
        run = self.known
        if run is None:
            spec = _spec(self.recipe, workspace, data)
            run = cast(FoldsRun, create_run(self.path, spec, self.recipe.command(workspace)))
        run.remove_partial_files()
        if self.is_new_split:
            run.write_split(self.split)
        return run

    def tasks(self, tensorboard: bool = False) -> list[FoldTask]:
        """Return the tasks of all folds, with the same network as the folds that are kept."""
        network = next((metrics.network for metrics in self._kept_metrics()), None)
        preset, seed = self.recipe.chosen, self.recipe.seed
        return [
            FoldTask(preset.name, preset.settings, seed, fold, self.split, tensorboard, network)
            for fold in range(preset.folds)
        ]

    def other_versions(self) -> str:
        """Return a text with the versions of finished folds that differ from the current ones, or an empty one."""
        now = versions()
        found = (different_versions(metrics.versions, now) for metrics in self._kept_metrics())
        return next(filter(None, found), "")

    def is_from_scratch(self) -> bool:
        """Return whether all folds have to be trained, and none has a checkpoint."""
        is_started = self.known is not None and any(map(self.known.is_started, self.missing))
        return len(self.missing) == self.recipe.chosen.folds and not is_started

    def _kept_metrics(self) -> list[FoldMetrics]:
        kept = sorted(set(range(self.recipe.chosen.folds)) - self.missing)
        return [] if self.known is None else [self.known.fold_metrics(fold) for fold in kept]


def plan_runs(
    workspace: Workspace, recipe: Recipe, splits: Sequence[UInt8], data: Data, retrain: bool
) -> list[RunPlan]:
    """Return the plan of the run of each seed; with `retrain`, to train damaged folds, or all if none is damaged.

    `UsageError` if a run has another recipe; `DataError` if it was made from other data, or is damaged and
    `retrain` is false.
    """
    plans = [
        _plan(workspace, of_seed, split, data, retrain)
        for of_seed, split in zip(recipe.of_each_seed(), splits, strict=True)
    ]
    if retrain and not any(plan.damaged for plan in plans):
        for plan in plans:
            plan.missing = set(range(plan.recipe.chosen.folds))
    return plans


def make_splits(recipe: Recipe, data: Data) -> list[UInt8]:
    """Return the split of the run of each seed, uint8 [n]; errors as of `make_folds`."""
    return [make_folds(data.train.labels, each.chosen.folds, each.seed) for each in recipe.of_each_seed()]


def _plan(workspace: Workspace, recipe: Recipe, split: UInt8, data: Data, retrain: bool) -> RunPlan:
    path, all_folds = run_folder(workspace, recipe.name), set(range(recipe.chosen.folds))
    if not (path / RUN_JSON).exists():
        return RunPlan(path, recipe, split, True, None, set(), all_folds)
    run = read_run(path)
    if not isinstance(run, FoldsRun):
        raise _other_recipe(run, "already exists and is a mean of runs")
    _check_recipe(run, FoldsInfo.model_validate(run.info.as_json() | _spec(recipe, workspace, data)))
    check_data(run, data.hashes)
    is_new_split = not run.has_split()
    if not is_new_split:
        try:
            split = run.split(len(split))
        except DataError:
            if not retrain:
                raise
            is_new_split = True
    trained, damaged = set(run.trained_folds()), set()
    for fold in sorted(trained):
        try:
            check_fold(run.fold_folder(fold), int((split == fold).sum()), len(data.test.ids))
        except DataError:
            if not retrain:
                raise
            damaged.add(fold)
    if retrain and is_new_split:
        damaged = trained
    return RunPlan(path, recipe, split, is_new_split, run, damaged, all_folds - trained | damaged)


def _spec(recipe: Recipe, workspace: Workspace, data: Data) -> dict[str, Any]:
    """Return the fields of ``run.json`` for a recipe of one seed."""
    preset = recipe.chosen
    return {
        "competition": workspace.competition.name,
        "preset": preset.name,
        "folds": preset.folds,
        "seed": recipe.seed,
        "settings": preset.settings.model_dump(),
        "data": data.hashes,
    }


def open_mean_run(path: Path, members: list[str], workspace: Workspace, data: Data) -> MeanRun:
    """Open the mean of runs in a directory, create it if it does not exist, or add missing members to it.

    `UsageError` if it is no mean, or has members that are not in `members`; `DataError` as in `plan_runs`.
    """
    if (known := check_mean(path, members, data)) and known.info.members == members:
        return known
    spec = {"competition": workspace.competition.name, "members": members, "data": data.hashes}
    names = [word for member in members for word in ("--run", member)]
    return cast(MeanRun, create_run(path, spec, workspace.words("ensemble", *names, "--name", path.name)))


def check_mean(path: Path, members: list[str], data: Data) -> MeanRun | None:
    """Return the mean of runs in a directory, None if there is none; errors as of `open_mean_run`."""
    if not (path / RUN_JSON).exists():
        return None
    run = read_run(path)
    if not isinstance(run, MeanRun):
        raise _other_recipe(run, "is not a mean of runs")
    check_data(run, data.hashes)
    known = run.info.members
    if known != members and not set(known) < set(members):
        raise _other_recipe(run, f"is the mean of {', '.join(known)}, not of {', '.join(members)}")
    return run


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
