"""Getting the competition's files into ``data/<competition>/``, checked and whole."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kaggle_digits.competition import FILES
from kaggle_digits.data import load_test, load_train
from kaggle_digits.errors import DataError
from kaggle_digits.files import (
    Workspace,
    lock,
    make_folder,
    read_json,
    sha256,
    unzip,
    write_errors,
    write_json,
)
from kaggle_digits.hosts import open_host

MANIFEST = "manifest.json"
_NO_FILES = (
    "Name the zip that the browser saved, or a folder that holds train.csv, test.csv and sample_submission.csv."
)


@dataclass(frozen=True)
class Download:
    """The competition's files on this machine.

    Attributes
    ----------
    folder : pathlib.Path
        Where they are.
    train_rows, test_rows : int
        How many digits they hold.
    fetched : bool
        False if whole files were there already, and nothing was asked of anybody.
    """

    folder: Path
    train_rows: int
    test_rows: int
    fetched: bool


def download(
    workspace: Workspace, *, force: bool = False, source: Path | None = None, mnist_dir: Path | None = None
) -> Download:
    """Get the competition's files, unless whole ones are there.

    New files are complete and valid before they take the place of old ones. Files put in place by hand are
    validated and accepted.

    Parameters
    ----------
    workspace : Workspace
        The competition, and where its files go.
    force : bool
        Get them again, whatever is there.
    source : pathlib.Path, optional
        A zip from the browser, or a folder with the files, to take them from instead of the host.
    mnist_dir : pathlib.Path, optional
        For ``rehearsal-full``: the folder of MNIST's IDX files.

    Returns
    -------
    Download
        Where they are and how many rows they have.

    Raises
    ------
    DataError
        If the files are not valid.
    KaggleDigitsError
        What the host has to say: no credentials, a refusal, network trouble.
    """
    folder = make_folder(workspace.data)
    with lock(folder / ".lock", "Another download into this folder is under way."):
        if not force and source is None and _is_whole(folder):
            return _described(folder, fetched=False)
        with write_errors(folder), tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as name:
            arrived = Path(name)
            if source is None:
                open_host(workspace, mnist_dir).download(arrived)
            else:
                _take(source, arrived)
            _described(arrived, fetched=True)
            _move_in(arrived, folder)
        _write_manifest(folder, str(source or workspace.competition.host))
    return _described(folder, fetched=True)


def _is_whole(folder: Path) -> bool:
    """Tell whether the files are those of the manifest; without a manifest, validate them and write it."""
    if not all((folder / name).is_file() for name in FILES):
        return False
    if not (folder / MANIFEST).exists():
        _described(folder, fetched=False)
        _write_manifest(folder, "by hand")
        return True
    try:
        entries = read_json(folder / MANIFEST)["files"]
        return all(_entry(folder / name) == entries[name] for name in FILES)
    except (DataError, KeyError, TypeError):
        return False


def _described(folder: Path, *, fetched: bool) -> Download:
    """Validate the three files, which fills their cache, and count their rows."""
    return Download(folder, len(load_train(folder).labels), len(load_test(folder).ids), fetched)


def _take(source: Path, folder: Path) -> None:
    """Copy the files from a zip or a folder."""
    if source.is_dir():
        for name in FILES:
            if not (source / name).is_file():
                raise DataError(f"{source} has no {name}.", _NO_FILES)
            shutil.copyfile(source / name, folder / name)
    elif source.is_file():
        unzip(source, FILES, folder)
    else:
        raise DataError(f"There is no {source}.", _NO_FILES)


def _move_in(arrived: Path, folder: Path) -> None:
    """Put new files, and the cache made of them, in the place of old ones.

    The manifest goes first: should this be cut off half-way, its absence or an older one makes the next download
    look at every file.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    (folder / "cache").mkdir(exist_ok=True)
    for path in (*(arrived / name for name in FILES), *(arrived / "cache").iterdir()):
        path.replace(folder / path.relative_to(arrived))


def _write_manifest(folder: Path, origin: str) -> None:
    document = {
        "version": 1,
        "origin": origin,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": {name: _entry(folder / name) for name in FILES},
    }
    write_json(folder / MANIFEST, document)


def _entry(path: Path) -> dict[str, int | str]:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}
