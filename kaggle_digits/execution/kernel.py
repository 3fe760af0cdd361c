"""What runs inside a kernel at Kaggle: train the folds of a job, and write each finished fold into the output.

`kaggle_digits.execution.kaggle` sends this package and the job to Kaggle as one script, which unpacks them and
calls `main`. The output has one zip per finished fold, ``workers.log`` and, written last, ``manifest.json``.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
import zipfile
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from kaggle_digits.data.csv import load_test_images, load_train
from kaggle_digits.errors import DataError, KaggleDigitsError, RefusedError
from kaggle_digits.execution.processes import Job, list_gpus, train_in_processes
from kaggle_digits.files import sha256, temporary_folder, write_bytes, write_json
from kaggle_digits.runs.artefacts import FOLD_FILES, METRICS, versions
from kaggle_digits.training.fold import Digits, FoldTask, Progress
from kaggle_digits.training.observer import Observer
from kaggle_digits.training.presets import Settings
from kaggle_digits.workspace import FILES, TRAIN_CSV

JOB, SPLITS = "job.json", "splits.npz"
"""The files of a job, beside the package: its folds, and for each seed the split."""
MANIFEST, LOG = "manifest.json", "workers.log"
SECONDS_BETWEEN_LINES = 10.0
"""Seconds between two lines of progress in the log of the kernel."""
KEY = "kaggle-digits"
"""The only key of the JSON object in a line of progress. All other lines of the log are output of libraries."""
GPU_TIMEOUT = 600.0
"""Maximum time in seconds to load TensorFlow for the first time, on a machine that has just started."""


@dataclass(frozen=True)
class Event:
    """What a line of the kernel's log says."""

    time: float  # when it was written, as of `time.time`
    notice: str = ""  # a sentence for the user
    started: list[tuple[int, int]] = field(default_factory=list)  # seed and number of folds that were started
    progress: list[Progress] = field(default_factory=list)  # ends of epochs, and the last progress of each fold


def write_line(event: Event) -> None:
    """Write an event into the log of the kernel, which is its stdout."""
    sys.stdout.write(json.dumps({KEY: asdict(event)}) + "\n")
    sys.stdout.flush()


def read_line(line: str) -> Event | None:
    """Return the event in a line of the log, or None if the line is the output of a library."""
    try:
        # Checks the types of all fields, because anything can be in the log.
        event = _event_adapter().validate_python(json.loads(line)[KEY])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if any(progress.is_epoch_end and progress.val_accuracy is None for progress in event.progress):
        return None
    return event


@cache
def _event_adapter() -> TypeAdapter[Event]:
    return TypeAdapter(Event)  # takes longer to make than to use


def fold_file(task: FoldTask) -> str:
    """Return the name of a finished fold in the output of a kernel."""
    return f"fold-{task.seed}-{task.fold}.zip"


def main(folder: Path) -> None:
    """Train the folds of the job in `folder`, and write them and the manifest into the output of the kernel.

    It does not raise errors: the manifest has them. If a script fails, Kaggle may discard its output.
    """
    started = time.monotonic()
    root = Path(os.environ.get("KAGGLE_DIGITS_KERNEL_ROOT", "/kaggle"))
    output = root / "working"
    error: dict[str, str] | None = None
    try:
        job = json.loads((folder / JOB).read_text())
        digits = _find_data(root / "input", job["data"])
        gpus = _gpus() if job["gpu"] else []
        if job["gpu"] and not gpus:
            raise RefusedError(
                "Kaggle gave the kernel no GPU that TensorFlow can use.",
                "Check that your phone number is verified at https://www.kaggle.com/settings, "
                "or train without GPUs: --on kaggle-cpu.",
            )
        where = f"{len(gpus)} GPU{'s' * (len(gpus) > 1)}" if gpus else "the CPU"
        write_line(Event(time.time(), f"It trains on {where}, with TensorFlow {versions()['tensorflow']}."))
        with temporary_folder() as scratch, np.load(folder / SPLITS) as splits:
            tasks = [
                FoldTask(
                    preset=task["preset"],
                    settings=Settings.model_validate(task["settings"]),
                    seed=task["seed"],
                    fold=task["fold"],
                    split=splits[str(task["seed"])],
                    network=task["network"],
                )
                for task in job["tasks"]
            ]
            _train(tasks, digits, gpus, scratch, output, started + job["deadline"])
    except KaggleDigitsError as caught:
        error = {"type": type(caught).__name__, "problem": caught.args[0], "remedy": caught.args[1]}
    except Exception as caught:
        traceback.print_exc()
        words = f"Internal error in the kernel: {type(caught).__name__}: {caught}".rstrip(".")
        remedy = "See workers.log of the run, and report it."
        error = {"type": "KaggleDigitsError", "problem": f"{words}.", "remedy": remedy}
    files = {path.name: sha256(path) for path in sorted(output.glob("fold-*.zip"))}
    write_json(output / MANIFEST, {"files": files, "error": error})


