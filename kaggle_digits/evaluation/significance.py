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
    """Return the standard deviation of (accuracy on `scored_rows` less accuracy on `rows`), by chance alone.

    The share is Laplace's, with one more error and one more right row, lest no error be taken for none ever.
    """
    share = (accuracy * rows + 1) / (rows + 2)
    return float(np.sqrt(share * (1 - share) * (1 / rows + 1 / scored_rows)))


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
    """Return for each fold how likely chance sets its share of errors so far from that of the others.

    Fisher's exact test of the fold that is furthest from the others together, with Bonferroni's correction. Where
    chance does not explain it, it is set aside, lest it draw the others out of line, and the same is done again.
    """
    from scipy.stats import fisher_exact

    p_values = [1.0] * len(rows)
    left = list(range(len(rows)))
    while len(left) > 1:
        all_errors, all_rows = sum(errors[k] for k in left), sum(rows[k] for k in left)

        def p(k: int, all_errors: int = all_errors, all_rows: int = all_rows) -> float:
            others = all_errors - errors[k]
            table = [[errors[k], rows[k] - errors[k]], [others, all_rows - rows[k] - others]]
            return float(fisher_exact(table).pvalue)

        # Of two, each is as far from the other: that is one test.
        tests = 1 if len(left) == 2 else len(left)
        found = {k: min(1.0, tests * p(k)) for k in left}
        furthest = min(left, key=found.__getitem__)
        if found[furthest] >= LEVEL or len(left) == 2:
            for k in left:
                p_values[k] = found[k]
            break
        p_values[furthest] = found[furthest]
        left.remove(furthest)
    return p_values


def drift_p(first: Sequence[int], second: Sequence[int]) -> float:
    """Return the p-value of the chi-squared test that two counts of classes are draws from the same shares."""
    from scipy.stats import chi2_contingency

    table = np.array([first, second])
    seen = table[:, table.sum(0) > 0]
    return float(chi2_contingency(seen).pvalue) if seen.shape[1] > 1 else 1.0
