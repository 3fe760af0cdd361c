"""Metrics, temperature scaling and significance tests, compared with known values and simulations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax as softmax_of
from scipy.stats import fisher_exact

from kaggle_digits.evaluation import metrics, significance
from kaggle_digits.evaluation.calibration import calibrate, cross_fit, fit_temperature, temper
from kaggle_digits.evaluation.outliers import DIGITS_WITHIN, OutlierDistance

ROWS = 6_000


def softmax(logits: np.ndarray) -> np.ndarray:
    return softmax_of(logits, axis=1).astype(np.float32)


def one_hot(labels: np.ndarray) -> np.ndarray:
    return np.eye(10, dtype=np.float32)[labels]


def simulate(rng: np.random.Generator, networks: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Return softmaxes of networks, each with independent noise in the true logits, and the labels."""
    logits = rng.normal(0, 3, (ROWS, 10))
    labels = np.array([rng.choice(10, p=p) for p in softmax(logits)]).astype(np.uint8)
    return [softmax(logits + rng.normal(0, 1.5, logits.shape)) for _ in range(networks)], labels


def test_metrics_of_known_softmaxes() -> None:
    probabilities = np.full((4, 10), 0.05, np.float32)
    probabilities[[0, 1, 2, 3], [0, 1, 2, 3]] = 0.55
    labels = np.array([0, 1, 2, 7], np.uint8)
    assert (metrics.count_errors(probabilities, labels), metrics.accuracy(probabilities, labels)) == (1, 0.75)
    assert metrics.log_loss(probabilities, labels) == pytest.approx(-(3 * np.log(0.55) + np.log(0.05)) / 4)
    matrix = metrics.confusion_matrix(probabilities, labels)
    assert (matrix.sum(), matrix[7, 3], matrix.trace()) == (4, 1, 3)
    assert metrics.log_loss(one_hot(np.array([3])), np.array([4], np.uint8)) == pytest.approx(-np.log(1e-7))


def test_mean_softmax_is_computed_in_float64() -> None:
    softmaxes = [np.full((1, 10), value, np.float32) for value in [1.0] + [1e-8] * 9999]
    mean = metrics.mean_softmax(softmaxes)
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, (1 + 9999 * 1e-8) / 10000, rtol=1e-6)


def test_expected_calibration_error_and_reliability_of_known_predictions() -> None:
    probabilities = np.full((100, 10), 0.02, np.float32)
    probabilities[:, 3] = 0.82
    labels = np.where(np.arange(100) < 60, 3, 4).astype(np.uint8)
    assert metrics.expected_calibration_error(probabilities, labels) == pytest.approx(0.22, abs=1e-6)
    expected = {"rows": 100, "confidence": pytest.approx(0.82), "accuracy": 0.6}
    assert metrics.reliability(probabilities, labels) == [expected]


def test_outlier_distance_is_above_1_for_few_digits_and_for_other_patterns_of_logits() -> None:
    rng = np.random.default_rng(0)
    templates = rng.normal(0, 4, (10, 10))

    def digits(rows: int) -> np.ndarray:
        return softmax(templates[rng.integers(0, 10, rows)] + rng.normal(0, 0.5, (rows, 10)))

    distance = OutlierDistance(digits(ROWS))
    assert (distance(digits(20_000)) > 1).mean() == pytest.approx(1 - DIGITS_WITHIN, abs=0.003)
    # As confident as for a digit, but with other logits for the other classes.
    assert (distance(softmax(rng.permuted(templates, axis=1))) > 1).mean() > 0.8
    np.testing.assert_array_equal(OutlierDistance(np.full((50, 10), 0.1, np.float32))(digits(1)) > 1, [True])


def test_suspects_finds_wrong_labels_but_not_hard_rows() -> None:
    labels = (np.arange(200) % 10).astype(np.uint8)
    probabilities = np.full((200, 10), 0.005, np.float32)
    probabilities[np.arange(200), labels] = 0.955
    # Predicted as another digit with high confidence, higher in row 12.
    probabilities[7, [7, 1]], probabilities[12, [2, 7]] = [0.001, 0.959], [0.0001, 0.9599]
    # Predicted as another digit with low confidence.
    probabilities[30, [0, 6]] = [0.4, 0.56]
    assert metrics.suspects(probabilities, labels).tolist() == [12, 7]
    assert metrics.suspects(one_hot(np.array([1, 1, 2])), np.array([1, 1, 1], np.uint8)).tolist() == []


