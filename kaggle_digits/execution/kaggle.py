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
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

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
from kaggle_digits.execution.kernel import JOB, LOG, MANIFEST, SPLITS, Event, fold_file, read_line
from kaggle_digits.execution.processes import Job
from kaggle_digits.files import (
    open_log,
    read_json,
    read_zipped,
    sha256,
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
from kaggle_digits.runs.artefacts import FOLD_FILES, KAGGLE, METRICS, FoldCheckpoint, check_fold, write_artefacts
from kaggle_digits.runs.schema import FoldMetrics, KernelRecord, read_document
from kaggle_digits.training.fold import FoldTask, Progress
from kaggle_digits.training.models import network_digest, read_network
from kaggle_digits.training.observer import Observer

KERNEL_JSON = "kernel.json"
LARGEST_SOURCE = 1_000_000
"""Maximum size of a kernel's source in bytes, at Kaggle."""
POLL_SECONDS = 30.0
"""Seconds between two requests for the status of a kernel."""
PATIENCE = 300.0
"""Seconds for which the status of a kernel may be unknown, because Kaggle reports errors."""
LOOK_UP_SECONDS = 60.0
"""Seconds for which a kernel is looked for after Kaggle did not answer when it was sent."""
LATEST_ARRIVAL = 180.0
"""Seconds after which a kernel that Kaggle does not know cannot have arrived."""
LAST_HOUR = 3600.0
"""Seconds before the end of a session in which no fold should be under way, so that its output can be saved."""
OLD_SECONDS = 60.0
"""Age in seconds from which on a line of a kernel's log is old."""
LONGEST_QUEUE = 3600.0
"""Seconds to wait while Kaggle has no free machine, or the user runs too many kernels."""
DOWNLOADS = 4
"""Maximum number of downloads of a file of the output that is missing or damaged."""
LOG_LINES_SHOWN = 5

_REMEDY = "Run the same command again to continue with it, or delete it with --cancel; finished folds are kept."
_SCRIPT = '''"""Trains folds of Digit Recognizer for kaggle-digits {version}, and writes them into the output."""

import base64
import io
import json
import os
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = """
{package}
"""

folder = Path(tempfile.mkdtemp())
zipfile.ZipFile(io.BytesIO(base64.b64decode(PACKAGE))).extractall(folder)
sys.path.insert(0, str(folder))
try:
    from kaggle_digits.execution.kernel import main
except ImportError as error:
    problem = f"kaggle-digits cannot be imported in Kaggle's image: {{error}}."
    remedy = "Install the newest version of kaggle-digits, or train on another machine."
    words = {{"type": "KaggleDigitsError", "problem": problem, "remedy": remedy}}
    output = Path(os.environ.get("KAGGLE_DIGITS_KERNEL_ROOT", "/kaggle")) / "working" / "{manifest}"
    output.write_text(json.dumps({{"files": {{}}, "error": words}}))
else:
    main(folder)
'''


def pack(tasks: Sequence[FoldTask], hashes: dict[str, str], gpu: bool) -> str:
    """Return the source of a kernel that trains folds: a script that contains this package and the job.

    `hashes` are the SHA-256 of ``train.csv`` and ``test.csv``. `UsageError` if it is larger than Kaggle allows.
    """
    job = {
        "tasks": [
            {
                "preset": task.preset,
                "settings": task.settings.model_dump(),
                "seed": task.seed,
                "fold": task.fold,
                "network": task.network,
            }
            for task in tasks
        ],
        "data": hashes,
        "gpu": gpu,
        "deadline": SESSION_TIMEOUT - LAST_HOUR,
    }
    splits = io.BytesIO()
    arrays: dict[str, Any] = {str(task.seed): task.split for task in tasks}
    np.savez(splits, **arrays)
    package = Path(kaggle_digits.__file__).parent
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9, strict_timestamps=False) as archive:
        # The complete source, so that the versions that each fold records are those of this machine.
        for path in sorted(package.rglob("*.py")):
            archive.write(path, path.relative_to(package.parent))
        archive.writestr(JOB, json.dumps(job))
        archive.writestr(SPLITS, splits.getvalue())
    lines = textwrap.wrap(base64.b64encode(stream.getvalue()).decode(), 115)
    source = _SCRIPT.format(version=kaggle_digits.__version__, package="\n".join(lines), manifest=MANIFEST)
    if len(source) > LARGEST_SOURCE:
        raise UsageError(
            f"The kernel for {len(tasks)} folds has {len(source):,} bytes, more than the {LARGEST_SOURCE:,} that "
            "Kaggle accepts.",
            "Train fewer seeds at a time.",
        )
    return source


