"""Confidence intervals and significance tests for numbers of errors."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

LEVEL = 0.05
"""The significance level: a difference with a lower p-value is called significant."""


def wilson_interval(successes: int, rows: int) -> list[float]:
    """Return the lower and the upper end of the 95 % interval of a share, by the method of Wilson (1927)."""
    from scipy.stats import binomtest

    interval = binomtest(successes, rows).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]


def score_deviation(accuracy: float, rows: int, scored_rows: int) -> float:
    """Return the standard deviation by chance of the difference of a network's accuracies on different rows."""
    # Laplace's rule of succession: one more error and one more correct row keep it above 0 if there is no error.
    share = (accuracy * rows + 1) / (rows + 2)
    return float(np.sqrt(share * (1 - share) * (1 / rows + 1 / scored_rows)))


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Return the p-value of McNemar's exact test (1947), from the numbers of rows that only one got wrong."""
    from scipy.stats import binomtest

    return float(binomtest(only_first, only_first + only_second).pvalue) if only_first + only_second else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for multiple tests: Holm, Scandinavian Journal of Statistics 6, 1979."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1)
    return [float(p) for p in corrected]


def outlier_fold_p_values(errors: Sequence[int], rows: Sequence[int]) -> list[float]:
    """Return for each fold the p-value of the test that its error rate differs from that of the other folds.

    Fisher's exact test compares each fold with all others together, with Bonferroni's correction. If the fold with
    the lowest p-value differs significantly, the others, which it made look different, are tested again.
    """
    from scipy.stats import fisher_exact

    p_values = [1.0] * len(rows)
    remaining = list(range(len(rows)))
    while len(remaining) > 1:
        # With two folds, both comparisons are the same test, so there is nothing to correct for.
        tests = 1 if len(remaining) == 2 else len(remaining)
        for k in remaining:
            groups = [k], [other for other in remaining if other != k]
            table = [[sum(errors[i] for i in g), sum(rows[i] - errors[i] for i in g)] for g in groups]
            p_values[k] = min(1.0, tests * float(fisher_exact(table).pvalue))
        outlier = min(remaining, key=p_values.__getitem__)
        if p_values[outlier] >= LEVEL or len(remaining) == 2:
            break
        remaining.remove(outlier)
    return p_values


def drift_p(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Return the p-value of the chi-squared test that two samples have the same distribution of classes."""
    from scipy.stats import chi2_contingency

    table = np.array([first, second])
    # The test is not defined for classes that occur in neither sample.
    table = table[:, table.sum(0) > 0]
    return float(chi2_contingency(table).pvalue) if table.shape[1] > 1 else 1.0
