"""A worker process: trains the folds that its parent sends, one after the other, on one TensorFlow thread."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from kaggle_digits.data.csv import Data
from kaggle_digits.errors import KaggleDigitsError
from kaggle_digits.execution import LOG
from kaggle_digits.execution.places.processes import LESS_MEMORY, WorkerDiedError
from kaggle_digits.files import open_log
from kaggle_digits.runs.artefacts import FoldFolder
from kaggle_digits.training import models
from kaggle_digits.training.fold import FoldTask, train_fold


def main(descriptor: int) -> None:
    """Train the folds that arrive on the connection with this file descriptor.

    The first message that it receives is the `Data`. Each later one is a `FoldTask` and the folder to write the
    fold to, or None if it is written on another machine. It sends a text for each step before the training of its
    first fold. For each fold, it sends any number of `Progress`, and then one final message: the error if the
    training failed, None if the fold was written, or the `FoldResult` if there was no folder.
    """
    # Ctrl-C is sent to all processes of the group; the parent decides when to stop its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection = Connection(descriptor)
    # Before the import, for which the parent would wait before it starts the next worker.
    data = connection.recv()
    connection.send("importing TensorFlow")
    models.hidden_from_keras = models.UNUSED_BY_KERAS
    models.tensorflow_keras()
    connection.send("compiling")
    while True:
        task, folder = connection.recv()
        connection.send(_train(task, data, folder, connection.send))


def _train(task: FoldTask, data: Data, folder: Path | None, report: Callable[[Any], None]) -> object:
    """Train a fold, and return the final message of `main`."""
    try:
        if folder is None:
            return train_fold(task, data, report)
        with open_log(folder.parent / LOG) as log:  # the fold may be of another run than the one before
            os.dup2(log.fileno(), sys.stdout.fileno())
            os.dup2(log.fileno(), sys.stderr.fileno())
        FoldFolder(folder).write(train_fold(task, data, report, folder))
        return None
    except KaggleDigitsError as error:
        return error
    except MemoryError:
        traceback.print_exc()  # into workers.log
        # Treated like a worker that the system killed for lack of memory: the fold is retried, when other folds
        # may have finished and freed memory.
        remedy = f"Close other programs, or {LESS_MEMORY}"
        return WorkerDiedError(f"The worker of {task.title} ran out of memory.", remedy)
    except Exception as error:
        traceback.print_exc()  # into workers.log
        why = f"{type(error).__name__}: {error}".rstrip(":. ")
        return KaggleDigitsError(
            f"Internal error in the worker of {task.title}: {why}.", "See workers.log of the run, and report it."
        )


def _end_with_parent() -> None:
    """Exit when the parent process ends, even if it is killed: reading stdin returns only then."""
    sys.stdin.buffer.read()
    os._exit(1)
