"""The verbs: each calls the other rooms in their order."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from kaggle_digits.data.csv import Data, load_data
from kaggle_digits.data.download import check_manifest
from kaggle_digits.data.folds import make_folds
from kaggle_digits.errors import UsageError
from kaggle_digits.execution.dask import train_on_dask
from kaggle_digits.execution.processes import Job, train_in_processes
from kaggle_digits.files import lock, make_folder
from kaggle_digits.hosts import open_host
from kaggle_digits.runs.directory import FoldsRun, MeanRun, Run, find_best_run, find_run, run_folder
from kaggle_digits.runs.ensemble import ensemble_folds, ensemble_runs, is_current
from kaggle_digits.runs.plan import (
    Recipe,
    RunPlan,
    check_data,
    check_mean,
    open_folds_run,
    open_mean_run,
    plan_run,
)
from kaggle_digits.runs.schema import FINISHED, UNFINISHED
from kaggle_digits.submissions import TIMEOUT
from kaggle_digits.submissions.submit import (
    ScoreBoard,
    Sent,
    read_scores,
    submission_file,
    write_submission,
)
from kaggle_digits.submissions.submit import submit as submit_file
from kaggle_digits.training import DEFAULT_PRESET
from kaggle_digits.training.fold import Digits, FoldTask, Progress
from kaggle_digits.training.observer import Observer
from kaggle_digits.workspace import Workspace

RunT = TypeVar("RunT", bound=Run)

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
    observer: Observer | None = None,
) -> Run:
    """Train what is missing of a run, or of several that differ in their seed; ensemble and write the submission.

    Parameters
    ----------
    workspace : Workspace
        The competition, and where its files are.
    preset : str
        The preset's name.
    folds : int, optional
        K; the preset's if not given.
    seed : int
        Of the split and of every random draw of training, from 0 to 2**32 - 1.
    seeds : int
        How many runs: of `seed`, `seed` + 1, and so on. Several are averaged into a run of their own.
    settings : mapping of str to object, optional
        Settings of the preset to change, and their values, which may be text as typed.
    run : str, optional
        The run's name; if not given it follows from all of the above. Of several runs it names their mean, and
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
    observer : Observer, optional
        Told of what happens.

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

    Examples
    --------
    >>> import kaggle_digits as kd
    >>> workspace = kd.Workspace.at(folder, competition="rehearsal")
    >>> files = kd.download(workspace)
    >>> run = kd.train(workspace, preset="lenet", folds=2, settings={"epochs": 1})
    >>> run.name
    'lenet-k2-s0-epochs=1'
    """
    started = time.monotonic()
    _check_options(seed, seeds, workers, dask, tensorboard)
    recipes = [Recipe.make(preset, folds, settings or {}, number) for number in range(seed, seed + seeds)]
    target = run_folder(workspace, run or recipes[0].run_name(seeds))
    paths = [target]
    if seeds > 1:
        paths = [run_folder(workspace, f"{run}-s{r.seed}" if run else r.run_name()) for r in recipes]
    data = load_data(workspace.data)
    check_manifest(workspace.data, data.hashes)
    # Before there is any run: what is wrong with K is found here.
    splits = [make_folds(data.train.labels, recipe.preset.folds, recipe.seed) for recipe in recipes]
    with ExitStack() as locks:
        if seeds > 1:
            # What is wrong with the mean's name is better found now than after the training.
            locks.enter_context(_lock(target))
            check_mean(target, [path.name for path in paths], data)
        plans: dict[int, RunPlan] = {}
        for recipe, path, split in zip(recipes, paths, splits, strict=True):
            locks.enter_context(_lock(path))
            opened = open_folds_run(path, recipe, workspace, data)
            plans[recipe.seed] = plan_run(opened, recipe, split, data, retrain=retrain, tensorboard=tensorboard)
        if retrain and not any(plan.has_damaged_folds for plan in plans.values()):
            for plan in plans.values():
                plan.missing = set(range(len(plan.tasks)))
        # The time of a training that was cut off, or of several runs at once, says nothing about one.
        in_one_go = seeds == 1 and plans[seed].starts_from_nothing()
        training = _Training(workspace, data, plans, observer or Observer(), started if in_one_go else None)
        training.run(target.name, workers, dask)
        if seeds == 1:
            return plans[seed].run
        return _average(workspace, target, [path.name for path in paths], data)


@dataclass
class _Training(Observer):
    """The training of the missing folds of one or more runs, each ensembled as soon as its folds are there.

    Attributes
    ----------
    workspace : Workspace
        The competition, and where its files are.
    data : Data
        The rows.
    plans : dict of int to RunPlan
        What is to be done, by seed.
    observer : Observer
        Is told of everything too.
    started : float or None
        When the training of a single run began, by `time.monotonic`.
    """

    workspace: Workspace
    data: Data
    plans: dict[int, RunPlan]
    observer: Observer
    started: float | None

    def run(self, name: str, workers: int | None, dask: str | None) -> None:
        """Train all that is missing; `name` is what to call it all."""
        jobs = [
            Job(task, plan.run.fold_folder(task.fold), plan.run.log_file)
            for plan in self.plans.values()
            for task in plan.tasks_to_train()
        ]
        tasks = [task for plan in self.plans.values() for task in plan.tasks]
        self.observer.start(name, tasks, [job.task for job in jobs])
        for plan in self.plans.values():
            self._begin(plan)
        if not jobs:
            return
        digits = Digits(self.data.train.images, self.data.train.labels, self.data.test.images)
        if dask is None:
            train_in_processes(jobs, digits, workers, self)
        else:
            train_on_dask(jobs, digits, dask, self)

    def progress(self, progress: Progress) -> None:
        """Pass it on."""
        self.observer.progress(progress)

    def notice(self, sentence: str) -> None:
        """Pass it on."""
        self.observer.notice(sentence)

    def finished(self, task: FoldTask) -> None:
        """Pass it on, and finish the run if this was its last fold."""
        self.observer.finished(task)
        plan = self.plans[task.seed]
        plan.missing.remove(task.fold)
        if not plan.missing:
            self._finish(plan)

    def _begin(self, plan: RunPlan) -> None:
        if not plan.missing:
            self._finish(plan)
            return
        if others := plan.other_versions():
            self.observer.notice(
                f"Finished folds of {plan.run.name} were trained with {others}; they stay as they are, "
                "and the report names the versions of each fold."
            )
        plan.run = plan.run.with_status(UNFINISHED)

    def _finish(self, plan: RunPlan) -> None:
        if not is_current(plan.run, self.data):
            ensemble_folds(plan.run, self.data)
        seconds = None if self.started is None else round(time.monotonic() - self.started, 1)
        plan.run = _finish(self.workspace, plan.run, self.data, seconds)


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
        If a run does not exist, or a run called `name` exists and is not a mean of some of these.
    DataError
        If a run is unfinished or damaged, or the runs were made from different data.

    Examples
    --------
    >>> kd.ensemble(workspace).ensemble_metrics().rows
    4200
    """
    members = [find_run(workspace, run) for run in dict.fromkeys(runs)] or [find_run(workspace)]
    data = load_data(workspace.data)
    for member in members:
        check_data(member, data)
    if len(members) > 1:
        for member in members:
            member.require_ensemble()
        target = run_folder(workspace, name or "+".join(member.name for member in members))
        with _lock(target):
            return _average(workspace, target, [member.name for member in members], data)
    (run,) = members
    if name not in (None, run.name):
        raise UsageError("--name names the mean of several runs.", "Give more than one --run, or no --name.")
    with _lock(run.path):
        if isinstance(run, MeanRun):
            ensemble_runs(run, data)
        else:
            _ensemble_trained(run, data)
        return _finish(workspace, run, data)


