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
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

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
from kaggle_digits.files import open_log, read_json, temporary_folder, unzip, write_errors, write_json
from kaggle_digits.hosts.kaggle import CONTINUE, SESSION_TIMEOUT, KaggleKernels, KernelStatus
from kaggle_digits.runs.artefacts import FOLD_FILES, KAGGLE, METRICS, FoldFolder
from kaggle_digits.runs.schema import Document, read_document
from kaggle_digits.training.observer import Observer
from kaggle_digits.workspace import Workspace

NAMES = "kaggle or kaggle-cpu"
KERNEL_JSON = "kernel.json"
POLL_SECONDS = 30.0
"""Seconds between two requests for the status of a kernel."""
PATIENCE = 300.0
"""Seconds for which Kaggle may not know a kernel, or not say what its status is."""
LAST_HOUR = 3600.0
"""Seconds before the end of a session in which no fold should be under way, so that its output can be saved."""
OLD_SECONDS = 60.0
"""Age in seconds from which on the progress in a kernel's log is not shown any more."""
LOG_LINES_SHOWN = 5

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
_ENDINGS = {"COMPLETE": "ended without a finished fold", "ERROR": "failed", "CANCELLED": "was cancelled"}
_ERRORS = {kind.__name__: kind for kind in (UsageError, DataError, RefusedError, KaggleDigitsError)}
"""How errors in a kernel are raised on this machine; all others are problems of Kaggle's machine."""


class KernelRecord(Document):
    """``kernel.json`` of a run: a kernel at Kaggle that trains folds of it."""

    slug: str = Field(pattern=r"^kaggle-digits-[0-9a-f]{12}$")
    address: str  # of its page at Kaggle
    retrain: bool  # whether it trains folds that were finished before


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


@dataclass(frozen=True)
class KernelPlace(Place):
    """Kernels at Kaggle, one at a time, each of which trains all missing folds."""

    kernels: KaggleKernels
    gpu: bool
    options: Options

    def train(self, jobs: Sequence[Job], data: Data, observer: Observer) -> Generator[Job, None, None]:
        """Train folds in a kernel, write them on this machine, and yield each of them.

        A kernel that was started earlier for the same runs is continued first. If it did not train all folds,
        because its time was over, the next kernel trains the rest. Without `wait`, the kernel is only sent, or
        looked at once if it exists. With `retrain`, a kernel that was sent before this decision is deleted.
        """
        return _Training(self, jobs, data, observer).run()

    def preview(self, runs: Sequence[Path], jobs: Sequence[Job], data: Data) -> dict[str, Any]:
        """Return the size of the kernel, the address of one that would be continued first, and the GPU quota."""
        hours = None
        if self.gpu:
            with suppress(RefusedError, NetworkError):  # nothing else depends on it
                hours = self.kernels.gpu_hours().as_json()
        known = known_kernels(runs)
        return {
            "bytes": len(pack(jobs, data, self.gpu)) if jobs else 0,
            "kernel": known[0].address if known else None,
            "gpu_hours": hours,
        }

    def cancel(self, runs: Sequence[Path]) -> list[str]:
        """Delete the kernels that train folds of these runs, and return their addresses."""
        records = known_kernels(runs)
        for record in records:
            self.delete(record, runs)
        return [record.address for record in records]

    def delete(self, record: KernelRecord, runs: Iterable[Path]) -> None:
        """Delete a kernel, and its record in these runs; in another run, `train` finds that it was deleted."""
        self.kernels.delete(record.slug)
        forget(record, runs)


