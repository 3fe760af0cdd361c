"""Metrics of predictions."""

from __future__ import annotations

import numpy as np
import pytest

from kaggle_digits.evaluation.metrics import (
    accuracy,
    confusion_matrix,
    count_errors,
    expected_calibration_error,
    log_loss,
    mean_softmax,
    reliability,
    suspects,
)

SOFTMAX = np.full((4, 10), 0.05, np.float32)
SOFTMAX[[0, 1, 2, 3], [0, 1, 2, 3]] = 0.55
LABELS = np.array([0, 1, 2, 7], np.uint8)


def test_count_errors_accuracy_and_log_loss_of_known_softmaxes() -> None:
    assert count_errors(SOFTMAX, LABELS) == 1
    assert accuracy(SOFTMAX, LABELS) == 0.75
    assert log_loss(SOFTMAX, LABELS) == pytest.approx(-(3 * np.log(0.55) + np.log(0.05)) / 4)


def test_log_loss_is_finite_for_a_wrong_prediction_with_probability_1() -> None:
    assert log_loss(np.eye(10, dtype=np.float32)[[3]], np.array([4], np.uint8)) == pytest.approx(-np.log(1e-7))


def test_confusion_matrix_is_by_label_then_prediction() -> None:
    matrix = confusion_matrix(SOFTMAX, LABELS)
    assert matrix.sum() == 4
    assert matrix[7, 3] == 1
    assert matrix.trace() == 3


def test_mean_softmax_is_computed_in_float64() -> None:
    tiny = np.float32(1e-8)
    softmaxes = [np.full((1, 10), 1.0, np.float32)] + [np.full((1, 10), tiny, np.float32)] * 9999
    mean = mean_softmax(softmaxes)
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, (1 + 9999 * float(tiny)) / 10000, rtol=1e-6)


def test_reliability_bins_add_up_to_the_calibration_error() -> None:
    rng = np.random.default_rng(0)
    softmax = rng.dirichlet(np.full(10, 0.2), 500).astype(np.float32)
    labels = rng.integers(0, 10, 500).astype(np.uint8)
    bins = reliability(softmax, labels)
    assert sum(b["rows"] for b in bins) == 500
    gaps = sum(b["rows"] * abs(b["accuracy"] - b["confidence"]) for b in bins)
    assert expected_calibration_error(softmax, labels) == pytest.approx(gaps / 500)


def test_suspects_finds_wrong_labels_but_not_hard_rows() -> None:
    labels = (np.arange(200) % 10).astype(np.uint8)
    softmax = np.full((200, 10), 0.005, np.float32)
    softmax[np.arange(200), labels] = 0.955
    # Predicted as another digit with high confidence, higher in row 12.
    softmax[7, [7, 1]], softmax[12, [2, 7]] = [0.001, 0.959], [0.0001, 0.9599]
    # Predicted as another digit with low confidence.
    softmax[30, [0, 6]] = [0.4, 0.56]
    assert suspects(softmax, labels).tolist() == [12, 7]


def test_suspects_accepts_a_class_without_rows() -> None:
    softmax = np.eye(10, dtype=np.float32)[[1, 1, 2]]
    assert suspects(softmax, np.array([1, 1, 1], np.uint8)).tolist() == []
