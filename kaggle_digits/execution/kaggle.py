"""Training of folds in a kernel on Kaggle's own machines, and what runs of it are known to this machine.

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import kaggle_digits
from kaggle_digits import errors
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
from kaggle_digits.execution.kernel import DEADLINE, JOB, KEY, LOG, MANIFEST, SPLITS, fold_file
from kaggle_digits.execution.processes import Job
from kaggle_digits.files import read_json, read_zipped, sha256, temporary_folder, write_errors, write_json
from kaggle_digits.hosts.kaggle import KaggleKernels, KernelStatus, SessionLimitError
from kaggle_digits.runs.artefacts import FOLD_FILES, KAGGLE, METRICS, FoldCheckpoint, check_fold, write_artefacts
from kaggle_digits.runs.schema import FoldMetrics, KernelRecord, read_document
from kaggle_digits.training.fold import FoldTask, Progress
from kaggle_digits.training.models import import_tensorflow, network_digest, read_network
from kaggle_digits.training.observer import Observer

KERNEL_JSON = "kernel.json"
LARGEST_SOURCE = 1_000_000
"""Maximum size of a kernel's source in bytes, at Kaggle."""
POLL_SECONDS = 30.0
"""Seconds between two requests for the status of a kernel."""
PATIENCE = 600.0
"""Seconds for which the status of a kernel may be unknown, because Kaggle reports errors."""
LOOK_UP_SECONDS = 60.0
"""Seconds for which a kernel is looked for after Kaggle did not answer when it was sent."""
LATEST_ARRIVAL = 180.0
"""Seconds after which a kernel that Kaggle does not know cannot have arrived."""
LONGEST_QUEUE = 3600.0
"""Seconds to wait while Kaggle has no free machine, or the user runs too many kernels."""
DOWNLOADS = 4
"""Maximum number of downloads of a file of the output that is missing or damaged."""
LOG_LINES_SHOWN = 5

_REMEDY = "Run the same command again to continue with it, or with --cancel to delete it; finished folds are kept."
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

    Parameters
    ----------
    tasks : sequence of FoldTask
        The folds.
    hashes : dict of str to str
        The SHA-256 of ``train.csv`` and ``test.csv``.
    gpu : bool
        Whether it has to train on GPUs.

    Raises
    ------
    UsageError
        If it is larger than Kaggle allows.
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
        "deadline": DEADLINE,
    }
    splits = io.BytesIO()
    np.savez(splits, allow_pickle=False, **{str(task.seed): task.split for task in tasks})
    package = Path(kaggle_digits.__file__).parent
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
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
    records = {}
    for run in runs:
        if (run / KERNEL_JSON).exists():
            record = read_document(run / KERNEL_JSON, KernelRecord, "Remove it, and end the kernel at Kaggle.")
            records[record.slug] = record
    return list(records.values())


def cancel_kernels(runs: Sequence[Path], kernels: KaggleKernels) -> list[KernelRecord]:
    """Delete the kernels that train folds of these runs, and return them.

    Raises
    ------
    NetworkError
        If Kaggle does not confirm it.
    """
    records = known_kernels(runs)
    for record in records:
        kernels.delete(record.slug)
        _forget(record, runs)
    return records


def train_on_kaggle(
    jobs: Sequence[Job],
    data: Data,
    kernels: KaggleKernels,
    gpu: bool,
    observer: Observer,
    wait: bool = True,
) -> None:
    """Train folds in a kernel at Kaggle, and write them on this machine.

    A kernel that was started earlier for the same runs is continued first. If it did not train all folds, because
    its time was over, the next kernel trains the rest.

    Parameters
    ----------
    jobs : sequence of Job
        The folds to train. Their checkpoints, if any, are not used.
    data : Data
        The rows, which the kernel gets from Kaggle.
    kernels : KaggleKernels
        The user's kernels.
    gpu : bool
        Whether a new kernel trains on two GPUs, else on the CPU.
    observer : Observer
        Notified of progress, of finished folds, and of what happens to the kernel.
    wait : bool
        Wait until the kernel has ended. Otherwise it is only sent, or looked at once if it exists.

    Raises
    ------
    RefusedError, CredentialsError
        If Kaggle refuses the kernel: the quota is used up, the rules are not accepted.
    NetworkError
        If the kernel failed, its state or output cannot be read, or it is still running and `wait` is false.
    DataError
        If the data at Kaggle are different, or the network of a fold cannot be loaded here.
    KaggleDigitsError
        If a fold failed.
    """
    session = _Session(list(jobs), data, kernels, gpu, observer, wait)
    for record in known_kernels(session.runs):
        if not record.confirmed and session.never_arrived(record):
            _forget(record, session.runs)
            continue
        observer.notice(f"Continuing with the kernel {record.address}.")
        session.complete(record)
    while session.missing:
        before = len(session.missing)
        session.complete(session.push())
        if len(session.missing) == before:
            raise NetworkError("The kernel ended without a finished fold.", "See workers.log of the run.")


