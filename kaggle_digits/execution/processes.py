"""Where folds run: processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any, cast

import kaggle_digits
from kaggle_digits.errors import KaggleDigitsError
from kaggle_digits.files import write_errors
from kaggle_digits.training.fold import Digits, FoldTask, Progress
from kaggle_digits.training.models import KERAS_ENVIRONMENT
from kaggle_digits.training.observer import Observer

WORKER_MEMORY = 1.2e9
"""Bytes that a worker may come to hold; bounds how many there are by default."""
TRIES = 2
"""How often a fold is begun whose worker dies."""
LESS_MEMORY = (
    "train fewer folds at a time (--workers, or fewer threads a Dask worker), and run the same command again."
)
"""What to do where workers run out of memory."""
NAMED = 10
"""How many failed folds are named."""
CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Where Linux says how many bytes a container may have, in cgroups of version 2 and of version 1."""
_WORKER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("kaggle_digits", sys.argv[1])
sys.modules["kaggle_digits"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from kaggle_digits.execution.worker import main
main(int(sys.argv[2]))
"""
"""Runs the worker of this very package, from its file: nothing that lies in the current folder, or beside the
package, is imported in the place of a module, be it a json.py or another kaggle_digits."""


@dataclass(frozen=True, eq=False)
class Job:
    """A fold to train, and where it goes.

    Attributes
    ----------
    task : FoldTask
        The fold.
    folder : pathlib.Path
        Its directory.
    log_file : pathlib.Path
        Gets what the libraries print while it trains.
    """

    task: FoldTask
    folder: Path
    log_file: Path


def default_workers(folds: int, gpus: int = 0) -> int:
    """Return how many workers to use for so many folds: one a GPU, or else by cores and memory; at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(folds, gpus or cores, int(memory() / WORKER_MEMORY)))


