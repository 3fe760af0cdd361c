"""Training on a Dask cluster with a real scheduler and workers on this machine, and their failures."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from conftest import (
    SMALL,
    Listener,
    assert_same_run,
    competition_files,
    import_first,
    needs_proc,
    once_for_all_processes,
    small_data,
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
    """A Dask scheduler, and workers that can be added and killed."""

    def __init__(self, log_file: Path) -> None:
        self._folder = log_file.parent
        self._log = open(log_file, "ab")  # noqa: SIM115
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{port}"
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", str(port))
        self.workers: list[subprocess.Popen[bytes]] = []
        deadline = time.monotonic() + 30
        while True:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def _start(self, *words: str, **environment: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *words, "--no-dashboard"],
            stdout=self._log,
            stderr=self._log,
            cwd=self._folder,  # the first folder in which Python looks for imports
            env=os.environ | environment,
        )

    def add_worker(self, threads: int = 1, **environment: str) -> subprocess.Popen[bytes]:
        """Start a worker, which connects to the scheduler after a few seconds."""
        words = ("worker", self.address, "--nthreads", str(threads), "--no-nanny")
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
def dask(scheduler: Cluster) -> Iterator[Cluster]:
    """A cluster without workers."""
    yield scheduler
    scheduler.kill_workers()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a run that was trained without Dask and without interruption."""
    with once_for_all_processes(tmp_path_factory, "cluster") as folder:
        workspace = Workspace.at(folder)
        if not folder.exists():
            write_files(workspace.data, competition_files())
            train(workspace, run="it", **QUICK)
    return workspace


def test_train_on_dask_gives_the_same_run_as_processes(
    workspace: Workspace, reference: Workspace, dask: Cluster
) -> None:
    seen: list[Progress] = []
    finished: list[FoldTask] = []
    started: list[int] = []
    dask.add_worker()
    observer = Listener(
        progress=seen.append, finished=finished.append, started=lambda task: started.append(task.fold)
    )
    run = train(workspace, run="it", on=dask.address, observer=observer, **QUICK)
    assert_same_run(run, reference, "it")
    assert {(p.seed, p.fold, p.epoch) for p in seen} >= {(0, fold, epoch) for fold in (0, 1) for epoch in (1, 40)}
    assert sorted(task.fold for task in finished) == sorted(started) == [0, 1]
    local_run = find_run(reference, "it")
    assert {p.relative_to(run.path) for p in run.path.rglob("*")} == {
        p.relative_to(local_run.path) for p in local_run.path.rglob("*")
    }
    assert run.history(0)[-1]["loss"] == local_run.history(0)[-1]["loss"]
    for fold in range(2):
        for remote, local in zip(weights(run, fold), weights(local_run, fold), strict=True):
            np.testing.assert_array_equal(remote, local)
    # For a finished run, there is no connection to the scheduler; this address has none.
    assert train(workspace, run="it", on="tcp://127.0.0.1:1", **QUICK) == run


@pytest.mark.slow
def test_train_on_dask_retries_the_fold_of_a_killed_worker(
    workspace: Workspace, reference: Workspace, dask: Cluster
) -> None:
    for _ in range(2):
        dask.add_worker()
    started: list[int] = []

    def kill_one(progress: Progress) -> None:
        if len(dask.workers) == 2:
            worker = dask.busy_workers()[0]
            dask.workers.remove(worker)
            worker.kill()
            worker.wait()

    run = train(
        workspace,
        run="it",
        on=dask.address,
        observer=Listener(progress=kill_one, started=lambda task: started.append(task.fold)),
        **QUICK,
    )
    assert_same_run(run, reference, "it")
    assert len(started) == 3


@pytest.mark.slow
def test_train_on_dask_retries_the_fold_of_a_retired_worker(
    workspace: Workspace, reference: Workspace, dask: Cluster
) -> None:
    """Dask then moves the data to another worker, and the fold must not wait for the retired worker."""
    from distributed import Client

    dask.add_worker()
    retired: list[str] = []

    def retire(progress: Progress) -> None:
        if retired:
            return
        with Client(dask.address, set_as_default=False) as client:
            retired.extend(client.run(os.getpid))
            dask.add_worker()
            assert wait_until(lambda: len(client.nthreads()) == 2)
            client.retire_workers(retired)

    run = train(workspace, run="it", on=dask.address, observer=Listener(progress=retire), **QUICK)
    assert_same_run(run, reference, "it")


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
    workspace: Workspace, dask: Cluster, tmp_path: Path, script: str
) -> None:
    write_files(tmp_path / "broken", {"sitecustomize.py": script.encode()})
    dask.add_worker(PYTHONPATH=import_first(tmp_path / "broken"))
    with pytest.raises(KaggleDigitsError, match="No space left") as caught:
        train(workspace, on=dask.address, **QUICK)
    assert "Dask worker" in caught.value.problem


