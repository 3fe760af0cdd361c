"""Training of folds on the workers of a Dask cluster, on any number of machines."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from kaggle_digits.errors import NetworkError, UsageError, WriteError
from kaggle_digits.execution.processes import Job, WorkerDiedError, WorkerProcess, raise_failures
from kaggle_digits.files import open_log, write_errors
from kaggle_digits.runs.artefacts import DASK, versions, write_fold
from kaggle_digits.training.fold import Digits, FoldResult, FoldTask, Progress
from kaggle_digits.training.observer import Observer

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_SECONDS = 10
WAIT_SECONDS = 60.0
"""Seconds to wait for a worker if there is none."""
MAX_ATTEMPTS = 4
"""How many times a fold is started if its workers fail."""
MAX_FAILURES = 3
"""After this many failed folds in a row, a worker is excluded. Fewer than `MAX_ATTEMPTS`, so that a fold cannot
fail because of a single broken worker."""
POLL_SECONDS = 1.0
"""Seconds between two updates of the list of workers, and between two checks whether a fold was cancelled."""


def train_on_dask(
    jobs: Sequence[Job],
    digits: Digits,
    address: str,
    observer: Observer,
) -> None:
    """Train folds on the workers of a Dask cluster, each in a process of its own, and write them on this machine.

    Workers with other versions, or that always fail, are excluded; a fold whose worker was lost is trained again
    on another one. If a fold fails, the other folds are still trained; then the first error is raised, which names
    the other failed folds.
    """
    waiting, attempts = deque(jobs), Counter[Job]()
    running: dict[Future, tuple[Job, str]] = {}
    failures: dict[Job, Exception] = {}
    with _connected(address) as client:
        workers = _Workers(client, address, digits, observer.notice)
        while waiting or running:
            workers.update()
            for future, (_, trainer) in running.items():
                if trainer not in workers.present and future.status == "pending":
                    # After a worker was shut down properly, Dask would wait forever for it to come back.
                    future.cancel()
            while waiting and (worker := workers.find_free([busy for _, busy in running.values()])):
                job = waiting.popleft()
                open_log(job.log_file).close()  # fail before the training if the log cannot be written
                attempts[job] += 1
                future = client.submit(
                    _train_on_worker, job.task, workers.rows[worker], workers.topic, workers=[worker], pure=False
                )
                future.add_done_callback(workers.events.put)
                running[future] = job, worker
                observer.started(job.task)
            try:
                # With unchecked workers there is more to do at once, so do not wait for an event.
                event = workers.events.get(timeout=0 if workers.unchecked else POLL_SECONDS)
            except Empty:
                continue
            if isinstance(event, Progress):
                observer.progress(event)
                continue
            job, worker = running.pop(event)
            outcome, log = _outcome(event, job, worker)
            if isinstance(outcome, FoldResult):
                write_fold(job.folder, outcome, DASK)
            with write_errors(job.log_file), open_log(job.log_file) as stream:
                stream.write(log)
            workers.record_outcome(worker, outcome)
            if isinstance(outcome, FoldResult):
                observer.finished(job.task)
            elif (
                isinstance(outcome, _WorkerLostError | WorkerDiedError | WriteError)
                and attempts[job] < MAX_ATTEMPTS
            ):
                observer.notice(f"{outcome.problem} The fold is retried.")
                waiting.append(job)
            else:
                failures[job] = outcome
    raise_failures(failures)


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    """Yield a client of the scheduler, with Dask's log messages switched off."""
    from distributed import Client

    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "distributed"]
    levels = {name: logging.getLogger(name).level for name in ("distributed", *names)}
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about other versions, which `_Workers` reports
                client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except Exception as error:  # another server at this address can cause any error
            raise NetworkError(
                f"There is no Dask scheduler at {address}: {error}.",
                "Start one with the command: dask scheduler; it prints its address.",
            ) from error
        with client:
            try:
                yield client
            except (OSError, CancelledError) as error:
                if client.status == "running":
                    raise
                raise _scheduler_lost_error(address) from error
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _scheduler_lost_error(address: str) -> NetworkError:
    return NetworkError(
        f"The connection to the Dask scheduler at {address} was lost.",
        "Start it and its workers, then run the same command again; finished folds are kept.",
    )


