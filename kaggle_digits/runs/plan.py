"""Find out whether a run can be continued and which of its folds have to be trained; nothing is written here."""

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

from kaggle_digits.arrays import UInt8
from kaggle_digits.data.csv import Data
from kaggle_digits.data.folds import make_folds
from kaggle_digits.errors import DataError
from kaggle_digits.files import write_bytes
from kaggle_digits.runs.artefacts import FoldFolder, versions
from kaggle_digits.runs.directory import RUN_JSON, FoldsRun, check_data, read_run, run_folder
from kaggle_digits.training.fold import FoldTask
from kaggle_digits.training.own_network import NETWORK_FILE, REPLACED_SETTINGS
from kaggle_digits.training.recipe import Recipe
from kaggle_digits.workspace import Workspace


@dataclass
class RunPlan:
    """A run of one seed, which need not exist yet, and its folds that have to be trained."""

    recipe: Recipe
    run: FoldsRun  # not written if it does not exist yet
    split: UInt8  # [n]
    is_new_split: bool = True  # not written yet
    kept: dict[int, FoldFolder] = field(default_factory=dict)  # the finished folds that are not trained again

    @property
    def missing(self) -> set[int]:
        """The folds to train."""
        return set(range(self.run.info.folds)) - self.kept.keys()

    def open(self) -> FoldsRun:
        """Return the run, unfinished if folds are missing, and create it and its split if they do not exist."""
        run = self.run.with_status("unfinished") if self.missing else self.run
        for leftover in run.path.rglob(".*.tmp"):  # of a process that was killed
            leftover.unlink(missing_ok=True)
        if self.is_new_split:
            run.write_split(self.split)
        if own := self.recipe.own_network:
            write_bytes(run.path / NETWORK_FILE, own.source.encode())
        return run

    def tasks(self, tensorboard: bool = False) -> list[FoldTask]:
        """Return the tasks of all folds."""
        settings, seed, own = self.recipe.chosen.settings, self.recipe.seed, self.recipe.own_network
        folds = range(self.recipe.chosen.folds)
        return [FoldTask(settings, seed, fold, self.split, own, tensorboard) for fold in folds]

    def other_versions(self) -> str:
        """Return a text with the versions of a kept fold that differ from the current ones, or an empty one."""
        now = versions()
        for fold in self.kept.values():
            then = fold.metrics().versions
            if changed := [name for name in then if now.get(name, then[name]) != then[name]]:
                return ", ".join(f"{name} {then[name]} (now {now[name]})" for name in changed)
        return ""

    def is_from_scratch(self) -> bool:
        """Return whether all folds have to be trained, and none has a checkpoint."""
        return not self.kept and not any(self.run.fold(fold).is_started for fold in self.missing)


def plan_runs(
    workspace: Workspace, recipe: Recipe, splits: Sequence[UInt8], data: Data, retrain: bool
) -> list[RunPlan]:
    """Return the plan of the run of each seed; with `retrain`, to train damaged folds, or all if none is damaged.

    `UsageError` if a run has another recipe; `DataError` if it was made from other data, or is damaged and
    `retrain` is false.
    """
    recipes = recipe.of_each_seed()
    plans = [_plan(workspace, *each, data, retrain) for each in zip(recipes, splits, strict=True)]
    if retrain and all(plan.kept == plan.run.trained_folds() for plan in plans):
        for plan in plans:
            plan.kept = {}
    return plans


def make_splits(recipe: Recipe, data: Data) -> list[UInt8]:
    """Return the split of the run of each seed, uint8 [n]; errors as of `make_folds`."""
    return [make_folds(data.train.labels, each.chosen.folds, each.seed) for each in recipe.of_each_seed()]


def _plan(workspace: Workspace, recipe: Recipe, split: UInt8, data: Data, retrain: bool) -> RunPlan:
    path, preset, own = run_folder(workspace, recipe.name), recipe.chosen, recipe.own_network
    spec: dict[str, Any] = {
        "competition": workspace.competition.name,
        "preset": preset.name,
        "folds": preset.folds,
        "seed": recipe.seed,
        "settings": preset.settings.model_dump(exclude=set(REPLACED_SETTINGS) if own else None),
        "data": data.hashes,
    }
    if own:
        spec |= {"network": own.function, "network_sha256": own.sha256}
    if not (path / RUN_JSON).exists():
        return RunPlan(recipe, FoldsRun.new(path, spec, recipe.command(workspace)), split)
    run = read_run(path)
    if not isinstance(run, FoldsRun):
        raise run.other_recipe("already exists and is a mean of runs")
    was, wanted = ({"network_sha256": None} | facts | facts["settings"] for facts in (run.info.as_json(), spec))
    for name in ("competition", "preset", "folds", "seed", "network", "network_sha256", *spec["settings"]):
        # A setting that only one of two versions has is ignored.
        if was.get(name, wanted[name]) != wanted[name]:
            what = "network's SHA-256" if name == "network_sha256" else name
            raise run.other_recipe(f"has another recipe: its {what} is {was[name]}, not {wanted[name]}")
    check_data(run, data.hashes)
    plan = RunPlan(recipe, run, split)
    keep_going = suppress(DataError) if retrain else nullcontext()
    with keep_going:
        if run.split_file.exists():
            plan.split, plan.is_new_split = run.split(len(split)), False
    for number, fold in run.trained_folds().items():
        with keep_going:
            fold.check(int((plan.split == number).sum()), len(data.test.ids))
            plan.kept[number] = fold
    if retrain and plan.is_new_split:  # it is not certain which rows the folds were trained on
        plan.kept = {}
    return plan
