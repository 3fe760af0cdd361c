"""The pipeline's verbs: each calls the other modules in their order."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kaggle_digits.arrays import UInt8
from kaggle_digits.data.csv import LabelledDigits, UnlabelledDigits, load_test, load_train
from kaggle_digits.data.download import check_manifest
from kaggle_digits.data.folds import make_folds
from kaggle_digits.errors import DataError, UsageError
from kaggle_digits.execution.dask import train_on_dask
from kaggle_digits.execution.processes import Job, train_in_processes
from kaggle_digits.files import lock, make_folder
from kaggle_digits.hosts import open_host
from kaggle_digits.runs.directory import (
    FINISHED,
    UNFINISHED,
    Run,
    different_versions,
    find_best_run,
    find_run,
    list_runs,
    named_run,
    versions,
)
from kaggle_digits.runs.ensemble import ensemble_folds, ensemble_runs, is_current
from kaggle_digits.submissions.submit import (
    ScoreBoard,
    Sent,
    entry_of_run,
    read_scores,
    submission_file,
    write_submission,
)
from kaggle_digits.submissions.submit import submit as submit_file
from kaggle_digits.training import DEFAULT_PRESET
from kaggle_digits.training.fold import Digits, FoldTask, Progress
from kaggle_digits.training.presets import Preset, find_preset
from kaggle_digits.workspace import Workspace

MOST_SEEDS = 200
"""More than anybody has time for, and fewer than the files that a process may hold open: each run has its lock."""


def train(
    workspace: Workspace,
    *,
    preset: str = DEFAULT_PRESET,
    folds: int | None = None,
    seed: int = 0,
    seeds: int = 1,
    settings: Mapping[str, object] | None = None,
    run: str | None = None,
    workers: int | None = None,
    dask: str | None = None,
    retrain: bool = False,
    tensorboard: bool = False,
    on_start: Callable[[Run, Sequence[FoldTask], Sequence[FoldTask]], None] = lambda run, tasks, missing: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_finished: Callable[[FoldTask], None] = lambda task: None,
    on_notice: Callable[[str], None] = lambda sentence: None,
) -> Run:
    """Train what is missing of a run, or of several that differ in their seed; ensemble and write the submission.

    Parameters
    ----------
    workspace : Workspace
        The competition, and where its files are.
    preset : str
        The recipe's name.
    folds : int, optional
        K; the recipe's if not given.
    seed : int
        Of the split and of every random draw of training, from 0 to 2**32 - 1.
    seeds : int
        How many runs: of `seed`, `seed` + 1, and so on. Several are averaged into a run of their own.
    settings : mapping of str to object, optional
        Settings of the recipe to change, and their values, which may be text as typed.
    run : str, optional
        The run's name; if not given it follows from all of the above. Of several runs it names the ensemble, and
        begins their names.
    workers : int, optional
        How many folds to train at a time on this machine; by its cores, memory and GPUs if not given.
    dask : str, optional
        The address of a Dask scheduler, on whose workers the folds are trained instead of on this machine; needs
        the extra ``dask``.
    retrain : bool
        Train damaged folds again; if none is damaged, all of them.
    tensorboard : bool
        Write events for TensorBoard beside each fold that is trained; needs the extra ``tensorboard``.
    on_start : callable
        Told the run, all folds, and the folds to train.
    on_progress : callable
        Told of each `Progress`.
    on_finished : callable
        Told of each fold that is finished.
    on_notice : callable
        Told in a sentence of what a person should know, such as that a fold is begun once more.

    Returns
    -------
    Run
        Finished.

    Raises
    ------
    UsageError
        For an unknown preset, setting or value, if the named run has another recipe, or if no Dask worker has the
        versions that are here.
    DataError
        If the data or an artefact is damaged, or the run was made from other data.
    NetworkError
        If the Dask scheduler or all its workers are gone.
    WriteError
        If something cannot be written, or another process is training the run.
    """
    started = time.monotonic()
    preset_recipe = find_preset(preset)
    recipe = preset_recipe.with_settings(settings or {})
    if folds is not None:
        recipe = replace(recipe, folds=folds)
    _check_options(seed, seeds, workers, dask, tensorboard)
    target = named_run(workspace, run or _run_name(recipe, preset_recipe, seed, seeds))
    names = {seed: target.name}
    if seeds > 1:
        numbers = range(seed, seed + seeds)
        names = {n: f"{run}-s{n}" if run else _run_name(recipe, preset_recipe, n) for n in numbers}
    train_set, test_set = load_train(workspace.data), load_test(workspace.data)
    check_manifest(workspace.data, _hashes(train_set, test_set))
    splits = {number: make_folds(train_set.labels, recipe.folds, number) for number in names}
    with ExitStack() as locks:
        if seeds > 1:
            # What is wrong with it is better found now than after the training.
            make_folder(target.path)
            locks.enter_context(_lock(target))
            _check_recipe(target, _mean_spec(workspace, list(names.values()), train_set, test_set))
        plans: dict[int, _Plan] = {}
        for number, name in names.items():
            sibling = named_run(workspace, name)
            make_folder(sibling.path)
            locks.enter_context(_lock(sibling))
            command = _train_command(workspace, recipe, preset_recipe, number, name)
            _open_run(sibling, _spec(workspace, recipe, number, train_set, test_set), command)
            plans[number] = _Plan.make(
                sibling, recipe, number, splits[number], len(test_set.ids), retrain, tensorboard
            )
        if retrain and not any(plan.is_damaged for plan in plans.values()):
            for plan in plans.values():
                plan.missing = set(range(recipe.folds))
        jobs = [job for plan in plans.values() for job in plan.jobs()]
        is_one_go = seeds == 1 and plans[seed].is_fresh()

        def finish(plan: _Plan) -> None:
            if not is_current(plan.run, len(train_set.labels), len(test_set.ids)):
                ensemble_folds(plan.run, train_set.labels, len(test_set.ids))
            seconds = round(time.monotonic() - started, 1)
            _finish(workspace, plan.run, test_set, **({"train_seconds": seconds} if is_one_go else {}))

        def take_fold(task: FoldTask) -> None:
            on_finished(task)
            plan = plans[task.seed]
            plan.missing.remove(task.fold)
            if not plan.missing:
                finish(plan)

        on_start(target, [task for plan in plans.values() for task in plan.tasks], [job.task for job in jobs])
        for plan in plans.values():
            if plan.missing:
                if others := plan.other_versions():
                    on_notice(
                        f"Finished folds of {plan.run.name} were trained with {others}; they stay as they are, "
                        "and the report names the versions of each fold."
                    )
                plan.run.set_status(UNFINISHED)
            else:
                finish(plan)
        if jobs:
            digits = Digits(train_set.images, train_set.labels, test_set.images)
            if dask is None:
                train_in_processes(jobs, digits, workers, on_progress, take_fold, on_notice)
            else:
                train_on_dask(jobs, digits, dask, on_progress, take_fold, on_notice)
        if seeds > 1:
            _average(workspace, target, [plan.run for plan in plans.values()], train_set, test_set)
    return target


def ensemble(workspace: Workspace, runs: Sequence[str] = (), name: str | None = None) -> Run:
    """Average one or more runs again and write the submission.

    Parameters
    ----------
    workspace : Workspace
        The competition, and where its files are.
    runs : sequence of str
        Their names; the latest finished run if there are none. Several become a run of their own.
    name : str, optional
        Of the run that several become; by default their names joined by ``+``.

    Returns
    -------
    Run
        The ensembled run.

    Raises
    ------
    UsageError
        If a run does not exist, or a run called `name` exists and is not an ensemble of some of these.
    DataError
        If a run is unfinished or damaged, or the runs were made from different data.
    """
    members = [find_run(workspace, run) for run in dict.fromkeys(runs)] or [find_run(workspace)]
    train_set, test_set = load_train(workspace.data), load_test(workspace.data)
    for member in members:
        _check_data(member, train_set, test_set)
    if len(members) == 1:
        (target,) = members
        if name not in (None, target.name):
            raise UsageError(
                "--name names the ensemble of several runs.", "Give more than one --run, or no --name."
            )
        with _lock(target):
            if "members" in target.info():
                members = [find_run(workspace, member) for member in target.info()["members"]]
                ensemble_runs(target, members, train_set.labels, len(test_set.ids))
            else:
                _check_trained(target)
                ensemble_folds(target, train_set.labels, len(test_set.ids))
            _finish(workspace, target, test_set)
        return target
    for member in members:
        member.require_ensemble()
    target = named_run(workspace, name or "+".join(member.name for member in members))
    make_folder(target.path)
    with _lock(target):
        _average(workspace, target, members, train_set, test_set)
    return target


def submit(
    workspace: Workspace,
    *,
    run: str | None = None,
    file: str | Path | None = None,
    message: str | None = None,
    dry_run: bool = False,
    again: bool = False,
    wait: bool = True,
    timeout: float = 600.0,
    on_wait: Callable[[str], None] = lambda status: None,
    on_choice: Callable[[str], None] = lambda sentence: None,
) -> Sent:
    """Submit a run's file, or any other, once, and wait for its score.

    Parameters
    ----------
    workspace : Workspace
        The competition, and where its files are.
    run : str, optional
        The run's name; if neither it nor `file` is given, the finished run with the best out-of-fold accuracy.
    file : str or pathlib.Path, optional
        A submission file to send instead of a run's; not together with `run`.
    message : str, optional
        The description at the host; by default the run's preset, folds, seed and out-of-fold accuracy.
    dry_run, again, wait, timeout, on_wait
        As in `kaggle_digits.submission.submit`, which also lists the errors.
    on_choice : callable
        Told in a sentence, before anything is sent, which run it is and how good.

    Returns
    -------
    Sent
        The submission's line in the ledger.
    """
    if run is not None and file is not None:
        raise UsageError("A run and a file are two submissions.", "Choose one of --run and --file.")
    source = None
    if file is None:
        source = find_run(workspace, run) if run is not None else find_best_run(workspace)
    cv = None
    if source is not None:
        source.require_ensemble()
        cv = source.ensemble_metrics()["accuracy"]
        why = ", the finished one with the best out-of-fold accuracy" if run is None else ""
        on_choice(f"The run is {source.name} (CV {cv:.5f}){why}.")
        message = message or f"{_recipe_words(source)}, CV {cv:.5f}"
    name = source.name if source else ""
    return submit_file(
        open_host(workspace),
        workspace,
        Path(file) if file else submission_file(workspace, name),
        run=name,
        cv=cv,
        message=message or (Path(file).name if file else ""),
        dry_run=dry_run,
        again=again,
        wait=wait,
        timeout=timeout,
        on_wait=on_wait,
    )


def score(workspace: Workspace) -> ScoreBoard:
    """Read the submissions, their scores and the place on the leaderboard from the host.

    Raises
    ------
    KaggleDigitsError
        What the host has to say, or a damaged ledger.
    """
    return read_scores(open_host(workspace), workspace)


def summarise_runs(workspace: Workspace) -> list[dict[str, Any]]:
    """Return a row for each run of the competition, the one last worked on first, by what ``run.json`` says.

    Returns
    -------
    list of dict
        ``name``, ``status`` (also ``damaged``), ``trained`` and ``folds`` (counts, None for an ensemble of
        runs), ``errors`` and ``accuracy`` out-of-fold (None until the run is ensembled), ``score`` (None until
        one of its submission file, as that is now, is in the ledger).
    """
    rows = []
    for run in list_runs(workspace):
        try:
            info = run.info()
            metrics = run.ensemble_metrics() if run.has_ensemble() else {}
        except DataError:
            info, metrics = {"status": "damaged"}, {}
        folds, entry = info.get("folds"), entry_of_run(workspace, run.name)
        rows.append(
            {
                "name": run.name,
                "status": info["status"],
                "trained": None if folds is None else sum(run.is_trained(fold) for fold in range(folds)),
                "folds": folds,
                "errors": metrics.get("errors"),
                "accuracy": metrics.get("accuracy"),
                "score": float(entry.score) if entry and entry.score else None,
            }
        )
    return rows


@dataclass
class _Plan:
    """What is to be done for a run that is opened for training.

    Attributes
    ----------
    run : Run
        The run.
    tasks : list of FoldTask
        All its folds.
    missing : set of int
        The folds to train. What is there stays until its successor takes its place.
    is_damaged : bool
        Whether there are finished folds that have to be trained again.
    """

    run: Run
    tasks: list[FoldTask]
    missing: set[int]
    is_damaged: bool

    @classmethod
    def make(
        cls, run: Run, recipe: Preset, seed: int, split: UInt8, test_rows: int, retrain: bool, tensorboard: bool
    ) -> _Plan:
        """Look what is there; raise a `DataError` for what is damaged unless it may be trained again."""
        run.sweep()
        split, is_new_split = _open_split(run, split, retrain)
        tasks = [
            FoldTask(recipe.name, recipe.settings, seed, fold, split, tensorboard) for fold in range(recipe.folds)
        ]
        trained = {task.fold for task in tasks if run.is_trained(task.fold)}
        damaged = set()
        if retrain:
            damaged = {fold for fold in trained if is_new_split or not run.is_sound(fold, test_rows)}
        else:
            for fold in sorted(trained):
                run.check_fold(fold, test_rows)
        return cls(run, tasks, {task.fold for task in tasks} - trained | damaged, bool(damaged))

    def kept_metrics(self) -> list[dict[str, Any]]:
        """Return the metrics of the finished folds that stay as they are."""
        return [self.run.fold_metrics(task.fold) for task in self.tasks if task.fold not in self.missing]

    def jobs(self) -> list[Job]:
        """Return the folds to train, with the same network as those that stay, and where they go."""
        networks = (metrics.get("network") for metrics in self.kept_metrics())
        network = next(filter(None, networks), None)
        return [
            Job(replace(task, network=network), self.run.fold_folder(task.fold), self.run.log_file)
            for task in self.tasks
            if task.fold in self.missing
        ]

    def other_versions(self) -> str:
        """Say which versions the finished folds were trained with that are not those of the folds to come."""
        now = versions()
        found = (different_versions(metrics.get("versions", {}), now) for metrics in self.kept_metrics())
        return next(filter(None, found), "")

    def is_fresh(self) -> bool:
        """Tell whether all is to be trained from its start."""
        return len(self.missing) == len(self.tasks) and not any(map(self.run.is_begun, self.missing))


def _check_options(seed: int, seeds: int, workers: int | None, dask: str | None, tensorboard: bool) -> None:
    if not 1 <= seeds <= MOST_SEEDS:
        raise UsageError(f"{seeds} seeds cannot be trained.", f"Choose --seeds from 1 to {MOST_SEEDS:,}.")
    for number in (seed, seed + seeds - 1):
        if not 0 <= number < 2**32:
            raise UsageError(f"{number} cannot be a seed.", f"Choose a whole number from 0 to {2**32 - 1}.")
    if workers is not None and workers < 1:
        raise UsageError(f"{workers} workers cannot train anything.", "Choose --workers from 1.")
    if tensorboard and find_spec("tensorboard") is None:
        raise UsageError(
            "TensorBoard is not installed.", "Install it with: pip install 'kaggle-digits[tensorboard]'."
        )
    if dask is None:
        return
    if find_spec("distributed") is None:
        raise UsageError("Dask is not installed.", "Install it with: pip install 'kaggle-digits[dask]'.")
    if workers is not None:
        raise UsageError(
            "With --dask, the cluster says how many folds are trained at a time.", "Leave --workers out."
        )
    if tensorboard:
        raise UsageError(
            "Events for TensorBoard can only be written by folds on this machine.",
            "Leave out one of --tensorboard and --dask.",
        )


def _lock(run: Run) -> AbstractContextManager[None]:
    return lock(run.lock_file, f"The run {run.name} is in use by another process.")


def _average(
    workspace: Workspace, target: Run, members: list[Run], train_set: LabelledDigits, test_set: UnlabelledDigits
) -> None:
    """Ensemble several runs into one of their own, and write its submission."""
    spec = _mean_spec(workspace, [member.name for member in members], train_set, test_set)
    names = [word for member in members for word in ("--run", member.name)]
    _open_run(target, spec, workspace.command("ensemble", *names, "--name", target.name))
    ensemble_runs(target, members, train_set.labels, len(test_set.ids))
    _finish(workspace, target, test_set)


def _recipe_words(run: Run) -> str:
    info = run.info()
    if "members" in info:
        return f"mean of {', '.join(info['members'])}"
    return f"{info['preset']}, {info['folds']} folds, seed {info['seed']}"


def _run_name(recipe: Preset, preset: Preset, seed: int, seeds: int = 1) -> str:
    """Return the name of a run that was not given one: preset, folds, seeds and what differs from the preset."""
    numbers = f"s{seed}" if seeds == 1 else f"s{seed}..{seed + seeds - 1}"
    return "-".join([recipe.name, f"k{recipe.folds}", numbers, *_changes(recipe, preset)])


def _changes(recipe: Preset, preset: Preset) -> list[str]:
    """Return the settings that differ from the preset's, as ``key=value``."""
    defaults = preset.settings.model_dump()
    return [f"{key}={value}" for key, value in recipe.settings.model_dump().items() if value != defaults[key]]


