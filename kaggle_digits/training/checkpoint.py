"""The checkpoint of a fold: the state of its training after each epoch."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kaggle_digits.arrays import Float32
from kaggle_digits.files import replacing


@dataclass(frozen=True)
class FoldCheckpoint:
    """The checkpoint in the folder of a fold."""

    folder: Path

    @property
    def _path(self) -> Path:
        return self.folder / "checkpoint" / "state.npz"

    def exists(self) -> bool:
        """Return whether there is one: training has started but is not finished."""
        return self._path.exists()

    def load(self) -> tuple[list[Any], Float32, list[dict[str, float]]] | None:
        """Return what was saved last; None if there is no valid checkpoint."""
        try:
            with np.load(self._path) as arrays:
                count = sum(name.startswith("variable-") for name in arrays.files)
                variables = [arrays[f"variable-{i}"] for i in range(count)]
                return variables, arrays["likelihood"], json.loads(str(arrays["history"]))
        except Exception:  # NumPy and zipfile raise errors of many types for damaged files
            return None

    def save(self, variables: Sequence[Any], likelihood: Float32, history: list[dict[str, float]]) -> None:
        """Save the variables of network and optimiser, the likelihood of each row, and the history."""
        arrays: dict[str, Any] = {f"variable-{i}": np.asarray(value) for i, value in enumerate(variables)}
        with replacing(self._path) as temporary, open(temporary, "wb") as stream:
            # Without `allow_pickle=False`, which NumPy 2.0 would save as an array; none of these needs pickle.
            np.savez(stream, likelihood=likelihood, history=np.array(json.dumps(history)), **arrays)

    def discard(self) -> None:
        """Remove the checkpoint."""
        shutil.rmtree(self._path.parent, ignore_errors=True)
