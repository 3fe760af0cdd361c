"""Training on a Dask cluster with a real scheduler and workers on this machine, and their failures."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import (
    SMALL,
    Listener,
    assert_same_run,
    competition_files,
    import_first,
    needs_proc,
    small_data,
    training_in_process,
    wait_until,
    worker_processes,
    write_files,
)

from kaggle_digits import Workspace, find_run, train
from kaggle_digits.errors import KaggleDigitsError, NetworkError, UsageError
from kaggle_digits.execution import Job
from kaggle_digits.execution.places import dask as cluster
from kaggle_digits.runs.directory import Run
from kaggle_digits.training.fold import FoldTask, Progress
from kaggle_digits.training.observer import Observer
from kaggle_digits.training.presets import find_preset

pytestmark = needs_proc

QUICK = {"preset": "lenet", "folds": 2, "settings": SMALL | {"epochs": "40"}}


class Cluster:
    """A Dask scheduler, and workers that can be added and killed; they train the run "it" of a workspace."""

    workspace: Workspace

    def __init__(self, log_file: Path) -> None:
        self._folder = log_file.parent
        self._log = open(log_file, "ab")  # noqa: SIM115
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{port}"
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", str(port))
        self.workers: list[subprocess.Popen[bytes]] = []
        wait_until(lambda: self._is_reachable(port), 60)

    def _is_reachable(self, port: int) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    def _start(self, *words: str, **environment: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *words, "--no-dashboard"],
            stdout=self._log,
            stderr=self._log,
            cwd=self._folder,  # the first folder in which Python looks for imports
            env=os.environ | environment,
        )

    def train(self, **observer: Callable[..., object]) -> Run:
        """Train on the workers; the arguments are methods of the observer."""
        return train(self.workspace, run="it", on=self.address, observer=Listener(**observer), **QUICK)

    def trained_folds(self) -> list[int]:
        run = find_run(self.workspace, "it")
        return [fold for fold in range(2) if run.fold(fold).is_finished]

    def add_worker(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start a worker, which connects to the scheduler after a few seconds."""
        words = ("worker", self.address, "--nthreads", "1", "--no-nanny")
        self.workers.append(self._start(*words, **environment))
        return self.workers[-1]

    def kill_workers(self) -> None:
        """Kill all workers and wait until they have ended."""
        for worker in self.workers:
            worker.kill()
            worker.wait()
        self.workers.clear()

    def busy_workers(self) -> list[subprocess.Popen[bytes]]:
        """Return the workers that are training a fold."""
        return [worker for worker in self.workers if worker_processes(worker.pid)]

    def close(self) -> None:
        self.kill_workers()
        self.scheduler.kill()
        self.scheduler.wait()
        self._log.close()


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    started = Cluster(tmp_path_factory.mktemp("dask") / "log")
    yield started
    started.close()


