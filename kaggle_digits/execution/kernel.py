"""What runs inside a kernel at Kaggle: train the folds of a job, and write each finished fold into the output.

`kaggle_digits.execution.places.kaggle` sends this package and the job to Kaggle as one script, which unpacks them
and calls `main`. The output has one zip per finished fold, ``workers.log`` and, written last, ``manifest.json``.
"""

import base64
import io
import json
import os
import shutil
import sys
import time
import traceback
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from kaggle_digits.data.csv import Data, load_data
from kaggle_digits.data.download import copy_files
from kaggle_digits.errors import DataError, KaggleDigitsError, RefusedError
from kaggle_digits.execution import LOG, Job
from kaggle_digits.execution.places.processes import Processes, find_gpus
from kaggle_digits.files import sha256, temporary_folder, write_bytes, write_json
from kaggle_digits.runs.artefacts import FOLD_FILES, METRICS, versions
from kaggle_digits.training.fold import FoldTask, Progress
from kaggle_digits.training.observer import Observer
from kaggle_digits.training.own_network import OwnNetwork
from kaggle_digits.training.presets import Settings

JOB, MANIFEST = "job.json", "manifest.json"
"""What a kernel has to do, beside the package, and what it writes besides the folds."""
KEY = "kaggle-digits"
"""The only key of the JSON object in a line of progress. All other lines of the log are output of libraries."""


class Event(BaseModel):
    """What a line of the kernel's log says: one of the last three."""

    time: float  # when it was written, as of `time.time`
    notice: str = ""  # a sentence for the user
    started: tuple[int, int] | None = None  # seed and number of a fold
    progress: Progress | None = None  # at the end of an epoch


def write_line(**event: Any) -> None:
    """Write an event into the log of the kernel, which is its stdout."""
    sys.stdout.write(json.dumps({KEY: Event(time=time.time(), **event).model_dump()}) + "\n")
    sys.stdout.flush()


def read_line(line: str) -> Event | None:
    """Return the event in a line of the log, or None if the line is the output of a library."""
    try:
        return Event.model_validate(json.loads(line)[KEY])
    except (ValueError, TypeError, KeyError):
        return None


def fold_file(task: FoldTask) -> str:
    """Return the name of a finished fold in the output of a kernel."""
    return f"fold-{task.seed}-{task.fold}.zip"


def main(source: str) -> None:
    """Train the folds of the job in the folder `source`, and write them and the manifest into the output.

    It does not raise errors: the manifest has them. If a script fails, Kaggle may discard its output.
    """
    started, folder = time.monotonic(), Path(source)
    root = Path(os.environ.get("KAGGLE_DIGITS_KERNEL_ROOT", "/kaggle"))
    output = root / "working"
    error: dict[str, str] | None = None
    try:
        job = json.loads((folder / JOB).read_text())
        data = _find_data(root / "input", job["data"])
        gpus = find_gpus() if job["gpu"] else []
        if job["gpu"] and not gpus:
            raise RefusedError(
                "Kaggle gave the kernel no GPU that TensorFlow can use.",
                "Check that your phone number is verified at https://www.kaggle.com/settings, "
                "or train without GPUs: --on kaggle-cpu.",
            )
        where = f"{len(gpus)} GPU{'s' * (len(gpus) > 1)}" if gpus else "the CPU"
        write_line(notice=f"It trains on {where}, with TensorFlow {versions()['tensorflow']}.")
        tasks = [_task(document, job["splits"]) for document in job["tasks"]]
        _train(tasks, data, gpus, output, started + job["deadline"])
    except KaggleDigitsError as caught:
        error = {"type": type(caught).__name__, "problem": caught.problem, "remedy": caught.remedy}
    except Exception as caught:
        traceback.print_exc()
        words = f"Internal error in the kernel: {type(caught).__name__}: {caught}".rstrip(".")
        remedy = "See workers.log of the run, and report it."
        error = {"type": "KaggleDigitsError", "problem": f"{words}.", "remedy": remedy}
    folds = sorted(path.name for path in output.glob("fold-*.zip"))
    write_json(output / MANIFEST, {"folds": folds, "error": error})


def _task(document: dict[str, Any], splits: dict[str, str]) -> FoldTask:
    """Return a fold of the job."""
    split = np.frombuffer(base64.b64decode(splits[str(document["seed"])]), np.uint8)
    own = OwnNetwork(**document["network"]) if document["network"] else None
    settings = Settings.model_validate(document["settings"])
    return FoldTask(**document | {"settings": settings, "split": split, "network": own})


def _find_data(inputs: Path, wanted: dict[str, str]) -> Data:
    """Return the rows of the competition, which is mounted in a folder that depends on how the kernel was pushed.

    `RefusedError` if its files are not there, `DataError` if their SHA-256 are not those in `wanted`.
    """
    with temporary_folder() as folder:
        try:
            copy_files(inputs, folder)
        except DataError as error:
            raise RefusedError(
                f"The kernel does not have the data of the competition: {error.problem}",
                "Accept the competition's rules at Kaggle, then run the same command again.",
            ) from error
        different = [name for name, digest in wanted.items() if sha256(folder / name) != digest]
        if different:
            raise DataError(
                f"The data at Kaggle are different from those of this run: another {' and '.join(different)}.",
                "Download the files again with the command: download --force; then train a new run.",
            )
        return load_data(folder)


def _train(tasks: list[FoldTask], data: Data, gpus: list[str], output: Path, deadline: float) -> None:
    """Train folds, one process per GPU or CPU core, and write each finished one into the output."""
    longest = 0.0  # seconds that a fold has taken

    def may_start() -> bool:
        # Only a fold that would finish before the end of the session, if it takes as long as the longest so far.
        return time.monotonic() + longest < deadline

    with temporary_folder() as scratch:
        jobs = [Job(task, scratch / Path(fold_file(task)).stem) for task in tasks]
        try:
            for job in Processes(gpus=gpus, may_start=may_start).train(jobs, data, _Log()):
                longest = max(longest, json.loads((job.folder / METRICS).read_text())["seconds"])
                stream = io.BytesIO()
                with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
                    for name in (*FOLD_FILES, METRICS):
                        archive.write(job.folder / name, name)
                write_bytes(output / fold_file(job.task), stream.getvalue())
                shutil.rmtree(job.folder)
        finally:
            if (scratch / LOG).exists():
                shutil.copyfile(scratch / LOG, output / LOG)


class _Log(Observer):
    """Prints the progress of folds as lines of JSON."""

    def started(self, task: FoldTask) -> None:
        """Write that a fold has been started."""
        write_line(started=(task.seed, task.fold))

    def progress(self, progress: Progress) -> None:
        """Write the end of an epoch."""
        if progress.is_epoch_end:
            write_line(progress=progress)

    def notice(self, sentence: str) -> None:
        """Write a notice."""
        write_line(notice=sentence)
