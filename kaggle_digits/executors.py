"""Where folds run: processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any, cast

import kaggle_digits
from kaggle_digits.errors import KaggleDigitsError
from kaggle_digits.files import write_errors
from kaggle_digits.training import Digits, FoldTask, Progress

WORKER_MEMORY = 1.2e9
"""Bytes that a worker may come to hold; bounds how many there are by default."""
TRIES = 2
"""How often a fold is begun whose worker dies."""
CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Where Linux says how many bytes a container may have, in cgroups of version 2 and of version 1."""


def default_workers(folds: int) -> int:
    """Return how many workers to use for so many folds: by cores and memory, at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(folds, cores, int(memory() / WORKER_MEMORY)))


def memory() -> int:
    """Return the machine's memory in bytes, or what a container may have of it."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # no such file, or the word "max"
            sizes.append(int(path.read_text()))
    return min(sizes)


def train_in_processes(
    tasks: Sequence[FoldTask],
    digits: Digits,
    folder_of: Callable[[int], Path],
    log_file: Path,
    workers: int,
    on_progress: Callable[[Progress], None],
    on_finished: Callable[[int], None],
) -> None:
    """Train folds in processes of their own, each of which writes the fold it trains.

    A fold whose worker dies is begun once more; one that fails does not stop the others. A process trains one fold
    only, because TensorFlow does not give back all the memory of the fold before.

    Parameters
    ----------
    tasks : sequence of FoldTask
        The folds to train.
    digits : Digits
        The rows, sent to each worker.
    folder_of : callable
        From a fold to its directory.
    log_file : pathlib.Path
        Gets what the workers' libraries print.
    workers : int
        The number of processes at a time.
    on_progress, on_finished : callable
        Told of each `Progress`, and of each fold that is finished.

    Raises
    ------
    KaggleDigitsError
        What ended a fold, after all others have run; it names the others that failed. `WriteError` if the log
        file cannot be written.
    RuntimeError
        For a fault of ours; the traceback is in the log file.
    """
    waiting = deque(tasks)
    tries = dict.fromkeys((task.fold for task in tasks), 0)
    busy: dict[Connection, tuple[_Worker, FoldTask]] = {}
    failures: dict[int, Exception] = {}
    with write_errors(log_file):
        log = open(log_file, "ab")  # noqa: SIM115 (an error in the block below is none of writing it)
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                task = waiting.popleft()
                worker = _Worker.start(log)
                tries[task.fold] += 1
                busy[worker.connection] = worker, task
                worker.send((task, digits, folder_of(task.fold)))
            for connection in cast(list[Connection], wait(list(busy))):
                worker, task = busy[connection]
                try:
                    message = connection.recv()
                except (EOFError, OSError):
                    if tries[task.fold] < TRIES:
                        waiting.append(task)
                    else:
                        failures[task.fold] = worker.obituary(task.fold)
                else:
                    if isinstance(message, Progress):
                        on_progress(message)
                        continue
                    if message is None:
                        on_finished(task.fold)
                    else:
                        failures[task.fold] = message
                del busy[connection]
                worker.stop()
    finally:
        for worker, _ in busy.values():
            worker.stop()
        log.close()
    if failures:
        raise _summary(failures)


def _summary(failures: dict[int, Exception]) -> Exception:
    """Return what failed first, and let it name the other folds that failed."""
    (_, error), *others = failures.items()
    if not others:
        return error
    names = ", ".join(str(fold) for fold in sorted(dict(others)))
    more = f"Fold{'s' if len(others) > 1 else ''} {names} failed too."
    if isinstance(error, KaggleDigitsError):
        return type(error)(f"{error.problem} {more}", error.remedy)
    return RuntimeError(f"{error}. {more}")


@dataclass(frozen=True)
class _Worker:
    """A worker process and our end of the connection to it."""

    process: subprocess.Popen[bytes]
    connection: Connection

    @classmethod
    def start(cls, log: IO[bytes]) -> _Worker:
        """Start a process that prints into a log file.

        Not by `multiprocessing`, which would run the caller's script again unless it is guarded.
        """
        ours, theirs = multiprocessing.Pipe()
        with theirs:
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "kaggle_digits.worker", str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                env=_environment(),
            )
        return cls(process, ours)

    def send(self, message: Any) -> None:
        """Send a message; a worker that is dead by now is found out when it is listened to."""
        with suppress(OSError):
            self.connection.send(message)

    def stop(self) -> None:
        """End the process, whatever it does, and wait until it is gone."""
        self.process.kill()
        self.process.communicate()
        self.connection.close()

    def obituary(self, fold: int) -> KaggleDigitsError:
        """Return the error that says how the worker of a fold died."""
        code = self.process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        remedy = "See workers.log of the run, then run the same command again; the finished folds stay."
        if code == -9:
            remedy = "If memory ran out, use fewer workers with --workers, and run the same command again."
        return KaggleDigitsError(f"The worker of fold {fold} died {TRIES} times, the last by {how}.", remedy)


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
        "KERAS_BACKEND": "tensorflow",
    }
    package = Path(kaggle_digits.__file__).parents[1]
    if package.name not in ("site-packages", "dist-packages"):
        # Imported from a checkout that is on nobody's path but ours.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(package), os.environ.get("PYTHONPATH"))))
    return environment