class _Training:
    """One training: its runs, and the folds that are still missing, by seed and number."""

    def __init__(self, place: KernelPlace, jobs: Sequence[Job], data: Data, observer: Observer) -> None:
        self.place, self.data, self.observer = place, data, observer
        self.kernels, self.options = place.kernels, place.options
        self.runs = sorted({job.folder.parent for job in jobs})
        self.missing = {(job.task.seed, job.task.fold): job for job in jobs}
        self.shown = 0  # lines of the log of the kernel that is followed

    def run(self) -> Generator[Job, None, None]:
        """See `KernelPlace.train`."""
        try:
            for record in known_kernels(self.runs):
                if self.options.retrain and not record.retrain:
                    self.observer.notice(f"Deleting the kernel {record.address}, which was sent before.")
                    self.place.delete(record, self.runs)
                else:
                    self.observer.notice(f"Continuing with the kernel {record.address}.")
                    yield from self._complete(record, is_new=False)
            while self.missing:
                yield from self._complete(self._push(), is_new=True)
        except KeyboardInterrupt:
            for record in known_kernels(self.runs):
                self.observer.notice(
                    f"The kernel {record.address} is not ended by Ctrl-C. The same command continues with it; "
                    "delete it with --cancel."
                )
            raise

    def _push(self) -> KernelRecord:
        """Send a kernel for the missing folds."""
        jobs = list(self.missing.values())
        source, slug = pack(jobs, self.data, self.place.gpu), f"kaggle-digits-{secrets.token_hex(6)}"
        record = KernelRecord(slug=slug, address=self.kernels.address(slug), retrain=self.options.retrain)
        for run in {job.folder.parent for job in jobs}:
            write_json(run / KERNEL_JSON, record.model_dump())
        try:
            self.kernels.push(slug, source, self.place.gpu)
        except (RefusedError, CredentialsError, NotReachedError):
            forget(record, self.runs)
            raise
        except NetworkError as error:
            self.observer.notice(f"{error.problem} Looking for the kernel at Kaggle.")
        folds = f"{len(jobs)} fold{'s' * (len(jobs) > 1)}"
        self.observer.notice(f"Sent {folds} to {record.address}. Ctrl-C does not end the kernel.")
        return record

    def _complete(self, record: KernelRecord, is_new: bool) -> Iterator[Job]:
        """Follow a kernel until it has ended, and write and yield its finished folds."""
        self.shown, before = 0, len(self.missing)
        status = self._follow(record)
        if status.state == "NOT_FOUND":
            if is_new:
                raise NetworkError(
                    f"Kaggle did not confirm the kernel {record.address}, so it may be running: {status.words}",
                    "Run the same command again, which looks for it once more, or delete it with --cancel.",
                )
            # It never arrived, or was deleted at Kaggle. Deleting it makes certain that it does not run.
            self.place.delete(record, self.runs)
            return
        names, log = self.kernels.output(record.slug)
        self._copy_log(record, names, log)
        self._show_lines(log.splitlines())
        manifest: dict[str, Any] = {"folds": names}
        if status.state == "COMPLETE":  # otherwise it has no manifest, but may have finished folds
            manifest = self.kernels.download(record.slug, MANIFEST, read_json)
        yield from self._fetch_folds(record, manifest["folds"])
        forget(record, self.runs)
        if not self.missing:
            return
        if error := manifest.get("error"):
            kind = _ERRORS.get(error["type"], NetworkError)
            raise kind(f"In the kernel: {error['problem']}", error["remedy"])
        if status.state != "COMPLETE" or len(self.missing) == before:
            why = f": {status.words.rstrip('.')}" if status.words else ""
            raise NetworkError(
                f"The kernel {record.address} {_ENDINGS[status.state]}{why}. {_last_lines(log)}".strip(),
                "Run the same command again to train the missing folds in a new kernel.",
            )

    def _follow(self, record: KernelRecord) -> KernelStatus:
        """Wait until a kernel has ended or is not found, show its progress, and return its status."""
        state, last_known = "", time.monotonic()
        while True:
            status, now = self.kernels.status(record.slug), time.monotonic()
            if status.state in _ENDINGS:
                return status
            if status.state in _NOTICES:
                if status.state != state:
                    self.observer.notice(_NOTICES[status.state])
                state, last_known = status.state, now
            else:
                unknown = f"The state of {record.address} is unknown: {status.words}"
                if now - last_known > PATIENCE:
                    if status.state == "NOT_FOUND" and not state:
                        return status
                    raise NetworkError(unknown, CONTINUE)
                self.observer.notice(unknown)
            if not self.options.wait:
                raise NetworkError(f"The kernel {record.address} is {state.lower() or 'sent'}.", CONTINUE)
            if state == "RUNNING":
                self._show_lines(self.kernels.log_lines(record.slug), until=now + POLL_SECONDS)
            time.sleep(max(0.0, now + POLL_SECONDS - time.monotonic()))

    def _show_lines(self, lines: Iterable[str], until: float = math.inf) -> None:
        """Show the lines of a log, from its start on, that were not shown yet; stop at a time."""
        for number, line in enumerate(lines):
            if number >= self.shown and (event := read_line(line)):
                if event.notice:
                    self.observer.notice(f"Kernel: {event.notice}")
                # A new command reads the log from its start on. Its old lines arrive all at once, which would look
                # like a very fast training.
                elif time.time() - event.time > OLD_SECONDS:
                    pass
                elif event.started in self.missing:
                    self.observer.started(self.missing[event.started].task)
                elif event.progress and (event.progress.seed, event.progress.fold) in self.missing:
                    self.observer.progress(event.progress)
            self.shown = max(self.shown, number + 1)
            if time.monotonic() >= until:
                break

    def _fetch_folds(self, record: KernelRecord, names: Collection[str]) -> Iterator[Job]:
        """Download, check, write and yield the missing folds in `names`; raise the first error after the last."""
        failures: list[NetworkError] = []
        for key, job in list(self.missing.items()):
            if (name := fold_file(job.task)) not in names:
                continue
            try:
                contents = self.kernels.download(record.slug, name, partial(self._read_fold, job))
            except NetworkError as error:
                failures.append(error)
                continue
            metrics = json.loads(contents.pop(METRICS)) | {"where": KAGGLE}
            FoldFolder(job.folder).write_files(contents, metrics)
            del self.missing[key]
            yield job
        if failures:
            raise failures[0]

    def _read_fold(self, job: Job, path: Path) -> dict[str, bytes]:
        """Return the files of a fold that was downloaded; `DataError` if it is damaged."""
        names = (*FOLD_FILES, METRICS)
        with temporary_folder() as folder:
            unzip(path, names, folder)
            FoldFolder(folder).check(int((job.task.split == job.task.fold).sum()), len(self.data.test.images))
            return {name: (folder / name).read_bytes() for name in names}

    def _copy_log(self, record: KernelRecord, names: Collection[str], log: str) -> None:
        """Append the log of a kernel and, if it is in the output, that of its workers to those of the runs."""
        workers = ""
        if LOG in names:
            with suppress(NetworkError, RefusedError):
                workers = self.kernels.download(record.slug, LOG, partial(Path.read_text, errors="replace"))
        for log_file in {job.log_file for job in self.missing.values()}:
            with write_errors(log_file), open_log(log_file) as stream:
                stream.write(f"{log}\n{workers}\n".encode(errors="replace"))


