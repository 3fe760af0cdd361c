"""The predictions of a network."""

from __future__ import annotations

import numpy as np
from conftest import small_digits

from kaggle_digits.training.models import PREDICTION_BATCH, softmax_function
from kaggle_digits.training.presets import build_network, find_preset


def test_softmax_function_predicts_each_row_independently_of_the_others() -> None:
    model = build_network(find_preset("lenet").settings)
    images, _ = small_digits(PREDICTION_BATCH + 7)
    softmax = softmax_function(model)(images)
    assert softmax.dtype == np.float32
    assert softmax.shape == (PREDICTION_BATCH + 7, 10)
    np.testing.assert_allclose(softmax.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(softmax_function(model)(images[-3:]), softmax[-3:], atol=1e-5)
