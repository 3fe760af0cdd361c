"""Assign rows to folds for cross-validation."""

import numpy as np

from kaggle_digits.arrays import UInt8
from kaggle_digits.errors import DataError, UsageError


def make_folds(labels: UInt8, folds: int, seed: int) -> UInt8:
    """Return the split of a run: the fold of every row, uint8 [n], from 0 to `folds` - 1, stratified by label."""
    if not 2 <= folds <= 255:
        # 255, because the folds are stored as uint8.
        raise UsageError(
            f"The number of folds must be between 2 and 255, got {folds}.", "Choose another number of folds."
        )
    digits, counts = np.unique(labels, return_counts=True)
    rarest = int(np.argmin(counts))
    if counts[rarest] < folds:
        raise DataError(
            f"The digit {digits[rarest]} has {counts[rarest]} rows, too few for {folds} folds.",
            "Choose fewer folds, or add more rows of this digit.",
        )
    from sklearn.model_selection import StratifiedKFold

    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    assigned = np.empty(len(labels), np.uint8)
    for fold, (_, validation) in enumerate(split.split(np.zeros(len(labels)), labels)):
        assigned[validation] = fold
    return assigned