@dataclass
class _Session:
    """The folds to train, and the steps of a kernel: push, follow and fetch."""

    jobs: list[Job]
    data: Data
    kernels: KaggleKernels
    gpu: bool
    observer: Observer
    wait: bool
    missing: dict[str, Job] = field(init=False)
    _shown: int = 0
    """How many lines of the log of the current kernel were shown."""

    def __post_init__(self) -> None:
        self.missing = {fold_file(job.task): job for job in self.jobs}

    @property
    def runs(self) -> list[Path]:
        """The folders of the runs."""
        return sorted({job.folder.parent for job in self.jobs})

    def push(self) -> KernelRecord:
        """Send a kernel for the missing folds. While too many kernels of the user are running, wait."""
        source = pack([job.task for job in self.missing.values()], self.data.hashes, self.gpu)
        started, is_waiting = time.monotonic(), False
        while True:
            slug = f"kaggle-digits-{secrets.token_hex(6)}"
            now = datetime.now(UTC).isoformat(timespec="seconds")
            record = KernelRecord(slug=slug, address=self.kernels.address(slug), created=now, confirmed=False)
            self._write(record)
            try:
                self.kernels.push(slug, source, self.gpu)
            except SessionLimitError as error:
                _forget(record, self.runs)
                if time.monotonic() - started > LONGEST_QUEUE:
                    raise NetworkError(
                        error.problem, f"{error.remedy} Then run the same command again."
                    ) from error
                if not is_waiting:
                    self.observer.notice(f"{error.problem} Waiting for one of your kernels to end.")
                is_waiting = True
                time.sleep(POLL_SECONDS)
                continue
            except (RefusedError, CredentialsError, NotReachedError):
                _forget(record, self.runs)
                raise
            except NetworkError as error:
                self.observer.notice(f"{error.problem} Looking for the kernel at Kaggle.")
                self._look_up(record)
            record = record.model_copy(update={"confirmed": True})
            self._write(record)
            folds = f"{len(self.missing)} fold{'s' * (len(self.missing) > 1)}"
            self.observer.notice(f"Sent {folds} to {record.address}. Ctrl-C ends this command, not the kernel.")
            return record

    def never_arrived(self, record: KernelRecord) -> bool:
        """Look for a kernel that Kaggle did not confirm; return true if it is certain that it never arrived."""
        age = (datetime.now(UTC) - datetime.fromisoformat(record.created)).total_seconds()
        try:
            self._look_up(record, max(LOOK_UP_SECONDS, LATEST_ARRIVAL - age))
        except _NotThereError:
            return True
        self._write(record.model_copy(update={"confirmed": True}))
        return False

    def complete(self, record: KernelRecord) -> None:
        """Follow a kernel until it has ended, and write its finished folds."""
        self._shown = 0
        try:
            status = self._follow(record)
        except KeyboardInterrupt:
            self.observer.notice(
                f"The kernel {record.address} continues. The same command continues with it, too; "
                "with --cancel, it deletes the kernel."
            )
            raise
        log = self._copy_log(record)
        self._show_lines(log.splitlines())
        manifest = self._manifest(record) if status.state == "COMPLETE" else {"files": None, "error": None}
        for name in list(self.missing):
            if manifest["files"] is None or name in manifest["files"]:
                self._fetch_fold(record, name, manifest["files"])
        _forget(record, self.runs)
        if error := manifest["error"]:
            kind = getattr(errors, str(error.get("type")), KaggleDigitsError)
            raise kind(str(error.get("problem")), str(error.get("remedy")))
        if status.state != "COMPLETE":
            what = "was cancelled" if status.state == "CANCELLED" else "failed"
            why = f": {status.words.rstrip('.')}" if status.words else ""
            raise NetworkError(
                f"The kernel {record.address} {what}{why}. {_last_lines(log)}".strip(),
                "Run the same command again to train the missing folds in a new kernel.",
            )

    def _look_up(self, record: KernelRecord, seconds: float = LOOK_UP_SECONDS) -> None:
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
                raise NetworkError(f"The state of {record.address} is unknown: {status.words}", _REMEDY)
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
        self.observer.notice(
            words.get(status.state, f"The state of {record.address} is unknown: {status.words} Trying again.")
        )

    def _show_lines(self, lines: Iterable[str], until: float = math.inf) -> None:
        """Show the lines of a log, from its start on, that were not shown yet; stop at a time."""
        for number, line in enumerate(lines):
            if number >= self._shown:
                self._shown = number + 1
                for event in _events(line):
                    if isinstance(event, str):
                        self.observer.notice(f"Kernel: {event}")
                    elif f"fold-{event.seed}-{event.fold}.zip" in self.missing:
                        self.observer.progress(event)
            if time.monotonic() >= until:
                break

    def _manifest(self, record: KernelRecord) -> dict[str, Any]:
        def read(path: Path) -> dict[str, Any]:
            manifest = read_json(path)
            if not isinstance(manifest.get("files"), dict) or not isinstance(manifest.get("error"), dict | None):
                raise DataError("It has no files or no error.", _REMEDY)
            return manifest

        manifest: dict[str, Any] = self._download(record, MANIFEST, read)
        return manifest

    def _fetch_fold(self, record: KernelRecord, name: str, digests: dict[str, str] | None) -> None:
        """Download a fold, check it and write it.

        Without `digests`, which are those of the manifest, the kernel has failed, and may have left nothing.
        """
        job = self.missing[name]
        digest = None if digests is None else digests[name]
        try:
            contents, metrics = self._download(
                record, name, lambda path: self._read_fold(path, job.task, digest), is_certain=digests is not None
            )
        except NetworkError:
            if digests is None:
                return
            raise
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
                path, _ = self.kernels.output(record.slug, name, folder)
                if path is None:
                    error: NetworkError = _NotThereError(f"The output of {record.address} has no {name}.", _REMEDY)
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
            import_tensorflow()
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
        log = ""
        with suppress(NetworkError), temporary_folder() as folder:
            path, log = self.kernels.output(record.slug, LOG, folder)
            workers = path.read_text(errors="replace") if path is not None else ""
            for log_file in {job.log_file for job in self.jobs}:
                with write_errors(log_file), open(log_file, "a", encoding="utf-8") as stream:
                    stream.write(f"{log}\n{workers}\n")
        return log

    def _write(self, record: KernelRecord) -> None:
        for run in self.runs:
            write_json(run / KERNEL_JSON, record.as_json())