@dataclass
class _Workers:
    """The workers of the cluster: which can train, and how many folds each trains.

    A worker can train if it has the same versions as this machine and has received the rows.
    """

    client: Client
    address: str
    digits: Digits
    on_notice: Callable[[str], None]
    topic: str = field(default_factory=lambda: f"kaggle-digits-{uuid4()}")
    events: SimpleQueue[Any] = field(default_factory=SimpleQueue)  # each `Progress`, and each future that is done
    present: set[str] = field(default_factory=set)  # the addresses of all workers at the last update
    unchecked: list[str] = field(default_factory=list)  # those whose versions have not been checked yet
    threads: dict[str, int] = field(default_factory=dict)  # of the workers that can train
    rows: dict[str, Future] = field(default_factory=dict)  # the rows on each worker
    _versions: dict[str, str] = field(default_factory=lambda: _all_versions())
    _excluded: dict[str, str] = field(default_factory=dict)
    _failures: Counter[str] = field(default_factory=Counter)
    _updated: float = 0.0
    _no_workers_since: float | None = None

    def update(self) -> None:
        """Update the list of workers, at most once per `POLL_SECONDS`, and check one new worker.

        Only one, so that its first folds start before the rows are sent to the next worker. `NetworkError` or
        `UsageError` if the connection to the scheduler is lost, or no worker could train for `WAIT_SECONDS`.
        """
        if self.client.status in ("closing", "closed"):
            raise _scheduler_lost_error(self.address)
        if self.client.status == "connecting":
            self.unchecked = []  # the connection was lost; Dask tries to connect again
            return
        now = time.monotonic()
        if now - self._updated < POLL_SECONDS and not self.unchecked:
            return
        self._updated = now
        try:
            workers = self.client.sync(self.client.scheduler.identity, n_workers=-1)["workers"]
        except OSError:
            return  # the connection was lost just now; the next update sees it in the status
        self.present = set(workers)
        ready = {address: w["nthreads"] for address, w in workers.items() if w["status"] == "running"}
        self.rows = {
            address: rows for address, rows in self.rows.items() if address in workers and _is_available(rows)
        }
        self._excluded = {address: why for address, why in self._excluded.items() if address in workers}
        self.unchecked = [address for address in ready if address not in self.rows.keys() | self._excluded.keys()]
        if self.unchecked:
            self._check(self.unchecked.pop())
        self.threads = {a: n for a, n in ready.items() if a in self.rows and a not in self._excluded}
        self._wait_for_workers(now)

    def find_free(self, busy: Sequence[str]) -> str | None:
        """Return a worker with a free thread, or None; `busy` has the address of the worker of each running fold.

        Workers with fewer failures come first, then those with more free threads, which spreads the folds evenly.
        """
        folds = Counter(busy)
        free = {
            address: threads - folds[address]
            for address, threads in self.threads.items()
            if threads > folds[address] and _is_available(self.rows[address])
        }
        return max(free, key=lambda address: (-self._failures[address], free[address]), default=None)

    def record_outcome(self, worker: str, outcome: FoldResult | Exception) -> None:
        """Count the failures of a worker, and exclude it after `MAX_FAILURES` in a row."""
        if isinstance(outcome, FoldResult):
            self._failures[worker] = 0
        elif isinstance(outcome, WorkerDiedError | WriteError | RuntimeError):
            self._failures[worker] += 1
        if self._failures[worker] == MAX_FAILURES and worker in self.threads:
            del self.threads[worker]
            self._exclude(worker, f"failed {MAX_FAILURES} folds in a row; the last error was: {outcome}")

    def _check(self, address: str) -> None:
        """Send the rows to a worker if it has the same versions as this machine; otherwise exclude it."""
        found = self.client.run(_all_versions, workers=[address], on_error="return").get(address)
        if found is None:
            return  # the worker has left
        if why := _differences(found, self._versions):
            self._exclude(address, why)
            return
        # Dask raises a KeyError for a worker that has just left.
        with suppress(OSError, KeyError):
            self.rows[address] = self.client.scatter(self.digits, workers=[address], hash=False)
        # Again for every new worker: the subscription ends when the connection is lost.
        self.client.subscribe_topic(self.topic, self._put_progress)

    def _exclude(self, address: str, why: str) -> None:
        self._excluded[address] = f"The Dask worker {address} {why.rstrip('.')}"
        self.on_notice(f"{self._excluded[address]}. It is excluded from training.")

    def _put_progress(self, event: tuple[float, dict[str, Any]]) -> None:
        _, message = event
        message.pop("worker")
        self.events.put(Progress(**message))

    def _wait_for_workers(self, now: float) -> None:
        if self.threads:
            self._no_workers_since = None
            return
        if self._no_workers_since is None:
            self._no_workers_since = now
            self.on_notice(f"No worker can train at {self.address}; waiting up to {WAIT_SECONDS:.0f} s for one.")
        if now - self._no_workers_since < WAIT_SECONDS:
            return
        if self._excluded:
            raise UsageError(
                f"{next(iter(self._excluded.values()))}, and there is no other worker.",
                "Fix it or start another worker, then run the same command again; finished folds are kept.",
            )
        raise NetworkError(
            f"The Dask scheduler at {self.address} has had no worker for {WAIT_SECONDS:.0f} s.",
            f"Start workers with: dask worker {self.address}; then run the same command again; "
            "finished folds are kept.",
        )


