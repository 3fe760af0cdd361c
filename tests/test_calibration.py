"""Temperature scaling."""

from __future__ import annotations

import numpy as np
import pytest

from kaggle_digits.evaluation.calibration import calibrate, cross_fit, fit_temperature, temper
from kaggle_digits.evaluation.metrics import expected_calibration_error, log_loss, mean_softmax

ROWS = 6_000


def simulate(rng: np.random.Generator, networks: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Return softmaxes of networks, each with independent noise in the true logits, and the labels."""
    logits = rng.normal(0, 3, (ROWS, 10))
    labels = np.array([rng.choice(10, p=p) for p in softmax(logits)]).astype(np.uint8)
    return [softmax(logits + rng.normal(0, 1.5, logits.shape)) for _ in range(networks)], labels


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return (powers / powers.sum(1, keepdims=True)).astype(np.float32)


def one_hot(labels: np.ndarray) -> np.ndarray:
    return np.eye(10, dtype=np.float32)[labels]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_fit_temperature_finds_a_known_temperature(temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (ROWS, 10))
    labels = np.array([rng.choice(10, p=p) for p in softmax(logits)])
    miscalibrated = softmax(logits / temperature)
    assert fit_temperature(miscalibrated, one_hot(labels)) == pytest.approx(1 / temperature, rel=0.05)


def test_temper_keeps_the_predicted_class() -> None:
    probabilities = softmax(np.random.default_rng(0).normal(0, 2, (500, 10)))
    for temperature in (0.1, 3.0):
        tempered = temper(probabilities, temperature)
        np.testing.assert_array_equal(tempered.argmax(1), probabilities.argmax(1))
        np.testing.assert_allclose(tempered.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(temper(probabilities, 1.0), probabilities, atol=1e-6)


def test_temper_and_fit_temperature_are_finite_for_certain_predictions() -> None:
    certain = np.eye(10, dtype=np.float32)
    assert np.isfinite(temper(certain, 0.1)).all()
    assert np.isfinite(fit_temperature(certain, certain))


def test_expected_calibration_error_of_known_predictions() -> None:
    probabilities = np.full((100, 10), 0.02, np.float32)
    probabilities[:, 3] = 0.82
    labels = np.where(np.arange(100) < 60, 3, 4).astype(np.uint8)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.22, abs=1e-6)


def test_calibrate_improves_out_of_fold_metrics_and_is_cross_fitted() -> None:
    (network,), labels = simulate(np.random.default_rng(1), 1)
    folds = (np.arange(ROWS) % 5).astype(np.uint8)
    result = calibrate(temper(network, 0.5), labels, folds, [])
    assert result["log_loss_after"] < result["log_loss_before"]
    assert result["ece_after"] < 0.5 * result["ece_before"]
    assert result["temperature"] == result["member_temperature"]
    # The temperature of a fold is fitted on the other folds, so the log-loss is larger than with that of all rows.
    best = log_loss(temper(temper(network, 0.5), result["member_temperature"]), labels)
    assert best < result["log_loss_after"]


def test_calibrate_estimates_the_temperature_of_the_mean_without_labels() -> None:
    rng = np.random.default_rng(2)
    (out_of_fold,), labels = simulate(rng, 1)
    networks, hidden = simulate(rng, 6)
    folds = (np.arange(ROWS) % 6).astype(np.uint8)
    found = calibrate(out_of_fold, labels, folds, networks)
    from_labels = fit_temperature(mean_softmax(networks), one_hot(hidden))
    assert found["temperature"] < found["member_temperature"]
    assert abs(np.log(found["temperature"] / from_labels)) < abs(np.log(found["member_temperature"] / from_labels))


def test_cross_fit_does_not_use_the_labels_of_the_fold() -> None:
    (oof,), labels = simulate(np.random.default_rng(0), 1)
    folds = (np.arange(ROWS) % 2).astype(np.uint8)
    other = labels.copy()
    other[folds == 0] = (labels[folds == 0] + 1) % 10
    before, after = cross_fit(oof, labels, folds), cross_fit(oof, other, folds)
    np.testing.assert_array_equal(before[folds == 0], after[folds == 0])
    assert np.abs(before[folds == 1] - after[folds == 1]).max() > 0.01


def test_cross_fit_does_not_change_a_single_fold() -> None:
    (oof,), labels = simulate(np.random.default_rng(0), 1)
    np.testing.assert_array_equal(cross_fit(oof, labels, np.zeros(ROWS, np.uint8)), oof)
