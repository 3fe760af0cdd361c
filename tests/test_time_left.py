"""The estimate of the remaining training time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kaggle_digits.training.fold import Progress
from kaggle_digits.training.time_left import TimeLeft


def report(fold: int, done: float) -> Progress:
    return Progress(0, fold, 1, 10, done, 0.5, None, 1000.0, False)


def train(folds: int, workers: int, done_before: float = 0.0) -> Iterator[tuple[float, float | None]]:
    """Yield the remaining seconds and their estimate for each second of a training with folds of equal length."""
    start_up, steps, ending = 10, 200, 8
    length = start_up + steps * (1 - done_before) + ending
    starts = [length * (fold // workers) for fold in range(folds)]
    total = starts[-1] + length
    time_left = TimeLeft([(0, fold) for fold in range(folds)])
    for now in range(int(total)):
        for fold, start in enumerate(starts):
            if now == start + length:
                time_left.finish((0, fold), now)
            elif now == start:
                time_left.start((0, fold), now)
            elif start + start_up <= now < start + length:
                time_left.update(report(fold, min(1.0, done_before + (now - start - start_up) / steps)), now)
        yield total - now, time_left.seconds(now)


@pytest.mark.parametrize(("folds", "workers", "done_before"), [(1, 1, 0), (5, 2, 0), (2, 2, 0.5)])
def test_seconds_are_within_20_percent_once_the_speed_is_known(
    folds: int, workers: int, done_before: float
) -> None:
    estimates = list(train(folds, workers, done_before))
    assert all(estimate is None for _, estimate in estimates[:13])
    for left, estimate in estimates[13:]:
        assert estimate == pytest.approx(left, rel=0.2, abs=9)


def test_seconds_start_again_for_a_fold_that_is_retried_and_are_zero_at_the_end() -> None:
    time_left = TimeLeft([(0, 0)])
    for start in (0, 60):
        time_left.start((0, 0), start)
        for now in range(10, 60):
            time_left.update(report(0, (now - 10) / 100), start + now)
        assert time_left.seconds(start + 59) == pytest.approx(51)
    time_left.finish((0, 0), 120)
    assert time_left.seconds(120) == 0
