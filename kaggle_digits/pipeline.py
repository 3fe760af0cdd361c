"""The functions `train`, `ensemble`, `submit` and `score`, which combine the other modules."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from kaggle_digits.data.csv import Data, load_data, load_sample
from kaggle_digits.data.download import check_manifest
from kaggle_digits.errors import UsageError
from kaggle_digits.execution import Job, Options, find_place
from kaggle_digits.files import lock, make_folder, write_bytes
from kaggle_digits.hosts import open_host
from kaggle_digits.notebook import printing, watching
from kaggle_digits.runs.directory import RUN_JSON, Run, check_data, find_run, run_folder
from kaggle_digits.runs.ensemble import average_runs, check_mean, is_current, write_ensemble
from kaggle_digits.runs.plan import RunPlan, make_splits, plan_runs
from kaggle_digits.runs.summary import compare_with_best_score, explain_choice
from kaggle_digits.submissions import TIMEOUT
from kaggle_digits.submissions.submit import (
    ScoreBoard,
    Sent,
    read_scores,
    send,
    submission_file,
    wait_for_score,
    write_submission,
)
from kaggle_digits.training import DEFAULT_PRESET
from kaggle_digits.training.compute import training_flops
from kaggle_digits.training.observer import Observer
from kaggle_digits.training.presets import build_network
from kaggle_digits.training.recipe import Recipe
from kaggle_digits.workspace import Workspace

RunT = TypeVar("RunT", bound=Run)


def train(
    workspace: Workspace,
    *,
    preset: str = DEFAULT_PRESET,
    folds: int | None = None,
    seed: int = 0,
    seeds: int = 1,
    settings: Mapping[str, object] | None = None,
    network: str | Callable[[], Any] | None = None,
    run: str | None = None,
    workers: int | None = None,
    on: str | None = None,
    wait: bool = True,
    retrain: bool = False,
    tensorboard: bool = False,
    output: str | Path | None = None,
    observer: Observer | None = None,
) -> Run:
    """Train the missing folds of one or more runs, ensemble them and write the submission.

    With several seeds, one run is trained per seed, and the mean of these runs is a run too.

    Parameters
    ----------
    workspace : Workspace
        The competition and its folders.
    preset, folds, seed, seeds, settings, network, run
        What to train: see `Recipe`.
    workers : int, optional
        How many folds to train in parallel on this machine. Default: by its cores, memory and GPUs.
    on : str, optional
        Where to train: ``kaggle`` or ``kaggle-cpu``, in a kernel at Kaggle with two GPUs or with none, or the
        address of a Dask scheduler, such as ``tcp://10.0.0.1:8786`` (extra ``dask``). Default: this machine.
    wait : bool
        Wait until a kernel at Kaggle has ended.
    retrain : bool
        Train damaged folds again, or all folds if none is damaged.
    tensorboard : bool
        Write TensorBoard events into the folder of each fold (extra ``tensorboard``).
    output : str or pathlib.Path, optional
        Where to write a copy of the submission: a file, or a folder for ``submission.csv``.
    observer : Observer, optional
        Called with the progress.

    Returns
    -------
    Run
        The finished run; with several seeds, their mean.

    Raises
    ------
    UsageError
        If an argument is not valid, the run exists with another recipe, or no Dask worker has the same versions.
    DataError
        If the data or an artefact is damaged, or the run was made from other data.
    CredentialsError, RefusedError
        If Kaggle refuses to train the folds.
    NetworkError
        If the Dask scheduler or all its workers are lost, or a kernel at Kaggle failed, cannot be reached, or is
        still running and `wait` is false.
    WriteError
        If a file cannot be written, or another process is using the run.

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
    recipe = Recipe(preset, folds, seed, seeds, settings or {}, network, run)
    place = find_place(on, workspace, Options(workers, tensorboard, wait, retrain))
    target, paths = run_folder(workspace, recipe.name), _run_folders(workspace, recipe)
    members = [path.name for path in paths]
    data = _load(workspace)
    # Before any folder is created, so that arguments that are not valid leave no run behind.
    splits = make_splits(recipe, data)
    if seeds > 1:
        check_mean(target, members, data)
    with ExitStack() as locks, watching(observer) as observer:
        if recipe.own_network and not all((path / RUN_JSON).exists() for path in paths):
            recipe.own_network.build(observer.notice)  # raises an error if it is not valid
        for path in dict.fromkeys([target, *paths]):
            locks.enter_context(_lock(path))
        plans = plan_runs(workspace, recipe, splits, data, retrain)
        # The elapsed time is not that of one run if the training was interrupted or trains several runs.
        is_timed = seeds == 1 and plans[0].is_from_scratch()
        runs = {plan.recipe.seed: plan.open() for plan in plans}
        jobs = _jobs(plans, tensorboard)

        def finish(seed: int) -> None:
            if not is_current(runs[seed], data):
                write_ensemble(runs[seed], data)
            seconds = round(time.monotonic() - started, 1) if is_timed else None
            runs[seed] = _finish(workspace, runs[seed], data, seconds)

        observer.start(recipe.name, [task for plan in plans for task in plan.tasks()], [job.task for job in jobs])
        for plan in plans:
            if not plan.missing:
                finish(plan.recipe.seed)
            elif others := plan.other_versions():
                observer.notice(
                    f"Finished folds of {plan.run.name} were trained with {others}; they are kept, "
                    "and the report shows the versions of each fold."
                )
        if jobs:
            missing = {plan.recipe.seed: plan.missing for plan in plans}
            with closing(place.train(jobs, data, observer)) as trained:
                for job in trained:
                    observer.finished(job.task)
                    missing[job.task.seed].remove(job.task.fold)
                    if not missing[job.task.seed]:
                        finish(job.task.seed)
        finished: Run = runs[seed]
        if seeds > 1:
            finished = _finish(workspace, average_runs(target, members, workspace, data), data)
        _copy_submission(workspace, finished, output)
        return finished