def _spec(
    workspace: Workspace,
    recipe: Preset,
    seed: int,
    train_set: LabelledDigits,
    test_set: UnlabelledDigits,
) -> dict[str, Any]:
    return {
        "competition": workspace.competition.name,
        "preset": recipe.name,
        "folds": recipe.folds,
        "seed": seed,
        "settings": recipe.settings.model_dump(),
        "data": _hashes(train_set, test_set),
    }


def _mean_spec(
    workspace: Workspace, members: list[str], train_set: LabelledDigits, test_set: UnlabelledDigits
) -> dict[str, Any]:
    return {
        "competition": workspace.competition.name,
        "members": members,
        "data": _hashes(train_set, test_set),
    }


def _hashes(train_set: LabelledDigits, test_set: UnlabelledDigits) -> dict[str, str]:
    return {"train.csv": train_set.sha256, "test.csv": test_set.sha256}


def _train_command(workspace: Workspace, recipe: Preset, preset: Preset, seed: int, run: str) -> str:
    """Return the command that trains a run, from wherever it was begun."""
    words = ["train", "--preset", recipe.name, "--folds", str(recipe.folds), "--seed", str(seed)]
    for change in _changes(recipe, preset):
        words += ["--set", change]
    if run != _run_name(recipe, preset, seed):
        words += ["--run", run]
    return workspace.command(*words)


