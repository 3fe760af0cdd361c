"""Calibration of predictions by temperature scaling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kaggle_digits.arrays import Float32, UInt8
from kaggle_digits.evaluation.metrics import expected_calibration_error, log_loss, mean_softmax
from kaggle_digits.workspace import CLASSES

MIN_PROBABILITY = 1e-12
"""Probabilities are clipped to at least this before their logarithm is taken."""


def temper(softmax: Float32, temperature: float) -> Float32:
    """Apply temperature scaling to softmaxes [n, 10].

    A temperature below 1 makes predictions more confident, above 1 less confident. The predicted classes do not
    change.
    """
    logits = np.log(np.maximum(softmax.astype(np.float64), MIN_PROBABILITY)) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    tempered: Float32 = (powers / powers.sum(1, keepdims=True)).astype(np.float32)
    return tempered


def fit_temperature(softmax: Float32, targets: Float32) -> float:
    """Return the temperature from 0.05 to 20 that minimises the cross-entropy of softmaxes for targets [n, 10].

    Temperature scaling: Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017.
    """
    from scipy.optimize import minimize_scalar

    logits = np.log(np.maximum(softmax.astype(np.float64), MIN_PROBABILITY))

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
    """Return calibrated out-of-fold softmaxes [n, 10], each fold with the temperature fitted on all other folds.

    `folds`, uint8 [n], is the fold whose network predicted each row. A single fold is returned unchanged.
    """
    truth = np.eye(CLASSES, dtype=np.float32)[labels]
    tempered = oof.copy()
    for fold in np.unique(folds):
        inside = folds == fold
        if not inside.all():
            tempered[inside] = temper(oof[inside], fit_temperature(oof[~inside], truth[~inside]))
    return tempered


def calibrate(oof: Float32, labels: UInt8, folds: UInt8, test_softmaxes: Sequence[Float32]) -> dict[str, float]:
    """Fit the temperature of the mean of an ensemble, and measure the effect of calibration on out-of-fold rows.

    An out-of-fold row is predicted by one network, so a temperature fitted on out-of-fold rows is that of a single
    network. The mean of several networks is less confident and more accurate, so it needs a different temperature.
    The ratio of the two is estimated on the test rows, without labels: each network in turn is calibrated and used
    as the target, and a temperature is fitted to it for the next network and for the mean of all other networks.
    The target is not exactly right, but its error mostly cancels in the ratio of the two temperatures. The
    temperature of the mean is the out-of-fold temperature times this ratio.

    The result has ``member_temperature`` (of a single network) and ``temperature`` (of the mean); and
    ``log_loss_before``, ``log_loss_after``, ``ece_before`` and ``ece_after`` on out-of-fold rows, where each fold
    is calibrated with the temperature fitted on all other folds.
    """
    member = fit_temperature(oof, np.eye(CLASSES, dtype=np.float32)[labels])
    tempered = cross_fit(oof, labels, folds)
    return {
        "member_temperature": member,
        "temperature": member * _mean_to_member_ratio(test_softmaxes, member),
        "log_loss_before": log_loss(oof, labels),
        "log_loss_after": log_loss(tempered, labels),
        "ece_before": expected_calibration_error(oof, labels),
        "ece_after": expected_calibration_error(tempered, labels),
    }


def _mean_to_member_ratio(softmaxes: Sequence[Float32], member: float) -> float:
    """Return the ratio of the temperature of the mean to that of a single network, estimated without labels."""
    # It takes one network as the target and at least two others, one of which is compared with their mean.
    if len(softmaxes) < 3:
        return 1.0
    ratios = []
    for i, softmax in enumerate(softmaxes):
        target = temper(softmax, member)
        others = [*softmaxes[i + 1 :], *softmaxes[:i]]
        ratios.append(fit_temperature(mean_softmax(others), target) / fit_temperature(others[0], target))
    # The geometric mean, because these are ratios.
    return float(np.exp(np.log(ratios).mean()))
