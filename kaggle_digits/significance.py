"""Intervals and tests of counts of errors: how much of a difference may be chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEVEL = 0.05
"""A difference that chance makes less often than this is called one."""


def wilson_interval(successes: int, rows: int) -> list[float]:
    """Return the two ends of a share's 95 % interval, by the method of Wilson (1927)."""
    from scipy.stats import binomtest

    interval = binomtest(successes, rows).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]


def score_deviation(accuracy: float, rows: int, scored_rows: int) -> float:
    """Return the standard deviation of (accuracy on `scored_rows` less accuracy on `rows`), by chance alone."""
    return float(np.sqrt(accuracy * (1 - accuracy) * (1 / rows + 1 / scored_rows)))


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Return the p-value of McNemar's exact test.

    Parameters
    ----------
    only_first, only_second : int
        Rows that only the one and only the other got wrong, of the same rows: McNemar, Psychometrika 12, 1947.
    """
    from scipy.stats import binomtest

    return float(binomtest(only_first, only_first + only_second).pvalue) if only_first + only_second else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values of several tests, corrected: Holm, Scandinavian Journal of Statistics 6, 1979."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1)
    return [float(p) for p in corrected]


def out_of_line_p(errors: Sequence[int], rows: Sequence[int]) -> list[float]:
    """Return for each fold how likely chance sets its share of errors so far from all others' together.

    Fisher's exact test of each fold against the others, with Holm's correction for testing all of them.
    """
    from scipy.stats import fisher_exact

    if len(errors) < 2:
        return [1.0] * len(errors)
    all_errors, all_rows = sum(errors), sum(rows)
    tests = [
        fisher_exact([[e, r - e], [all_errors - e, all_rows - r - (all_errors - e)]])
        for e, r in zip(errors, rows, strict=True)
    ]
    return holm([float(test.pvalue) for test in tests])


def drift_p(first: Sequence[int], second: Sequence[int]) -> float:
    """Return the p-value of the chi-squared test that two counts of classes are draws from the same shares."""
    from scipy.stats import chi2_contingency

    table = np.array([first, second])
    seen = table[:, table.sum(0) > 0]
    return float(chi2_contingency(seen).pvalue) if seen.shape[1] > 1 else 1.0
