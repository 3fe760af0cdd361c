"""Download the competition's files into ``data/<competition>/`` and verify them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from kaggle_digits.data.csv import load_test, load_train
from kaggle_digits.errors import DataError, NetworkError
from kaggle_digits.files import (
    find_folder,
    lock,
    make_folder,
    read_json,
    regular_file,
    sha256,
    unzip,
    write_bytes,
    write_errors,
    write_json,
)
from kaggle_digits.hosts import open_host
from kaggle_digits.workspace import FILES, Workspace

MANIFEST = "manifest.json"
_DOWNLOAD = "Download the file again with the command: download."
_OTHER_SOURCE = (
    f"Choose the zip file that the browser saved, or a folder with {', '.join(FILES)}, or leave out --from."
)


@dataclass(frozen=True)
class Download:
    """The competition's files on this machine.

    Attributes
    ----------
    folder : pathlib.Path
        The folder of the files.
    train_rows, test_rows : int
        The number of rows of ``train.csv`` and ``test.csv``.
    fetched : bool
        False if complete files were there already, and nothing was downloaded.
    changed : tuple of str
        Files that have changed at their source since the last download. The old versions are kept in the same
        folder, with ``.<first digits of their SHA-256>.bak`` added to their names.
    """

    folder: Path
    train_rows: int
    test_rows: int
    fetched: bool
    changed: tuple[str, ...] = ()


def download(
    workspace: Workspace,
    *,
    force: bool = False,
    source: str | Path | None = None,
    mnist_dir: str | Path | None = None,
) -> Download:
    """Download the competition's files, unless complete files are there already.

    New files are validated before they replace old ones. Old files with different content are kept, with
    ``.<first digits of their SHA-256>.bak`` added to their names. If this is interrupted, the next download
    repeats it. Files that were copied there by hand, without a manifest, are validated and accepted.

    Parameters
    ----------
    workspace : Workspace
        The competition and its folders.
    force : bool
        Download the files even if complete files are there.
    source : str or pathlib.Path, optional
        A zip file that was downloaded in a browser, or a folder with the files, which may be up to two levels
        below it. They are copied from there instead of downloaded.
    mnist_dir : str or pathlib.Path, optional
        For ``rehearsal-full``: the folder with the IDX files of MNIST.

    Returns
    -------
    Download
        The folder of the files, and their numbers of rows.

    Raises
    ------
    DataError
        If files that were copied by hand, or files from `source`, are not valid.
    NetworkError
        If downloaded files are not valid, or the host cannot be reached.
    CredentialsError, RefusedError
        If there are no valid credentials, or the host refuses the download.
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
    folder = workspace.data
    keep = not force and source is None
    # Before the lock, because the folder may be read-only.
    if keep and _is_complete(folder):
        return _validate(folder, fetched=False)
    make_folder(folder)
    with lock(folder / ".lock", "Another download into this folder is running."):
        if keep and _is_copied_by_hand(folder):
            files = _validate(folder, fetched=False)
            _write_manifest(folder, folder, "by hand")
            return files
        # A process that was killed may have left its temporary folder.
        for leftover in folder.glob(".download-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        with write_errors(folder), tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as name:
            new_folder = Path(name)
            if source is None:
                origin = Path(workspace.competition.name)
                open_host(workspace, Path(mnist_dir) if mnist_dir else None).download(new_folder)
            else:
                origin = _copy(Path(source), new_folder)
            try:
                files = _validate(new_folder, fetched=True)
            except DataError as error:
                # The temporary folder is gone when this is read.
                problem = error.problem.replace(str(new_folder), str(origin))
                if source is not None:
                    raise DataError(problem, _OTHER_SOURCE) from error
                problem = f"The downloaded files are damaged: {problem}"
                raise NetworkError(problem, "Download them again later.") from error
            changed = _replace_files(new_folder, folder, str(source or workspace.competition.host))
    return replace(files, folder=folder, changed=changed)


def check_manifest(folder: Path, hashes: Mapping[str, str]) -> None:
    """Raise a `DataError` if one of `hashes`, the SHA-256 of files by name, is not that of the manifest.

    A manifest that is missing or damaged is ignored.
    """
    for name, listed in _manifest_hashes(folder).items():
        if name in hashes and hashes[name] != listed:
            raise DataError(
                f"{folder / name} is not the file that was downloaded.",
                f"Download it again with the command: download. If you replaced it on purpose, remove "
                f"{folder / MANIFEST}.",
            )


def _manifest_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in the manifest; empty if the manifest is missing or damaged."""
    try:
        return {name: str(entry["sha256"]) for name, entry in read_json(folder / MANIFEST)["files"].items()}
    except (DataError, KeyError, TypeError, AttributeError):
        return {}


def manifest_differences(folder: Path) -> list[str]:
    """Return one sentence for each of the three files whose size or SHA-256 differs from the manifest.

    `DataError` if the manifest is missing or damaged or a file is not a regular file, `OSError` if one is missing.
    """
    entries = read_json(folder / MANIFEST).get("files")
    try:
        expected = {name: (entries[name]["bytes"], entries[name]["sha256"]) for name in FILES}  # type: ignore[index]
        sentences = []
        for name, (size, digest) in expected.items():
            actual = _entry(folder / name)
            if actual["bytes"] != size:
                sentences.append(f"{folder / name} has {actual['bytes']:,} bytes, but {size:,} were downloaded.")
            elif actual["sha256"] != digest:
                sentences.append(f"{folder / name} is not the file that was downloaded: its SHA-256 differs.")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / MANIFEST} is damaged.", _DOWNLOAD) from error
    return sentences


def _is_complete(folder: Path) -> bool:
    """Return whether all files are there and match the manifest."""
    try:
        return not manifest_differences(folder)
    except (DataError, OSError):
        return False


def _is_copied_by_hand(folder: Path) -> bool:
    """Return whether all three files are there without a manifest: the user has copied them there."""
    return not (folder / MANIFEST).exists() and all((folder / name).is_file() for name in FILES)


def _validate(folder: Path, *, fetched: bool) -> Download:
    """Validate the three files, which also writes their cache, and count their rows."""
    return Download(folder, len(load_train(folder).labels), len(load_test(folder).ids), fetched)


def _copy(source: Path, folder: Path) -> Path:
    """Copy the files from a zip file or a folder; return where they were, which can be a folder inside the zip."""
    if not source.exists():
        raise DataError(f"{source} does not exist.", _OTHER_SOURCE)
    if not source.is_dir():
        return source / unzip(source, FILES, folder)
    # Kaggle mounts the data of a competition at /kaggle/input/competitions/<name>, or, in older notebooks, at
    # /kaggle/input/<name>.
    paths = [path for name in FILES for above in ("", "*/", "*/*/") for path in source.glob(above + name)]
    found = source / find_folder([path.relative_to(source) for path in paths], FILES, source)
    for name in FILES:
        try:
            content = regular_file(found / name, _OTHER_SOURCE).read_bytes()
        except OSError as error:
            raise DataError(f"{found / name} cannot be read: {error.strerror}.", _OTHER_SOURCE) from error
        write_bytes(folder / name, content)
    return found


def _replace_files(new_folder: Path, folder: Path, origin: str) -> tuple[str, ...]:
    """Replace old files with new ones and their cache; return the names of those that changed at their source.

    The manifest is replaced first: if this is interrupted, the files do not match it, so the next download repeats
    the work. Until then, an old file is in its place or is a backup.
    """
    before = _manifest_hashes(folder)
    _write_manifest(folder, new_folder, origin)
    after = _manifest_hashes(folder)
    for name in FILES:
        target = folder / name
        if target.is_file() and (digest := sha256(target)) != after[name]:
            target.replace(target.with_name(f"{name}.{digest[:12]}.bak"))
        (new_folder / name).replace(target)
    make_folder(folder / "cache")
    for path in (new_folder / "cache").iterdir():
        path.replace(folder / "cache" / path.name)
    return tuple(name for name in FILES if before.get(name, after[name]) != after[name])


def _write_manifest(folder: Path, files: Path, origin: str) -> None:
    document = {
        "version": 1,
        "origin": origin,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": {name: _entry(files / name) for name in FILES},
    }
    write_json(folder / MANIFEST, document)


def _entry(path: Path) -> dict[str, int | str]:
    regular_file(path, _DOWNLOAD)
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}
