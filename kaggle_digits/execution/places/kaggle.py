"""Training of folds in a kernel on Kaggle's own machines.

One kernel trains all missing folds. This module packs the package and the folds into one script, sends it, follows
its progress, and downloads and checks the finished folds. `kaggle_digits.execution.kernel` runs in the kernel.

The file ``kernel.json`` in the folder of each run says which kernel trains it. It is written before the kernel is
sent and removed after its results are downloaded, so a killed command never leads to a second kernel for the same
folds: the next command finds the file and continues with its kernel.
"""

from __future__ import annotations

import base64
import io
import json
import math
import secrets
import textwrap
import time
import zipfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field

import kaggle_digits
from kaggle_digits.data.csv import Data
from kaggle_digits.errors import (
    CredentialsError,
    DataError,
    KaggleDigitsError,
    NetworkError,
    NotReachedError,
    RefusedError,
    UsageError,
)
from kaggle_digits.execution import LOG, Job, Options, Place
from kaggle_digits.execution.kernel import JOB, MANIFEST, fold_file, read_line
from kaggle_digits.files import (
    open_log,
    read_json,
    read_zipped,
    temporary_folder,
    write_errors,
    write_json,
)
from kaggle_digits.hosts.kaggle import (
    SESSION_TIMEOUT,
    KaggleKernels,
    KernelStatus,
    NotDeletedError,
    SessionLimitError,
)
from kaggle_digits.runs.artefacts import FOLD_FILES, KAGGLE, METRICS, check_fold, write_artefacts
from kaggle_digits.runs.schema import Document, read_document
from kaggle_digits.training.checkpoint import FoldCheckpoint
from kaggle_digits.training.observer import Observer
from kaggle_digits.workspace import Workspace

T = TypeVar("T")

NAMES = "kaggle or kaggle-cpu"
KERNEL_JSON = "kernel.json"
LARGEST_SOURCE = 1_000_000
"""Maximum size of a kernel's source in bytes, at Kaggle."""
POLL_SECONDS = 30.0
"""Seconds between two requests for the status of a kernel."""
PATIENCE = 300.0
"""Seconds for which the status of a running kernel may be unknown, because Kaggle reports errors."""
LOOK_UP_SECONDS = 60.0
"""Seconds for which a kernel is looked for that was sent, and which Kaggle does not know or did not confirm."""
LAST_HOUR = 3600.0
"""Seconds before the end of a session in which no fold should be under way, so that its output can be saved."""
OLD_SECONDS = 60.0
"""Age in seconds from which on the progress in a kernel's log is not shown any more."""
LONGEST_QUEUE = 3600.0
"""Seconds to wait while Kaggle has no free machine, or the user runs too many kernels."""
DOWNLOADS = 4
"""Maximum number of downloads of a file of the output that is missing or damaged."""
LOG_LINES_SHOWN = 5

_REMEDY = "Run the same command again to continue with it, or delete it with --cancel; finished folds are kept."
_SCRIPT = '''"""Trains folds of Digit Recognizer for kaggle-digits {version}, and writes them into the output."""

import base64
import io
import sys
import tempfile
import zipfile

PACKAGE = """
{package}
"""

folder = tempfile.mkdtemp()
zipfile.ZipFile(io.BytesIO(base64.b64decode(PACKAGE))).extractall(folder)
sys.path.insert(0, folder)
from kaggle_digits.execution.kernel import main

main(folder)
'''
_NOTICES = {"QUEUED": "The kernel waits for a machine at Kaggle.", "RUNNING": "The kernel is running."}
_ERRORS: dict[str, type[KaggleDigitsError]] = {
    "UsageError": UsageError,
    "DataError": DataError,
    "RefusedError": RefusedError,
    # Problems of Kaggle's machine.
    "WorkerDiedError": NetworkError,
    "WriteError": NetworkError,
}
"""How errors in a kernel are raised on this machine; all others are internal errors."""


class KernelRecord(Document):
    """``kernel.json`` of a run: a kernel at Kaggle that trains folds of it."""

    slug: str = Field(pattern=r"^kaggle-digits-[0-9a-f]{12}$")
    address: str  # of its page at Kaggle
    retrain: bool  # whether it trains folds that were finished before
    runs: list[Annotated[str, Field(pattern=r"^[^/.][^/]*$")]]


def open_place(on: str | None, workspace: Workspace, options: Options) -> KernelPlace | None:
    """Return the kernels at Kaggle: ``kaggle`` with two GPUs, ``kaggle-cpu`` without."""
    if on not in ("kaggle", "kaggle-cpu"):
        return None
    if workspace.competition.host != "kaggle":
        raise UsageError(
            f"Folds of {workspace.competition.name} cannot be trained at Kaggle, which does not have its data.",
            "Train them on this machine.",
        )
    options.check(on, ("wait",))
    return KernelPlace(KaggleKernels(workspace.competition.name), on == "kaggle", options)


