"""Training of folds in parallel processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import cycle, islice
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any

import kaggle_digits
from kaggle_digits.data.csv import Data
from kaggle_digits.errors import KaggleDigitsError, UsageError
from kaggle_digits.execution import Job, Options, Place, raise_failures
from kaggle_digits.execution.machine import default_workers
from kaggle_digits.files import open_log
from kaggle_digits.training.fold import FoldTask, Progress
from kaggle_digits.training.models import KERAS_ENVIRONMENT
from kaggle_digits.training.observer import Observer
from kaggle_digits.workspace import Workspace

NAMES = ""
MAX_ATTEMPTS = 2
"""How many times a fold is started if its worker dies."""
GPU_TIMEOUT = 300.0
"""Maximum time in seconds to ask TensorFlow for the GPUs. A machine that has just started may need minutes."""
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
    """Processes on this machine, each of which trains folds, one after the other, and writes them."""

    workers: int | None = None  # how many run in parallel; None for `default_workers`
    gpus: Sequence[str] | None = None  # each process gets one of them; None for those that `find_gpus` finds
    may_start: Callable[[], bool] = lambda: True  # called before each fold; if false, no more folds are started

    def train(self, jobs: Sequence[Job], data: Data, observer: Observer) -> Generator[Job, None, None]:
        """Train folds, and yield each one that is finished.

        If a worker dies, its fold is retried once, in a new process. If a fold fails, the other folds are still
        trained; then the first error is raised.
        """
        gpus = find_gpus() if self.gpus is None else self.gpus
        workers = self.workers or default_workers(len(jobs), len(gpus))
        free = deque(WorkerProcess(data, gpu) for gpu in islice(cycle(gpus or [""]), workers))
        busy: dict[WorkerProcess, Job] = {}
        waiting, attempts = deque(jobs), Counter[Job]()
        failures: dict[Job, KaggleDigitsError] = {}
        try:
            while True:
                while waiting and free and self.may_start():
                    worker, job = free.popleft(), waiting.popleft()
                    busy[worker] = job
                    attempts[job] += 1
                    with open_log(job.log_file) as log:
                        worker.train(job.task, job.folder, log)
                    observer.started(job.task)
                if not busy:
                    break
                ready = wait([worker.connection for worker in busy])
                for worker in [worker for worker in busy if worker.connection in ready]:
                    message = worker.receive()
                    if isinstance(message, Progress):
                        observer.progress(message)
                        continue
                    if isinstance(message, str):
                        observer.preparing(busy[worker].task, message)
                        continue
                    job = busy.pop(worker)
                    # To the front, so that a running process gets the next fold, and no other one is started.
                    free.appendleft(worker)
                    if isinstance(message, WorkerDiedError):
                        worker.stop()
                    if message is None:
                        yield job
                    elif isinstance(message, WorkerDiedError) and attempts[job] < MAX_ATTEMPTS:
                        observer.notice(f"{message.problem} The fold is retried.")
                        waiting.append(job)
                    else:
                        failures[job] = message
        finally:
            for worker in [*busy, *free]:
                worker.stop()
        raise_failures(failures)


def find_gpus() -> list[str]:
    """Return the GPUs that TensorFlow can use, by their names for CUDA_VISIBLE_DEVICES."""
    if shutil.which("nvidia-smi") is None:
        return []
    # Only TensorFlow knows which GPUs it can use. It is called in another process, because it would reserve memory
    # on each GPU in this one.
    script = "import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')))"
    command = [sys.executable, "-P", "-c", script]
    try:
        asked = subprocess.run(command, capture_output=True, env=_environment(), check=True, timeout=GPU_TIMEOUT)  # noqa: S603
        count = int(asked.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, ValueError):  # the driver fails or hangs: train on the CPU
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (visible.split(",") if visible else [str(number) for number in range(count)])[:count]


class WorkerProcess:
    """A process that trains folds, one after the other, and the connection to it.

    Parameters
    ----------
    data : Data
        The rows of all folds.
    gpu : str
        The value of CUDA_VISIBLE_DEVICES in the process; empty to inherit that of the parent.
    """

    connection: Connection
    process: subprocess.Popen[bytes] | None = None  # started with the first fold, and again after `stop`

    def __init__(self, data: Data, gpu: str = "") -> None:
        self._data = data
        self.gpu = gpu

    def train(self, task: FoldTask, folder: Path | None, log: IO[bytes]) -> None:
        """Begin to train a fold, which is written to `folder` if given; `receive` returns what becomes of it."""
        self._task = task
        with suppress(OSError):  # if the process has died, `receive` reports it
            if self.process is None:
                self._start(log)
                self.connection.send(self._data)
            self.connection.send((task, folder))

    def _start(self, log: IO[bytes]) -> None:
        """Start the process, with its output in a log."""
        # Not with `multiprocessing.Process`, which imports the main script again: a script without
        # `if __name__ == "__main__"` would start the training again.
        self.connection, worker_end = multiprocessing.Pipe()
        with worker_end:
            self.process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-c", _WORKER, kaggle_digits.__file__, str(worker_end.fileno())],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[worker_end.fileno()],
                env=_environment() | ({"CUDA_VISIBLE_DEVICES": self.gpu} if self.gpu else {}),
            )

    def receive(self) -> Any:
        """Wait for the next message of `worker.main` and return it; a `WorkerDiedError` if the process died."""
        with suppress(EOFError, OSError):
            return self.connection.recv()
        code = self.process.wait() if self.process else 0
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        remedy = "See workers.log of the run, then run the same command again; finished folds are kept."
        if code == -9:
            remedy = f"If memory ran out, {LESS_MEMORY}"
        return WorkerDiedError(f"The worker of {self._task.title} died by {how}.", remedy)

    def stop(self) -> None:
        """Kill the process, if it was started, and wait until it has ended."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.connection.close()
            self.process = None


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
