"""Predictions, and what is measured on them."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import small_digits

from kaggle_digits.metrics import accuracy, confusion_matrix, count_errors, log_loss, mean_softmax
from kaggle_digits.models import PREDICTION_BATCH, lenet, softmax_function


def test_softmaxes_do_not_depend_on_their_neighbours() -> None:
    model = lenet(0.3)
    images, _ = small_digits(PREDICTION_BATCH + 7)
    softmax = softmax_function(model)(images)
    assert softmax.dtype == np.float32
    assert softmax.shape == (PREDICTION_BATCH + 7, 10)
    np.testing.assert_allclose(softmax.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(softmax_function(model)(images[-3:]), softmax[-3:], atol=1e-5)


SOFTMAX = np.full((4, 10), 0.05, np.float32)
SOFTMAX[[0, 1, 2, 3], [0, 1, 2, 3]] = 0.55
LABELS = np.array([0, 1, 2, 7], np.uint8)


def test_errors_accuracy_and_log_loss() -> None:
    assert count_errors(SOFTMAX, LABELS) == 1
    assert accuracy(SOFTMAX, LABELS) == 0.75
    assert log_loss(SOFTMAX, LABELS) == pytest.approx(-(3 * np.log(0.55) + np.log(0.05)) / 4)


def test_a_certain_mistake_has_a_finite_loss() -> None:
    assert log_loss(np.eye(10, dtype=np.float32)[[3]], np.array([4], np.uint8)) == pytest.approx(-np.log(1e-7))


def test_confusion_is_by_label_then_prediction() -> None:
    matrix = confusion_matrix(SOFTMAX, LABELS)
    assert matrix.sum() == 4
    assert matrix[7, 3] == 1
    assert matrix.trace() == 3


def test_the_mean_is_added_up_in_float64() -> None:
    tiny = np.float32(1e-8)
    softmaxes = [np.full((1, 10), 1.0, np.float32)] + [np.full((1, 10), tiny, np.float32)] * 9999
    mean = mean_softmax(softmaxes)
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, (1 + 9999 * float(tiny)) / 10000, rtol=1e-6)
