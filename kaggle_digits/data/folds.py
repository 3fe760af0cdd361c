"""The split: which row is in which fold."""

from __future__ import annotations

import numpy as np

from kaggle_digits.arrays import UInt8
from kaggle_digits.errors import DataError, UsageError


def make_folds(labels: UInt8, folds: int, seed: int) -> UInt8:
    """Assign every row to one of `folds` folds, each with the classes in their proportions.

    Parameters
    ----------
    labels : ndarray of uint8, shape (n,)
        The digit of each row.
    folds : int
        Their number, at least 2.
    seed : int
        Same seed, same split.

    Returns
    -------
    ndarray of uint8, shape (n,)
        The fold of each row, 0 to `folds` - 1: the rows the fold's model is validated on.

    Raises
    ------
    UsageError
        If `folds` is below 2 or above 255.
    DataError
        If there are fewer than two digits among the labels, or a digit has fewer rows than there are folds.
    """
    if not 2 <= folds <= 255:
        raise UsageError(f"folds must be between 2 and 255, got {folds}.", "Choose another number of folds.")
    digits, counts = np.unique(labels, return_counts=True)
    if len(digits) < 2:
        raise DataError(
            f"All rows of train.csv are labelled {digits[0]}.",
            "Get the file again with the command: download --force.",
        )
    rarest = int(np.argmin(counts))
    if counts[rarest] < folds:
        raise DataError(
            f"The digit {digits[rarest]} has {counts[rarest]} rows, too few for {folds} folds.",
            f"Choose --folds {counts[rarest]} or fewer." if counts[rarest] > 1 else "Get more rows of it.",
        )
    from sklearn.model_selection import StratifiedKFold

    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    assigned = np.empty(len(labels), np.uint8)
    for fold, (_, validation) in enumerate(split.split(np.zeros(len(labels)), labels)):
        assigned[validation] = fold
    return assigned
