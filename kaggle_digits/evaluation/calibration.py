"""Temperatures, so that probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kaggle_digits.arrays import Float32, UInt8
from kaggle_digits.evaluation.metrics import expected_calibration_error, log_loss, mean_softmax
from kaggle_digits.workspace import CLASSES

TINIEST = 1e-12
"""What a probability counts as at least, when its logarithm is taken."""


def temper(softmax: Float32, temperature: float) -> Float32:
    """Return softmaxes [n, 10] at a temperature: below 1 surer, above 1 less sure; the largest entry stays so."""
    logits = np.log(np.maximum(softmax.astype(np.float64), TINIEST)) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    tempered: Float32 = (powers / powers.sum(1, keepdims=True)).astype(np.float32)
    return tempered


def fit_temperature(softmax: Float32, targets: Float32) -> float:
    """Return the temperature from 0.05 to 20 at which softmaxes [n, 10] have the least cross-entropy.

    Temperature scaling: Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017.

    Parameters
    ----------
    softmax, targets : ndarray of float32, shape (n, 10)
        What is to be calibrated, and the distributions it is to meet; one-hot for labels.
    """
    from scipy.optimize import minimize_scalar

    logits = np.log(np.maximum(softmax.astype(np.float64), TINIEST))

    def cross_entropy(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        top = scaled.max(1)
        log_norm = top + np.log(np.exp(scaled - top[:, None]).sum(1))
        return float((log_norm - (targets * scaled).sum(1)).mean())

    found = minimize_scalar(
        cross_entropy, bounds=(np.log(0.05), np.log(20)), method="bounded", options={"xatol": 1e-3}
    )
    return float(np.exp(found.x))


def cross_fit(oof: Float32, labels: UInt8, folds: UInt8) -> Float32:
    """Return out-of-fold softmaxes [n, 10], each fold's at the temperature that suits all other folds best.

    Parameters
    ----------
    oof : ndarray of float32, shape (n, 10)
        Out-of-fold softmaxes.
    labels, folds : ndarray of uint8, shape (n,)
        The digit of each row, and the fold whose network predicted it; a single fold's stays as it is.
    """
    truth = np.eye(CLASSES, dtype=np.float32)[labels]
    tempered = oof.copy()
    for fold in np.unique(folds):
        inside = folds == fold
        if not inside.all():
            tempered[inside] = temper(oof[inside], fit_temperature(oof[~inside], truth[~inside]))
    return tempered


def calibrate(oof: Float32, labels: UInt8, folds: UInt8, test_softmaxes: Sequence[Float32]) -> dict[str, float]:
    """Fit the temperature of an ensemble's mean, and measure what temperatures do to out-of-fold rows.

    An out-of-fold row was predicted by one network alone, so the temperature fitted there is a single network's.
    The mean of several is less sure of itself and more often right, and needs another. How far another is seen on
    the test rows, without labels: each network in turn, tempered, stands in for the labels, and temperatures are
    fitted to it for the next network and for the mean of all others. The ratio of these two, in which the error of
    the stand-in mostly cancels, carries the out-of-fold temperature over to the mean.

    Parameters
    ----------
    oof : ndarray of float32, shape (n, 10)
        Out-of-fold softmaxes.
    labels, folds : ndarray of uint8, shape (n,)
        The digit of each row, and the fold whose network predicted it.
    test_softmaxes : sequence of ndarray of float32, shape (m, 10)
        Of the test rows, a network each.

    Returns
    -------
    dict
        ``member_temperature`` and ``temperature`` (of the mean); ``log_loss_before``, ``log_loss_after``,
        ``ece_before`` and ``ece_after``: on out-of-fold rows, each at the temperature fitted on all other folds.
    """
    member = fit_temperature(oof, np.eye(CLASSES, dtype=np.float32)[labels])
    tempered = cross_fit(oof, labels, folds)
    return {
        "member_temperature": member,
        "temperature": member * _mean_against_member(test_softmaxes, member),
        "log_loss_before": log_loss(oof, labels),
        "log_loss_after": log_loss(tempered, labels),
        "ece_before": expected_calibration_error(oof, labels),
        "ece_after": expected_calibration_error(tempered, labels),
    }


def _mean_against_member(softmaxes: Sequence[Float32], member: float) -> float:
    """Return the temperature of a mean of networks as a multiple of a single one's, without labels."""
    if len(softmaxes) < 3:
        return 1.0
    ratios = []
    for i, softmax in enumerate(softmaxes):
        stand_in = temper(softmax, member)
        others = [*softmaxes[i + 1 :], *softmaxes[:i]]
        ratios.append(fit_temperature(mean_softmax(others), stand_in) / fit_temperature(others[0], stand_in))
    return float(np.exp(np.log(ratios).mean()))
