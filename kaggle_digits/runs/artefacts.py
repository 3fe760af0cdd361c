"""The files of a fold and of an ensemble: written with metrics.json last, and checked when they are read."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kaggle_digits.arrays import Float32
from kaggle_digits.files import read_npz, regular_file, replacing, sha256, write_bytes, write_errors, write_json
from kaggle_digits.runs.schema import RETRAIN, Artefacts, damaged, missing, read_document
from kaggle_digits.training.fold import FoldResult
from kaggle_digits.workspace import CLASSES

if TYPE_CHECKING:
    import keras

METRICS = "metrics.json"
FOLD_FILES = ("model.keras", "history.csv", "val_softmax.npy", "test_softmax.npy")
HISTORY_COLUMNS = (
    "epoch",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "seconds",
    "images_per_second",
)
PACKAGES = ("kaggle-digits", "tensorflow", "keras", "numpy", "scikit-learn", "pandas")
"""What a run depends on, as package indexes call it."""


@dataclass(frozen=True)
class FoldCheckpoint:
    """The state of a fold while it trains, in ``fold-<k>/checkpoint/``.

    Attributes
    ----------
    folder : pathlib.Path
        The fold's directory.
    """

    folder: Path

    @property
    def _path(self) -> Path:
        return self.folder / "checkpoint" / "state.npz"

    def exists(self) -> bool:
        """Tell whether the fold was started before and not finished."""
        return self._path.exists()

    def load(self) -> dict[str, Any] | None:
        """Return ``variables``, ``likelihood`` and ``history``; None if there is no valid state to go on from."""
        arrays = read_npz(self._path) or {}
        try:
            return {
                "variables": [arrays[f"variable-{i}"] for i in range(len(arrays) - 2)],
                "likelihood": arrays["likelihood"],
                "history": json.loads(str(arrays["history"])),
            }
        except (KeyError, ValueError):
            return None

    def save(
        self, variables: list[npt.NDArray[Any]], likelihood: Float32, history: list[dict[str, float]]
    ) -> None:
        """Write the state after an epoch, in one file, so that it is complete or not there at all."""
        arrays = {f"variable-{i}": value for i, value in enumerate(variables)}
        with replacing(self._path) as temporary, open(temporary, "wb") as stream:
            np.savez(
                stream, allow_pickle=False, likelihood=likelihood, history=np.array(json.dumps(history)), **arrays
            )

    def discard(self) -> None:
        """Remove the state."""
        shutil.rmtree(self._path.parent, ignore_errors=True)


def tensorboard_callback(folder: Path) -> keras.callbacks.Callback:
    """Return Keras's own callback that writes a fold's events for TensorBoard, below its directory."""
    import keras

    events = folder / "tensorboard"
    if not FoldCheckpoint(folder).exists():
        shutil.rmtree(events, ignore_errors=True)  # of an earlier training
    return keras.callbacks.TensorBoard(events, write_graph=False)


def write_fold(folder: Path, result: FoldResult) -> None:
    """Write a trained fold into its directory, with the versions that it was trained with in its metrics."""
    import pandas as pd

    contents = (
        result.model,
        pd.DataFrame(result.history).to_csv(index=False).encode(),
        _npy_bytes(result.val_softmax),
        _npy_bytes(result.test_softmax),
    )
    write_artefacts(
        folder, dict(zip(FOLD_FILES, contents, strict=True)), result.metrics | {"versions": versions()}
    )
    FoldCheckpoint(folder).discard()


def write_ensemble(folder: Path, oof: Float32, test: Float32, metrics: dict[str, Any]) -> None:
    """Write an ensemble: out-of-fold softmaxes [n, 10], the test rows' [m, 10], and metrics."""
    write_artefacts(folder, {"oof_softmax.npy": _npy_bytes(oof), "test_softmax.npy": _npy_bytes(test)}, metrics)


def write_artefacts(folder: Path, contents: dict[str, bytes], metrics: dict[str, Any]) -> None:
    """Write files into a folder, and last of all ``metrics.json`` with their SHA-256: with it they are valid."""
    # Old files may be here. They stay valid until the first new one is written.
    with write_errors(folder):
        (folder / METRICS).unlink(missing_ok=True)
    for name, content in contents.items():
        write_bytes(folder / name, content)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    write_json(folder / METRICS, metrics | {"files": hashes})


def checked_file(folder: Path, name: str) -> Path:
    """Return the path of an artefact whose SHA-256 is the one in the ``metrics.json`` beside it.

    Raises
    ------
    DataError
        If it is missing or damaged.
    """
    path = folder / name
    try:
        digest = sha256(regular_file(path, RETRAIN))
    except (FileNotFoundError, NotADirectoryError):
        raise missing(path) from None
    except OSError as error:
        raise damaged(path, error.strerror) from error
    if read_document(folder / METRICS, Artefacts, RETRAIN).files.get(name) != digest:
        raise damaged(path, "its SHA-256 is not the one in metrics.json")
    return path


def read_softmax(folder: Path, name: str, rows: int | None = None) -> Float32:
    """Read softmaxes, float32 [rows, 10]; a `DataError` says what is wrong with them."""
    path = checked_file(folder, name)
    try:
        # Mapped, so that a header with a wrong shape is found before memory is asked for.
        mapped = np.lib.format.open_memmap(path, mode="r")
        if mapped.dtype != np.float32 or mapped.ndim != 2 or mapped.shape[1] != CLASSES:
            raise ValueError(f"it holds {mapped.dtype} {list(mapped.shape)}, not float32 [rows, {CLASSES}]")
        if rows not in (None, len(mapped)):
            raise ValueError(f"it has {len(mapped):,} rows, not {rows:,}")
        softmax: Float32 = np.array(mapped, np.float32, order="C")
    except Exception as error:  # NumPy raises many kinds of errors at headers that were tampered with
        raise damaged(path, error) from error
    if not ((softmax >= 0) & (softmax <= 1)).all():  # NaN is neither
        raise damaged(path, "not all of its values are from 0 to 1")
    return softmax


def read_numbers(path: Path, columns: Sequence[str]) -> npt.NDArray[np.float64]:
    """Read columns of a CSV file, float64 [rows, columns]; a `DataError` says where they are not numbers."""
    try:
        with open(regular_file(path, RETRAIN), encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = next(reader, [])
            if absent := [name for name in columns if name not in header]:
                raise ValueError(f"it has no column {absent[0]!r}")
            places = [header.index(name) for name in columns]
            cells = [[row[place] for place in places] for row in reader if row]
        return np.array(cells, np.float64).reshape(-1, len(columns))
    except FileNotFoundError:
        raise missing(path) from None
    except IndexError as error:
        raise damaged(path, "a row in it is too short") from error
    except (ValueError, OSError, csv.Error) as error:
        raise damaged(path, error) from error


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a run depends on, and a digest of our own source.

    The digest tells apart what has the same version number, such as two states of a checkout.
    """
    source = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        source.update(path.read_bytes())
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
        "source of kaggle-digits": source.hexdigest()[:12],
    }


def different_versions(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """Say which of their versions are not ours, leaving out what only one side knows."""
    differences = [name for name, version in theirs.items() if ours.get(name, version) != version]
    return ", ".join(f"{name} {theirs[name]} (now {ours[name]})" for name in differences)


def _npy_bytes(array: npt.NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