@pytest.fixture
def dask(scheduler: Cluster, workspace: Workspace) -> Iterator[Cluster]:
    """A cluster without workers."""
    scheduler.workspace = workspace
    yield scheduler
    scheduler.kill_workers()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a run that was trained without Dask and without interruption."""
    workspace = Workspace.at(tmp_path_factory.mktemp("reference"))
    write_files(workspace.data, competition_files())
    with training_in_process():
        train(workspace, run="it", **QUICK)
    return workspace


def test_train_on_dask_trains_like_processes(workspace: Workspace, small_runs: Workspace, dask: Cluster) -> None:
    import keras

    seen: list[Progress] = []
    finished: list[FoldTask] = []
    started: list[FoldTask] = []
    dask.add_worker()
    observer = Listener(progress=seen.append, finished=finished.append, started=started.append)
    options = QUICK | {"settings": SMALL, "run": "it"}
    run = train(workspace, on=dask.address, observer=observer, **options)
    assert_same_run(run, small_runs)
    assert {(p.seed, p.fold, p.epoch) for p in seen} >= {(0, 0, 1), (0, 1, 1)}
    assert [sorted(task.fold for task in tasks) for tasks in (started, finished)] == [[0, 1], [0, 1]]
    local_run = find_run(small_runs, "one")
    files, local_files = ({p.relative_to(r.path) for p in r.path.rglob("*")} for r in (run, local_run))
    assert files == local_files
    assert run.fold(0).history()[-1]["loss"] == local_run.fold(0).history()[-1]["loss"]
    for fold in range(2):
        models = [keras.models.load_model(r.fold(fold).model_file()) for r in (run, local_run)]
        for remote, local in zip(*(model.get_weights() for model in models), strict=True):
            np.testing.assert_array_equal(remote, local)
    # For a finished run, there is no connection to the scheduler; this address has none.
    assert train(workspace, on="tcp://127.0.0.1:1", **options) == run


def own_network() -> Any:
    """Return a network of the user."""
    import keras

    return keras.Sequential([keras.layers.Flatten(), keras.layers.Dropout(0.5), keras.layers.Dense(10)])


@pytest.mark.slow
def test_train_on_dask_trains_the_users_network_like_processes(workspace: Workspace, dask: Cluster) -> None:
    dask.add_worker()
    options = QUICK | {"settings": SMALL, "network": own_network}
    run = train(workspace, on=dask.address, run="it", **options)
    other = train(workspace, run="other", **options)
    assert run.test_softmax().tobytes() == other.test_softmax().tobytes()
    assert run.oof_softmax().tobytes() == other.oof_softmax().tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "retired"])
def test_train_on_dask_retries_the_fold_of_a_lost_worker(reference: Workspace, dask: Cluster, how: str) -> None:
    """If a worker is retired, Dask moves the data to another one, and the fold must not wait for it."""
    from distributed import Client

    worker = dask.add_worker()
    started: list[FoldTask] = []

    def lose_worker(progress: Progress) -> None:
        if len(dask.workers) > 1:
            return
        with Client(dask.address, set_as_default=False) as client:
            (address,) = client.nthreads()
            dask.add_worker()
            wait_until(lambda: len(client.nthreads()) == 2)
            if how == "retired":
                client.retire_workers([address])
            else:
                worker.kill()
                worker.wait()

    assert_same_run(dask.train(progress=lose_worker, started=started.append), reference, "it")
    assert len(started) == 3


FULL_DISK_AT_END = """
import sys, tempfile
def full(*arguments, **options):
    raise OSError(28, "No space left on device")
if "kaggle_digits.execution.worker" in str(sys.orig_argv):
    tempfile.mkdtemp = full
"""
FULL_DISK = """
import tempfile
original = tempfile.TemporaryFile
def full(*arguments, dir=None, **options):
    if dir is None:  # Dask passes its own folder
        raise OSError(28, "No space left on device")
    return original(*arguments, dir=dir, **options)
