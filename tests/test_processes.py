"""The processes that train folds: their GPUs, and what happens if folds fail."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Listener, fake_workers, import_first, needs_proc, small_data, wait_until, write_files

from kaggle_digits.errors import DataError, UsageError, WriteError
from kaggle_digits.execution import Job, machine
from kaggle_digits.execution.places import processes
from kaggle_digits.training.fold import FoldTask
from kaggle_digits.training.observer import Observer
from kaggle_digits.training.presets import find_preset

LENET = find_preset("lenet").settings


def train_folds(folder: Path, folds: int, workers: int | None = 1) -> Iterator[Job]:
    """Train folds in processes, as `train` does."""
    split = np.full(1, 255, np.uint8)
    jobs = [Job(FoldTask(LENET, 0, fold, split), folder / str(fold)) for fold in range(folds)]
    return processes.Processes(workers).train(jobs, small_data(1), Observer())


def test_processes_train_names_log_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "workers.log").mkdir()
    with pytest.raises(WriteError, match=r"workers\.log: Is a directory"):
        list(train_folds(tmp_path, 1))


def test_processes_train_names_all_failed_folds(tmp_path: Path) -> None:
    errors = {0: DataError("Bad.", "Fix it."), 2: WriteError("Full.", "Free some."), 3: UsageError("No.", "Do.")}
    message = r"^Bad\. Also failed: fold 2 of seed 0, fold 3 of seed 0\. Fix it\.$"
    finished: list[int] = []
    with fake_workers(lambda task, *_: errors.get(task.fold)), pytest.raises(DataError, match=message):
        finished.extend(job.task.fold for job in train_folds(tmp_path, 4))
    assert finished == [1]


def test_processes_train_notifies_of_the_steps_before_the_first_fold(tmp_path: Path) -> None:
    seen: list[tuple[int, str]] = []
    settings = LENET.model_copy(update={"epochs": 1, "batch_size": 20})
    split = (np.arange(40) % 2).astype(np.uint8)
    jobs = [Job(FoldTask(settings, 0, fold, split), tmp_path / f"fold-{fold}") for fold in range(2)]
    observer = Listener(
        started=lambda task: seen.append((task.fold, "started")),
        preparing=lambda task, step: seen.append((task.fold, step)),
    )
    assert list(processes.Processes(1).train(jobs, small_data(40), observer)) == jobs
    assert seen == [(0, "started"), (0, "importing TensorFlow"), (0, "compiling"), (1, "started")]


FAKE_TENSORFLOW = """
import os
class config:
    def list_physical_devices(kind):
        return list(range(int(os.environ["FAKE_GPUS"]))) if kind == "GPU" else []
"""


@pytest.mark.parametrize(
    ("usable", "visible", "found"),
    [(2, None, ["0", "1"]), (1, "GPU-8932f937,GPU-46309b10", ["GPU-8932f937"]), (0, "", [])],
)
def test_find_gpus_asks_tensorflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usable: int, visible: str | None, found: list[str]
) -> None:
    write_files(tmp_path / "bin", {"nvidia-smi": b"#!/bin/sh\n"})
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    write_files(tmp_path / "fake", {"tensorflow.py": FAKE_TENSORFLOW.encode()})
    monkeypatch.setenv("PYTHONPATH", import_first(tmp_path / "fake"))
    monkeypatch.setenv("FAKE_GPUS", str(usable))
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("PATH", os.defpath)
    assert processes.find_gpus() == []  # there is no nvidia-smi, so TensorFlow is not imported
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert processes.find_gpus() == found


def test_processes_train_gives_each_worker_its_own_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy: dict[int, str] = {}
    used: set[str] = set()

    def start(task: FoldTask, folder: Path, gpu: str) -> None:
        assert gpu not in busy.values()
        busy[task.fold] = gpu
        used.add(gpu)

    monkeypatch.setattr(processes, "find_gpus", lambda: ["3", "5"])
    with fake_workers(start):
        for job in train_folds(tmp_path, 5, workers=None):
            del busy[job.task.fold]
    assert (used, busy) == ({"3", "5"}, {})
    assert [machine.default_workers(folds, gpus=2) for folds in (5, 1)] == [2, 1]


@needs_proc
def test_worker_sees_only_its_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    task = FoldTask(LENET, 0, 0, np.zeros(1, np.uint8))
    for gpu, visible in (("5", "5"), ("", "3,5")):
        worker = processes.WorkerProcess(small_data(1), gpu)
        with open(tmp_path / "log", "wb") as log:
            worker.train(task, tmp_path, log)
        assert worker.process
        environment = Path(f"/proc/{worker.process.pid}/environ")
        wait_until(environment.read_bytes)  # empty for a moment after the start
        assert f"CUDA_VISIBLE_DEVICES={visible}".encode() in environment.read_bytes().split(b"\0")
        worker.stop()
