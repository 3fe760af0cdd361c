"""Files that appear complete or not at all, locks, and digests."""

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
"""Bytes that a file in a zip may unpack to: the largest of the competition's has 77 million."""

_MAKE_AGAIN = "Remove it and run the command that makes it again."


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
    """Create the folder `path` with its parents, if need be, and return it.

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
    """Yield a temporary file beside `path` that takes its place when the block ends well.

    Until then, and if the block fails, `path` is what it was.

    Raises
    ------
    WriteError
        If the disk or a permission is in the way.
    """
    make_folder(path.parent)
    with write_errors(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with open(temporary, "rb") as stream:
                # Without it a power cut can leave the new name on an empty file.
                os.fsync(stream.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, complete or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, document: Any) -> None:
    """Write `document` as JSON to `path`, complete or not at all."""
    write_bytes(path, (json.dumps(document, indent=2) + "\n").encode())


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield an empty folder in the system's temporary one, which TMPDIR names; it is removed in the end.

    Raises
    ------
    WriteError
        If there is no temporary folder that can be written, or the block cannot write into it.
    """
    with write_errors(Path("into the temporary folder")):
        parent = Path(tempfile.gettempdir())
    with write_errors(parent), tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True) as name:
        yield Path(name)


def regular_file(path: Path, remedy: str) -> Path:
    """Return `path`, once it is known to be a regular file or a link to one.

    To open a named pipe or a device may wait for ever, or never come to an end. That `path` is missing, an
    `OSError`, is left to the caller.

    Raises
    ------
    DataError
        With `remedy`, if it is something else.
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
        If the file is missing or holds anything else.
    """
    try:
        document = json.loads(regular_file(path, _MAKE_AGAIN).read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} is missing.", "Run the command that makes it again.") from None
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}.", _MAKE_AGAIN) from error
    if not isinstance(document, dict):
        raise DataError(f"{path} does not hold a JSON object.", _MAKE_AGAIN)
    return document


def read_npz(path: Path) -> dict[str, Any] | None:
    """Return the arrays in an ``.npz`` file, or None if it is missing or damaged: it can be made again."""
    import numpy as np

    try:
        with np.load(regular_file(path, _MAKE_AGAIN), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception:  # NumPy and zipfile raise all sorts of things at files that were tampered with
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
        If the archive is no zip, has no such file, its checksum is wrong, or it is larger than `LARGEST_MEMBER`.
    """
    try:
        with zipfile.ZipFile(archive) as files:
            member = next((m for m in files.infolist() if fnmatch(PurePosixPath(m.filename).name, pattern)), None)
            if member is not None and member.file_size > LARGEST_MEMBER:
                raise ValueError(f"{member.file_size:,} bytes are said to be inside")
            if member is not None:
                with files.open(member) as stream:
                    # Piece by piece: if the size in the zip is wrong, reading stops before all of it is unpacked.
                    return b"".join(iter(partial(stream.read, 1 << 14), b""))
    # Damage makes zipfile raise whatever its decompressors, decoders and the memory have to say.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise DataError(
            f"{archive.name} is not a complete zip file: {reason}.", "Get it again from its source."
        ) from error
    raise DataError(f"{archive.name} has no {pattern} inside.", "Get it again from its source.")


def unzip(archive: Path, names: Iterable[str], folder: Path) -> None:
    """Unpack the files called `names`, wherever they are in a zip, into `folder`, and nothing else.

    Only their contents come from the archive, never a path, so it cannot write outside `folder`. Raises what
    `read_zipped` and `write_bytes` do.
    """
    for name in names:
        write_bytes(folder / name, read_zipped(archive, name))


@contextmanager
def lock(path: Path, busy: str, patience: float = 0) -> Iterator[None]:
    """Hold the lock file at `path`, or raise if another process does after `patience` seconds.

    Raises
    ------
    WriteError
        With `busy` as the problem, if it is held already.
    """
    from filelock import FileLock, Timeout

    make_folder(path.parent)
    with write_errors(path):
        try:
            held = FileLock(path, timeout=patience)
            held.acquire()
        except Timeout:
            raise WriteError(busy, "Wait until it ends, then run the same command again.") from None
    try:
        yield
    finally:
        held.release()
