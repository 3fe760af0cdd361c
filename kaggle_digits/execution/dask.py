"""Where folds run: the workers of a Dask cluster, on any number of machines."""

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
from kaggle_digits.files import write_errors
from kaggle_digits.runs.artefacts import versions, write_fold
from kaggle_digits.training.fold import Digits, FoldResult, FoldTask, Progress
from kaggle_digits.training.observer import Observer

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_SECONDS = 10
PATIENCE = 60.0
"""Seconds to wait for a worker while there is none."""
TRIES = 4
"""How often a fold is begun that its workers do not finish, for whatever reason of theirs."""
STRIKES = 3
"""How many folds in a row a worker may fail; fewer than `TRIES`, so that no fold fails for one worker alone."""
LOOK_SECONDS = 1.0
"""Between two looks at which workers there are, and at whether a fold is still wanted."""


def train_on_dask(
    jobs: Sequence[Job],
    digits: Digits,
    address: str,
    observer: Observer,
) -> None:
    """Train folds on the workers of a Dask cluster, as many on each as it has threads, and write them here.

    Dask knows the workers, moves the rows and the results, and notices who is gone; which worker trains which fold
    is decided here, so that none is given to a worker with other versions, and a worker that joins late gets some.

    Parameters
    ----------
    jobs : sequence of Job
        The folds to train. Their checkpoints, if any, are not used.
    digits : Digits
        The rows, sent once to each worker.
    address : str
        The scheduler's, such as ``tcp://10.0.0.1:8786``.
    observer : Observer
        Told of progress, of each fold that is finished, and of workers that are refused or gone.

    Raises
    ------
    NetworkError
        If there is no scheduler, it is gone, or there is no worker for `PATIENCE` seconds.
    UsageError
        If no worker has the versions that are here, or is fit to train.
    KaggleDigitsError
        What ended a fold, after all others have run; it names the others that failed.
    RuntimeError
        For a fault of ours; the traceback is in the log file.
    """
    waiting, tries = deque(jobs), Counter[Job]()
    running: dict[Future, tuple[Job, str]] = {}
    failures: dict[Job, Exception] = {}
    with _connected(address) as client:
        crew = _Crew(client, address, digits, observer.notice)
        while waiting or running:
            crew.look()
            for future, (_, trainer) in running.items():
                if trainer not in crew.present and future.status == "pending":
                    future.cancel()  # it would wait for ever for a worker that left in good order
            while waiting and (worker := crew.find_free([busy for _, busy in running.values()])):
                job = waiting.popleft()
                with write_errors(job.log_file):
                    open(job.log_file, "ab").close()  # rather found out now than when there is a result
                tries[job] += 1
                future = client.submit(
                    _train_here, job.task, crew.rows[worker], crew.topic, workers=[worker], pure=False
                )
                future.add_done_callback(crew.events.put)
                running[future] = job, worker
            try:
                event = crew.events.get(timeout=0 if crew.newcomers else LOOK_SECONDS)
            except Empty:
                continue
            if isinstance(event, Progress):
                observer.progress(event)
                continue
            job, worker = running.pop(event)
            outcome, log = _outcome(event, job, worker)
            if isinstance(outcome, FoldResult):
                write_fold(job.folder, outcome)
            with write_errors(job.log_file), open(job.log_file, "ab") as stream:
                stream.write(log)
            crew.judge(worker, outcome)
            if isinstance(outcome, FoldResult):
                observer.finished(job.task)
            elif isinstance(outcome, _LostError | WorkerDiedError | WriteError) and tries[job] < TRIES:
                observer.notice(f"{outcome.problem} It is begun once more.")
                waiting.append(job)
            else:
                failures[job] = outcome
    raise_failures(failures)


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    """Yield a client of the scheduler, and let Dask say nothing itself meanwhile."""
    from distributed import Client

    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "distributed"]
    levels = {name: logging.getLogger(name).level for name in ("distributed", *names)}
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of other versions we tell in our own words
                client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except Exception as error:  # whatever listens there may answer anything
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
                raise _gone(address) from error
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _gone(address: str) -> NetworkError:
    return NetworkError(
        f"The Dask scheduler at {address} is gone.",
        "Start it and its workers, then run the same command again; the finished folds stay.",
    )


