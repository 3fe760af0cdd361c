"""Training of folds in parallel processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any, cast

import kaggle_digits
from kaggle_digits.errors import KaggleDigitsError
from kaggle_digits.execution.machine import default_workers, describe_expected_time
from kaggle_digits.files import open_log
from kaggle_digits.training.fold import Digits, FoldTask, Progress
from kaggle_digits.training.models import KERAS_ENVIRONMENT
from kaggle_digits.training.observer import Observer

MAX_ATTEMPTS = 2
"""How many times a fold is started if its worker dies."""
LESS_MEMORY = (
    "train fewer folds at a time (--workers, or fewer threads a Dask worker), and run the same command again."
)
"""The remedy if workers run out of memory."""
GPU_TIMEOUT = 120.0
"""Maximum time in seconds to ask TensorFlow for the GPUs."""
MAX_NAMED = 10
"""The maximum number of failed folds that an error names."""
_WORKER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("kaggle_digits", sys.argv[1])
sys.modules["kaggle_digits"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from kaggle_digits.execution.worker import main
main(int(sys.argv[2]))
"""
"""The worker's script. It loads this package from its file, not through `sys.path`, so that a file in the current
folder or next to the package (a json.py, or another kaggle_digits) cannot be imported by mistake."""


@dataclass(frozen=True, eq=False)
class Job:
    """A fold to train, and the files to write."""

    task: FoldTask
    folder: Path
    log_file: Path  # to which the output of the worker is appended


def find_gpus() -> list[str]:
    """Return the GPUs that TensorFlow can use, by their names for CUDA_VISIBLE_DEVICES."""
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        return list_gpus(GPU_TIMEOUT)
    except (subprocess.SubprocessError, ValueError):  # the driver fails or hangs: train on the CPU
        return []


def list_gpus(timeout: float) -> list[str]:
    """Return what `find_gpus` does, but raise the errors of the process that asks TensorFlow.

    `subprocess.SubprocessError` if TensorFlow cannot be imported, or does not answer in time; `ValueError` if its
    answer is not a number.
    """
    # Only TensorFlow knows which GPUs it can use. It is called in another process, because it would reserve memory
    # on each GPU in this one.
    script = "import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')))"
    command = [sys.executable, "-P", "-c", script]
    asked = subprocess.run(command, capture_output=True, env=_environment(), check=True, timeout=timeout)  # noqa: S603
    count = int(asked.stdout.splitlines()[-1])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(count)]
    return names[:count]


def train_in_processes(
    jobs: Sequence[Job],
    digits: Digits,
    workers: int | None,
    observer: Observer,
    gpus: Sequence[str] | None = None,
    may_start: Callable[[], bool] = lambda: True,
) -> None:
    """Train each fold in a separate process, which also writes the fold.

    If a worker dies, its fold is retried once. If a fold fails, the other folds are still trained; then the first
    error is raised, which names the other failed folds. A process trains only one fold, because TensorFlow does
    not free all memory after a training.

    `workers` is the number of parallel processes, None for `default_workers`. Each process gets one of the `gpus`,
    by default those that `find_gpus` finds. `may_start` is called before each fold; when it returns false, no
    further folds are started.
    """
    gpus = find_gpus() if gpus is None else gpus
    workers = workers or default_workers(len(jobs), len(gpus))
    if not gpus and (sentence := describe_expected_time([job.task for job in jobs], workers)):
        observer.notice(sentence)
    free = deque((gpus or [""])[slot % max(1, len(gpus))] for slot in range(workers))
    waiting, attempts = deque(jobs), Counter[Job]()
    busy: dict[Connection, tuple[WorkerProcess, Job]] = {}
    failures: dict[Job, Exception] = {}
    try:
        while waiting or busy:
            while waiting and free:
                if not may_start():
                    waiting.clear()
                    break
                job = waiting.popleft()
                attempts[job] += 1
                with open_log(job.log_file) as log:
                    worker = WorkerProcess.start(job.task, digits, job.folder, log, free.popleft())
                busy[worker.connection] = worker, job
                observer.started(job.task)
            # `wait` would wait forever for an empty list, if the last fold may not start.
            for connection in cast(list[Connection], wait(list(busy)) if busy else []):
                worker, job = busy[connection]
                message = worker.receive()
                if isinstance(message, Progress):
                    observer.progress(message)
                    continue
                if isinstance(message, WorkerDiedError) and attempts[job] < MAX_ATTEMPTS:
                    observer.notice(f"{message.problem} The fold is retried.")
                    waiting.append(job)
                elif message is None:
                    observer.finished(job.task)
                else:
                    failures[job] = message
                del busy[connection]
                worker.stop()
                free.append(worker.gpu)
    finally:
        for worker, _ in busy.values():
            worker.stop()
    raise_failures(failures)


