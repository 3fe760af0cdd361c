"""Download the competition's files into ``data/<competition>/`` and verify them."""

import shutil
import zipfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePath, PurePosixPath

from kaggle_digits.data.csv import load_test, load_train
from kaggle_digits.errors import DataError, NetworkError
from kaggle_digits.files import (
    lock,
    make_folder,
    read_errors,
    read_json,
    sha256,
    unpack,
    write_bytes,
    write_errors,
    write_json,
)
from kaggle_digits.hosts import open_host
from kaggle_digits.workspace import DEFAULT_COMPETITION, FILES, Workspace, find_files

MANIFEST = "manifest.json"
_OTHER_SOURCE = "Choose the zip file that the browser saved, or a folder with the files, or leave out --from."
_OTHER_COMPETITION = "Choose a competition with labels from 0 to 9 and 784 columns of grey values from 0 to 255."


@dataclass(frozen=True)
class Download:
    """The competition's files on this machine."""

    folder: Path
    train_rows: int
    test_rows: int
    fetched: bool = False  # False if complete files were there already, and nothing was downloaded
    # Files that differ from those that were there before. The old ones are kept in the same folder, with
    # ``.<first digits of their SHA-256>.bak`` added to their names.
    changed: tuple[str, ...] = ()


def download(
    workspace: Workspace,
    *,
    force: bool = False,
    source: str | Path | None = None,
    mnist_dir: str | Path | None = None,
) -> Download:
    """Download the competition's files, unless complete files are there already.

    New files are validated before they replace old ones. If this is interrupted, the next download repeats it.
    Files that were copied there by hand, without a manifest, are validated and accepted.

    Parameters
    ----------
    workspace : Workspace
        The competition and its folders.
    force : bool
        Download the files even if complete files are there.
    source : str or pathlib.Path, optional
        Copy the files from here: a zip file, or a folder that has them up to two levels below it. They may have
        other names there, such as ``mnist_train.csv``: see `kaggle_digits.workspace.find_files`.
    mnist_dir : str or pathlib.Path, optional
        For ``rehearsal-full``: the folder with the IDX files of MNIST.

    Returns
    -------
    Download
        The folder of the files, and their numbers of rows.

    Raises
    ------
    DataError
        If files that were copied by hand, or files from `source`, are not valid, or the competition's files have
        another format.
    NetworkError, CredentialsError, RefusedError
        If downloaded files are damaged, or the host cannot be reached or refuses the download.
    WriteError
        If a file cannot be written, or another download into the folder is running.

    Examples
    --------
    >>> import kaggle_digits as kd
    >>> workspace = kd.Workspace.at(folder, competition="rehearsal")
    >>> files = kd.download(workspace)
    >>> files.train_rows, files.test_rows
    (4200, 2800)
    """
    folder, keep = workspace.data, not force and source is None
    if keep:
        # Before the lock, because the folder may be read-only. What is incomplete or damaged is downloaded.
        with suppress(DataError, OSError):
            if _listed_hashes(folder) == {name: sha256(folder / name) for name in FILES}:
                return _validate(folder)
    with lock(folder / ".lock", "Another download into this folder is running."):
        if keep and not (folder / MANIFEST).exists() and all((folder / name).is_file() for name in FILES):
            files = _validate(folder)
            _write_manifest(folder, "by hand")
            return files
        new = folder / ".download"
        shutil.rmtree(new, ignore_errors=True)  # a process that was killed may have left it
        make_folder(new)
        try:
            files = _fetch(workspace, new, source, mnist_dir)
            _write_manifest(new, str(source or workspace.competition.host))
            return replace(files, folder=folder, fetched=True, changed=_replace_files(new, folder))
        finally:
            shutil.rmtree(new, ignore_errors=True)