def known_kernels(runs: Sequence[Path]) -> list[KernelRecord]:
    """Return the kernels that train folds of the runs in these folders; `DataError` if a file is damaged."""
    records: dict[str, KernelRecord] = {}
    for run in runs:
        if (run / KERNEL_JSON).exists():
            record = read_document(run / KERNEL_JSON, KernelRecord, "Remove it, and end the kernel at Kaggle.")
            # If the process was killed between the two, only some of the runs say that it is confirmed.
            if record.slug not in records or record.confirmed:
                records[record.slug] = record
    return list(records.values())


def cancel_kernels(runs: Sequence[Path], kernels: KaggleKernels) -> list[KernelRecord]:
    """Delete the kernels that train folds of these runs, and return them."""
    records = known_kernels(runs)
    for record in records:
        kernels.delete(record.slug)
        _forget(record, runs[0].parent)
    return records


def train_on_kaggle(
    jobs: Sequence[Job],
    data: Data,
    kernels: KaggleKernels,
    gpu: bool,
    observer: Observer,
    wait: bool = True,
    retrain: bool = False,
) -> None:
    """Train folds in a kernel at Kaggle, and write them on this machine.

    A kernel that was started earlier for the same runs is continued first. If it did not train all folds, because
    its time was over, the next kernel trains the rest. Without `wait`, the kernel is only sent, or looked at once
    if it exists. With `retrain`, the folds were finished before, and a kernel that was sent before this decision
    is deleted.
    """
    session = _Session(list(jobs), data, kernels, gpu, observer, wait, retrain)
    try:
        session.run()
    except KeyboardInterrupt:
        if session.current is not None:
            observer.notice(
                f"The kernel {session.current.address} is not ended by Ctrl-C. The same command continues with "
                "it; delete it with --cancel."
            )
        raise