def raise_failures(failures: dict[Job, Exception]) -> None:
    """Raise the first failure, if there is any, with the names of the other failed folds added."""
    if not failures:
        return
    (_, error), *others = failures.items()
    if not others:
        raise error
    tasks = sorted((job.task for job, _ in others), key=lambda task: (task.seed, task.fold))
    titles = [task.title for task in tasks[:MAX_NAMED]]
    if len(tasks) > MAX_NAMED:
        titles.append(f"and {len(tasks) - MAX_NAMED} more")
    more = f"Also failed: {', '.join(titles)}."
    if isinstance(error, KaggleDigitsError):
        raise type(error)(f"{error.problem} {more}", error.remedy)
    raise RuntimeError(f"{error}. {more}")


class WorkerDiedError(KaggleDigitsError):
    """The process that trained a fold died or ran out of memory."""


@dataclass(frozen=True)
class WorkerProcess:
    """A process that trains one fold, and the connection to it."""

    task: FoldTask
    process: subprocess.Popen[bytes]
    connection: Connection
    gpu: str  # the value of CUDA_VISIBLE_DEVICES in the process; empty to inherit that of the parent

    @classmethod
    def start(
        cls, task: FoldTask, digits: Digits, folder: Path | None, log: IO[bytes], gpu: str = ""
    ) -> WorkerProcess:
        """Start a process that trains a fold, writes it to `folder` if given, and sends its output to a log.

        Not with `multiprocessing.Process`, which imports the main script again: a script without
        ``if __name__ == "__main__"`` would start the training again.
        """
        parent_end, worker_end = multiprocessing.Pipe()
        with worker_end:
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-c", _WORKER, kaggle_digits.__file__, str(worker_end.fileno())],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[worker_end.fileno()],
                env=_environment() | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}),
            )
        with suppress(OSError):  # if the process has already died, `receive` reports it
            parent_end.send((task, digits, folder))
        return cls(task, process, parent_end, gpu)

    def receive(self) -> Any:
        """Wait for the next message of `kaggle_digits.execution.worker.main` and return it.

        If the process has died, return a `WorkerDiedError`.
        """
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            return self._died_error()

    def stop(self) -> None:
        """Kill the process and wait until it has ended."""
        self.process.kill()
        self.process.communicate()
        self.connection.close()

    def _died_error(self) -> WorkerDiedError:
        code = self.process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        remedy = "See workers.log of the run, then run the same command again; finished folds are kept."
        if code == -9:
            remedy = f"If memory ran out, {LESS_MEMORY}"
        return WorkerDiedError(f"The worker of {self.task.title} died by {how}.", remedy)


def _environment() -> dict[str, str]:
    """Return the environment of a worker: one thread per library, GPU memory on demand, and few log messages."""
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    tensorflow = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    environment = {
        **os.environ,
        **dict.fromkeys((*threads, *tensorflow), "1"),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # By default, the first of several workers reserves the complete memory of a GPU.
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        **KERAS_ENVIRONMENT,
    }
    # Dask's nanny processes set this to save memory, but it makes a training step 10 % slower.
    environment.pop("MALLOC_TRIM_THRESHOLD_", None)
    return environment