def pack(jobs: Sequence[Job], data: Data, gpu: bool) -> str:
    """Return the source of a kernel that trains folds: a script that contains this package and the job."""
    tasks = [job.task for job in jobs]
    document = {
        "tasks": [
            {"seed": task.seed, "fold": task.fold, "settings": task.settings.model_dump()}
            | {"network": asdict(task.network) if task.network else None}
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
    return _SCRIPT.format(version=kaggle_digits.__version__, package="\n".join(lines))


def known_kernels(runs: Iterable[Path]) -> list[KernelRecord]:
    """Return the kernels that train folds of the runs in these folders; `DataError` if a file is damaged."""
    remedy = "Remove it, and end the kernel at Kaggle."
    paths = [run / KERNEL_JSON for run in dict.fromkeys(runs)]
    records = [read_document(path, KernelRecord, remedy) for path in paths if path.exists()]
    return list({record.slug: record for record in records}.values())


def forget(record: KernelRecord, runs: Iterable[Path]) -> None:
    """Remove the record of a kernel from these runs, if they have it."""
    for path in [run / KERNEL_JSON for run in runs]:
        if path.exists() and read_json(path).get("slug") == record.slug:
            with write_errors(path):
                path.unlink()


def _last_lines(log: str) -> str:
    """Return a sentence with the last lines of a log that are not progress; empty if there are none."""
    lines = [line.strip() for line in log.splitlines() if line.strip() and not read_line(line)]
    return f"The last lines of its log: {' | '.join(lines[-LOG_LINES_SHOWN:])}." if lines else ""