def _is_available(rows: Future) -> bool:
    """Tell whether a worker still holds the rows."""
    return bool(rows.status == "finished")


def _all_versions() -> dict[str, str]:
    """Return the versions that must be the same on all machines; for Python, only major and minor."""
    found = versions()
    return found | {"python": ".".join(found["python"].split(".")[:2]), "distributed": version("distributed")}


def _differences(found: dict[str, str] | Exception, wanted: dict[str, str]) -> str:
    """Return why the versions of a worker do not fit, to follow its name in a sentence; empty if they fit."""
    if isinstance(found, Exception):
        return f"cannot run kaggle-digits ({found})"
    others = [
        f"{name} {found.get(name, 'unknown')} (here {needed})"
        for name, needed in wanted.items()
        if found.get(name) != needed
    ]
    return f"has {', '.join(others)}" if others else ""


class _WorkerLostError(NetworkError):
    """A worker left or lost its connection before its fold was finished."""


def _outcome(future: Future, job: Job, worker: str) -> tuple[FoldResult | Exception, bytes]:
    """Return the result or the error of a fold, and the output of its process."""
    remedy = "Run the same command again; finished folds are kept."
    try:
        result: tuple[FoldResult | Exception, bytes] = future.result()
    except Exception as error:
        if future.status == "error":  # the process could not be started: a problem of the machine, not of the fold
            why = f"{type(error).__name__}: {error}".rstrip(".")
            return WorkerDiedError(f"The Dask worker {worker} cannot train {job.task.title}: {why}.", remedy), b""
        return (
            _WorkerLostError(f"The Dask worker {worker} was lost while it trained {job.task.title}.", remedy),
            b"",
        )
    outcome, log = result
    if isinstance(outcome, WriteError):  # a problem of the machine, too: name it
        outcome = WriteError(f"Error on the Dask worker {worker}: {outcome.problem}", outcome.remedy)
    return outcome, log


def _train_on_worker(task: FoldTask, digits: Digits, topic: str) -> tuple[FoldResult | Exception, bytes]:
    """Train a fold in a separate process, as `train_in_processes` does.

    This runs in a thread of a Dask worker. A thread cannot be stopped from outside, so it checks regularly whether
    the fold was cancelled or the client has disconnected, and then kills the process.
    """
    from distributed import get_worker

    dask_worker = get_worker()
    key = dask_worker.get_current_task()
    with tempfile.TemporaryFile() as log:
        process = WorkerProcess.start(task, digits, None, log)
        try:
            while True:
                if process.connection.poll(POLL_SECONDS):
                    message = process.receive()
                    if not isinstance(message, Progress):
                        break
                    dask_worker.log_event(topic, asdict(message))
                state = dask_worker.state.tasks.get(key)
                if state is None or state.state != "executing":
                    raise CancelledError
        finally:
            process.stop()
        log.seek(0)
        return message, log.read()
