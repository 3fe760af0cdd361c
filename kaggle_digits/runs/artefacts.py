"""Write and validate the files of a fold and of an ensemble. ``metrics.json`` is written last."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import kaggle_digits
from kaggle_digits.arrays import Float32
from kaggle_digits.files import read_errors, replacing, sha256, write_errors, write_json
from kaggle_digits.runs.schema import CREATE_AGAIN, FoldMetrics, Metrics, read_document
from kaggle_digits.training.checkpoint import FoldCheckpoint
from kaggle_digits.training.fold import FoldResult
from kaggle_digits.workspace import CLASSES

METRICS = "metrics.json"
LOCAL, DASK, KAGGLE = "this machine", "Dask", "Kaggle"
"""Where a fold was trained, for its metrics."""
FOLD_FILES = ("model.keras", "history.csv", "val_softmax.npy", "test_softmax.npy")
PACKAGES = ("tensorflow", "keras", "numpy", "scikit-learn", "pandas")
"""Names on PyPI of the other packages whose versions are recorded in a run."""


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
