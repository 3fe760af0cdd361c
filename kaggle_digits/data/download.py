"""Downloading the competition's files into ``data/<competition>/``, complete and checked."""

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
        False if complete files were there already, and no request was made.
    changed : tuple of str
        Files that are others at their source than when they were got before; the former ones stay beside them, as
        ``.<digits of their SHA-256>.bak``.
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
    """Download the competition's files, unless complete ones are there.

    New files are complete and valid before they take the place of old ones, which stay as
    ``.<digits of their SHA-256>.bak`` where they differ; if that goes wrong, the old ones are back in their place.
    Files put in place by hand, without a manifest, are validated and accepted.

    Parameters
    ----------
    workspace : Workspace
        The competition, and where its files go.
    force : bool
        Get them again, whatever is there.
    source : str or pathlib.Path, optional
        A zip from the browser, or a folder with the files, to take them from instead of the host.
    mnist_dir : str or pathlib.Path, optional
        For ``rehearsal-full``: the folder of MNIST's IDX files.

    Returns
    -------
    Download
        Where they are and how many rows they have.

    Raises
    ------
    DataError
        If files put in place by hand, or from `source`, are not valid.
    NetworkError
        If those from the host are not.
    KaggleDigitsError
        What the host has to say: no credentials, a refusal, network trouble.

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
    if keep and _is_whole(folder):
        return _described(folder, fetched=False)
    make_folder(folder)
    with lock(folder / ".lock", "Another download into this folder is under way."):
        if keep and _is_by_hand(folder):
            files = _described(folder, fetched=False)
            _write_manifest(folder, folder, "by hand")
            return files
        for left_over in folder.glob(".download-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        with write_errors(folder), tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as name:
            arrived = Path(name)
            if source is not None:
                _take(Path(source), arrived)
                _described(arrived, fetched=True)
            else:
                open_host(workspace, Path(mnist_dir) if mnist_dir else None).download(arrived)
                try:
                    _described(arrived, fetched=True)
                except DataError as error:
                    raise NetworkError(
                        f"What arrived is damaged: {error.problem}", "Run the same command again later."
                    ) from error
            changed = _changed(folder, arrived)
            _move_in(arrived, folder, str(source or workspace.competition.host))
    return replace(_described(folder, fetched=True), changed=changed)


def check_manifest(folder: Path, hashes: Mapping[str, str]) -> None:
    """Check that files are those that were downloaded.

    Parameters
    ----------
    folder : pathlib.Path
        The competition's data.
    hashes : mapping of str to str
        Names of files to their SHA-256 as they are now.

    Raises
    ------
    DataError
        If there is a manifest, and it says otherwise.
    """
    for name, listed in _listed(folder).items():
        if name in hashes and hashes[name] != listed:
            raise DataError(
                f"{folder / name} is not the file that was downloaded.",
                f"Get it again with the command: download. If another is meant, remove {folder / MANIFEST}.",
            )


def _listed(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file by the manifest; empty if there is none or it cannot be read."""
    try:
        return {name: str(entry["sha256"]) for name, entry in read_json(folder / MANIFEST)["files"].items()}
    except (DataError, KeyError, TypeError, AttributeError):
        return {}


def _changed(folder: Path, arrived: Path) -> tuple[str, ...]:
    """Return which files have arrived as others than the manifest has from before."""
    listed = _listed(folder)
    return tuple(name for name in FILES if name in listed and listed[name] != sha256(arrived / name))


def _is_whole(folder: Path) -> bool:
    """Tell whether the files are those that the manifest describes."""
    try:
        entries = read_json(folder / MANIFEST)["files"]
        return all(_entry(folder / name) == entries[name] for name in FILES)
    except (DataError, OSError, KeyError, TypeError):
        return False


def _is_by_hand(folder: Path) -> bool:
    """Tell whether all three files are there without a manifest: somebody put them there."""
    return not (folder / MANIFEST).exists() and all((folder / name).is_file() for name in FILES)


def _described(folder: Path, *, fetched: bool) -> Download:
    """Validate the three files, which fills their cache, and count their rows."""
    return Download(folder, len(load_train(folder).labels), len(load_test(folder).ids), fetched)


def _take(source: Path, folder: Path) -> None:
    """Copy the files from a zip or a folder."""
    if source.is_dir():
        for name in FILES:
            try:
                content = regular_file(source / name, _NO_FILES).read_bytes()
            except OSError as error:
                raise DataError(f"{source} has no {name} to read.", _NO_FILES) from error
            write_bytes(folder / name, content)
    elif source.is_file():
        unzip(source, FILES, folder)
    else:
        raise DataError(f"There is no {source}.", _NO_FILES)


def _move_in(arrived: Path, folder: Path, origin: str) -> None:
    """Put new files, and the cache made of them, in the place of old ones.

    Should this fail half-way, all is put back. Should the process be killed then, the manifest, which goes first,
    tells the next download that these are not the files it lists.
    """
    _write_manifest(arrived, arrived, origin)
    moves: list[tuple[Path, Path]] = []

    def move(source: Path, target: Path) -> None:
        source.replace(target)
        moves.append((source, target))

    try:
        for name in (MANIFEST, *FILES):
            target = folder / name
            if target.is_file():
                move(target, _place_of_former(target, arrived))
            move(arrived / name, target)
    except BaseException:
        for source, target in reversed(moves):
            target.replace(source)
        raise
    (folder / "cache").mkdir(exist_ok=True)
    for path in (arrived / "cache").iterdir():
        path.replace(folder / "cache" / path.name)


def _place_of_former(path: Path, arrived: Path) -> Path:
    """Return where a file goes that another replaces: beside it, under its own name, unless it is the same."""
    digest = sha256(path)
    if path.name == MANIFEST or digest == sha256(arrived / path.name):
        return arrived / f"{path.name}.former"
    return path.with_name(f"{path.name}.{digest[:12]}.bak")


def _write_manifest(folder: Path, files: Path, origin: str) -> None:
    document = {
        "version": 1,
        "origin": origin,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": {name: _entry(files / name) for name in FILES},
    }
    write_json(folder / MANIFEST, document)


def _entry(path: Path) -> dict[str, int | str]:
    regular_file(path, "Get it again with the command: download.")
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}