@dataclass
class _Crew:
    """The workers that may train: those that have the versions that are here, each with the rows.

    Attributes
    ----------
    client : distributed.Client
        The connection to the scheduler.
    address : str
        The scheduler's.
    digits : Digits
        The rows.
    on_notice : callable
        Told of workers that are refused, and of waiting for one.
    topic : str
        Under which workers tell of their progress.
    events : queue.SimpleQueue
        Gets each `Progress`, and each future that is done.
    present : set of str
        The addresses of all workers there are, as last looked.
    newcomers : list of str
        Those that are still to be admitted or refused.
    threads : dict of str to int
        The crew: how many folds at a time each worker trains.
    rows : dict of str to Future
        The rows, as they are at each worker.
    """

    client: Client
    address: str
    digits: Digits
    on_notice: Callable[[str], None]
    topic: str = field(default_factory=lambda: f"kaggle-digits-{uuid4()}")
    events: SimpleQueue[Any] = field(default_factory=SimpleQueue)
    present: set[str] = field(default_factory=set)
    newcomers: list[str] = field(default_factory=list)
    threads: dict[str, int] = field(default_factory=dict)
    rows: dict[str, Future] = field(default_factory=dict)
    _versions: dict[str, str] = field(default_factory=lambda: _all_versions())
    _refused: dict[str, str] = field(default_factory=dict)
    _strikes: Counter[str] = field(default_factory=Counter)
    _looked: float = 0.0
    _alone_since: float | None = None

    def look(self) -> None:
        """Look which workers there are, not too often: forget those that are gone, admit or refuse a new one.

        Raises
        ------
        NetworkError, UsageError
            If the scheduler is gone, or there has been no worker to train with for too long.
        """
        if self.client.status in ("closing", "closed"):
            raise _gone(self.address)
        if self.client.status == "connecting":
            self.newcomers = []  # it was lost, and may come back
            return
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS and not self.newcomers:
            return
        self._looked = now
        try:
            workers = self.client.sync(self.client.scheduler.identity, n_workers=-1)["workers"]
        except OSError:
            return  # lost just now
        self.present = set(workers)
        ready = {address: w["nthreads"] for address, w in workers.items() if w["status"] == "running"}
        self.rows = {
            address: rows for address, rows in self.rows.items() if address in workers and _is_there(rows)
        }
        self._refused = {address: why for address, why in self._refused.items() if address in workers}
        self.newcomers = [address for address in ready if address not in self.rows.keys() | self._refused.keys()]
        if self.newcomers:
            self._admit(self.newcomers.pop())
        self.threads = {a: n for a, n in ready.items() if a in self.rows and a not in self._refused}
        self._wait_for_workers(now)

    def find_free(self, busy: Sequence[str]) -> str | None:
        """Return a worker with a thread to spare, given those that are busy, once for each fold."""
        folds = Counter(busy)
        spare = {
            address: threads - folds[address]
            for address, threads in self.threads.items()
            if threads > folds[address] and _is_there(self.rows[address])
        }
        return max(spare, key=lambda address: (-self._strikes[address], spare[address]), default=None)

    def judge(self, worker: str, outcome: FoldResult | Exception) -> None:
        """Take note of what a worker made of a fold, and dismiss it when it only fails."""
        if isinstance(outcome, FoldResult):
            self._strikes[worker] = 0
        elif isinstance(outcome, WorkerDiedError | WriteError | RuntimeError):
            self._strikes[worker] += 1
        if self._strikes[worker] == STRIKES and worker in self.threads:
            del self.threads[worker]
            self._refuse(worker, f"failed {STRIKES} folds in a row, the last one so: {outcome}")

    def _admit(self, address: str) -> None:
        """Send a worker the rows, if it has the versions that are here."""
        theirs = self.client.run(_all_versions, workers=[address], on_error="return").get(address)
        if theirs is None:
            return  # gone
        if why := _differences(theirs, self._versions):
            self._refuse(address, why)
            return
        # Dask raises a KeyError for a worker that has just left.
        with suppress(OSError, KeyError):
            self.rows[address] = self.client.scatter(self.digits, workers=[address], hash=False)
        # For every newcomer, since a connection that was lost in between has lost this too.
        self.client.subscribe_topic(self.topic, self._take_event)

    def _refuse(self, address: str, why: str) -> None:
        self._refused[address] = f"The Dask worker {address} {why.rstrip('.')}"
        self.on_notice(f"{self._refused[address]}: it gets no fold.")

    def _take_event(self, event: tuple[float, dict[str, Any]]) -> None:
        _, message = event
        message.pop("worker")
        self.events.put(Progress(**message))

    def _wait_for_workers(self, now: float) -> None:
        if self.threads:
            self._alone_since = None
            return
        if self._alone_since is None:
            self._alone_since = now
            self.on_notice(f"No worker to train with at {self.address}: waiting for {PATIENCE:.0f} s at most.")
        if now - self._alone_since < PATIENCE:
            return
        if self._refused:
            raise UsageError(
                f"{next(iter(self._refused.values()))}, and there is no other to train with.",
                "Mend it or start another, then run the same command again; the finished folds stay.",
            )
        raise NetworkError(
            f"The Dask scheduler at {self.address} has had no worker for {PATIENCE:.0f} s.",
            f"Start some with: dask worker {self.address}; then run the same command again; "
            "the finished folds stay.",
        )


