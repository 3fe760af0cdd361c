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

    It receives one message: a `FoldTask`, the `Digits`, and the folder to write the fold to, or None if the fold
    is written on another machine. It sends any number of `Progress`, and then one final message: the exception if
    the training failed, None if the fold was written, or the `FoldResult` if there was no folder.
    """
    # Ctrl-C is sent to all processes of the group; the parent decides when to stop its workers.
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
        # Treated like a worker that the system killed for lack of memory: the fold is retried, when other folds
        # may have finished and freed memory.
        remedy = f"Close other programs, or {LESS_MEMORY}"
        connection.send(WorkerDiedError(f"The worker of {task.title} ran out of memory.", remedy))
    except ImportError as error:
        traceback.print_exc()  # into workers.log
        connection.send(RuntimeError(f"{task.title}: {error}, see workers.log of the run"))
    except Exception as error:
        traceback.print_exc()  # into workers.log
        connection.send(RuntimeError(f"{task.title}: {type(error).__name__}, see workers.log of the run"))
    else:
        connection.send(outcome)


def _end_with_parent() -> None:
    """Exit when the parent process ends, even if it is killed: reading stdin returns only then."""
    sys.stdin.buffer.read()
    os._exit(1)
