"""The folders of folds and of ensembles: their files are written and validated here."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import kaggle_digits
from kaggle_digits.arrays import Float32
from kaggle_digits.errors import UsageError
from kaggle_digits.files import read_errors, replacing, sha256, write_errors, write_json
from kaggle_digits.runs.schema import CREATE_AGAIN, FoldMetrics, Metrics, read_document
from kaggle_digits.training.checkpoint import FoldCheckpoint
from kaggle_digits.training.fold import FoldResult
from kaggle_digits.training.models import other_classes, read_network
from kaggle_digits.training.own_network import NETWORK_FILE, known_networks
from kaggle_digits.workspace import CLASSES

if TYPE_CHECKING:
    import keras

METRICS = "metrics.json"
LOCAL, DASK, KAGGLE = "this machine", "Dask", "Kaggle"
"""Where a fold was trained, for its metrics."""
FOLD_FILES = ("model.keras", "history.csv", "val_softmax.npy", "test_softmax.npy")
ENSEMBLE_FILES = ("oof_softmax.npy", "test_softmax.npy")
PACKAGES = ("tensorflow", "keras", "numpy", "scikit-learn", "pandas")
"""Names on PyPI of the other packages whose versions are recorded in a run."""


@dataclass(frozen=True)
class ArtefactFolder:
    """A folder of files, and of their SHA-256 in ``metrics.json``, which is written last."""

    path: Path

    @property
    def is_finished(self) -> bool:
        """Whether all files are written."""
        return (self.path / METRICS).exists()

    def file(self, name: str) -> Path:
        """Return the path of a file; `DataError` if its SHA-256 is not that in ``metrics.json``."""
        path = self.path / name
        with read_errors(path, CREATE_AGAIN):
            if sha256(path) != read_document(self.path / METRICS, Metrics).files.get(name):
                raise ValueError("its SHA-256 is not the one in metrics.json")
        return path

    def softmax(self, which: Literal["oof", "val", "test"], rows: int | None = None) -> Float32:
        """Return the softmaxes of out-of-fold, validation or test rows, float32 [n, 10]; `rows` is n if known."""
        path = self.file(f"{which}_softmax.npy")
        with read_errors(path, CREATE_AGAIN):
            softmax: Float32 = np.load(path)
            if softmax.dtype != np.float32 or softmax.shape != (rows or len(softmax), CLASSES):
                shape = f"{softmax.dtype} {list(softmax.shape)}"
                raise ValueError(f"its array is {shape}, not float32 [{rows or 'rows'}, {CLASSES}]")
            if not ((softmax >= 0) & (softmax <= 1)).all():  # false for NaN too
                raise ValueError("not all of its values are from 0 to 1")
            return softmax

    def write_files(self, contents: Mapping[str, bytes | Float32], metrics: dict[str, Any]) -> None:
        """Write files, and then ``metrics.json`` with their SHA-256, which makes the folder complete."""
        # Without this, old metrics would describe a mixture of old and new files if the process was killed.
        with write_errors(self.path):
            (self.path / METRICS).unlink(missing_ok=True)
        for name, content in contents.items():
            with replacing(self.path / name) as temporary, open(temporary, "wb") as stream:
                if isinstance(content, bytes):
                    stream.write(content)
                else:
                    np.save(stream, content)
        write_json(self.path / METRICS, metrics | {"files": {name: sha256(self.path / name) for name in contents}})


class FoldFolder(ArtefactFolder):
    """The folder of a fold, finished or not; reading it raises a `DataError` if a file is missing or damaged."""

    @property
    def is_started(self) -> bool:
        """Whether there is a checkpoint."""
        return FoldCheckpoint(self.path).exists()

    def metrics(self) -> FoldMetrics:
        """Return ``metrics.json``."""
        return read_document(self.path / METRICS, FoldMetrics)

    def model_file(self) -> Path:
        """Return the path of the network."""
        return self.file("model.keras")

    def read_network(self) -> keras.Model:
        """Read the network: preprocessed grey values, [b, 28, 28, 1], to logits, [b, 10].

        `UsageError` if it has layers of the user's own, whose source was not given to this process.
        """
        path, digest = self.model_file(), self.metrics().network_sha256
        if own := known_networks.get(digest):
            model = own.build()
            with read_errors(path, CREATE_AGAIN):
                model.load_weights(path)
            return model
        if digest and other_classes(path):
            raise UsageError(
                f"{path} has layers that are not those of Keras, but of its own source.",
                f"Give the source, too, whose copy is {NETWORK_FILE} in the folder of the run: --network "
                f"FILE.py:FUNCTION (SHA-256 {digest[:12]}…).",
            )
        return read_network(path)

    def history(self) -> list[dict[str, float]]:
        """Return the epochs, as many as the metrics say."""
        import pandas as pd

        path, epochs = self.file("history.csv"), self.metrics().epochs
        with read_errors(path, CREATE_AGAIN):
            table = pd.read_csv(path, float_precision="round_trip").astype(float)
            if table["epoch"].tolist() != list(range(1, epochs + 1)) or not np.isfinite(table).all(axis=None):
                raise ValueError(f"it does not have the epochs 1 to {epochs}")
            return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]

    def check(self, val_rows: int, test_rows: int) -> None:
        """Raise a `DataError` that names the first file that is missing or damaged."""
        self.model_file()
        self.history()
        self.softmax("val", val_rows)
        self.softmax("test", test_rows)

    def write(self, result: FoldResult, where: str = LOCAL) -> None:
        """Write a trained fold; its metrics include the versions and where it was trained."""
        import pandas as pd

        history = pd.DataFrame(result.history).to_csv(index=False).encode()
        contents = (result.model, history, result.val_softmax, result.test_softmax)
        origin = {"where": where, "versions": versions()}
        self.write_files(dict(zip(FOLD_FILES, contents, strict=True)), result.metrics | origin)

    def write_files(self, contents: Mapping[str, bytes | Float32], metrics: dict[str, Any]) -> None:
        """Write files and metrics, and remove the checkpoint."""
        super().write_files(contents, metrics)
        FoldCheckpoint(self.path).discard()


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
