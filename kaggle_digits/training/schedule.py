"""Schedules of a training: the rows of each epoch, and the learning rate of each step."""

import numpy as np

from kaggle_digits.arrays import Float32, Int64
from kaggle_digits.training.presets import Settings


def plan_steps(rows: int, settings: Settings) -> tuple[int, list[int]]:
    """Return the number of rows in a batch, and the number of steps in each epoch, for `rows` training rows."""
    sizes = [rows] + [sum(_row_counts(rows, settings))] * (settings.epochs - 1)
    batch_size = min(settings.batch_size, *sizes)
    # A smaller last batch is dropped: its shape would be compiled separately, and batch normalisation is noisy
    # on few rows. The dropped rows are different in each epoch.
    return batch_size, [size // batch_size for size in sizes]


def choose_rows(likelihood: Float32, epoch: int, settings: Settings, rng: np.random.Generator) -> Int64:
    """Choose and shuffle the rows of an epoch, int64 [k], given the last probability of each row's label, [n]."""
    rows = len(likelihood)
    # In the first epoch, no row has been trained on yet, so none is known to be hard.
    if epoch == 0:
        return rng.permutation(rows)
    # The rows with the highest loss and a random sample of the others: a simple form of selective backpropagation
    # (Jiang et al., arXiv:1910.00762).
    hard, others = _row_counts(rows, settings)
    # A stable sort, so that the order of equal likelihoods does not depend on the machine.
    by_difficulty = np.argsort(likelihood, kind="stable")
    # Easy rows have to come back from time to time: the network could forget them, and this would not be noticed,
    # because likelihoods are only updated for rows that are trained on.
    chosen = [by_difficulty[:hard], rng.choice(by_difficulty[hard:], others, replace=False)]
    return rng.permutation(np.concatenate(chosen))


def _row_counts(rows: int, settings: Settings) -> tuple[int, int]:
    """Return the numbers of hard rows and of other rows in each epoch after the first."""
    hard = int(settings.hard_rows * rows)
    # At least one other row, so that an epoch is never empty, and at most the rows that are left.
    return hard, min(rows - hard, max(1, int(settings.other_rows * rows)))


def learning_rate_at(step: int, steps: int, settings: Settings) -> float:
    """Return the learning rate of a step, counted from 0; `steps` is the number of steps in all epochs."""
    if settings.schedule == "constant":
        return settings.learning_rate
    # As in Smith and Topin (arXiv:1708.07120), but without their last phase, below the initial learning rate.
    rising = settings.warm_up * steps
    # `step + 1`, because a first step with a learning rate of 0 would have no effect.
    if step < rising:
        return settings.learning_rate * ((step + 1) / (rising + 1))
    return settings.learning_rate * ((steps - step) / (steps - rising))