def check_manifest(folder: Path, hashes: Mapping[str, str]) -> None:
    """Raise a `DataError` if one of `hashes`, the SHA-256 of files by name, is not that of a valid manifest."""
    listed = hashes
    with suppress(DataError):
        listed = _listed_hashes(folder)
    for name in hashes:
        if hashes[name] != listed[name]:
            raise DataError(
                f"{folder / name} is not the file that was downloaded.",
                "Download it again with the command: download. If you replaced it on purpose, remove "
                f"{folder / MANIFEST}.",
            )


def _listed_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the three files in the manifest; `DataError` if it is missing or damaged."""
    with read_errors(folder / MANIFEST, "Download the files again with the command: download."):
        files = read_json(folder / MANIFEST)["files"]
        return {name: str(files[name]["sha256"]) for name in FILES}


def _write_manifest(folder: Path, origin: str) -> None:
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in FILES}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(folder / MANIFEST, {"version": 1, "origin": origin, "time": now, "files": files})


def _validate(folder: Path) -> Download:
    """Validate the three files, which also writes their cache, and count their rows."""
    return Download(folder, len(load_train(folder).labels), len(load_test(folder).ids))


def _fetch(workspace: Workspace, new: Path, source: str | Path | None, mnist_dir: str | Path | None) -> Download:
    """Download or copy the files into the folder `new`, and validate them."""
    name = workspace.competition.name
    origins = {file: Path(name, file) for file in FILES}
    if source is None:
        open_host(workspace, Path(mnist_dir) if mnist_dir else None).download(new)
    else:
        origins = {file: Path(source, path) for file, path in copy_files(Path(source), new).items()}
    try:
        return _validate(new)
    except DataError as error:
        problem = error.problem
        for file, origin in origins.items():  # the folder is gone when this is read
            problem = problem.replace(str(new / file), str(origin))
        if source is not None:
            raise DataError(problem, _OTHER_SOURCE) from error
        if name != DEFAULT_COMPETITION:  # they arrived as Kaggle lists them
            raise DataError(problem, _OTHER_COMPETITION) from error
        raise NetworkError(f"The download is damaged: {problem}", "Download it again later.") from error


def copy_files(source: Path, folder: Path) -> dict[str, PurePath]:
    """Copy the files from a zip file or a folder into `folder`; return where they were, by their new names."""
    if not source.exists():
        raise DataError(f"{source} does not exist.", _OTHER_SOURCE)
    with ExitStack() as opened, read_errors(source, _OTHER_SOURCE):
        read: dict[PurePath, Callable[[], bytes]] = {}
        if source.is_dir():
            # Kaggle mounts the data of a competition at /kaggle/input/competitions/<name>, or, in older notebooks,
            # at /kaggle/input/<name>.
            for pattern in ("", "*/", "*/*/"):
                for file in source.glob(f"{pattern}*.[cC][sS][vV]*"):
                    read[file.relative_to(source)] = file.read_bytes
        else:
            archive = opened.enter_context(zipfile.ZipFile(source))
            for member in archive.namelist():
                read[PurePosixPath(member)] = partial(archive.read, member)
        found = find_files(read, source)
        for name, path in found.items():
            with read_errors(source / path, _OTHER_SOURCE):
                write_bytes(folder / name, read[path]())
                unpack(folder / name)
    return found


def _replace_files(new: Path, folder: Path) -> tuple[str, ...]:
    """Move the files of the folder `new` into `folder`; return the names of those that were different before."""
    changed = []
    with write_errors(folder):
        # The manifest first: if this is interrupted, the files do not match it, so the next download repeats it.
        (new / MANIFEST).replace(folder / MANIFEST)
        for name in FILES:
            path = folder / name
            if path.is_file() and (digest := sha256(path)) != sha256(new / name):
                path.replace(path.with_name(f"{name}.{digest[:12]}.bak"))
                changed.append(name)
            (new / name).replace(path)
        shutil.rmtree(folder / "cache", ignore_errors=True)
        (new / "cache").replace(folder / "cache")
    return tuple(changed)
