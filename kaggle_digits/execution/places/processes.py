"""Training of folds in parallel processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any, cast

import kaggle_digits
from kaggle_digits.data.csv import Data
from kaggle_digits.errors import KaggleDigitsError, UsageError
from kaggle_digits.execution import Job, Options, Place, raise_failures
from kaggle_digits.execution.machine import about, default_workers
from kaggle_digits.files import open_log
from kaggle_digits.training.fold import FoldTask, Progress
from kaggle_digits.training.models import KERAS_ENVIRONMENT
from kaggle_digits.training.observer import Observer
from kaggle_digits.training.time_left import TimeLeft
from kaggle_digits.workspace import Workspace

NAMES = ""
MAX_ATTEMPTS = 2
"""How many times a fold is started if its worker dies."""
WORTH_A_SENTENCE = 60.0
"""Seconds of training from which on its length is announced."""
GPU_TIMEOUT = 120.0
"""Maximum time in seconds to ask TensorFlow for the GPUs."""
LESS_MEMORY = (
    "train fewer folds at a time (--workers, or fewer threads a Dask worker), and run the same command again."
)
"""The remedy if workers run out of memory."""
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


def open_place(on: str | None, workspace: Workspace, options: Options) -> Processes | None:
    """Return this machine if no other place is named."""
    if on is not None:
        return None
    options.check(on, ("workers", "tensorboard"))
    if options.workers is not None and options.workers < 1:
        raise UsageError(
            f"The number of workers must be at least 1, got {options.workers}.",
            "Choose another number of workers.",
        )
    if options.tensorboard and find_spec("tensorboard") is None:
        raise UsageError(
            "TensorBoard is not installed.", "Install it with: pip install 'kaggle-digits[tensorboard]'."
        )
    return Processes(options.workers)


class WorkerDiedError(KaggleDigitsError):
    """The process that trained a fold died or ran out of memory."""


@dataclass
class Processes(Place):
    """Processes on this machine, each of which trains one fold and writes it.

    A process trains only one fold, because TensorFlow does not free all memory after a training.
    """

    workers: int | None = None  # how many run in parallel; None for `default_workers`
    gpus: Sequence[str] | None = None  # each process gets one of them; None for those that `find_gpus` finds
    may_start: Callable[[], bool] = lambda: True  # called before each fold; if false, no more folds are started

    def train(self, jobs: Sequence[Job], data: Data, observer: Observer) -> Generator[Job, None, None]:
        """Train folds, and yield each one that is finished.

        If a worker dies, its fold is retried once. If a fold fails, the other folds are still trained; then the
        first error is raised.
        """
        gpus = find_gpus() if self.gpus is None else self.gpus
        workers = self.workers or default_workers(len(jobs), len(gpus))
        time_left, is_announced = TimeLeft((job.task.seed, job.task.fold) for job in jobs), False
        free = deque((gpus or [""])[slot % max(1, len(gpus))] for slot in range(workers))
        waiting, attempts = deque(jobs), Counter[Job]()
        busy: dict[Connection, tuple[WorkerProcess, Job]] = {}
        failures: dict[Job, KaggleDigitsError] = {}
        try:
            while True:
                while waiting and free and self.may_start():
                    job = waiting.popleft()
                    attempts[job] += 1
                    with open_log(job.log_file) as log:
                        worker = WorkerProcess.start(job.task, data, job.folder, log, free.popleft())
                    busy[worker.connection] = worker, job
                    observer.started(job.task)
                if not busy:
                    break
                for connection in cast(list[Connection], wait(list(busy))):
                    worker, job = busy[connection]
                    message = worker.receive()
                    if isinstance(message, Progress):
                        observer.progress(message)
                        time_left.update(message, time.monotonic())
                        seconds = time_left.seconds(time.monotonic())
                        if seconds is not None and not is_announced:
                            is_announced = True
                            if seconds >= WORTH_A_SENTENCE:
                                observer.notice(f"The training takes about {about(seconds)} on this machine.")
                        continue
                    del busy[connection]
                    worker.stop()
                    free.append(worker.gpu)
                    if message is None:
                        yield job
                    elif isinstance(message, WorkerDiedError) and attempts[job] < MAX_ATTEMPTS:
                        observer.notice(f"{message.problem} The fold is retried.")
                        waiting.append(job)
                    else:
                        failures[job] = message
        finally:
            for worker, _ in busy.values():
                worker.stop()
        raise_failures(failures)


def find_gpus(timeout: float = GPU_TIMEOUT) -> list[str]:
    """Return the GPUs that TensorFlow can use, by their names for CUDA_VISIBLE_DEVICES."""
    if shutil.which("nvidia-smi") is None:
        return []
    # Only TensorFlow knows which GPUs it can use. It is called in another process, because it would reserve memory
    # on each GPU in this one.
    script = "import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')))"
    command = [sys.executable, "-P", "-c", script]
    try:
        asked = subprocess.run(command, capture_output=True, env=_environment(), check=True, timeout=timeout)  # noqa: S603
        count = int(asked.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, ValueError):  # the driver fails or hangs: train on the CPU
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (visible.split(",") if visible else [str(number) for number in range(count)])[:count]


@dataclass(frozen=True)
class WorkerProcess:
    """A process that trains one fold, and the connection to it."""

    task: FoldTask
    process: subprocess.Popen[bytes]
    connection: Connection
    gpu: str  # the value of CUDA_VISIBLE_DEVICES in the process; empty to inherit that of the parent

    @classmethod
    def start(
        cls, task: FoldTask, data: Data, folder: Path | None, log: IO[bytes], gpu: str = ""
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
            parent_end.send((task, data, folder))
        return cls(task, process, parent_end, gpu)

    def receive(self) -> Any:
        """Wait for the next message of `worker.main` and return it; a `WorkerDiedError` if the process died."""
        with suppress(EOFError, OSError):
            return self.connection.recv()
        code = self.process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        remedy = "See workers.log of the run, then run the same command again; finished folds are kept."
        if code == -9:
            remedy = f"If memory ran out, {LESS_MEMORY}"
        return WorkerDiedError(f"The worker of {self.task.title} died by {how}.", remedy)

    def stop(self) -> None:
        """Kill the process and wait until it has ended."""
        self.process.kill()
        self.process.communicate()
        self.connection.close()


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
