"""Write and validate the files of a fold and of an ensemble. ``metrics.json`` is written last."""

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

import kaggle_digits
from kaggle_digits.arrays import Float32
from kaggle_digits.files import read_npz, regular_file, replacing, sha256, write_bytes, write_errors, write_json
from kaggle_digits.runs.schema import RETRAIN, Artefacts, FoldMetrics, damaged, missing, read_document
from kaggle_digits.training.fold import FoldResult
from kaggle_digits.workspace import CLASSES

if TYPE_CHECKING:
    import keras

METRICS = "metrics.json"
LOCAL, DASK, KAGGLE = "this machine", "Dask", "Kaggle"
"""Where a fold was trained, for its metrics."""
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
PACKAGES = ("tensorflow", "keras", "numpy", "scikit-learn", "pandas")
"""Names on PyPI of the other packages whose versions are recorded in a run."""


@dataclass(frozen=True)
class FoldCheckpoint:
    """The state of a fold while it trains, in ``checkpoint/`` in the folder of the fold."""

    folder: Path

    @property
    def _path(self) -> Path:
        return self.folder / "checkpoint" / "state.npz"

    def exists(self) -> bool:
        """Return whether a checkpoint exists: training has started but is not finished."""
        return self._path.exists()

    def load(self) -> dict[str, Any] | None:
        """Return ``variables``, ``likelihood`` and ``history``; None if there is no valid checkpoint."""
        arrays = read_npz(self._path) or {}
        try:
            count = sum(name.startswith("variable-") for name in arrays)
            return {
                "variables": [arrays[f"variable-{i}"] for i in range(count)],
                "likelihood": arrays["likelihood"],
                "history": json.loads(str(arrays["history"])),
            }
        except (KeyError, ValueError):
            return None

    def save(
        self, variables: list[npt.NDArray[Any]], likelihood: Float32, history: list[dict[str, float]]
    ) -> None:
        """Write the state after an epoch. It is one file, which is replaced atomically."""
        arrays: dict[str, Any] = {f"variable-{i}": value for i, value in enumerate(variables)}
        with replacing(self._path) as temporary, open(temporary, "wb") as stream:
            # Without `allow_pickle=False`, which NumPy 2.0 would save as an array; none of these needs pickle.
            np.savez(stream, likelihood=likelihood, history=np.array(json.dumps(history)), **arrays)

    def discard(self) -> None:
        """Remove the checkpoint."""
        shutil.rmtree(self._path.parent, ignore_errors=True)


def tensorboard_callback(folder: Path) -> keras.callbacks.Callback:
    """Return the Keras callback that writes a fold's TensorBoard events into its directory."""
    import keras

    events = folder / "tensorboard"
    if not FoldCheckpoint(folder).exists():
        shutil.rmtree(events, ignore_errors=True)  # events of an earlier training
    return keras.callbacks.TensorBoard(events, write_graph=False)


def write_fold(folder: Path, result: FoldResult, where: str = LOCAL) -> None:
    """Write a trained fold into its directory; its metrics include the versions and where it was trained."""
    import pandas as pd

    contents = (
        result.model,
        pd.DataFrame(result.history).to_csv(index=False).encode(),
        _npy_bytes(result.val_softmax),
        _npy_bytes(result.test_softmax),
    )
    origin = {"where": where, "versions": versions()}
    write_artefacts(folder, dict(zip(FOLD_FILES, contents, strict=True)), result.metrics | origin)
    FoldCheckpoint(folder).discard()


def read_history(folder: Path) -> list[dict[str, float]]:
    """Return a finished fold's epochs, as many as its metrics say; `DataError` if they are damaged."""
    path = checked_file(folder, "history.csv")
    epochs = read_document(folder / METRICS, FoldMetrics, RETRAIN).epochs
    numbers = read_numbers(path, HISTORY_COLUMNS)
    if not np.isfinite(numbers).all():
        raise damaged(path, "it has a value that is not finite")
    if not epochs or not np.array_equal(numbers[:, 0], np.arange(1, epochs + 1)):
        raise damaged(path, f"its epochs are not 1 to {epochs}")
    return [dict(zip(HISTORY_COLUMNS, row, strict=True)) for row in numbers.tolist()]


