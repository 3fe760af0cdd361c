"""Write and validate the files of a fold and of an ensemble. ``metrics.json`` is written last."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import kaggle_digits
from kaggle_digits.arrays import Float32
from kaggle_digits.files import read_errors, replacing, sha256, write_errors, write_json
from kaggle_digits.runs.schema import CREATE_AGAIN, FoldMetrics, Metrics, read_document
from kaggle_digits.training.fold import FoldResult
from kaggle_digits.workspace import CLASSES

if TYPE_CHECKING:
    import keras

METRICS = "metrics.json"
LOCAL, DASK, KAGGLE = "this machine", "Dask", "Kaggle"
"""Where a fold was trained, for its metrics."""
FOLD_FILES = ("model.keras", "history.csv", "val_softmax.npy", "test_softmax.npy")
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
        try:
            with np.load(self._path) as arrays:
                count = sum(name.startswith("variable-") for name in arrays.files)
                return {
                    "variables": [arrays[f"variable-{i}"] for i in range(count)],
                    "likelihood": arrays["likelihood"],
                    "history": json.loads(str(arrays["history"])),
                }
        except Exception:  # NumPy and zipfile raise errors of many types for damaged files
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

    history = pd.DataFrame(result.history).to_csv(index=False).encode()
    contents = (result.model, history, result.val_softmax, result.test_softmax)
    origin = {"where": where, "versions": versions()}
    write_artefacts(folder, dict(zip(FOLD_FILES, contents, strict=True)), result.metrics | origin)
    FoldCheckpoint(folder).discard()


def write_artefacts(folder: Path, contents: Mapping[str, bytes | Float32], metrics: dict[str, Any]) -> None:
    """Write files into a folder, then ``metrics.json`` with their SHA-256, which makes the folder complete."""
    # Without this, old metrics would describe a mixture of old and new files if the process was killed.
    with write_errors(folder):
        (folder / METRICS).unlink(missing_ok=True)
    for name, content in contents.items():
        with replacing(folder / name) as temporary, open(temporary, "wb") as stream:
            if isinstance(content, bytes):
                stream.write(content)
            else:
                np.save(stream, content)
    write_json(folder / METRICS, metrics | {"files": {name: sha256(folder / name) for name in contents}})


def check_fold(folder: Path, val_rows: int, test_rows: int) -> None:
    """Raise a `DataError` that names the first artefact of a finished fold that is missing or damaged."""
    checked_file(folder, "model.keras")
    read_history(folder)
    read_softmax(folder, "val_softmax.npy", val_rows)
    read_softmax(folder, "test_softmax.npy", test_rows)


def checked_file(folder: Path, name: str) -> Path:
    """Return the path of an artefact; `DataError` if its SHA-256 is not that in ``metrics.json``."""
    path = folder / name
    with read_errors(path, CREATE_AGAIN):
        if sha256(path) != read_document(folder / METRICS, Metrics).files.get(name):
            raise ValueError("its SHA-256 is not the one in metrics.json")
    return path


def read_history(folder: Path) -> list[dict[str, float]]:
    """Return the epochs of a finished fold, as many as its metrics say; `DataError` if they are damaged."""
    import pandas as pd

    path, epochs = checked_file(folder, "history.csv"), read_document(folder / METRICS, FoldMetrics).epochs
    with read_errors(path, CREATE_AGAIN):
        table = pd.read_csv(path, float_precision="round_trip").astype(float)
        if table["epoch"].tolist() != list(range(1, epochs + 1)) or not np.isfinite(table).all(axis=None):
            raise ValueError(f"it does not have the epochs 1 to {epochs}")
        return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def read_softmax(folder: Path, name: str, rows: int | None = None) -> Float32:
    """Read softmaxes, float32 [rows, 10]; `DataError` if they are damaged."""
    path = checked_file(folder, name)
    with read_errors(path, CREATE_AGAIN):
        softmax: Float32 = np.load(path)
        if softmax.dtype != np.float32 or softmax.shape != (rows or len(softmax), CLASSES):
            shape = f"{softmax.dtype} {list(softmax.shape)}"
            raise ValueError(f"its array is {shape}, not float32 [{rows or 'rows'}, {CLASSES}]")
        if not ((softmax >= 0) & (softmax <= 1)).all():  # false for NaN too
            raise ValueError("not all of its values are from 0 to 1")
        return softmax


def versions() -> dict[str, str]:
    """Return the versions of Python, this package and `PACKAGES`, and a digest of this package's source code."""
    source = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        source.update(path.read_bytes())
    return {
        "python": platform.python_version(),
        "kaggle-digits": kaggle_digits.__version__,
        **{name: metadata.version(name) for name in PACKAGES},
        "source of kaggle-digits": source.hexdigest()[:12],
    }