@dataclass
class KernelPlace(Place):
    """Kernels at Kaggle, one at a time, each of which trains all missing folds."""

    kernels: KaggleKernels
    gpu: bool
    options: Options
    _missing: dict[str, Job] = field(default_factory=dict)  # by the names of the folds' files in the output
    _current: KernelRecord | None = None  # the kernel that is followed, or has just been sent
    _shown: int = 0  # lines of the log of the current kernel

    def train(self, jobs: Sequence[Job], data: Data, observer: Observer) -> Generator[Job, None, None]:
        """Train folds in a kernel, write them on this machine, and yield each of them.

        A kernel that was started earlier for the same runs is continued first. If it did not train all folds,
        because its time was over, the next kernel trains the rest. Without `wait`, the kernel is only sent, or
        looked at once if it exists. With `retrain`, a kernel that was sent before this decision is deleted.
        """
        self._data, self._observer = data, observer
        self._all_runs = jobs[0].folder.parents[1]
        self._missing = {fold_file(job.task): job for job in jobs}
        try:
            for record in known_kernels(self._runs()):
                if self.options.retrain and not record.retrain:
                    observer.notice(f"Deleting the kernel {record.address}, which was sent before.")
                    self._delete(record)
                else:
                    observer.notice(f"Continuing with the kernel {record.address}.")
                    yield from self._complete(record, is_new=False)
            while self._missing:
                before, record = len(self._missing), self._push()
                yield from self._complete(record, is_new=True)
                if len(self._missing) == before:
                    raise NetworkError(
                        f"The kernel {record.address} ended without a finished fold.",
                        "See workers.log of the run for its output, then run the same command again.",
                    )
        except KeyboardInterrupt:
            if self._current is not None:
                observer.notice(
                    f"The kernel {self._current.address} is not ended by Ctrl-C. The same command continues with "
                    "it; delete it with --cancel."
                )
            raise

    def preview(self, runs: Sequence[Path], jobs: Sequence[Job], data: Data) -> dict[str, Any]:
        """Return the size of the kernel, the address of one that would be continued first, and the GPU quota."""
        hours = None
        if self.gpu:
            with suppress(RefusedError, NetworkError):  # nothing else depends on it
                hours = self.kernels.gpu_hours()
        known = known_kernels(runs)
        return {
            "bytes": len(pack(jobs, data, self.gpu)) if jobs else 0,
            "kernel": known[0].address if known else None,
            "gpu_hours": None if hours is None else hours.as_json(),
        }

    def cancel(self, runs: Sequence[Path]) -> list[str]:
        """Delete the kernels that train folds of these runs, and return their addresses."""
        records = known_kernels(runs)
        self._all_runs = runs[0].parent
        for record in records:
            self._delete(record)
        return [record.address for record in records]

    def _runs(self) -> list[Path]:
        """Return the folders of the runs with missing folds."""
        return sorted({job.folder.parent for job in self._missing.values()})

    def _push(self) -> KernelRecord:
        """Send a kernel for the missing folds. While too many kernels of the user are running, wait."""
        source = pack(list(self._missing.values()), self._data, self.gpu)
        until, is_waiting = time.monotonic() + LONGEST_QUEUE, False
        while True:
            slug = f"kaggle-digits-{secrets.token_hex(6)}"
            record = KernelRecord(
                slug=slug,
                address=self.kernels.address(slug),
                retrain=self.options.retrain,
                runs=[run.name for run in self._runs()],
            )
            for run in self._runs():
                write_json(run / KERNEL_JSON, record.model_dump())
            self._current = record
            try:
                self.kernels.push(slug, source, self.gpu)
            except NotDeletedError:
                raise
            except (SessionLimitError, RefusedError, CredentialsError, NotReachedError) as error:
                self._forget(record)
                if not isinstance(error, SessionLimitError):
                    raise
                if not self.options.wait or time.monotonic() > until:
                    raise NetworkError(
                        error.problem, f"{error.remedy} Then run the same command again."
                    ) from error
                if not is_waiting:
                    self._observer.notice(f"{error.problem} Waiting for one of your kernels to end.")
                is_waiting = True
                time.sleep(POLL_SECONDS)
                continue
            except NetworkError as error:
                self._observer.notice(f"{error.problem} Looking for the kernel at Kaggle.")
            folds = f"{len(self._missing)} fold{'s' * (len(self._missing) > 1)}"
            self._observer.notice(f"Sent {folds} to {record.address}. Ctrl-C does not end the kernel.")
            return record

    def _complete(self, record: KernelRecord, is_new: bool) -> Iterator[Job]:
        """Follow a kernel until it has ended, and write and yield its finished folds."""
        self._current, self._shown = record, 0
        status = self._follow(record)
        if status.state == "NOT_FOUND":
            if is_new:
                raise NetworkError(
                    f"Kaggle did not confirm the kernel {record.address}, so it may be running: {status.words}",
                    "Run the same command again, which looks for it once more, or delete it with --cancel.",
                )
            # It never arrived, or was deleted at Kaggle. Deleting it makes certain that it does not run.
            self._delete(record)
            return
        log = self._copy_log(record)
        self._show_lines(log.splitlines())
        has_succeeded = status.state == "COMPLETE"
        manifest = self._download(record, MANIFEST, read_json) if has_succeeded else {}
        if manifest is None:
            raise NetworkError(f"There is no {MANIFEST} in the output of {record.address}.", _REMEDY)
        yield from self._fetch_folds(record, manifest.get("folds"))
        self._forget(record)
        if not self._missing:
            return
        if error := manifest.get("error"):
            kind = _ERRORS.get(error["type"], KaggleDigitsError)
            raise kind(f"In the kernel: {error['problem']}", error["remedy"])
        if not has_succeeded:
            what = "was cancelled" if status.state == "CANCELLED" else "failed"
            why = f": {status.words.rstrip('.')}" if status.words else ""
            raise NetworkError(
                f"The kernel {record.address} {what}{why}. {_last_lines(log)}".strip(),
                "Run the same command again to train the missing folds in a new kernel.",
            )

    def _follow(self, record: KernelRecord) -> KernelStatus:
        """Wait until a kernel has ended or is not found, show its progress, and return its status."""
        state = ""
        last_known = queued_since = time.monotonic()
        while True:
            status, now = self.kernels.status(record.slug), time.monotonic()
            if status.state == "QUEUED" and state == "RUNNING":
                # The client reads a response without a status as QUEUED.
                status = KernelStatus("UNKNOWN", "Kaggle's response has no status.")
            if status.state in ("COMPLETE", "ERROR", "CANCELLED"):
                return status
            is_known = status.state not in ("UNKNOWN", "NOT_FOUND")
            last_known = now if is_known else last_known
            if now - last_known > (PATIENCE if state else LOOK_UP_SECONDS):
                if status.state == "NOT_FOUND" and not state:
                    return status
                raise NetworkError(f"The state of {record.address} is unknown: {status.words}", _REMEDY)
            if state != status.state:
                unknown = f"The state of {record.address} is unknown: {status.words}"
                self._observer.notice(_NOTICES.get(status.state, unknown))
                state = status.state if is_known else state
            if not self.options.wait:
                raise NetworkError(f"The kernel {record.address} is {state.lower() or 'sent'}.", _REMEDY)
            if state == "QUEUED" and now - queued_since > LONGEST_QUEUE:
                raise NetworkError(f"The kernel {record.address} is still waiting for a machine.", _REMEDY)
            if state == "RUNNING":
                self._show_lines(self.kernels.log_lines(record.slug), until=now + POLL_SECONDS)
            time.sleep(max(0.0, now + POLL_SECONDS - time.monotonic()))

    def _show_lines(self, lines: Iterable[str], until: float = math.inf) -> None:
        """Show the lines of a log, from its start on, that were not shown yet; stop at a time."""
        tasks = {(job.task.seed, job.task.fold): job.task for job in self._missing.values()}
        for number, line in enumerate(lines):
            if number >= self._shown and (event := read_line(line)):
                if event.notice:
                    self._observer.notice(f"Kernel: {event.notice}")
                # A new command reads the log from its start on. Its old lines arrive all at once, which would look
                # like a very fast training.
                elif time.time() - event.time > OLD_SECONDS:
                    pass
                elif event.started in tasks:
                    self._observer.started(tasks[event.started])
                elif event.progress and (event.progress.seed, event.progress.fold) in tasks:
                    self._observer.progress(event.progress)
            self._shown = max(self._shown, number + 1)
            if time.monotonic() >= until:
                break

    def _fetch_folds(self, record: KernelRecord, finished: Sequence[str] | None) -> Iterator[Job]:
        """Download, check, write and yield the missing folds; raise the first error when all were tried.

        Without `finished`, the folds in the manifest, the kernel has failed, and may have left nothing.
        """
        failures: list[NetworkError] = []
        for name, job in list(self._missing.items()):
            if finished is not None and name not in finished:
                continue
            try:
                contents = self._download(record, name, partial(self._read_fold, job))
                if contents is None and finished is not None:
                    raise NetworkError(f"There is no {name} in the output of {record.address}.", _REMEDY)
            except NetworkError as error:
                failures.append(error)
                continue
            if contents is not None:
                metrics = json.loads(contents.pop(METRICS)) | {"where": KAGGLE}
                write_artefacts(job.folder, contents, metrics)
                FoldCheckpoint(job.folder).discard()
                del self._missing[name]
                yield job
        if failures:
            raise failures[0]

    def _read_fold(self, job: Job, path: Path) -> dict[str, bytes]:
        """Return the files of a fold that was downloaded; `DataError` if it is damaged."""
        contents = {name: read_zipped(path, name) for name in (*FOLD_FILES, METRICS)}
        with temporary_folder() as folder:
            for name, content in contents.items():
                (folder / name).write_bytes(content)
            check_fold(folder, int((job.task.split == job.task.fold).sum()), len(self._data.test.images))
        return contents

    def _download(self, record: KernelRecord, name: str, read: Callable[[Path], T]) -> T | None:
        """Return what `read` returns for a file of the output, None if the output does not have it.

        The file is downloaded again if the output cannot be listed, or `read` raises a `DataError`.
        """
        for attempt in range(DOWNLOADS):
            time.sleep(min(POLL_SECONDS, 2.0**attempt - 1))
            with temporary_folder() as folder:
                try:
                    path, _ = self.kernels.output(record.slug, name, folder)
                    return None if path is None else read(path)
                except (RefusedError, DataError) as error:
                    why = error.problem
        raise NetworkError(f"{name} in the output of {record.address} cannot be read: {why}", _REMEDY)

    def _copy_log(self, record: KernelRecord) -> str:
        """Append the logs of a kernel to those of the runs, and return the kernel's own log."""
        log = workers = ""
        with suppress(NetworkError, RefusedError), temporary_folder() as folder:
            path, log = self.kernels.output(record.slug, LOG, folder)
            workers = path.read_text(errors="replace") if path is not None else ""
        for log_file in {self._all_runs / name / LOG for name in record.runs}:
            with write_errors(log_file), open_log(log_file) as stream:
                stream.write(f"{log}\n{workers}\n".encode(errors="replace"))
        return log

    def _delete(self, record: KernelRecord) -> None:
        self.kernels.delete(record.slug)
        self._forget(record)

    def _forget(self, record: KernelRecord) -> None:
        """Remove the record of a kernel from all runs that have it."""
        self._current = None
        for name in record.runs:
            path = self._all_runs / name / KERNEL_JSON
            if path.exists() and read_json(path).get("slug") == record.slug:
                with write_errors(path):
                    path.unlink()


