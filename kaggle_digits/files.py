"""Atomic writes, errors of reading and writing, zip files, locks and digests."""

import hashlib
import json
import os
import secrets
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from kaggle_digits.errors import DataError, KaggleDigitsError, WriteError


@contextmanager
def read_errors(path: Path, remedy: str) -> Iterator[None]:
    """Turn any error that is raised while reading `path` into a `DataError` with this remedy."""
    try:
        yield
    except KaggleDigitsError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path} is missing.", remedy) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.", remedy) from error
    except Exception as error:  # libraries raise errors of many types for damaged files
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise DataError(f"{path} is damaged: {reason}.", remedy) from error


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` raised while writing `path` into a `WriteError`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileExistsError | FileNotFoundError):
            check_links(path)
        raise WriteError(
            f"Cannot write {error.filename or path}: {error.strerror or error}.",
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


def make_folder(path: Path) -> None:
    """Create the folder `path` and its parents if needed; `WriteError` if it cannot be created."""
    with write_errors(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file, which replaces `path`, or its target if it is a link, on success."""
    make_folder(path.parent)
    with write_errors(path):
        if path.exists() and not path.is_file():  # a pipe or a device, such as /dev/stdout
            yield path
            return
        path = Path(os.path.realpath(path))
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            yield temporary
            with open(temporary, "rb") as stream:
                # Without fsync, a power failure after the rename can leave an empty file under the new name.
                os.fsync(stream.fileno())
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


def open_log(path: Path) -> IO[bytes]:
    """Open a file to append to it; `WriteError` if that fails."""
    with write_errors(path):
        return open(path, "ab")


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield an empty folder in the system's temporary folder (TMPDIR); `WriteError` if it cannot be written."""
    with write_errors(Path("into the temporary folder")):
        parent = Path(tempfile.gettempdir())
    with write_errors(parent), tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True) as name:
        yield Path(name)


def read_json(path: Path, remedy: str = "Remove it and create it again.") -> dict[str, Any]:
    """Read the JSON object in `path`; `DataError` if the file is missing or does not contain one."""
    with read_errors(path, remedy):
        document = json.loads(path.read_bytes())
        if not isinstance(document, dict):
            raise ValueError("it does not contain a JSON object")
        return document


def sha256(path: Path) -> str:
    """Return the SHA-256 of the file's bytes, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def unzip(archive: Path, names: Iterable[str], folder: Path) -> None:
    """Extract the files called `names` into `folder`, wherever they are in a zip: the shortest path counts."""
    with read_errors(Path(archive.name), "Get it again from its source."), zipfile.ZipFile(archive) as files:
        members = {PurePosixPath(name).name: name for name in sorted(files.namelist(), key=len, reverse=True)}
        for name in names:
            if name not in members:
                raise ValueError(f"it has no {name}")
            # Paths in the archive are not used for writing, so it cannot write outside `folder`.
            write_bytes(folder / name, files.read(members[name]))


def unpack(path: Path) -> None:
    """Replace a file that is a zip, such as ``train.csv.zip``, by the largest file in it; leave any other."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            # Programs that make zips may add small files of their own.
            content = archive.read(max(archive.infolist(), key=lambda member: member.file_size))
        write_bytes(path, content)


@contextmanager
def lock(path: Path, busy: str, timeout: float = 0) -> Iterator[None]:
    """Hold the lock file at `path`; `WriteError` with the problem `busy` if it is still held after `timeout` s."""
    from filelock import FileLock, Timeout

    make_folder(path.parent)
    with write_errors(path):
        try:
            held = FileLock(path, timeout=timeout).acquire()
        except Timeout:
            raise WriteError(busy, "Wait until it ends, then try again.") from None
    with held:
        yield