def check_fold(folder: Path, val_rows: int, test_rows: int | None = None) -> None:
    """Raise a `DataError` that names the first artefact of a finished fold that is missing or damaged.

    `test_rows` is the number of test rows, if known.
    """
    checked_file(folder, "model.keras")
    read_history(folder)
    read_softmax(folder, "val_softmax.npy", val_rows)
    read_softmax(folder, "test_softmax.npy", test_rows)


def write_ensemble(folder: Path, oof: Float32, test: Float32, metrics: dict[str, Any]) -> None:
    """Write an ensemble: softmaxes of the training rows [n, 10] and the test rows [m, 10], and metrics."""
    write_artefacts(folder, {"oof_softmax.npy": _npy_bytes(oof), "test_softmax.npy": _npy_bytes(test)}, metrics)


def write_artefacts(folder: Path, contents: dict[str, bytes], metrics: dict[str, Any]) -> None:
    """Write files into a folder, then ``metrics.json`` with their SHA-256.

    A folder is complete if it has ``metrics.json``, so this file is removed first and written last.
    """
    # Without this, old metrics would describe a mixture of old and new files if the process was killed.
    with write_errors(folder):
        (folder / METRICS).unlink(missing_ok=True)
    for name, content in contents.items():
        write_bytes(folder / name, content)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    write_json(folder / METRICS, metrics | {"files": hashes})


def checked_file(folder: Path, name: str) -> Path:
    """Return the path of an artefact; `DataError` if its SHA-256 is not that in ``metrics.json``."""
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
    """Read softmaxes, float32 [rows, 10]; raise a `DataError` if they are not valid."""
    path = checked_file(folder, name)
    try:
        # Memory-mapped, so that the shape is checked before memory is allocated for it.
        mapped = np.lib.format.open_memmap(path, mode="r")
        if mapped.dtype != np.float32 or mapped.ndim != 2 or mapped.shape[1] != CLASSES:
            raise ValueError(f"its array is {mapped.dtype} {list(mapped.shape)}, not float32 [rows, {CLASSES}]")
        if rows not in (None, len(mapped)):
            raise ValueError(f"it has {len(mapped):,} rows, not {rows:,}")
        softmax: Float32 = np.array(mapped, np.float32, order="C")
    except Exception as error:  # NumPy raises many types of errors for corrupt headers
        raise damaged(path, error) from error
    if not ((softmax >= 0) & (softmax <= 1)).all():  # false for NaN too
        raise damaged(path, "not all of its values are from 0 to 1")
    return softmax


def read_numbers(path: Path, columns: Sequence[str]) -> npt.NDArray[np.float64]:
    """Read columns of a CSV file, float64 [rows, columns]; raise a `DataError` if a value is not a number."""
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
        raise damaged(path, "a row has too few values") from error
    except (ValueError, OSError, csv.Error) as error:
        raise damaged(path, error) from error


def versions() -> dict[str, str]:
    """Return the versions of Python, this package and `PACKAGES`, and a digest of this package's source code.

    The digest distinguishes states of the source code that have the same version number.
    """
    source = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        source.update(path.read_bytes())
    return {
        "python": platform.python_version(),
        "kaggle-digits": kaggle_digits.__version__,
        **{name: metadata.version(name) for name in PACKAGES},
        "source of kaggle-digits": source.hexdigest()[:12],
    }


def different_versions(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """Return a text that lists the versions that differ; packages that only one side has are ignored."""
    differences = [name for name, version in theirs.items() if ours.get(name, version) != version]
    return ", ".join(f"{name} {theirs[name]} (now {ours[name]})" for name in differences)


def _npy_bytes(array: npt.NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
