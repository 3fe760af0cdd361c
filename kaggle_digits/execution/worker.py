"""A worker process: trains the fold that its parent sends, on one TensorFlow thread."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection

from kaggle_digits.errors import KaggleDigitsError


def main(descriptor: int) -> None:
    """Train what comes through the connection that is open as this file descriptor.

    Message in: a `FoldTask`, the `Digits`, and the folder to write the fold to, or None where that is another
    machine's. Messages out: any number of `Progress`, and then the exception that ended it, or None if the fold is
    written, or else its `FoldResult`.
    """
    # Ctrl-C reaches the whole process group; the parent decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection = Connection(descriptor)

    from kaggle_digits.execution.processes import LESS_MEMORY, WorkerDiedError
    from kaggle_digits.runs.artefacts import FoldCheckpoint, tensorboard_callback, write_fold
    from kaggle_digits.training.fold import train_fold

    task, digits, folder = connection.recv()
    try:
        if folder is None:
            outcome = train_fold(task, digits, connection.send)
        else:
            callbacks = [tensorboard_callback(folder)] if task.tensorboard else []
            write_fold(folder, train_fold(task, digits, connection.send, FoldCheckpoint(folder), callbacks))
            outcome = None
    except KaggleDigitsError as error:
        connection.send(error)
    except MemoryError:
        traceback.print_exc()  # into workers.log
        # As if the system had killed it for its memory: it is begun once more, when others may have ended.
        remedy = f"Close other programs, or {LESS_MEMORY}"
        connection.send(WorkerDiedError(f"The worker of {task.title} ran out of memory.", remedy))
    except Exception as error:
        traceback.print_exc()  # into workers.log
        connection.send(RuntimeError(f"{task.title}: {type(error).__name__}, see workers.log of the run"))
    else:
        connection.send(outcome)


def _end_with_parent() -> None:
    """End the process when the parent is gone, however it went: only then does its end of our stdin close."""
    sys.stdin.buffer.read()
    os._exit(1)