def preview_kernel(
    workspace: Workspace, recipe: Recipe, on: str | None, *, retrain: bool = False
) -> dict[str, Any]:
    """Return what `train` would send to Kaggle for a recipe, and send nothing; errors as of `train`.

    Returns
    -------
    dict
        ``run``, its name; ``on``; ``folds``, seed and number of each fold to train; ``tflop``, the compute of
        their training; ``bytes``, the size of the kernel; ``kernel``, the address of one that already trains
        folds of the run, which is continued first, or None; ``gpu_hours``, of the user's quota: ``left``,
        ``total`` and ``reset``, or None without GPUs, or if Kaggle does not say.
    """
    place = find_place(on, workspace, Options(wait=False, retrain=retrain))
    data = _load(workspace)
    plans = plan_runs(workspace, recipe, make_splits(recipe, data), data, retrain)
    jobs = _jobs(plans)
    settings = recipe.chosen.settings
    network = build_network(settings, recipe.own_network)
    rows = [int((job.task.split != job.task.fold).sum()) for job in jobs]
    return {
        "run": recipe.name,
        "on": on,
        "folds": [[job.task.seed, job.task.fold] for job in jobs],
        "tflop": sum(training_flops(settings, count, network) for count in rows) / 1e12,
        **place.preview([plan.run.path for plan in plans], jobs, data),
    }


def cancel_kernels(workspace: Workspace, recipe: Recipe, on: str | None = "kaggle") -> list[str]:
    """Delete the kernels at Kaggle that train folds of the runs of a recipe, and return their addresses.

    Raises
    ------
    NetworkError
        If Kaggle does not confirm it: the kernel may still run.
    WriteError
        If another process is using the run.
    """
    place = find_place(on, workspace, Options(wait=False))
    paths = _run_folders(workspace, recipe)
    with ExitStack() as locks:
        for path in filter(Path.exists, paths):
            busy = f"Another process uses the run {path.name}; if it only follows the kernel, end it with Ctrl-C."
            locks.enter_context(lock(path / ".lock", busy))
        return place.cancel(paths)


def ensemble(
    workspace: Workspace,
    runs: Sequence[str | Run] = (),
    name: str | None = None,
    output: str | Path | None = None,
) -> Run:
    """Average one or more runs again and write the submission.

    Parameters
    ----------
    workspace : Workspace
        The competition and its folders.
    runs : sequence of str or Run
        The runs, or their names. Default: as in `find_run`. The mean of several runs is a new run.
    name : str, optional
        The name of the mean of several runs. Default: their names, joined by ``+``.
    output : str or pathlib.Path, optional
        As in `train`.

    Returns
    -------
    Run
        The ensembled run.

    Raises
    ------
    UsageError
        If a run does not exist, or a run called `name` exists and is not a mean of only these runs.
    DataError
        If a run is unfinished or damaged, or the runs were made from different data.

    Examples
    --------
    >>> kd.ensemble(workspace).ensemble_metrics().rows
    4200
    """
    members = [find_run(workspace, run) for run in dict.fromkeys(runs)] or [find_run(workspace)]
    names, averaged = [member.name for member in members], members[0]
    data = load_data(workspace.data)
    for member in members:
        check_data(member, data.hashes)
        if len(members) > 1:
            member.require_ensemble()
    if len(members) == 1 and name not in (None, averaged.name):
        raise UsageError(
            "Only the mean of several runs can get a new name.", "Choose more than one run, or leave out the name."
        )
    target = run_folder(workspace, name or "+".join(names))
    with _lock(target):
        if len(members) > 1:
            averaged = average_runs(target, names, workspace, data)
        else:
            write_ensemble(averaged, data)
        finished = _finish(workspace, averaged, data)
    _copy_submission(workspace, finished, output)
    return finished