def pack(jobs: Sequence[Job], data: Data, gpu: bool) -> str:
    """Return the source of a kernel that trains folds: a script that contains this package and the job."""
    tasks = [job.task for job in jobs]
    document = {
        "tasks": [
            {name: getattr(task, name) for name in ("preset", "seed", "fold", "network")}
            | {"settings": task.settings.model_dump()}
            for task in tasks
        ],
        "splits": {task.seed: base64.b64encode(task.split.tobytes()).decode() for task in tasks},
        "data": data.hashes,
        "gpu": gpu,
        "deadline": SESSION_TIMEOUT - LAST_HOUR,
    }
    package = Path(kaggle_digits.__file__).parent
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9, strict_timestamps=False) as archive:
        # The complete source, so that the versions that each fold records are those of this machine.
        for path in sorted(package.rglob("*.py")):
            archive.write(path, path.relative_to(package.parent))
        archive.writestr(JOB, json.dumps(document))
    lines = textwrap.wrap(base64.b64encode(stream.getvalue()).decode(), 115)
    source = _SCRIPT.format(version=kaggle_digits.__version__, package="\n".join(lines))
    if len(source) > LARGEST_SOURCE:
        raise UsageError(
            f"The kernel for {len(tasks)} folds has {len(source):,} bytes, more than the {LARGEST_SOURCE:,} that "
            "Kaggle accepts.",
            "Train fewer seeds at a time.",
        )
    return source


def known_kernels(runs: Iterable[Path]) -> list[KernelRecord]:
    """Return the kernels that train folds of the runs in these folders; `DataError` if a file is damaged."""
    remedy = "Remove it, and end the kernel at Kaggle."
    paths = [run / KERNEL_JSON for run in dict.fromkeys(runs)]
    records = [read_document(path, KernelRecord, remedy) for path in paths if path.exists()]
    return list({record.slug: record for record in records}.values())


def _last_lines(log: str) -> str:
    """Return a sentence with the last lines of a log that are not progress; empty if there are none."""
    lines = [line.strip() for line in log.splitlines() if line.strip() and not read_line(line)]
    return f"The last lines of its log: {' | '.join(lines[-LOG_LINES_SHOWN:])}." if lines else ""