@pytest.mark.slow
def test_train_on_dask_ends_without_workers_and_can_be_continued(
    workspace: Workspace, reference: Workspace, dask: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    dask.add_worker()

    def kill_all(task: FoldTask) -> None:
        monkeypatch.setattr(cluster, "WAIT_SECONDS", 2.0)
        dask.kill_workers()

    with pytest.raises(NetworkError, match="has had no worker for 2 s") as caught:
        train(workspace, run="it", on=dask.address, observer=Listener(finished=kill_all), **QUICK)
    monkeypatch.undo()
    assert f"dask worker {dask.address}" in caught.value.remedy
    run = find_run(workspace, "it")
    assert [run.is_trained(fold) for fold in range(2)] == [True, False]
    dask.add_worker()
    finished: list[int] = []
    train(
        workspace,
        run="it",
        on=dask.address,
        observer=Listener(finished=lambda task: finished.append(task.fold)),
        **QUICK,
    )
    assert finished == [1]
    assert_same_run(run, reference, "it")


@pytest.mark.slow
def test_train_on_dask_ends_if_the_scheduler_is_lost(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 3)
    own = Cluster(tmp_path / "log")
    try:
        worker = own.add_worker()
        with pytest.raises(
            NetworkError, match=r"^The connection to the Dask scheduler at \S+ was lost\."
        ) as caught:
            train(
                workspace,
                on=own.address,
                observer=Listener(progress=lambda progress: own.scheduler.kill()),
                **QUICK,
            )
        assert "finished folds are kept" in caught.value.remedy
        assert wait_until(lambda: not worker_processes(worker.pid))
    finally:
        own.close()
    with pytest.raises(NetworkError, match=r"^There is no Dask scheduler at tcp://127\.0\.0\.1:"):
        train(workspace, on=own.address, **QUICK)


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
    workspace: Workspace, dask: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        train(workspace, run="it", on=dask.address, observer=Listener(notice=collect), **QUICK)
    monkeypatch.undo()
    assert any(f" has keras 3.0 (here {version('keras')}). " in notice for notice in refused)
    assert any(" cannot run kaggle-digits (" in notice for notice in refused)
    assert not find_run(workspace, "it").is_trained(0)
    bad = list(dask.workers)
    dask.add_worker()

    def check(progress: Progress) -> None:
        assert not any(worker_processes(worker.pid) for worker in bad)

    run = train(workspace, run="it", on=dask.address, observer=Listener(progress=check), **QUICK)
    assert run.info.status == "finished"


@pytest.mark.slow
def test_train_on_dask_stops_folds_if_the_parent_dies(workspace: Workspace, dask: Cluster) -> None:
    worker = dask.add_worker()
    script = (
        "import kaggle_digits as kd\n"
        "class Printer(kd.Observer):\n    def progress(self, progress): print('progress', flush=True)\n"
        f"kd.train(kd.Workspace.at({str(workspace.root)!r}), preset='lenet', folds=2, on={dask.address!r},"
        " settings={'epochs': '10000', 'batch_size': '20'}, observer=Printer())\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"progress\n"
    assert worker_processes(worker.pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until(lambda: not worker_processes(worker.pid))
    assert worker.poll() is None


@pytest.mark.slow
def test_train_on_dask_stops_folds_if_interrupted(workspace: Workspace, dask: Cluster) -> None:
    worker = dask.add_worker()
    command = ["--root", workspace.root, "train", "--preset", "lenet", "--folds", "2", "--set", "epochs=10000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "kaggle_digits", *map(str, command), "--on", dask.address],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert wait_until(lambda: bool(worker_processes(worker.pid)))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.splitlines()[-2:] == [
        "Interrupted.",
        "Run the same command again to continue; finished work is kept.",
    ]
    assert wait_until(lambda: not worker_processes(worker.pid))


@pytest.mark.slow
def test_train_on_dask_trains_other_folds_if_one_always_dies(
    workspace: Workspace, dask: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "RETRIES", 1)
    worker = dask.add_worker()

    def kill_fold_0(progress: Progress) -> None:
        if progress.fold == 0:
            for process in worker_processes(worker.pid):
                os.kill(process, signal.SIGKILL)

    notices: list[str] = []
    with pytest.raises(KaggleDigitsError, match=r"The worker of fold 0 of seed 0 died by signal 9\.") as caught:
        train(
            workspace,
            run="it",
            on=dask.address,
            observer=Listener(progress=kill_fold_0, notice=notices.append),
            **QUICK,
        )
    assert "fewer threads" in caught.value.remedy
    assert "The worker of fold 0 of seed 0 died by signal 9. The fold is retried." in notices
    run = find_run(workspace, "it")
    assert [run.is_trained(fold) for fold in range(2)] == [False, True]


@pytest.mark.slow
def test_train_on_dask_logs_the_traceback_of_an_internal_error(dask: Cluster, tmp_path: Path) -> None:
    dask.add_worker()
    task = FoldTask("lenet", find_preset("lenet").settings, 0, 0, np.zeros(0, np.uint8))
    job = Job(task, tmp_path / "fold-0")
    with pytest.raises(KaggleDigitsError, match=r"^Internal error in the worker of fold 0 of seed 0: \w+"):
        list(cluster.Cluster(dask.address).train([job], small_data(1), Observer()))
    assert "Traceback (most recent call last)" in job.log_file.read_text()
    assert not job.folder.exists()


@pytest.mark.parametrize(
    ("change", "flag"), [({"workers": 2}, "--workers"), ({"tensorboard": True}, "--tensorboard")]
)
def test_train_rejects_options_that_do_not_work_with_dask(workspace: Workspace, change: dict, flag: str) -> None:
    with pytest.raises(UsageError, match=f"^{flag} cannot be used with --on tcp"):
        train(workspace, on="tcp://127.0.0.1:1", **QUICK | change)
    assert not workspace.runs.exists()


def test_train_says_how_to_install_dask(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaggle_digits.execution.places.dask.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'kaggle-digits\[dask\]'"):
        train(workspace, on="tcp://127.0.0.1:1", **QUICK)


@pytest.mark.parametrize("address", ["nowhere:1", "http://127.0.0.1:1", "127.0.0.1:1"])
def test_train_on_dask_fails_if_there_is_no_scheduler(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    with pytest.raises(NetworkError, match=r"^There is no Dask scheduler at "):
        train(workspace, on=address, **QUICK)


def weights(run: Run, fold: int) -> list[np.ndarray]:
    import keras

    return list(keras.models.load_model(run.model_file(fold)).get_weights())


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False
