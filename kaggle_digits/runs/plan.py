"""Find out whether a run can be continued and which of its folds have to be trained; nothing is written here."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from kaggle_digits.arrays import UInt8
from kaggle_digits.data.csv import Data
from kaggle_digits.data.folds import make_folds
from kaggle_digits.errors import DataError
from kaggle_digits.runs.artefacts import check_fold, versions
from kaggle_digits.runs.directory import RUN_JSON, FoldsRun, check_data, create_run, read_run, run_folder
from kaggle_digits.runs.schema import FoldMetrics
from kaggle_digits.training.fold import FoldTask
from kaggle_digits.training.recipe import Recipe
from kaggle_digits.workspace import Workspace


@dataclass
class RunPlan:
    """A run of one seed, which need not exist yet, and its folds that have to be trained."""

    path: Path
    recipe: Recipe
    spec: dict[str, Any]  # the fields of ``run.json`` that follow from the recipe and the data
    split: UInt8  # [n]
    missing: set[int]  # all folds to train; existing ones are kept until then
    damaged: set[int] = field(default_factory=set)  # finished folds that have to be trained again
    known: FoldsRun | None = None  # None if it does not exist yet
    is_new_split: bool = True  # not written yet

    def open(self, workspace: Workspace) -> FoldsRun:
        """Return the run, and create it and its split if they do not exist."""
        command = self.recipe.command(workspace)
        run = self.known or cast(FoldsRun, create_run(self.path, self.spec, command))
        for leftover in self.path.rglob(".*.tmp"):  # of a process that was killed
            leftover.unlink(missing_ok=True)
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
        """Return a text with the versions of a kept fold that differ from the current ones, or an empty one."""
        now = versions()
        for metrics in self._kept_metrics():
            then = metrics.versions
            if changed := [name for name in then if now.get(name, then[name]) != then[name]]:
                return ", ".join(f"{name} {then[name]} (now {now[name]})" for name in changed)
        return ""

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
    recipes = recipe.of_each_seed()
    plans = [_plan(workspace, *each, data, retrain) for each in zip(recipes, splits, strict=True)]
    if retrain and not any(plan.damaged for plan in plans):
        for plan in plans:
            plan.missing = set(range(plan.recipe.chosen.folds))
    return plans


def make_splits(recipe: Recipe, data: Data) -> list[UInt8]:
    """Return the split of the run of each seed, uint8 [n]; errors as of `make_folds`."""
    return [make_folds(data.train.labels, each.chosen.folds, each.seed) for each in recipe.of_each_seed()]


def _plan(workspace: Workspace, recipe: Recipe, split: UInt8, data: Data, retrain: bool) -> RunPlan:
    path, preset = run_folder(workspace, recipe.name), recipe.chosen
    spec: dict[str, Any] = {
        "competition": workspace.competition.name,
        "preset": preset.name,
        "folds": preset.folds,
        "seed": recipe.seed,
        "settings": preset.settings.model_dump(),
        "data": data.hashes,
    }
    plan = RunPlan(path, recipe, spec, split, set(range(preset.folds)))
    if not (path / RUN_JSON).exists():
        return plan
    run = read_run(path)
    if not isinstance(run, FoldsRun):
        raise run.other_recipe("already exists and is a mean of runs")
    was, wanted = (facts | facts["settings"] for facts in (run.info.as_json(), spec))
    for name in ("competition", "preset", "folds", "seed", *spec["settings"]):
        # A setting that only one of two versions has is ignored.
        if was.get(name, wanted[name]) != wanted[name]:
            raise run.other_recipe(f"has another recipe: its {name} is {was[name]}, not {wanted[name]}")
    check_data(run, data.hashes)
    plan.known = run
    keep_going = suppress(DataError) if retrain else nullcontext()
    with keep_going:
        if run.split_file.exists():
            plan.split, plan.is_new_split = run.split(len(split)), False
    trained, valid = set(run.trained_folds()), set()
    for fold in sorted(trained):
        with keep_going:
            check_fold(run.fold_folder(fold), int((plan.split == fold).sum()), len(data.test.ids))
            valid.add(fold)
    plan.damaged = trained if retrain and plan.is_new_split else trained - valid
    plan.missing -= trained - plan.damaged
    return plan
