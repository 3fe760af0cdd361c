"""What is made of softmaxes: their mean, and what is measured on them with known labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from kaggle_digits.arrays import Float32, Int64, UInt8
from kaggle_digits.workspace import CLASSES


def summarise(softmax: Float32, labels: UInt8) -> dict[str, Any]:
    """Return ``rows``, ``errors``, ``accuracy`` and ``log_loss`` of softmax [n, 10] under labels [n]."""
    return {
        "rows": len(labels),
        "errors": count_errors(softmax, labels),
        "accuracy": accuracy(softmax, labels),
        "log_loss": log_loss(softmax, labels),
    }


def count_errors(softmax: Float32, labels: UInt8) -> int:
    """Return the number of rows of softmax [n, 10] whose largest entry is not the label's."""
    return int((softmax.argmax(1) != labels).sum())


def accuracy(softmax: Float32, labels: UInt8) -> float:
    """Return the share of rows of softmax [n, 10] whose largest entry is the label's."""
    return 1 - count_errors(softmax, labels) / len(labels)


def log_loss(softmax: Float32, labels: UInt8) -> float:
    """Return the mean negative natural logarithm of the label's probability, which counts as at least 1e-7."""
    likelihood = softmax[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(likelihood, 1e-7)).mean())


def mean_softmax(softmaxes: Iterable[Float32]) -> Float32:
    """Return the mean of softmaxes, float32 [m, 10] each, with equal weights, added up in float64.

    Equal weights, since any others would be fitted on the few rows that are out-of-fold errors.
    """
    mean: Float32 = np.stack(list(softmaxes)).mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def expected_calibration_error(softmax: Float32, labels: UInt8, bins: int = 15) -> float:
    """Return by how much the largest probability and the accuracy differ, on average over rows.

    Rows are sorted into `bins` of equal width by their largest probability: Guo et al., ICML 2017.
    """
    rows, confidence, right = _reliability_sums(softmax, labels, bins)
    return float(np.abs(right - confidence).sum() / rows.sum())


def reliability(softmax: Float32, labels: UInt8, bins: int = 15) -> list[dict[str, float]]:
    """Return ``rows``, mean ``confidence`` and ``accuracy`` of each of these bins that has rows."""
    return [
        {"rows": int(n), "confidence": float(c / n), "accuracy": float(a / n)}
        for n, c, a in zip(*_reliability_sums(softmax, labels, bins), strict=True)
        if n
    ]


def _reliability_sums(softmax: Float32, labels: UInt8, bins: int) -> Any:
    """Return the number of rows, the sum of confidences and the number of right answers, a bin each."""
    confidence = softmax.max(1).astype(np.float64)
    right = softmax.argmax(1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    return [np.bincount(bin_of, weights, bins) for weights in (np.ones(len(labels)), confidence, right)]


def confusion_matrix(softmax: Float32, labels: UInt8) -> Int64:
    """Return the count of rows by label (row) and prediction (column), int64 [10, 10]."""
    pairs = labels.astype(np.int64) * CLASSES + softmax.argmax(1)
    return np.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def suspects(softmax: Float32, labels: UInt8) -> Int64:
    """Return the rows whose label is probably wrong, the most suspicious first.

    Confident learning (Northcutt, Jiang and Chuang, Journal of Artificial Intelligence Research 70, 2021): a row
    that the network takes for another class, with at least the probability that it gives on average to rows which
    have that class for a label.

    Parameters
    ----------
    softmax : ndarray of float32, shape (n, 10)
        Out-of-fold and calibrated.
    labels : ndarray of uint8, shape (n,)
        As given.

    Returns
    -------
    ndarray of int64, shape (k,)
        Numbers of rows, from 0, by the probability of their label.
    """
    usual = np.array([softmax[labels == c, c].mean() if (labels == c).any() else np.inf for c in range(CLASSES)])
    predicted, rows = softmax.argmax(1), np.arange(len(labels))
    suspicious = (predicted != labels) & (softmax[rows, predicted] >= usual[predicted])
    found: Int64 = rows[suspicious][np.argsort(softmax[rows, labels][suspicious], kind="stable")]
    return found
