"""A sign that an image is no digit: networks predict it unlike all the digits that they were not trained on."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kaggle_digits.arrays import Float32

NEIGHBOURS = 5
"""The distance to the nearest rows is that to this one of them, so that a few odd rows do not count."""
DIGITS_WITHIN = 0.995
"""The share of the out-of-fold rows that are at a distance of at most 1."""
_SAMPLE = 2_000
"""The number of out-of-fold rows whose distances are measured, to save time."""


class OutlierDistance:
    """The distance of predictions of a network to those for its out-of-fold rows, softmaxes float32 [k, 10].

    It is the distance of the logits to their nearest neighbours (Sun, Ming, Zhu and Li, "Out-of-distribution
    detection with deep nearest neighbors", ICML 2022, who take the features of a layer), divided by the one within
    which 99.5 % of the out-of-fold rows are: above 1, the image is probably no digit. docs/usage.md has its rates.
    """

    def __init__(self, oof: Float32) -> None:
        from scipy.spatial import cKDTree

        points = _logits(oof)
        self._tree = cKDTree(points)
        sample = points[:: max(1, len(points) // _SAMPLE)]
        # The nearest neighbour of each of these rows is the row itself.
        limit = float(np.quantile(self._to_neighbour(sample, NEIGHBOURS + 1), DIGITS_WITHIN))
        self._limit = max(limit, 1e-6)  # 0 if a network predicts the same for all rows

    def __call__(self, softmax: Float32) -> npt.NDArray[np.float64]:
        """Return the distances of predictions, softmaxes [n, 10], float64 [n]."""
        distances: npt.NDArray[np.float64] = self._to_neighbour(_logits(softmax), NEIGHBOURS) / self._limit
        return distances

    def _to_neighbour(self, points: npt.NDArray[np.float64], number: int) -> Any:
        return self._tree.query(points, [number], workers=-1)[0][:, 0]


def _logits(softmax: Float32) -> npt.NDArray[np.float64]:
    """Return the logits, whose mean is not known from softmaxes and set to 0."""
    logs = np.log(np.maximum(softmax.astype(np.float64), 1e-30))
    return logs - logs.mean(1, keepdims=True)