def memory() -> int:
    """Return the machine's memory in bytes, or what a container may have of it."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # no such file, or the word "max"
            sizes.append(int(path.read_text()))
    return min(sizes)


def find_gpus() -> list[str]:
    """Return the names under which CUDA_VISIBLE_DEVICES knows the GPUs that TensorFlow can use here."""
    if shutil.which("nvidia-smi") is None:
        return []
    # Whether its GPUs can be used only TensorFlow knows; asked here, it would hold on to memory of each.
    script = "import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')))"
    try:
        command = [sys.executable, "-P", "-c", script]
        asked = subprocess.run(command, capture_output=True, env=_environment(), check=True, timeout=120)  # noqa: S603
        count = int(asked.stdout)
    except (subprocess.SubprocessError, ValueError):  # a driver that fails or hangs is no GPU
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(count)]
    return names[:count]


def train_in_processes(
    jobs: Sequence[Job],
    digits: Digits,
    workers: int | None,
    observer: Observer,
) -> None:
    """Train folds in processes of their own, each of which writes the fold it trains.

    A fold whose worker dies is begun once more; one that fails does not stop the others. A process trains one fold
    only, because TensorFlow does not give back all the memory of the fold before.

    Parameters
    ----------
    jobs : sequence of Job
        The folds to train.
    digits : Digits
        The rows, sent to each worker.
    workers : int or None
        The number of processes at a time; if not given, one a GPU, or else by cores and memory.
    observer : Observer
        Told of progress, of each fold that is finished, and of folds that are begun once more.

    Raises
    ------
    KaggleDigitsError
        What ended a fold, after all others have run; it names the others that failed. `WriteError` if a log
        file cannot be written.
    RuntimeError
        For a fault of ours; the traceback is in the log file.
    """
    gpus = find_gpus()
    workers = workers or default_workers(len(jobs), len(gpus))
    free = deque((gpus or [""])[slot % max(1, len(gpus))] for slot in range(workers))
    waiting, tries = deque(jobs), Counter[Job]()
    busy: dict[Connection, tuple[WorkerProcess, Job]] = {}
    failures: dict[Job, Exception] = {}
    try:
        while waiting or busy:
            while waiting and free:
                job = waiting.popleft()
                tries[job] += 1
                with write_errors(job.log_file):
                    log = open(job.log_file, "ab")  # noqa: SIM115 (an error in the block below is none of writing it)
                with log:
                    worker = WorkerProcess.start(job.task, digits, job.folder, log, free.popleft())
                busy[worker.connection] = worker, job
            for connection in cast(list[Connection], wait(list(busy))):
                worker, job = busy[connection]
                message = worker.receive()
                if isinstance(message, Progress):
                    observer.progress(message)
                    continue
                if isinstance(message, WorkerDiedError) and tries[job] < TRIES:
                    observer.notice(f"{message.problem} It is begun once more.")
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
    """Raise what failed first, if anything did, and let it name the other folds that failed."""
    if not failures:
        return
    (_, error), *others = failures.items()
    if not others:
        raise error
    tasks = sorted((job.task for job, _ in others), key=lambda task: (task.seed, task.fold))
    titles = [task.title for task in tasks[:NAMED]]
    if len(tasks) > NAMED:
        titles.append(f"and {len(tasks) - NAMED} more")
    more = f"Also failed: {', '.join(titles)}."
    if isinstance(error, KaggleDigitsError):
        raise type(error)(f"{error.problem} {more}", error.remedy)
    raise RuntimeError(f"{error}. {more}")


class WorkerDiedError(KaggleDigitsError):
    """The process that trained a fold is gone, or ran out of memory."""


@dataclass(frozen=True)
class WorkerProcess:
    """A process that trains one fold, and our end of the connection to it.

    Attributes
    ----------
    task : FoldTask
        The fold.
    process : subprocess.Popen
        It runs `kaggle_digits.execution.worker`.
    connection : multiprocessing.connection.Connection
        For the messages that are told there.
    gpu : str
        The GPU it may use, as CUDA_VISIBLE_DEVICES has it; empty for what is the parent's.
    """

    task: FoldTask
    process: subprocess.Popen[bytes]
    connection: Connection
    gpu: str

    @classmethod
    def start(
        cls, task: FoldTask, digits: Digits, folder: Path | None, log: IO[bytes], gpu: str = ""
    ) -> WorkerProcess:
        """Start a process that trains a fold, writes it to its folder if that is given, and prints into a log.

        Not by `multiprocessing`, which would run the caller's script again unless it is guarded.
        """
        ours, theirs = multiprocessing.Pipe()
        with theirs:
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-c", _WORKER, kaggle_digits.__file__, str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                env=_environment() | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}),
            )
        with suppress(OSError):  # one that is dead by now is found out when it is listened to
            ours.send((task, digits, folder))
        return cls(task, process, ours, gpu)

    def receive(self) -> Any:
        """Wait for the next message, as told in `kaggle_digits.execution.worker.main`, and return it.

        When there is none to come, return a `WorkerDiedError`.
        """
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            return self._obituary()

    def stop(self) -> None:
        """End the process, whatever it does, and wait until it is gone."""
        self.process.kill()
        self.process.communicate()
        self.connection.close()

    def _obituary(self) -> WorkerDiedError:
        code = self.process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        remedy = "See workers.log of the run, then run the same command again; the finished folds stay."
        if code == -9:
            remedy = f"If memory ran out, {LESS_MEMORY}"
        return WorkerDiedError(f"The worker of {self.task.title} died by {how}.", remedy)


def _environment() -> dict[str, str]:
    """Return the environment of a worker: one thread in every library, a share of a GPU, and no chatter."""
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    tensorflow = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    environment = {
        **os.environ,
        **dict.fromkeys((*threads, *tensorflow), "1"),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # Or else the first of several workers takes all of a GPU's memory.
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        **KERAS_ENVIRONMENT,
    }
    # Dask's nannies set it to save memory; a step of training then takes a tenth longer.
    environment.pop("MALLOC_TRIM_THRESHOLD_", None)
    return environment
