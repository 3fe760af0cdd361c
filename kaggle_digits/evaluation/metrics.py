"""Metrics of predictions with known labels, and the mean of predictions."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from kaggle_digits.arrays import Float32, Int64, UInt8
from kaggle_digits.workspace import CLASSES

BINS = 15
"""The number of bins of equal width between the probabilities 0 and 1, for the calibration error."""


def summarise(softmax: Float32, labels: UInt8) -> dict[str, Any]:
    """Return ``rows``, ``errors``, ``accuracy`` and ``log_loss`` of softmax [n, 10] for labels [n]."""
    return {
        "rows": len(labels),
        "errors": count_errors(softmax, labels),
        "accuracy": accuracy(softmax, labels),
        "log_loss": log_loss(softmax, labels),
    }


def count_errors(softmax: Float32, labels: UInt8) -> int:
    """Return the number of rows of softmax [n, 10] whose prediction is not the label."""
    return int((softmax.argmax(1) != labels).sum())


def accuracy(softmax: Float32, labels: UInt8) -> float:
    """Return the share of rows of softmax [n, 10] whose prediction is the label."""
    return 1 - count_errors(softmax, labels) / len(labels)


def log_loss(softmax: Float32, labels: UInt8) -> float:
    """Return the mean negative natural logarithm of the probability of the label, clipped to at least 1e-7."""
    likelihood = softmax[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(likelihood, 1e-7)).mean())


def mean_softmax(softmaxes: Iterable[Float32]) -> Float32:
    """Return the mean of softmaxes, float32 [m, 10] each, with equal weights, computed in float64."""
    # Fitted weights would depend on the few out-of-fold errors, and overfit.
    mean: Float32 = np.stack(list(softmaxes)).mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def expected_calibration_error(softmax: Float32, labels: UInt8) -> float:
    """Return the mean difference between largest probability and accuracy (Guo et al., ICML 2017)."""
    bins = reliability(softmax, labels)
    return sum(b["rows"] * abs(b["accuracy"] - b["confidence"]) for b in bins) / len(labels)


def reliability(softmax: Float32, labels: UInt8) -> list[dict[str, float]]:
    """Return ``rows``, mean ``confidence`` and ``accuracy`` of bins of rows, by their largest probability."""
    confidence, correct = softmax.max(1).astype(np.float64), softmax.argmax(1) == labels
    bin_of = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        {
            "rows": int(rows.sum()),
            "confidence": float(confidence[rows].mean()),
            "accuracy": float(correct[rows].mean()),
        }
        for rows in (bin_of == b for b in np.unique(bin_of))
    ]


def confusion_matrix(softmax: Float32, labels: UInt8) -> Int64:
    """Return the count of rows by label (row) and prediction (column), int64 [10, 10]."""
    pairs = labels.astype(np.int64) * CLASSES + softmax.argmax(1)
    return np.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def suspects(softmax: Float32, labels: UInt8) -> Int64:
    """Return the rows whose label may be wrong, int64 [k], those with the lowest probability of the label first.

    Confident learning (Northcutt, Jiang and Chuang, Journal of Artificial Intelligence Research 70, 2021): the
    prediction of the calibrated out-of-fold softmax [n, 10] is another class than the label, and its probability
    is at least the mean probability of this class for the rows labelled with it.
    """
    own = [softmax[labels == c, c] for c in range(CLASSES)]
    thresholds = np.array([p.mean() if len(p) else np.inf for p in own])
    predicted, rows = softmax.argmax(1), np.arange(len(labels))
    suspicious = (predicted != labels) & (softmax[rows, predicted] >= thresholds[predicted])
    found: Int64 = rows[suspicious][np.argsort(softmax[rows, labels][suspicious], kind="stable")]
    return found
