"""Atomic writes, errors of reading and writing, zip files, locks and digests."""

import hashlib
import json
import os
import secrets
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath, PurePosixPath
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


def find_folder(paths: Iterable[PurePath], names: Sequence[str], source: Path) -> PurePath:
    """Return the folder that has all files called `names`, given the relative paths of the files in `source`."""
    known = set(paths)
    folders = sorted({path.parent for path in known if known.issuperset(path.parent / name for name in names)})
    if len(folders) == 1 or (folders and not folders[0].parts):
        return folders[0]
    found = ", ".join(str(source / folder) for folder in folders) or "none"
    raise DataError(
        f"{source} does not have {', '.join(names)} in exactly one folder, but in: {found}.",
        "Choose a zip file or a folder that does; unpack a zip file that has several.",
    )


def unzip(archive: Path, names: Sequence[str], folder: Path) -> PurePath:
    """Extract the files called `names`, from one folder of a zip, into `folder`; return the folder of the zip."""
    with read_errors(Path(archive.name), "Get it again from its source."), zipfile.ZipFile(archive) as files:
        members: dict[PurePath, str] = {PurePosixPath(name): name for name in files.namelist()}
        inside = find_folder(members, names, Path(archive.name))
        for name in names:
            # Paths in the archive are not used for writing, so it cannot write outside `folder`.
            write_bytes(folder / name, files.read(members[inside / name]))
    return inside


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
