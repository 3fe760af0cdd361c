"""A sign that an image is no digit: a network predicts it unlike the digits that it was not trained on."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kaggle_digits.arrays import Float32

NEIGHBOURS = 5
"""Which of the nearest neighbours counts: not the first one, so that a few odd rows do not matter."""
DIGITS_WITHIN = 0.995
"""The share of the out-of-fold rows whose distance to the others is at most 1."""
_SAMPLE = 2_000
"""The number of out-of-fold rows whose distances to the others are measured, to save time."""


class OutlierDistance:
    """The distance of the predictions of a network to those for its out-of-fold rows, softmaxes float32 [k, 10].

    It is the distance of logits to their nearest neighbours (Sun, Ming, Zhu and Li, "Out-of-distribution detection
    with deep nearest neighbors", ICML 2022, who take the features of a layer), divided by the one within which
    99.5 % of the out-of-fold rows are: above 1, the image is probably no digit. docs/usage.md has the rates.
    """

    def __init__(self, oof: Float32) -> None:
        from scipy.spatial import cKDTree

        rows = _logits(oof)
        self._tree = cKDTree(rows)
        # The nearest neighbour of each of these rows is the row itself.
        sample = self._to_neighbour(rows[:: max(1, len(rows) // _SAMPLE)], NEIGHBOURS + 1)
        # The limit is 0 if all rows are the same, as those of an untrained network can be.
        self._limit = max(float(np.quantile(sample, DIGITS_WITHIN)), 1e-6)

    def __call__(self, softmax: Float32) -> npt.NDArray[np.float64]:
        """Return the distances of predictions, softmaxes [n, 10], float64 [n]."""
        return np.asarray(self._to_neighbour(_logits(softmax), NEIGHBOURS) / self._limit, np.float64)

    def _to_neighbour(self, rows: npt.NDArray[np.float64], number: int) -> Any:
        return self._tree.query(rows, [number], workers=-1)[0][:, 0]


def _logits(softmax: Float32) -> npt.NDArray[np.float64]:
    """Return the logits of softmaxes, [n, 10]; their mean is not known, and set to 0."""
    logs: npt.NDArray[np.float64] = np.log(np.maximum(softmax.astype(np.float64), 1e-30))
    logs -= logs.mean(1, keepdims=True)
    return logs
