"""What is measured on softmaxes with known labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from kaggle_digits.arrays import Float32, Int64, UInt8
from kaggle_digits.competition import CLASSES


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


def confusion_matrix(softmax: Float32, labels: UInt8) -> Int64:
    """Return the count of rows by label (row) and prediction (column), int64 [10, 10]."""
    pairs = labels.astype(np.int64) * CLASSES + softmax.argmax(1)
    return np.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES)
