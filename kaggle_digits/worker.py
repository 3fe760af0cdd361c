"""A worker process: trains the folds that its parent sends, one after another, on one TensorFlow thread."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

from kaggle_digits.errors import KaggleDigitsError


def main() -> None:
    """Serve the connection whose file descriptor is the first argument, until it ends.

    Messages in: first the `Digits`, then pairs of `FoldTask` and the folder to write it to. Messages out: any
    number of `Progress` and then, a fold, None or the exception that ended it.
    """
    # Ctrl-C reaches the whole process group; the parent decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection = Connection(int(sys.argv[1]))

    from kaggle_digits.runs import FoldCheckpoint, write_fold
    from kaggle_digits.training import train_fold

    digits = connection.recv()
    while True:
        try:
            task, folder = connection.recv()
        except EOFError:
            return
        try:
            checkpoint = FoldCheckpoint(Path(folder))
            write_fold(Path(folder), train_fold(task, digits, connection.send, checkpoint))
        except KaggleDigitsError as error:
            connection.send(error)
        except Exception as error:
            traceback.print_exc()  # into workers.log
            connection.send(RuntimeError(f"fold {task.fold}: {type(error).__name__}, see workers.log of the run"))
        else:
            connection.send(None)


def _end_with_parent() -> None:
    """End the process when the parent is gone, however it went: only then does its end of our stdin close."""
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()
