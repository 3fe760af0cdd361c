"""Training of folds on the workers of a Dask cluster, on any number of machines."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from kaggle_digits.data.csv import Data
from kaggle_digits.errors import KaggleDigitsError, NetworkError, UsageError, WriteError
from kaggle_digits.execution import Job, Options, Place, raise_failures
from kaggle_digits.execution.places.processes import WorkerDiedError, WorkerProcess
from kaggle_digits.files import open_log, write_errors
from kaggle_digits.runs.artefacts import DASK, FoldFolder, versions
from kaggle_digits.training.fold import FoldResult, FoldTask, Progress
from kaggle_digits.training.observer import Observer
from kaggle_digits.workspace import Workspace

if TYPE_CHECKING:
    from distributed import Client, Future

NAMES = "the address of a Dask scheduler, such as tcp://10.0.0.1:8786"
CONNECT_SECONDS = 10
WAIT_SECONDS = 60.0
"""Seconds to wait for a worker if there is none."""
RETRIES = 3
"""How many times a fold is trained again if its worker fails."""
POLL_SECONDS = 1.0
"""Seconds between two looks for new workers, and between two checks whether a fold was cancelled."""

_data: dict[str, Data] = {}
"""On a worker: the rows of each training that it takes part in, by its topic."""


def open_place(on: str | None, workspace: Workspace, options: Options) -> Cluster | None:
    """Return the cluster whose scheduler has this address."""
    if on is None or ":" not in on:
        return None
    if find_spec("distributed") is None:
        raise UsageError("Dask is not installed.", "Install it with: pip install 'kaggle-digits[dask]'.")
    options.check(on, ())
    return Cluster(on)


@dataclass
class Cluster(Place):
    """A Dask cluster, whose workers train each fold in a process of its own. This machine writes the folds.

    A worker can train if it has the same versions as this machine, and has received the rows. Dask trains the fold
    of a lost worker again, on another one.
    """

    address: str
    _topic: str = field(default_factory=lambda: f"kaggle-digits-{uuid4()}")
    _events: SimpleQueue[Any] = field(default_factory=SimpleQueue)  # of workers, and each future that is done
    _known: dict[str, str] = field(default_factory=dict)  # why workers cannot train; empty for those that can
    _idle_since: float | None = None  # since when no worker can train, as of `time.monotonic`

    def train(self, jobs: Sequence[Job], data: Data, observer: Observer) -> Generator[Job, None, None]:
        """Train folds, and yield each one that is finished.

        If a fold fails, the other folds are still trained; then the first error is raised.
        """
        failures: dict[Job, KaggleDigitsError] = {}
        by_fold = {(job.task.seed, job.task.fold): job for job in jobs}
        waiting = deque(jobs)
        futures: dict[Future, tuple[Job, list[str]]] = {}  # with the workers that may train the fold
        with self._connected() as client:
            looked = -POLL_SECONDS
            while waiting or futures:
                if time.monotonic() - looked >= POLL_SECONDS:
                    threads = self._admit_workers(client, data, observer)
                    looked = time.monotonic()
                for future in [f for f, (_, workers) in futures.items() if threads.keys().isdisjoint(workers)]:
                    # Dask would wait forever for these workers to come back.
                    future.cancel()
                    waiting.append(futures.pop(future)[0])
                # Not more at a time, so that the rest is left for workers that join later.
                while waiting and len(futures) < sum(threads.values()):
                    job = waiting.popleft()
                    futures[self._submit(client, job, list(threads))] = job, list(threads)
                try:
                    event = self._events.get(timeout=POLL_SECONDS)
                except Empty:
                    continue
                if isinstance(event, tuple):
                    _show(event[1], by_fold, observer)
                elif event in futures:
                    job, _ = futures.pop(event)
                    outcome, log = self._outcome(event, job)
                    with write_errors(job.log_file), open_log(job.log_file) as stream:
                        stream.write(log)
                    if isinstance(outcome, FoldResult):
                        FoldFolder(job.folder).write(outcome, DASK)
                        yield job
                    else:
                        failures[job] = outcome
        raise_failures(failures)

    @contextmanager
    def _connected(self) -> Iterator[Client]:
        """Yield a client of the scheduler, with Dask's log messages switched off."""
        from distributed import Client

        loggers = [
            logging.getLogger(name) for name in logging.root.manager.loggerDict if name[:11] == "distributed"
        ]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about other versions, which `_admit` reports
                client = Client(self.address, timeout=CONNECT_SECONDS, set_as_default=False)
        except Exception as error:  # another server at this address can cause any error
            raise NetworkError(
                f"There is no Dask scheduler at {self.address}: {error}.",
                "Start one with the command: dask scheduler; it prints its address.",
            ) from error
        try:
            with client:
                client.subscribe_topic(self._topic, self._events.put)
                yield client
                client.run(_data.pop, self._topic, None, on_error="ignore")
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

    def _submit(self, client: Client, job: Job, workers: list[str]) -> Future:
        open_log(job.log_file).close()  # fail before the training if the log cannot be written
        # Retried by Dask if the function raises an error.
        future = client.submit(
            _train_on_worker, job.task, self._topic, workers=workers, retries=RETRIES, pure=False
        )
        future.add_done_callback(self._events.put)
        return future

    def _admit_workers(self, client: Client, data: Data, observer: Observer) -> dict[str, int]:
        """Prepare new workers, and return the workers that can train, with their numbers of threads.

        It raises an error if there was none for `WAIT_SECONDS`.
        """
        try:
            present = client.sync(client.scheduler.identity, n_workers=-1)["workers"]
            for worker in present.keys() - self._known.keys():
                found = client.run(_admit, _all_versions(), data, self._topic, workers=[worker], on_error="return")
                why = found.get(worker)
                if why is None or isinstance(why, OSError):
                    continue  # it has left
                self._known[worker] = f"cannot run kaggle-digits ({why})" if isinstance(why, Exception) else why
                if why:
                    observer.notice(f"{self._refusal(worker)}. It is excluded from training.")
        except (OSError, AttributeError) as error:
            raise self._lost() from error
        ready = {
            address: worker["nthreads"] for address, worker in present.items() if self._known.get(address) == ""
        }
        if ready:
            self._idle_since = None
            return ready
        if self._idle_since is None:
            self._idle_since = time.monotonic()
            observer.notice(f"No worker can train at {self.address}; waiting up to {WAIT_SECONDS:.0f} s for one.")
        if time.monotonic() - self._idle_since < WAIT_SECONDS:
            return {}
        remedy = "then run the same command again; finished folds are kept."
        if refused := [worker for worker in present if self._known.get(worker)]:
            raise UsageError(
                f"{self._refusal(refused[0])}, and there is no other worker.",
                f"Fix it or start another worker, {remedy}",
            )
        raise NetworkError(
            f"The Dask scheduler at {self.address} has had no worker for {WAIT_SECONDS:.0f} s.",
            f"Start workers with: dask worker {self.address}; {remedy}",
        )

    def _refusal(self, worker: str) -> str:
        return f"The Dask worker {worker} {self._known[worker].rstrip('.')}"

    def _outcome(self, future: Future, job: Job) -> tuple[FoldResult | KaggleDigitsError, bytes]:
        """Return the result or the error of a fold, and the output of its process."""
        try:
            outcome: tuple[FoldResult | KaggleDigitsError, bytes] = future.result()
        except KaggleDigitsError as error:
            return error, b""
        except Exception as error:
            if future.status == "cancelled":
                raise self._lost() from error
            # Dask's own error says which workers the fold has killed.
            why = f"{type(error).__name__}: {error}".rstrip(".")
            remedy = "Fix the machine of the worker, or stop it, then run the same command again."
            return WorkerDiedError(f"The Dask workers cannot train {job.task.title}: {why}.", remedy), b""
        return outcome

    def _lost(self) -> NetworkError:
        return NetworkError(
            f"The connection to the Dask scheduler at {self.address} was lost.",
            "Start it and its workers, then run the same command again; finished folds are kept.",
        )