def _open_run(run: Run, spec: dict[str, Any], command: str) -> None:
    """Create a run, or make sure that it is one of this recipe and these data; a mean of runs may get more."""
    _check_recipe(run, spec)
    if not (run.path / "run.json").exists() or run.info().get("members") != spec.get("members"):
        run.create(spec, shlex.split(command))


def _check_recipe(run: Run, spec: dict[str, Any]) -> None:
    """Raise an error if there is a run of this name, and it has another recipe or was made from other data."""
    if not (run.path / "run.json").exists():
        return
    found = run.info()
    for key, value in spec.items():
        was = found.get(key)
        if was == value or (key == "members" and was is not None and set(was) < set(value)):
            continue
        if key == "data":
            raise _other_data(run, value)
        if key == "settings" and was is not None:
            # What an older version knew no setting for, it did as the default does.
            differences = {k: (was[k], v) for k, v in value.items() if k in was and was[k] != v}
            if not differences:
                continue
            key, (was, value) = next(iter(differences.items()))
        raise UsageError(
            f"The run {run.name} has another recipe: its {key} is {was}, not {value}.",
            "Choose another name with --run, or the recipe that it was made with: " + run.command(),
        )


def _open_split(run: Run, split: UInt8, retrain: bool) -> tuple[UInt8, bool]:
    """Return the run's split, and whether it had to be written; a damaged one is written anew only on demand."""
    if run.has_folds():
        try:
            return run.folds(len(split)), False
        except DataError:
            if not retrain:
                raise
    run.write_folds(split)
    return split, True


def _other_data(run: Run, hashes: Mapping[str, str]) -> DataError:
    used = run.info()["data"]
    others = " and another ".join(name for name, digest in hashes.items() if used.get(name) != digest)
    return DataError(
        f"The run {run.name} was made from other data than is here now: another {others}.",
        "Bring its data back, or choose another name with --run.",
    )


def _check_data(run: Run, train_set: LabelledDigits, test_set: UnlabelledDigits) -> None:
    hashes = _hashes(train_set, test_set)
    if run.info()["data"] != hashes:
        raise _other_data(run, hashes)


def _check_trained(run: Run) -> None:
    if not all(run.is_trained(fold) for fold in range(run.info()["folds"])):
        raise run.unfinished()


def _finish(workspace: Workspace, run: Run, test_set: UnlabelledDigits, **facts: float) -> None:
    write_submission(submission_file(workspace, run.name), test_set.ids, run.test_softmax(len(test_set.ids)))
    run.set_status(FINISHED, **facts)
