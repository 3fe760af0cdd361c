"""Calibration of predictions by temperature scaling."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kaggle_digits.arrays import Float32, UInt8
from kaggle_digits.evaluation.metrics import expected_calibration_error, log_loss, mean_softmax
from kaggle_digits.workspace import CLASSES

MIN_PROBABILITY = 1e-12
"""Probabilities are clipped to at least this before their logarithm is taken."""


def temper(softmax: Float32, temperature: float) -> Float32:
    """Apply temperature scaling to softmaxes [n, 10]: above 1, a temperature makes predictions less confident."""
    from scipy import special

    tempered: Float32 = special.softmax(_logits(softmax) / temperature, axis=1).astype(np.float32)
    return tempered


def fit_temperature(softmax: Float32, targets: Float32) -> float:
    """Return the temperature from 0.05 to 20 that minimises the cross-entropy of softmaxes for targets [n, 10].

    Temperature scaling: Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017.
    """
    from scipy import optimize, special

    logits = _logits(softmax)

    def cross_entropy(log_temperature: float) -> float:
        scaled = special.log_softmax(logits / np.exp(log_temperature), axis=1)
        return float(-(targets * scaled).sum(1).mean())

    bounds = (np.log(0.05), np.log(20))
    return float(np.exp(optimize.minimize_scalar(cross_entropy, bounds=bounds, options={"xatol": 1e-3}).x))


def _logits(softmax: Float32) -> npt.NDArray[np.float64]:
    return np.log(np.maximum(softmax.astype(np.float64), MIN_PROBABILITY))


def cross_fit(oof: Float32, labels: UInt8, folds: UInt8) -> Float32:
    """Return calibrated out-of-fold softmaxes [n, 10], each of `folds` [n] with the temperature of all others."""
    truth = np.eye(CLASSES, dtype=np.float32)[labels]
    tempered = oof.copy()
    for fold in np.unique(folds):
        inside = folds == fold
        if not inside.all():
            tempered[inside] = temper(oof[inside], fit_temperature(oof[~inside], truth[~inside]))
    return tempered


def calibrate(oof: Float32, labels: UInt8, folds: UInt8, test_softmaxes: Sequence[Float32]) -> dict[str, float]:
    """Fit the temperature of the mean of an ensemble, and measure the effect of calibration on out-of-fold rows.

    A temperature fitted on out-of-fold rows is that of a single network. The mean of several networks is less
    confident and more accurate, so it needs another one: this temperature times a ratio that is estimated on the
    test rows. The metrics on out-of-fold rows are those of `cross_fit`.
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
    """Return the ratio of the temperature of the mean to that of a single network, estimated without labels.

    Each network in turn is calibrated and used as the target, and a temperature is fitted to it for the next one
    and for the mean of all others. The error of the target mostly cancels in the ratio of the two temperatures.
    """
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