def _is_there(rows: Future) -> bool:
    """Tell whether a worker still has the rows."""
    return bool(rows.status == "finished")


def _all_versions() -> dict[str, str]:
    """Return what has to be the same at all workers; of Python, not the third number."""
    found = versions()
    return found | {"python": ".".join(found["python"].split(".")[:2]), "distributed": version("distributed")}


def _differences(theirs: dict[str, str] | Exception, ours: dict[str, str]) -> str:
    """Say what keeps a worker from training folds of one run with others; nothing if nothing does."""
    if isinstance(theirs, Exception):
        return f"cannot run kaggle-digits ({theirs})"
    others = [
        f"{name} {theirs.get(name, 'unknown')} (here {wanted})"
        for name, wanted in ours.items()
        if theirs.get(name) != wanted
    ]
    return f"has {', '.join(others)}" if others else ""


class _LostError(NetworkError):
    """A worker left, or could not be reached, before its fold was finished."""


def _outcome(future: Future, job: Job, worker: str) -> tuple[FoldResult | Exception, bytes]:
    """Return what became of a fold, and what was printed."""
    remedy = "Run the same command again; the finished folds stay."
    try:
        outcome: tuple[FoldResult | Exception, bytes] = future.result()
    except Exception as error:
        if future.status == "error":  # of a machine that is not well
            why = f"{type(error).__name__}: {error}".rstrip(".")
            return WorkerDiedError(f"The Dask worker {worker} cannot train {job.task.title}: {why}.", remedy), b""
        return _LostError(f"The Dask worker {worker}, which trained {job.task.title}, is gone.", remedy), b""
    found, log = outcome
    if isinstance(found, WriteError):  # as little fault of the fold's
        found = WriteError(f"The Dask worker {worker} says: {found.problem}", found.remedy)
    return found, log


def _train_here(task: FoldTask, digits: Digits, topic: str) -> tuple[FoldResult | Exception, bytes]:
    """Train a fold in a process of its own, as on the parent's machine, while the fold is wanted.

    Runs in a thread of a Dask worker, which nobody can stop from outside: that the parent is gone, or has no more
    need of the fold, it has to notice by itself.
    """
    from distributed import get_worker

    here = get_worker()
    key = here.get_current_task()
    with tempfile.TemporaryFile() as log:
        process = WorkerProcess.start(task, digits, None, log)
        try:
            while True:
                if process.connection.poll(LOOK_SECONDS):
                    message = process.receive()
                    if not isinstance(message, Progress):
                        break
                    here.log_event(topic, asdict(message))
                state = here.state.tasks.get(key)
                if state is None or state.state != "executing":
                    raise CancelledError
        finally:
            process.stop()
        log.seek(0)
        return message, log.read()
