"""The predictions of a network."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest
from conftest import small_digits

from kaggle_digits.training.models import PREDICTION_BATCH, _silent_stderr, softmax_function
from kaggle_digits.training.presets import build_network, find_preset


def test_softmax_function_predicts_each_row_independently_of_the_others() -> None:
    model = build_network(find_preset("lenet").settings)
    images, _ = small_digits(PREDICTION_BATCH + 7)
    softmax = softmax_function(model)(images)
    assert softmax.dtype == np.float32
    assert softmax.shape == (PREDICTION_BATCH + 7, 10)
    np.testing.assert_allclose(softmax.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(softmax_function(model)(images[-3:]), softmax[-3:], atol=1e-5)


def test_silent_stderr_hides_native_output_and_works_without_stderr(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with _silent_stderr():
        os.write(2, b"hidden\n")
    os.write(2, b"shown\n")
    assert capfd.readouterr().err == "shown\n"

    def fail(descriptor: int) -> int:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr("os.dup", fail)
    with _silent_stderr():
        os.write(2, b"shown\n")
    monkeypatch.undo()
    assert capfd.readouterr().err == "shown\n"