tempfile.TemporaryFile = full
"""


@pytest.mark.slow
@pytest.mark.parametrize("script", [FULL_DISK, FULL_DISK_AT_END], ids=["at the start", "at the end"])
def test_train_on_dask_names_a_worker_that_always_fails(
    dask: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(cluster, "RETRIES", 1)
    write_files(tmp_path / "broken", {"sitecustomize.py": script.encode()})
    dask.add_worker(PYTHONPATH=import_first(tmp_path / "broken"))
    with pytest.raises(KaggleDigitsError, match="No space left") as caught:
        dask.train()
    assert "Dask worker" in caught.value.problem


@pytest.mark.slow
def test_train_on_dask_ends_without_workers_and_can_be_continued(
    reference: Workspace, dask: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    dask.add_worker()

    def kill_all(task: FoldTask) -> None:
        monkeypatch.setattr(cluster, "WAIT_SECONDS", 2.0)
        dask.kill_workers()

    with pytest.raises(NetworkError, match="has had no worker for 2 s") as caught:
        dask.train(finished=kill_all)
    monkeypatch.undo()
    assert f"dask worker {dask.address}" in caught.value.remedy
    assert dask.trained_folds() == [0]
    dask.add_worker()
    finished: list[FoldTask] = []
    assert_same_run(dask.train(finished=finished.append), reference, "it")
    assert [task.fold for task in finished] == [1]


@pytest.mark.slow
def test_train_on_dask_ends_if_the_scheduler_is_lost(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 3)
    own = Cluster(tmp_path / "log")
    own.workspace = workspace
    try:
        worker = own.add_worker()
        with pytest.raises(NetworkError, match=r"^The connection to the Dask scheduler at .* was lost") as caught:
            own.train(progress=lambda progress: own.scheduler.kill())
        assert "finished folds are kept" in caught.value.remedy
        wait_until(lambda: not worker_processes(worker.pid))
    finally:
        own.close()


@pytest.mark.slow
def test_train_on_dask_uses_workers_that_join_later(workspace: Workspace, dask: Cluster) -> None:
    seen: set[int] = set()

    def join(event: object) -> None:
        seen.update(worker.pid for worker in dask.busy_workers())
        if len(dask.workers) < 2:
            dask.add_worker()

    options = QUICK | {"folds": 3, "settings": SMALL | {"epochs": "150"}}
    train(workspace, on=dask.address, observer=Listener(notice=join, progress=join), **options)
    assert len(seen) == 2


@pytest.mark.slow
def test_train_on_dask_excludes_a_worker_with_other_versions(
    dask: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path / "old/keras-3.0.dist-info", {"METADATA": b"Name: keras\nVersion: 3.0\n"})
    broken = "raise ModuleNotFoundError(\"No module named 'kaggle_digits'\")"
    write_files(tmp_path / "broken/kaggle_digits", {"__init__.py": broken.encode()})
    for kind in ("old", "broken"):
        dask.add_worker(PYTHONPATH=import_first(tmp_path / kind))
    refused: list[str] = []

    def collect(notice: str) -> None:
        if notice.endswith(". It is excluded from training."):
            refused.append(notice)
        if len(refused) == 2:
            monkeypatch.setattr(cluster, "WAIT_SECONDS", 0.0)

    with pytest.raises(UsageError, match=r"^The Dask worker tcp://\S+ .*, and there is no other worker\."):
        dask.train(notice=collect)
    monkeypatch.undo()
    assert any(f" has keras 3.0 (here {version('keras')}). " in notice for notice in refused)
    assert any(" cannot run kaggle-digits (" in notice for notice in refused)
    assert dask.trained_folds() == []
    bad = list(dask.workers)
    dask.add_worker()

    def check(progress: Progress) -> None:
        assert not any(worker_processes(worker.pid) for worker in bad)

    assert dask.train(progress=check).is_finished


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_train_on_dask_stops_folds_if_command_is_killed(workspace: Workspace, dask: Cluster, number: int) -> None:
    worker = dask.add_worker()
    words = ["--root", str(workspace.root), "train", "--preset", "lenet", "--folds", "2", "--set", "epochs=10000"]
    command = [sys.executable, "-m", "kaggle_digits", *words, "--on", dask.address]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: worker_processes(worker.pid), 60)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    wait_until(lambda: not worker_processes(worker.pid))
    assert worker.poll() is None
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert errors.endswith("\nInterrupted.\nRun the same command again to continue; finished work is kept.\n")


@pytest.mark.slow
def test_train_on_dask_trains_other_folds_if_one_dies(dask: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "RETRIES", 1)
    worker = dask.add_worker()

    def kill_fold_0(progress: Progress) -> None:
        if progress.fold == 0:
            for process in worker_processes(worker.pid):
                os.kill(process, signal.SIGKILL)

    notices: list[str] = []
    with pytest.raises(KaggleDigitsError, match=r"The worker of fold 0 of seed 0 died by signal 9\.") as caught:
        dask.train(progress=kill_fold_0, notice=notices.append)
    assert "fewer threads" in caught.value.remedy
    assert "The worker of fold 0 of seed 0 died by signal 9. The fold is retried." in notices
    assert dask.trained_folds() == [1]


@pytest.mark.slow
def test_train_on_dask_logs_the_traceback_of_an_internal_error(dask: Cluster, tmp_path: Path) -> None:
    dask.add_worker()
    task = FoldTask(find_preset("lenet").settings, 0, 0, np.zeros(0, np.uint8))
    job = Job(task, tmp_path / "fold-0")
    with pytest.raises(KaggleDigitsError, match=r"^Internal error in the worker of fold 0 of seed 0: \w+"):
        list(cluster.Cluster(dask.address).train([job], small_data(1), Observer()))
    assert "Traceback (most recent call last)" in job.log_file.read_text()
    assert not job.folder.exists()


def test_train_rejects_options_that_do_not_work_with_dask(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match=r"^--tensorboard cannot be used with --on tcp"):
        train(workspace, on="tcp://127.0.0.1:1", tensorboard=True, **QUICK)
    assert not workspace.runs.exists()


def test_train_says_how_to_install_dask(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaggle_digits.execution.places.dask.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'kaggle-digits\[dask\]'"):
        train(workspace, on="tcp://127.0.0.1:1", **QUICK)


@pytest.mark.parametrize("address", ["nowhere:1", "http://127.0.0.1:1"])
def test_train_on_dask_fails_if_there_is_no_scheduler(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    with pytest.raises(NetworkError, match=r"^There is no Dask scheduler at "):
        train(workspace, on=address, **QUICK)
