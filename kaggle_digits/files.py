"""Atomic writes, validated reads, zip files, locks and digests."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from kaggle_digits.errors import DataError, WriteError

LARGEST_MEMBER = 1 << 30
"""Maximum size in bytes of a file in a zip. The competition's largest file has 77 million bytes."""

_CREATE_AGAIN = "Remove it and create it again."


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` raised while writing `path` into a `WriteError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise WriteError(
            f"Cannot write {error.filename or path}: {reason}.",
            "Free some space or fix the permissions of the folder, then run the same command again.",
        ) from error


def make_folder(path: Path) -> Path:
    """Create the folder `path` and its parents if they do not exist, and return `path`.

    Raises
    ------
    WriteError
        If it cannot be created.
    """
    with write_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file in the folder of `path`, which replaces `path` if the block succeeds.

    If the block raises or the process is killed, `path` is unchanged.

    Raises
    ------
    WriteError
        If the file cannot be written.
    """
    make_folder(path.parent)
    with write_errors(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with open(temporary, "rb") as stream:
                # Without fsync, a power failure after the rename can leave an empty file under the new name.
                os.fsync(stream.fileno())
            # mkstemp creates files with mode 600; give the file the mode that open() would have given it.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            # A rename is atomic: other processes see either the old file or the complete new one.
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically: see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, document: Any) -> None:
    """Write `document` as JSON to `path` atomically: see `replacing`."""
    write_bytes(path, (json.dumps(document, indent=2) + "\n").encode())


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield an empty folder inside the system's temporary folder (TMPDIR), and remove it afterwards.

    Raises
    ------
    WriteError
        If no temporary folder is writable, or the block cannot write to it.
    """
    with write_errors(Path("into the temporary folder")):
        parent = Path(tempfile.gettempdir())
    with write_errors(parent), tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True) as name:
        yield Path(name)


def regular_file(path: Path, remedy: str) -> Path:
    """Check that `path` is a regular file or a link to one, and return it.

    Opening a named pipe or a device can block forever, and reading one may never end. If `path` does not exist,
    the `OSError` of `Path.stat` is passed on to the caller.

    Raises
    ------
    DataError
        With `remedy`, if it is not a regular file.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise DataError(f"{path} is {kind}, not a regular file.", remedy)
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object in `path`.

    Raises
    ------
    DataError
        If the file is missing, or does not contain a JSON object.
    """
    try:
        document = json.loads(regular_file(path, _CREATE_AGAIN).read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} is missing.", "Create it again.") from None
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}.", _CREATE_AGAIN) from error
    if not isinstance(document, dict):
        raise DataError(f"{path} does not contain a JSON object.", _CREATE_AGAIN)
    return document


def read_npz(path: Path) -> dict[str, Any] | None:
    """Return the arrays in an ``.npz`` file, or None if it is missing or damaged."""
    import numpy as np

    try:
        with np.load(regular_file(path, _CREATE_AGAIN), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception:  # NumPy and zipfile raise many types of errors for corrupt files
        return None


def sha256(path: Path) -> str:
    """Return the SHA-256 of the file's bytes, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_zipped(archive: Path, pattern: str) -> bytes:
    """Return the content of the first file in a zip whose name, without folders, matches a glob pattern.

    Raises
    ------
    DataError
        If the archive is not a valid zip file or has no such file, or if the file has a wrong checksum or is
        larger than `LARGEST_MEMBER`.
    """
    try:
        with zipfile.ZipFile(archive) as files:
            member = next((m for m in files.infolist() if fnmatch(PurePosixPath(m.filename).name, pattern)), None)
            if member is not None and member.file_size > LARGEST_MEMBER:
                raise ValueError(f"{member.file_size:,} bytes after unpacking are too many")
            if member is not None:
                with files.open(member) as stream:
                    # Read in chunks: the size in the header may be wrong, and read() would unpack all of the
                    # data into memory before it truncates it to that size.
                    return b"".join(iter(partial(stream.read, 1 << 14), b""))
    # For a corrupt file, zipfile raises errors of many types: from decompressors, text decoding and memory.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise DataError(
            f"{archive.name} is not a complete zip file: {reason}.", "Get it again from its source."
        ) from error
    raise DataError(f"{archive.name} has no {pattern} inside.", "Get it again from its source.")


def unzip(archive: Path, names: Iterable[str], folder: Path) -> None:
    """Extract the files called `names`, from any folder of a zip, into `folder`.

    Paths in the archive are ignored, so it cannot write outside `folder`. Raises the errors of `read_zipped` and
    `write_bytes`.
    """
    for name in names:
        write_bytes(folder / name, read_zipped(archive, name))


@contextmanager
def lock(path: Path, busy: str, timeout: float = 0) -> Iterator[None]:
    """Hold the lock file at `path`; raise if another process still holds it after `timeout` seconds.

    Raises
    ------
    WriteError
        With `busy` as the problem, if another process holds the lock.
    """
    from filelock import FileLock, Timeout

    make_folder(path.parent)
    with write_errors(path):
        try:
            held = FileLock(path, timeout=timeout)
            held.acquire()
        except Timeout:
            raise WriteError(busy, "Wait until it ends, then try again.") from None
    try:
        yield
    finally:
        held.release()