def test_fit_temperature_finds_a_known_temperature() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (ROWS, 10))
    labels = np.array([rng.choice(10, p=p) for p in softmax(logits)])
    for temperature in (0.5, 2.5):
        found = fit_temperature(softmax(logits / temperature), one_hot(labels))
        assert found == pytest.approx(1 / temperature, rel=0.05)


def test_temper_keeps_the_predicted_class_and_is_finite() -> None:
    probabilities = softmax(np.random.default_rng(0).normal(0, 2, (500, 10)))
    tempered = temper(probabilities, 3.0)
    np.testing.assert_array_equal(tempered.argmax(1), probabilities.argmax(1))
    np.testing.assert_allclose(tempered.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(temper(probabilities, 1.0), probabilities, atol=1e-6)
    certain = np.eye(10, dtype=np.float32)
    assert np.isfinite(temper(certain, 0.1)).all()
    assert np.isfinite(fit_temperature(certain, certain))


def test_calibrate_improves_out_of_fold_metrics_and_is_cross_fitted() -> None:
    (network,), labels = simulate(np.random.default_rng(1), 1)
    folds = (np.arange(ROWS) % 5).astype(np.uint8)
    result = calibrate(temper(network, 0.5), labels, folds, [])
    assert result["log_loss_after"] < result["log_loss_before"]
    assert result["ece_after"] < 0.5 * result["ece_before"]
    assert result["temperature"] == result["member_temperature"]
    # The temperature of a fold is fitted on the other folds, so the log-loss is larger than with that of all rows.
    best = metrics.log_loss(temper(temper(network, 0.5), result["member_temperature"]), labels)
    assert best < result["log_loss_after"]


def test_calibrate_estimates_the_temperature_of_the_mean_without_labels() -> None:
    rng = np.random.default_rng(2)
    (out_of_fold,), labels = simulate(rng, 1)
    networks, hidden = simulate(rng, 6)
    folds = (np.arange(ROWS) % 6).astype(np.uint8)
    found = calibrate(out_of_fold, labels, folds, networks)
    from_labels = fit_temperature(metrics.mean_softmax(networks), one_hot(hidden))
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
    np.testing.assert_array_equal(cross_fit(oof, labels, np.zeros(ROWS, np.uint8)), oof)


def test_wilson_interval_mcnemar_p_holm_and_drift_p_have_known_values() -> None:
    # Newcombe, Statistics in Medicine 17, 1998, table I, method 3.
    assert significance.wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert significance.wilson_interval(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert significance.mcnemar_p(0, 0) == significance.mcnemar_p(5, 5) == 1
    assert significance.mcnemar_p(6, 0) == pytest.approx(2 * 0.5**6)  # all of 6 rows on one side
    assert significance.mcnemar_p(2, 10) == significance.mcnemar_p(10, 2) == pytest.approx(0.0386, abs=1e-4)
    assert significance.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert significance.holm([0.9, 0.8]) == [1, 1]
    assert significance.drift_p([100, 100, 0], [50, 50, 0]) == significance.drift_p([5, 0], [7, 0]) == 1
    assert significance.drift_p([100, 100], [80, 20]) < 0.001


def test_outlier_fold_p_values_finds_only_the_outlier() -> None:
    for errors, rows in (([20, 22, 60, 18, 21], 8400), ([40, 40, 40, 40, 200], 8400), ([8, 10, 4, 8, 3, 60], 700)):
        p = significance.outlier_fold_p_values(errors, [rows] * len(errors))
        assert [k for k, value in enumerate(p) if value < 0.05] == [int(np.argmax(errors))]
    assert significance.outlier_fold_p_values([7], [100]) == [1]
    two = significance.outlier_fold_p_values([33, 17], [2100, 2100])  # which is one test
    assert two[0] == two[1] == pytest.approx(fisher_exact([[33, 2067], [17, 2083]]).pvalue)


@pytest.mark.slow
def test_outlier_fold_p_values_has_few_false_positives() -> None:
    errors = np.random.default_rng(0).binomial(4200, 0.005, (200, 10)).tolist()
    lowest = [min(significance.outlier_fold_p_values(folds, [4200] * 10)) for folds in errors]
    # The correction limits false positives to 5 % of the runs: 10 of 200, and some tolerance.
    assert sum(p < 0.05 for p in lowest) <= 20


def test_score_deviation_agrees_with_simulation() -> None:
    rng = np.random.default_rng(0)
    gaps = rng.binomial(28_000, 0.99, 20_000) / 28_000 - rng.binomial(42_000, 0.99, 20_000) / 42_000
    assert significance.score_deviation(0.99, 42_000, 28_000) == pytest.approx(gaps.std(), rel=0.03)
    assert significance.score_deviation(1.0, 42_000, 28_000) > 0
