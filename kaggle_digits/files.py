"""Atomic writes, validated reads, zip files, locks and digests."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, Any, TypeVar

from kaggle_digits.errors import DataError, KaggleDigitsError, WriteError

P = TypeVar("P", bound=PurePath)

LARGEST_MEMBER = 1 << 30
"""Maximum size in bytes of a file in a zip. The competition's largest file has 77 million bytes."""

_CREATE_AGAIN = "Remove it and create it again."


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` raised while writing `path` into a `WriteError`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileExistsError | FileNotFoundError):
            check_links(path)
        reason = error.strerror or str(error)
        raise WriteError(
            f"Cannot write {error.filename or path}: {reason}.",
            "Free some space or fix the permissions of the folder, then run the same command again.",
        ) from error


def check_links(path: Path) -> None:
    """Raise a `WriteError` if `path` or a folder above it is a link to something that does not exist."""
    for link in (path, *path.parents):
        if os.path.islink(link) and not os.path.exists(link):
            raise WriteError(
                f"{link} is a link to {os.readlink(link)}, which does not exist.",
                "Connect the drive that it is on, or remove the link; then run the same command again.",
            )


def make_folder(path: Path) -> Path:
    """Create the folder `path` and its parents if needed, and return it; `WriteError` if it cannot be created."""
    with write_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file, which replaces `path` if the block succeeds; `WriteError` if it cannot be written.

    If the block raises or the process is killed, `path` is unchanged. If `path` is a link to a file, that file is
    replaced; a link to a pipe or a device, such as /dev/null, is replaced itself.
    """
    make_folder(path.parent)
    with write_errors(path):
        linked = Path(os.path.realpath(path))
        path = linked if linked.is_file() or not linked.exists() else path
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


def write_output(path: Path, content: bytes) -> None:
    """Write `content` to a path that a user has chosen: into a pipe or a device, else atomically."""
    if os.path.exists(path) and not os.path.isfile(path):
        with write_errors(path):
            path.write_bytes(content)
    else:
        write_bytes(path, content)


def open_log(path: Path) -> IO[bytes]:
    """Open a file to append to it; `WriteError` if that fails, `DataError` if it is a pipe or a device."""
    with write_errors(path):
        if path.exists():
            regular_file(path)
        return open(path, "ab")


def write_json(path: Path, document: Any) -> None:
    """Write `document` as JSON to `path` atomically: see `replacing`."""
    write_bytes(path, (json.dumps(document, indent=2) + "\n").encode())


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield an empty folder in the system's temporary folder (TMPDIR); `WriteError` if it cannot be written."""
    with write_errors(Path("into the temporary folder")):
        parent = Path(tempfile.gettempdir())
    with write_errors(parent), tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True) as name:
        yield Path(name)


def regular_file(path: Path, remedy: str = "Put a regular file in its place.") -> Path:
    """Check that `path` is a regular file or a link to one, and return it; `DataError` with `remedy` if not.

    Every file passes through here before it is read: opening a named pipe or a device can block forever, and
    reading one may never end. If `path` does not exist, the `OSError` of `Path.stat` is passed on to the caller.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise DataError(f"{path} is {kind}, not a regular file.", remedy)
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object in `path`; `DataError` if the file is missing or does not contain one."""
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
    with open(regular_file(path), "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def find_folder(paths: Iterable[P], names: Sequence[str], source: Path) -> P:
    """Return the folder that has all files called `names`, given the relative paths of the files in `source`.

    If several folders have all of them, it is `source` itself or, if that is not one of them, a `DataError`.
    """
    known = set(paths)
    folders = sorted({path.parent for path in known if known.issuperset(path.parent / name for name in names)})
    if len(folders) > 1 and folders[0].parts:
        listed = ", ".join(str(source / folder) for folder in folders)
        raise DataError(
            f"Several folders in {source} have the files: {listed}.",
            "Choose one of them; unpack a zip file first.",
        )
    if not folders:
        absent = [name for name in names if name not in {path.name for path in known}]
        what = f"{source} has no {' and no '.join(absent)}" if absent else f"No folder in {source} has all files"
        raise DataError(f"{what}.", f"Choose a zip file or a folder that has {', '.join(names)} in one folder.")
    return folders[0]


@contextmanager
def _open_zip(archive: Path) -> Iterator[zipfile.ZipFile]:
    """Yield an open zip file; `DataError` if it is damaged."""
    try:
        with zipfile.ZipFile(regular_file(archive)) as files:
            yield files
    except KaggleDigitsError:
        raise
    # For a corrupt file, zipfile raises errors of many types: from decompressors, text decoding and memory.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise DataError(
            f"{archive.name} is not a complete zip file: {reason}.", "Get it again from its source."
        ) from error


def _unzipped(files: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if member.file_size > LARGEST_MEMBER:
        raise ValueError(f"{member.file_size:,} bytes after unpacking are too many")
    with files.open(member) as stream:
        # Read in chunks: the size in the header may be wrong, and read() would unpack all of the data into memory
        # before it truncates it to that size.
        return b"".join(iter(partial(stream.read, 1 << 14), b""))


def read_zipped(archive: Path, pattern: str) -> bytes:
    """Return the content of the first file in a zip whose name, without folders, matches a glob pattern."""
    with _open_zip(archive) as files:
        for member in files.infolist():
            if fnmatch(PurePosixPath(member.filename).name, pattern):
                return _unzipped(files, member)
    raise DataError(f"{archive.name} has no {pattern} inside.", "Get it again from its source.")


def unzip(archive: Path, names: Sequence[str], folder: Path) -> PurePath:
    """Extract the files called `names`, from one folder of a zip, into `folder`; return the folder of the zip.

    Paths in the archive are not used for writing, so it cannot write outside `folder`.
    """
    with _open_zip(archive) as files:
        members = {PurePosixPath(member.filename): member for member in files.infolist()}
        inside = find_folder(members, names, Path(archive.name))
        for name in names:
            write_bytes(folder / name, _unzipped(files, members[inside / name]))
    return inside


@contextmanager
def lock(path: Path, busy: str, timeout: float = 0) -> Iterator[None]:
    """Hold the lock file at `path`; `WriteError` with the problem `busy` if another process still holds it.

    `timeout` is in seconds.
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
