"""What changes from step to step of a training: which rows, which learning rate, how strong the augmentation."""

from __future__ import annotations

import numpy as np

from kaggle_digits.arrays import Float32, Int64
from kaggle_digits.training.presets import Settings


def epoch_sizes(rows: int, settings: Settings) -> list[int]:
    """Return how many of the training rows each epoch has: all of them in the first, then the chosen ones."""
    hard, others = _row_counts(rows, settings)
    return [rows] + [hard + others] * (settings.epochs - 1)


def choose_rows(likelihood: Float32, epoch: int, settings: Settings, rng: np.random.Generator) -> Int64:
    """Choose and shuffle the rows of an epoch, by hard-example mining.

    An epoch has the rows that the network finds hardest, and a random choice of the others: a simple form of the
    selective backpropagation of Jiang et al. (arXiv:1910.00762).

    Parameters
    ----------
    likelihood : ndarray of float32, shape (n,)
        The probability of each row's label when the network was last trained on it.
    epoch : int
        From 0; the first has all rows.
    settings : Settings
        ``hard_rows`` and ``other_rows``.
    rng : numpy.random.Generator
        The source of all random choices.

    Returns
    -------
    ndarray of int64, shape (k,)
        Numbers of rows.
    """
    rows = len(likelihood)
    # Nothing is known about any row until the network has been trained on it once.
    if epoch == 0:
        return rng.permutation(rows)
    hard, others = _row_counts(rows, settings)
    # A stable sort: where likelihoods are equal, the order must not depend on the machine.
    by_difficulty = np.argsort(likelihood, kind="stable")
    # Easy rows have to come back now and then, or the network would forget them and none would look hard.
    chosen = [by_difficulty[:hard], rng.choice(by_difficulty[hard:], others, replace=False)]
    return rng.permutation(np.concatenate(chosen))


def _row_counts(rows: int, settings: Settings) -> tuple[int, int]:
    """Return how many hard rows and how many others an epoch after the first has."""
    hard = int(settings.hard_rows * rows)
    # At least one row, and never more than there are.
    return hard, min(rows - hard, max(1, int(settings.other_rows * rows)))


def learning_rate_at(step: int, steps: int, settings: Settings) -> float:
    """Return the learning rate of a step, counted from 0, of `steps` in all epochs together.

    The schedule ``one-cycle`` is the triangle of Smith and Topin (arXiv:1708.07120) without its last phase.
    """
    if settings.schedule == "constant":
        return settings.learning_rate
    rising = settings.warm_up * steps
    # `step + 1`: a first step with a learning rate of 0 would be wasted.
    if step < rising:
        return settings.learning_rate * ((step + 1) / (rising + 1))
    return settings.learning_rate * ((steps - step) / (steps - rising))


def augmentation_strength_at(step: int, steps: int, settings: Settings) -> float:
    """Return the share of the full augmentation in a step, counted from 0, of `steps` in all epochs together."""
    # A line from `ramp` to 1: digits that are easy to read teach the network faster at the start.
    return settings.ramp + (1 - settings.ramp) * step / steps