@dataclass
class _Session:
    """The folds to train, and the steps of a kernel: push, follow and fetch."""

    jobs: list[Job]
    data: Data
    kernels: KaggleKernels
    gpu: bool
    observer: Observer
    wait: bool
    retrain: bool
    missing: dict[str, Job] = field(init=False)  # by the names of the folds' files in the output of a kernel
    current: KernelRecord | None = None  # the kernel that is followed, or has just been sent
    _shown: int = 0  # lines of the log of the current kernel
    _held_back: dict[tuple[int, int], Progress] = field(default_factory=dict)  # old progress of folds in the log

    def __post_init__(self) -> None:
        self.missing = {fold_file(job.task): job for job in self.jobs}

    @property
    def runs(self) -> list[Path]:
        """The folders of the runs with missing folds."""
        return sorted({job.folder.parent for job in self.missing.values()})

    @property
    def all_runs(self) -> Path:
        """The folder of all runs of the competition."""
        return self.jobs[0].folder.parents[1]

    def run(self) -> None:
        """Complete the kernels that are known, then send kernels until no fold is missing."""
        for record in known_kernels(self.runs):
            if self.retrain and not record.retrain:
                self.observer.notice(f"Deleting the kernel {record.address}, which was sent before.")
                self.kernels.delete(record.slug)
                _forget(record, self.all_runs)
            elif record.confirmed or self._arrived(record):
                self.observer.notice(f"Continuing with the kernel {record.address}.")
                self._complete(record)
        while self.missing:
            before = len(self.missing)
            self._complete(record := self._push())
            if len(self.missing) == before:
                raise NetworkError(
                    f"The kernel {record.address} ended without a finished fold.",
                    "See workers.log of the run for its output, then run the same command again.",
                )

    def _push(self) -> KernelRecord:
        """Send a kernel for the missing folds. While too many kernels of the user are running, wait."""
        source = pack([job.task for job in self.missing.values()], self.data.hashes, self.gpu)
        started, is_waiting = time.monotonic(), False
        while True:
            slug = f"kaggle-digits-{secrets.token_hex(6)}"
            record = KernelRecord(
                slug=slug,
                address=self.kernels.address(slug),
                created=datetime.now(UTC),
                confirmed=False,
                gpu=self.gpu,
                retrain=self.retrain,
                folds=[(job.task.seed, job.task.fold) for job in self.missing.values()],
                runs=[run.name for run in self.runs],
            )
            self._write(record)
            self.current = record
            try:
                self.kernels.push(slug, source, self.gpu)
            except SessionLimitError as error:
                _forget(record, self.all_runs)
                self.current = None
                if not self.wait or time.monotonic() - started > LONGEST_QUEUE:
                    raise NetworkError(
                        error.problem, f"{error.remedy} Then run the same command again."
                    ) from error
                if not is_waiting:
                    self.observer.notice(f"{error.problem} Waiting for one of your kernels to end.")
                is_waiting = True
                time.sleep(POLL_SECONDS)
                continue
            except (RefusedError, CredentialsError, NotReachedError):
                _forget(record, self.all_runs)
                self.current = None
                raise
            except NotDeletedError:
                raise
            except NetworkError as error:
                self.observer.notice(f"{error.problem} Looking for the kernel at Kaggle.")
                self._look_up(record, LOOK_UP_SECONDS)
            record = record.model_copy(update={"confirmed": True})
            self._write(record)
            folds = f"{len(self.missing)} fold{'s' * (len(self.missing) > 1)}"
            self.observer.notice(f"Sent {folds} to {record.address}. Ctrl-C does not end the kernel.")
            return record

    def _arrived(self, record: KernelRecord) -> bool:
        """Tell whether Kaggle has a kernel whose arrival it did not confirm. If not, it is forgotten."""
        self.current = record
        self.observer.notice(f"Looking for the kernel {record.address}, which Kaggle did not confirm.")
        age = (datetime.now(UTC) - record.created).total_seconds()
        try:
            self._look_up(record, max(LOOK_UP_SECONDS, LATEST_ARRIVAL - age))
        except _NotThereError:
            # It cannot arrive any more. Deleting it makes certain that there are never two kernels for a fold.
            self.kernels.delete(record.slug)
            _forget(record, self.all_runs)
            return False
        self._write(record.model_copy(update={"confirmed": True}))
        return True

    def _complete(self, record: KernelRecord) -> None:
        """Follow a kernel until it has ended, and write its finished folds."""
        self.current, self._shown = record, 0
        status = self._follow(record)
        log = self._copy_log(record)
        self._show_lines(log.splitlines())
        has_succeeded = status.state == "COMPLETE"
        manifest = self._manifest(record) if has_succeeded else {}
        self._fetch_folds(record, manifest.get("files") if has_succeeded else None)
        _forget(record, self.all_runs)
        self.current = None
        if not self.missing:
            return
        if error := manifest.get("error"):
            raise _error_in_kernel(error)
        if not has_succeeded:
            what = "was cancelled" if status.state == "CANCELLED" else "failed"
            why = f": {status.words.rstrip('.')}" if status.words else ""
            raise NetworkError(
                f"The kernel {record.address} {what}{why}. {_last_lines(log)}".strip(),
                "Run the same command again to train the missing folds in a new kernel.",
            )

    def _look_up(self, record: KernelRecord, seconds: float) -> None:
        """Wait until Kaggle knows a kernel; `NetworkError` if it does not know it after some seconds."""
        until = time.monotonic() + seconds
        while (status := self.kernels.status(record.slug)).state in ("NOT_FOUND", "UNKNOWN"):
            if time.monotonic() >= until:
                kind = _NotThereError if status.state == "NOT_FOUND" else NetworkError
                raise kind(
                    f"Kaggle did not confirm the kernel {record.address}, so it may be running: {status.words}",
                    "Run the same command again, which looks for it once more, or delete it with --cancel.",
                )
            time.sleep(min(POLL_SECONDS, 5.0))

    def _follow(self, record: KernelRecord) -> KernelStatus:
        """Wait until a kernel has ended, show its progress, and return its status."""
        state = ""
        last_known = queued_since = time.monotonic()
        while True:
            status, now = self.kernels.status(record.slug), time.monotonic()
            if status.state == "QUEUED" and state == "RUNNING":
                status = KernelStatus("UNKNOWN", "Kaggle's response has no status.")
            if status.state in ("COMPLETE", "ERROR", "CANCELLED"):
                return status
            is_known = status.state not in ("UNKNOWN", "NOT_FOUND")
            if is_known:
                last_known = now
            elif now - last_known > PATIENCE:
                remedy = _REMEDY
                if status.state == "NOT_FOUND":
                    remedy = "If it was deleted at Kaggle, use --cancel, then train again."
                raise NetworkError(f"The state of {record.address} is unknown: {status.words}", remedy)
            if state != status.state:
                self._show(status, record)
                state = status.state if is_known else state
            if not self.wait:
                raise NetworkError(f"The kernel {record.address} is {state.lower() or 'sent'}.", _REMEDY)
            if state == "QUEUED" and now - queued_since > LONGEST_QUEUE:
                raise NetworkError(f"The kernel {record.address} is still waiting for a machine.", _REMEDY)
            if state == "RUNNING":
                self._show_lines(self.kernels.log_lines(record.slug), until=now + POLL_SECONDS)
            time.sleep(max(0.0, now + POLL_SECONDS - time.monotonic()))

    def _show(self, status: KernelStatus, record: KernelRecord) -> None:
        words = {
            "QUEUED": "The kernel waits for a machine at Kaggle.",
            "RUNNING": "The kernel is running.",
        }
        self.observer.notice(words.get(status.state, f"The state of {record.address} is unknown: {status.words}"))

    def _show_lines(self, lines: Iterable[str], until: float = math.inf) -> None:
        """Show the lines of a log, from its start on, that were not shown yet; stop at a time."""
        for number, line in enumerate(lines):
            if number >= self._shown:
                self._shown = number + 1
                if event := read_line(line):
                    self._show_event(event)
            if time.monotonic() >= until:
                break
        for progress in self._held_back.values():
            self.observer.progress(progress)
        self._held_back.clear()

    def _show_event(self, event: Event) -> None:
        if event.notice:
            self.observer.notice(f"Kernel: {event.notice}")
        tasks = {(job.task.seed, job.task.fold): job.task for job in self.missing.values()}
        for fold in event.started:
            if fold in tasks:
                self.observer.started(tasks[fold])
        for progress in event.progress:
            fold = progress.seed, progress.fold
            if fold not in tasks:
                continue
            # A new command reads the log from its start on. Its old lines arrive all at once, which would look
            # like a very fast training, so that only the last of them is shown.
            if time.time() - event.time > OLD_SECONDS:
                self._held_back[fold] = progress
            else:
                self._held_back.pop(fold, None)
                self.observer.progress(progress)

    def _manifest(self, record: KernelRecord) -> dict[str, Any]:
        def read(path: Path) -> dict[str, Any]:
            manifest = read_json(path)
            if not isinstance(manifest.get("files"), dict) or not isinstance(manifest.get("error"), dict | None):
                raise DataError("It is not a list of the output of a kernel.", _REMEDY)
            return manifest

        manifest: dict[str, Any] = self._download(record, MANIFEST, read)
        return manifest

    def _fetch_folds(self, record: KernelRecord, digests: dict[str, str] | None) -> None:
        """Download the missing folds, check them and write them; raise the first error when all were tried.

        Without `digests`, which are those of the manifest, the kernel has failed, and may have left nothing.
        """
        failures: list[KaggleDigitsError] = []
        for name, job in list(self.missing.items()):
            if digests is not None and name not in digests:
                continue
            try:
                self._fetch_fold(record, name, job, None if digests is None else digests[name])
            except _NotThereError as error:
                if digests is not None:
                    failures.append(error)
            except (NetworkError, _UnreadableNetworkError) as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _fetch_fold(self, record: KernelRecord, name: str, job: Job, digest: str | None) -> None:
        contents, metrics = self._download(
            record, name, lambda path: self._read_fold(path, job.task, digest), is_certain=digest is not None
        )
        write_artefacts(job.folder, contents, metrics | {"where": KAGGLE})
        FoldCheckpoint(job.folder).discard()
        del self.missing[name]
        self.observer.finished(job.task)

    def _download(
        self, record: KernelRecord, name: str, read: Callable[[Path], Any], is_certain: bool = True
    ) -> Any:
        """Download a file of the output until `read` raises no `DataError`, and return its result.

        If it is certain that the output has the file, a list of the output without it is requested again.
        """
        for attempt in range(DOWNLOADS):
            if attempt:
                time.sleep(min(POLL_SECONDS, 2.0**attempt))
            with temporary_folder() as folder:
                path, where = None, f"The output of {record.address}"
                try:
                    path, _ = self.kernels.output(record.slug, name, folder)
                    why = f"{where} has no {name}."
                except RefusedError as refusal:
                    why = f"{where}, with {name}, cannot be listed. {refusal.problem}"
                if path is None:
                    error: NetworkError = _NotThereError(why, _REMEDY)
                    if is_certain:
                        continue
                    break
                try:
                    return read(path)
                except DataError as damage:
                    error = NetworkError(
                        f"{name} in the output of {record.address} is damaged: {damage.problem}", _REMEDY
                    )
        raise error

    def _read_fold(
        self, path: Path, task: FoldTask, digest: str | None
    ) -> tuple[dict[str, bytes], dict[str, Any]]:
        """Return the files and the metrics of a fold that was downloaded; `DataError` if it is damaged."""
        if digest not in (None, sha256(path)):
            raise DataError("Its SHA-256 is not the one in the manifest.", _REMEDY)
        contents = {name: read_zipped(path, name) for name in (*FOLD_FILES, METRICS)}
        with temporary_folder() as folder:
            for name, content in contents.items():
                (folder / name).write_bytes(content)
            is_val = task.split == task.fold
            check_fold(folder, int(is_val.sum()), len(self.data.test.images))
            metrics = read_document(folder / METRICS, FoldMetrics, _REMEDY)
            softmax = np.load(folder / "val_softmax.npy")
            if metrics.errors != int((softmax.argmax(1) != self.data.train.labels[is_val]).sum()):
                raise DataError("Its predictions are not those of this fold.", _REMEDY)
            try:
                network = network_digest(read_network(folder / "model.keras"))
            except DataError as error:
                there, here = metrics.versions.get("keras", "unknown"), _keras_version()
                raise _UnreadableNetworkError(
                    f"Keras {here} cannot load the network of {task.title}, which Keras {there} saved at Kaggle.",
                    f"Install Keras {there}: pip install keras=={there}; then run the same command again.",
                ) from error
        if network != metrics.network:
            raise DataError("Its network is not the one in metrics.json.", _REMEDY)
        del contents[METRICS]
        return contents, metrics.as_json()

    def _copy_log(self, record: KernelRecord) -> str:
        """Append the logs of a kernel to those of the runs, and return the kernel's own log."""
        log = workers = ""
        with suppress(NetworkError, RefusedError), temporary_folder() as folder:
            path, log = self.kernels.output(record.slug, LOG, folder)
            workers = path.read_text(errors="replace") if path is not None else ""
        for log_file in {job.log_file for job in self.jobs}:
            with write_errors(log_file), open_log(log_file) as stream:
                stream.write(f"{log}\n{workers}\n".encode(errors="replace"))
        return log

    def _write(self, record: KernelRecord) -> None:
        for name in record.runs:
            write_json(self.all_runs / name / KERNEL_JSON, record.model_dump(mode="json"))


