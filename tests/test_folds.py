"""Tests of `make_folds`, which splits the training rows into folds."""

from __future__ import annotations

import numpy as np
import pytest

from kaggle_digits.data.folds import make_folds
from kaggle_digits.errors import DataError, UsageError

LABELS = np.repeat(np.arange(10, dtype=np.uint8), 20)


def test_make_folds_is_a_stratified_partition() -> None:
    folds = make_folds(LABELS, 5, seed=0)
    assert folds.dtype == np.uint8
    for digit in range(10):
        np.testing.assert_array_equal(np.bincount(folds[digit == LABELS]), [4] * 5)


def test_make_folds_depends_on_seed() -> None:
    np.testing.assert_array_equal(make_folds(LABELS, 5, 3), make_folds(LABELS, 5, 3))
    assert not np.array_equal(make_folds(LABELS, 5, 3), make_folds(LABELS, 5, 4))


@pytest.mark.parametrize("folds", [1, 256])
def test_make_folds_rejects_invalid_number_of_folds(folds: int) -> None:
    with pytest.raises(UsageError, match="folds must be between 2 and 255, got"):
        make_folds(LABELS, folds, 0)


def test_make_folds_rejects_more_folds_than_rows_of_a_digit() -> None:
    with pytest.raises(DataError, match="The digit 9 has 3 rows, too few for 4 folds"):
        make_folds(LABELS[:183], 4, 0)
