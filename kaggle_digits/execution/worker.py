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
    """Train the fold that arrives on the connection with this file descriptor.

    It receives one message: a `FoldTask`, the `Data`, and the folder to write the fold to, or None if the fold is
    written on another machine. It sends any number of `Progress`, and then one final message: the error if the
    training failed, None if the fold was written, or the `FoldResult` if there was no folder.
    """
    # Ctrl-C is sent to all processes of the group; the parent decides when to stop its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection = Connection(descriptor)

    from kaggle_digits.execution.places.processes import LESS_MEMORY, WorkerDiedError
    from kaggle_digits.runs.artefacts import FoldFolder
    from kaggle_digits.training.fold import train_fold

    task, data, folder = connection.recv()
    outcome: object
    try:
        if folder is None:
            outcome = train_fold(task, data, connection.send)
        else:
            FoldFolder(folder).write(train_fold(task, data, connection.send, folder))
            outcome = None
    except KaggleDigitsError as error:
        outcome = error
    except MemoryError:
        traceback.print_exc()  # into workers.log
        # Treated like a worker that the system killed for lack of memory: the fold is retried, when other folds
        # may have finished and freed memory.
        remedy = f"Close other programs, or {LESS_MEMORY}"
        outcome = WorkerDiedError(f"The worker of {task.title} ran out of memory.", remedy)
    except Exception as error:
        traceback.print_exc()  # into workers.log
        why = f"{type(error).__name__}: {error}".rstrip(":. ")
        outcome = KaggleDigitsError(
            f"Internal error in the worker of {task.title}: {why}.", "See workers.log of the run, and report it."
        )
    connection.send(outcome)


def _end_with_parent() -> None:
    """Exit when the parent process ends, even if it is killed: reading stdin returns only then."""
    sys.stdin.buffer.read()
    os._exit(1)