class _UnreadableNetworkError(KaggleDigitsError):
    """The Keras of this machine cannot load a network that was saved at Kaggle."""

    exit_code = DataError.exit_code


class _NotThereError(NetworkError):
    """Kaggle does not know a kernel, or a kernel's output does not have a file."""


def _forget(record: KernelRecord, runs: Sequence[Path]) -> None:
    """Remove the record of a kernel from the runs that have it."""
    for run in runs:
        path = run / KERNEL_JSON
        if path.exists() and read_json(path).get("slug") == record.slug:
            with write_errors(path):
                path.unlink()


def _events(line: str) -> Iterator[Progress | str]:
    """Yield the reports and notices in a line of a kernel's log; none if it is the output of a library."""
    try:
        content = json.loads(line)[KEY]
        if "notice" in content:
            yield str(content["notice"])
        for report in content.get("progress", ()):
            yield Progress(**report)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return


def _last_lines(log: str) -> str:
    """Return a sentence with the last lines of a log that are not progress; empty if there are none."""
    lines = [line.strip() for line in log.splitlines() if line.strip() and not any(True for _ in _events(line))]
    return f"The last lines of its log: {' | '.join(lines[-LOG_LINES_SHOWN:])}." if lines else ""


def _keras_version() -> str:
    from importlib.metadata import version

    return version("keras")