class _UnreadableNetworkError(KaggleDigitsError):
    """The Keras of this machine cannot load a network that was saved at Kaggle."""

    exit_code = DataError.exit_code


class _NotThereError(NetworkError):
    """Kaggle does not know a kernel, or a kernel's output does not have a file."""


def _forget(record: KernelRecord, folder: Path) -> None:
    """Remove the record of a kernel from all runs that have it; `folder` is that of all runs."""
    for name in record.runs:
        path = folder / name / KERNEL_JSON
        if path.exists() and read_json(path).get("slug") == record.slug:
            with write_errors(path):
                path.unlink()


def _error_in_kernel(error: dict[str, Any]) -> KaggleDigitsError:
    """Return the error in the manifest of a kernel."""
    problem, remedy = (str(error.get(name)) for name in ("problem", "remedy"))
    kind = _KINDS.get(str(error.get("type")), KaggleDigitsError)
    if kind is NetworkError:
        remedy = "Run the same command again to train the missing folds in a new kernel."
    return kind(f"In the kernel: {problem}", remedy)


_KINDS: dict[str, type[KaggleDigitsError]] = {
    "UsageError": UsageError,
    "DataError": DataError,
    "RefusedError": RefusedError,
    # Problems of Kaggle's machine, for which the remedies for this machine do not help.
    "WorkerDiedError": NetworkError,
    "WriteError": NetworkError,
}
"""The errors in a kernel that are raised as such on this machine; all others are internal errors."""


def _last_lines(log: str) -> str:
    """Return a sentence with the last lines of a log that are not progress; empty if there are none."""
    lines = [line.strip() for line in log.splitlines() if line.strip() and not read_line(line)]
    return f"The last lines of its log: {' | '.join(lines[-LOG_LINES_SHOWN:])}." if lines else ""


def _keras_version() -> str:
    from importlib.metadata import version

    return version("keras")