def _gpus() -> list[str]:
    """Return the GPUs of the kernel, and if TensorFlow cannot be imported, raise an error that says why."""
    try:
        return list_gpus(GPU_TIMEOUT)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {error.returncode}"]
        raise KaggleDigitsError(
            f"TensorFlow cannot be imported in Kaggle's image: {lines[-1].strip().rstrip('.')}.",
            "Train on another machine, or try again later.",
        ) from error


def _find_data(inputs: Path, wanted: dict[str, str]) -> Digits:
    """Return the rows of the competition, which is mounted in a folder that depends on how the kernel was pushed.

    `RefusedError` if there are no such files, `DataError` if their SHA-256 are not those in `wanted`.
    """
    folders = [path.parent for path in sorted(inputs.rglob(TRAIN_CSV)) if (path.parent / FILES[1]).is_file()]
    if not folders:
        raise RefusedError(
            "The kernel has no train.csv and test.csv of the competition.",
            "Accept the competition's rules at Kaggle, then run the same command again.",
        )
    for folder in folders:
        different = [name for name, digest in wanted.items() if sha256(folder / name) != digest]
        if not different:
            train = load_train(folder)
            return Digits(train.images, train.labels, load_test_images(folder))
    raise DataError(
        f"{' and '.join(different)} at Kaggle {'is' if len(different) == 1 else 'are'} different from the data of "
        "this run.",
        "Download the files again with the command: download --force; then train a new run.",
    )


def _train(
    tasks: list[FoldTask], digits: Digits, gpus: list[str], scratch: Path, output: Path, deadline: float
) -> None:
    """Train folds in `scratch`, one process per GPU or CPU core, and write each finished one into `output`."""
    jobs = [Job(task, scratch / Path(fold_file(task)).stem, scratch / LOG) for task in tasks]
    view = _Output({(job.task.seed, job.task.fold): job.folder for job in jobs}, output, deadline)
    try:
        train_in_processes(jobs, digits, None, view, gpus, view.may_start)
    finally:
        if (scratch / LOG).exists():
            shutil.copyfile(scratch / LOG, output / LOG)


class _Output(Observer):
    """Prints the progress of folds as lines of JSON, and writes finished folds into the output of the kernel."""

    def __init__(self, folders: dict[tuple[int, int], Path], output: Path, deadline: float) -> None:
        self._folders = folders
        self._output = output
        self._deadline = deadline
        self._longest = 0.0
        self._waiting: dict[tuple[int, int], list[Progress]] = {}
        self._written = time.monotonic()

    def may_start(self) -> bool:
        """Return whether a fold that takes as long as the longest so far would finish before the deadline."""
        return time.monotonic() + self._longest < self._deadline

    def started(self, task: FoldTask) -> None:
        """Write that a fold has been started."""
        write_line(Event(time.time(), started=[(task.seed, task.fold)]))

    def progress(self, progress: Progress) -> None:
        """Write a line if the last one is old enough."""
        kept = [former for former in self._waiting.get((progress.seed, progress.fold), []) if former.is_epoch_end]
        self._waiting[progress.seed, progress.fold] = [*kept, progress]
        if time.monotonic() - self._written >= SECONDS_BETWEEN_LINES:
            self._write()

    def finished(self, task: FoldTask) -> None:
        """Write the fold into the output."""
        folder = self._folders[task.seed, task.fold]
        self._longest = max(self._longest, json.loads((folder / METRICS).read_text())["seconds"])
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in (*FOLD_FILES, METRICS):
                archive.write(folder / name, name)
        write_bytes(self._output / fold_file(task), stream.getvalue())
        shutil.rmtree(folder)
        self._write()

    def notice(self, sentence: str) -> None:
        """Write a notice."""
        write_line(Event(time.time(), sentence))

    def _write(self) -> None:
        self._written = time.monotonic()
        if reports := [progress for waiting in self._waiting.values() for progress in waiting]:
            write_line(Event(time.time(), progress=reports))
        self._waiting.clear()
