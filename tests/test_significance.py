"""Confidence intervals and significance tests, compared with published values and simulations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import fisher_exact

from kaggle_digits.evaluation.significance import (
    drift_p,
    holm,
    mcnemar_p,
    outlier_fold_p_values,
    score_deviation,
    wilson_interval,
)


def test_wilson_interval_has_published_values() -> None:
    # Newcombe, Statistics in Medicine 17, 1998, table I, method 3.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)


def test_mcnemar_p_has_known_values() -> None:
    assert mcnemar_p(0, 0) == 1
    assert mcnemar_p(5, 5) == 1
    # All of 6 rows on one side: 2 * 0.5 ** 6.
    assert mcnemar_p(6, 0) == pytest.approx(0.03125)
    assert mcnemar_p(2, 10) == mcnemar_p(10, 2) == pytest.approx(0.0386, abs=1e-4)


def test_holm_has_known_values() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_outlier_fold_p_values_finds_only_the_outlier() -> None:
    p = outlier_fold_p_values([20, 22, 60, 18, 21], [8400] * 5)
    assert p[2] < 0.001
    assert min(p[:2] + p[3:]) > 0.05
    assert outlier_fold_p_values([7], [100]) == [1]


def test_outlier_fold_p_values_excludes_an_outlier_from_the_other_tests() -> None:
    for errors, rows in (([40, 40, 40, 40, 200], 8400), ([8, 10, 4, 8, 3, 60], 700)):
        p = outlier_fold_p_values(errors, [rows] * len(errors))
        assert [k for k, value in enumerate(p) if value < 0.05] == [int(np.argmax(errors))]


def test_outlier_fold_p_values_is_one_test_for_two_folds() -> None:
    p = outlier_fold_p_values([33, 17], [2100, 2100])
    assert p[0] == p[1] == pytest.approx(fisher_exact([[33, 2067], [17, 2083]]).pvalue)


@pytest.mark.slow
def test_outlier_fold_p_values_has_few_false_positives() -> None:
    rng = np.random.default_rng(0)
    false_positives = sum(
        min(outlier_fold_p_values(rng.binomial(4200, 0.005, 10).tolist(), [4200] * 10)) < 0.05 for _ in range(200)
    )
    # Holm's correction limits false positives to 5 % of the runs: 10 of 200, and some tolerance.
    assert false_positives <= 20


def test_score_deviation_is_positive_without_errors() -> None:
    assert score_deviation(1.0, 42_000, 28_000) > 0


def test_score_deviation_agrees_with_simulation() -> None:
    rng = np.random.default_rng(0)
    gaps = rng.binomial(28_000, 0.99, 20_000) / 28_000 - rng.binomial(42_000, 0.99, 20_000) / 42_000
    assert score_deviation(0.99, 42_000, 28_000) == pytest.approx(gaps.std(), rel=0.03)


def test_drift_p_has_known_values() -> None:
    assert drift_p([100, 100, 0], [50, 50, 0]) == 1
    assert drift_p([100, 100], [80, 20]) < 0.001
    assert drift_p([5, 0], [7, 0]) == 1