def submit(
    workspace: Workspace,
    *,
    run: str | None = None,
    file: str | Path | None = None,
    message: str | None = None,
    dry_run: bool = False,
    again: bool = False,
    wait: bool = True,
    timeout: float = TIMEOUT,
    observer: Observer | None = None,
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
    dry_run, again, wait, timeout
        As in `kaggle_digits.submissions.submit.submit`, which also lists the errors.
    observer : Observer, optional
        Told in a sentence, before anything is sent, which run it is and how good; then of the status at each look.

    Returns
    -------
    Sent
        The submission's line in the ledger.

    Examples
    --------
    >>> sent = kd.submit(workspace)
    >>> sent.entry.status
    'COMPLETE'
    """
    if run is not None and file is not None:
        raise UsageError("A run and a file cannot be submitted together.", "Choose one of --run and --file.")
    observer = observer or Observer()
    name, cv, path = "", None, Path(file or "")
    if file is None:
        source = find_run(workspace, run) if run is not None else find_best_run(workspace)
        source.require_ensemble()
        name, cv, path = source.name, source.ensemble_metrics().accuracy, submission_file(workspace, source.name)
        message = message or f"{source.describe()}, CV {cv:.5f}"
        why = ", the finished one with the best out-of-fold accuracy" if run is None else ""
        observer.notice(f"The run is {name} (CV {cv:.5f}){why}.")
    return submit_file(
        open_host(workspace),
        workspace,
        path,
        run=name,
        cv=cv,
        message=message or path.name,
        dry_run=dry_run,
        again=again,
        wait=wait,
        timeout=timeout,
        observer=observer,
    )


def score(workspace: Workspace) -> ScoreBoard:
    """Read the submissions, their scores and the rank on the leaderboard from the host.

    Raises
    ------
    KaggleDigitsError
        What the host has to say, or a damaged ledger.

    Examples
    --------
    >>> len(kd.score(workspace).submissions)
    1
    """
    return read_scores(open_host(workspace), workspace)


def _check_options(seed: int, seeds: int, workers: int | None, dask: str | None, tensorboard: bool) -> None:
    if not 1 <= seeds <= MOST_SEEDS:
        raise UsageError(
            f"The number of seeds must be between 1 and {MOST_SEEDS}, got {seeds}.",
            "Choose another number of seeds.",
        )
    for number in (seed, seed + seeds - 1):
        if not 0 <= number < 2**32:
            raise UsageError(f"A seed must be between 0 and {2**32 - 1}, got {number}.", "Choose another seed.")
    if workers is not None and workers < 1:
        raise UsageError(
            f"The number of workers must be at least 1, got {workers}.", "Choose another number of workers."
        )
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


def _lock(path: Path) -> AbstractContextManager[None]:
    """Hold the lock of a run, whose folder is made if need be."""
    make_folder(path)
    return lock(path / ".lock", f"The run {path.name} is in use by another process.")


def _ensemble_trained(run: FoldsRun, data: Data) -> None:
    if len(run.trained_folds()) < run.info.folds:
        raise run.unfinished()
    ensemble_folds(run, data)


def _average(workspace: Workspace, target: Path, members: list[str], data: Data) -> MeanRun:
    """Ensemble several runs into one of their own, and write its submission."""
    run = open_mean_run(target, members, workspace, data)
    ensemble_runs(run, data)
    return _finish(workspace, run, data)


def _finish(workspace: Workspace, run: RunT, data: Data, train_seconds: float | None = None) -> RunT:
    write_submission(submission_file(workspace, run.name), data.test.ids, run.test_softmax())
    return run.with_status(FINISHED, train_seconds)