def _show(message: dict[str, Any], jobs: dict[tuple[int, int], Job], observer: Observer) -> None:
    """Pass an event that a worker has logged on to the observer."""
    message.pop("worker")
    if "epoch" in message:
        observer.progress(Progress(**message))
        return
    job = jobs[message["seed"], message["fold"]]
    if "log" not in message:
        observer.started(job.task)
        return
    observer.notice(f"{message['problem']} The fold is retried.")
    with write_errors(job.log_file), open_log(job.log_file) as stream:
        stream.write(message["log"])


def _all_versions() -> dict[str, str]:
    """Return the versions that must be the same on all machines; for Python, only major and minor."""
    found = versions()
    return found | {"python": ".".join(found["python"].split(".")[:2]), "distributed": version("distributed")}


def _admit(wanted: dict[str, str], data: Data, topic: str) -> str:
    """On a worker: keep the rows, or return which versions differ."""
    found = _all_versions()
    if others := [f"{name} {found.get(name)} (here {v})" for name, v in wanted.items() if found.get(name) != v]:
        return f"has {', '.join(others)}"
    # Not as an object in Dask's memory, which cannot be restored if its only worker is lost.
    _data[topic] = data
    return ""


def _train_on_worker(task: FoldTask, topic: str) -> tuple[FoldResult | KaggleDigitsError, bytes]:
    """On a worker: train a fold in a separate process, and return its result or error, and its output.

    This runs in a thread of the worker. A thread cannot be stopped from outside, so it checks regularly whether
    the fold was cancelled or the client has disconnected, and then kills the process.
    """
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()
    fold = {"seed": task.seed, "fold": task.fold}
    worker.log_event(topic, fold)
    with tempfile.TemporaryFile() as log:
        process = WorkerProcess(_data[topic])
        process.train(task, None, log)
        try:
            while True:
                if process.connection.poll(POLL_SECONDS):
                    message = process.receive()
                    if isinstance(message, Progress):
                        worker.log_event(topic, asdict(message))
                    elif not isinstance(message, str):
                        break
                state = worker.state.tasks.get(key)
                if state is None or state.state != "executing":
                    raise WorkerDiedError(f"The training of {task.title} was cancelled.", "Run it again.")
        finally:
            process.stop()
        log.seek(0)
        # A problem of this machine: another one may train the fold.
        if isinstance(message, WorkerDiedError | WriteError):
            worker.log_event(topic, fold | {"problem": message.problem, "log": log.read()})
            raise type(message)(f"{message.problem} It was on the Dask worker {worker.address}.", message.remedy)
        return message, log.read()