def submit(
    workspace: Workspace,
    *,
    run: str | Run | None = None,
    file: str | Path | None = None,
    message: str | None = None,
    dry_run: bool = False,
    again: bool = False,
    yes: bool = False,
    wait: bool = True,
    timeout: float = TIMEOUT,
    observer: Observer | None = None,
) -> Sent:
    """Submit the file of a run, or any other file, once and wait for its score.

    Parameters
    ----------
    workspace : Workspace
        The competition and its folders.
    run : str or Run, optional
        The run, or its name. If neither `run` nor `file` is given, it is chosen as in `find_run`.
    file : str or pathlib.Path, optional
        A submission file to send instead of a run's file.
    message : str, optional
        The description at the host. Default: the run's preset, folds, seed and out-of-fold accuracy.
    dry_run : bool
        Validate the file and search for earlier submissions, but send nothing.
    again : bool
        Send the file even if it was submitted before.
    yes : bool
        Send a run that is worse than the one with the best score without asking the observer's `confirm`.
    wait : bool
        Wait for the score.
    timeout : float
        Maximum time to wait for the score, in seconds.
    observer : Observer, optional
        Called with sentences about the run before anything is sent, and with the status at each poll.

    Returns
    -------
    Sent
        The submission's entry in the ledger, and whether it was submitted before.

    Raises
    ------
    UsageError
        If an argument is not valid, or it is not confirmed that a worse run is sent.
    DataError
        If the run is not finished, or the file or the ledger is not valid.
    CredentialsError, RefusedError
        If the host refuses the submission, or the daily limit has been reached.
    NetworkError
        If the host cannot be reached, the score is still pending, or it is unknown whether it was submitted.
    ScoringError
        If the host scored the submission as an error.
    WriteError
        If the ledger cannot be written, or another submission is running.

    Examples
    --------
    >>> sent = kd.submit(workspace)
    >>> sent.entry.status
    'COMPLETE'
    """
    if run is not None and file is not None:
        raise UsageError("A run and a file cannot be submitted together.", "Choose one of --run and --file.")
    if not timeout >= 0:
        raise UsageError(f"The timeout must be at least 0 seconds, got {timeout}.", "Choose another timeout.")
    observer = observer or printing()
    name, cv, path, is_worse = "", None, Path(file or ""), False
    if file is None:
        source = find_run(workspace, run)
        if run is None and not source.is_finished:
            raise source.unfinished()
        source.require_ensemble()
        name, cv, path = source.name, source.ensemble_metrics().accuracy, submission_file(workspace, source.name)
        message = message or f"{source.describe()}, CV {cv:.5f}"
        observer.notice(explain_choice(workspace, source) if run is None else f"The run is {name} (CV {cv:.5f}).")
        comparison, is_worse = compare_with_best_score(workspace, source)
        if comparison:
            observer.notice(comparison)

    def confirm() -> None:
        if is_worse and not yes and not observer.confirm(f"Submit {name} all the same?"):
            raise UsageError(
                f"{name} was not submitted: it is worse than the run with the best score so far, by more than "
                "chance would explain.",
                "Choose another run, or submit it all the same with --yes.",
            )

    host = open_host(workspace)
    sent = send(
        host,
        workspace,
        path,
        run=name,
        cv=cv,
        message=message or path.name,
        dry_run=dry_run,
        again=again,
        notice=observer.notice,
        confirm=confirm,
    )
    if dry_run or not wait or sent.entry.status == "COMPLETE":
        return sent
    return replace(sent, entry=wait_for_score(host, workspace, sent.entry, timeout, observer))


def score(workspace: Workspace) -> ScoreBoard:
    """Read the submissions, their scores and the rank on the leaderboard from the host.

    Raises
    ------
    CredentialsError, RefusedError, NetworkError
        If the host does not accept the credentials, refuses the request or cannot be reached.
    DataError
        If the ledger is damaged.

    Examples
    --------
    >>> len(kd.score(workspace).submissions)
    1
    """
    return read_scores(open_host(workspace), workspace)


def _run_folders(workspace: Workspace, recipe: Recipe) -> list[Path]:
    """Return the folders of the single runs of a recipe."""
    return [run_folder(workspace, each.name) for each in recipe.of_each_seed()]


def _load(workspace: Workspace) -> Data:
    """Load the data, and check that they are those that were downloaded."""
    data = load_data(workspace.data)
    check_manifest(workspace.data, data.hashes)
    return data


def _lock(path: Path) -> AbstractContextManager[None]:
    """Hold the lock of a run; create its folder if it does not exist."""
    make_folder(path)
    return lock(path / ".lock", f"The run {path.name} is in use by another process.")


def _jobs(plans: Sequence[RunPlan], tensorboard: bool = False) -> list[Job]:
    """Return the folds to train."""
    return [
        Job(task, plan.run.fold(task.fold).path)
        for plan in plans
        for task in plan.tasks(tensorboard)
        if task.fold in plan.missing
    ]


def _finish(workspace: Workspace, run: RunT, data: Data, train_seconds: float | None = None) -> RunT:
    """Write the submission of an ensembled run, and mark the run as finished."""
    sample = load_sample(workspace.data)
    write_submission(submission_file(workspace, run.name), sample, data.test.ids, run.test_softmax())
    return run.with_status("finished", train_seconds)


def _copy_submission(workspace: Workspace, run: Run, output: str | Path | None) -> None:
    """Write a copy of a run's submission to where the user wants it."""
    if output is not None:
        source, target = submission_file(workspace, run.name), Path(output)
        write_bytes(target / source.name if target.is_dir() else target, source.read_bytes())
