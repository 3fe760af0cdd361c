"""The estimate of the remaining training time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kaggle_digits.training.fold import Progress
from kaggle_digits.training.time_left import TimeLeft

EPOCHS = 10


def report(fold: int, done: float) -> Progress:
    return Progress(0, fold, 1 + int(done * EPOCHS), EPOCHS, done, 0.5, None, 1000.0, False)


def train(
    folds: int, workers: int, start_up: float, steps: float, ending: float, done_before: float = 0.0
) -> Iterator[tuple[float, float | None]]:
    """Yield the remaining seconds and their estimate for each second of a training with folds of equal length."""
    length = start_up + steps * (1 - done_before) + ending
    starts = [length * (fold // workers) for fold in range(folds)]
    total = starts[-1] + length
    time_left = TimeLeft([(0, fold) for fold in range(folds)], 0.0)
    finished: set[int] = set()
    for now in range(1, int(total) + 1):
        for fold, start in enumerate(starts):
            seconds = now - start - start_up
            if fold not in finished and now >= start + length:
                time_left.finish((0, fold), float(now))
                finished.add(fold)
            elif seconds >= 0 and fold not in finished:
                time_left.update(report(fold, min(1.0, done_before + seconds / steps)), float(now))
        yield total - now, time_left.seconds(float(now))


@pytest.mark.parametrize(
    ("folds", "workers", "done_before"), [(1, 1, 0.0), (4, 2, 0.0), (5, 2, 0.0), (6, 4, 0.0), (2, 2, 0.5)]
)
def test_seconds_are_within_20_percent_after_a_tenth_of_the_training(
    folds: int, workers: int, done_before: float
) -> None:
    estimates = list(train(folds, workers, start_up=10, steps=200, ending=8, done_before=done_before))
    for left, estimate in estimates[len(estimates) // 10 + 5 :]:
        assert estimate is not None
        assert estimate == pytest.approx(left, rel=0.2, abs=6)


def test_seconds_are_unknown_before_a_twentieth_of_the_training_in_the_first_minute() -> None:
    short = [estimate for _, estimate in train(2, 2, start_up=5, steps=200, ending=2)]
    assert short[:14] == [None] * 14  # 5 s of start-up, 10 s of 200 s
    assert short[16] is not None
    long = [estimate for _, estimate in train(8, 2, start_up=5, steps=2000, ending=2)]
    assert long[:58] == [None] * 58
    assert long[60] is not None


def test_seconds_do_not_extrapolate_the_start_up() -> None:
    """The average speed since the start would give hours here."""
    for left, estimate in train(1, 1, start_up=76, steps=100, ending=2):
        if estimate is not None:
            # The time after the last step is not known yet; the estimate assumes the start-up time.
            assert left - 3 <= estimate <= left + 80


def test_seconds_are_unknown_before_the_speed_is_measured() -> None:
    time_left = TimeLeft([(0, 0)], 0.0)
    assert time_left.seconds(5.0) is None
    time_left.update(report(0, 0.01), 10.0)
    assert time_left.seconds(10.0) is None
    time_left.update(report(0, 0.02), 11.0)
    assert time_left.seconds(11.0) is None


def test_seconds_start_again_for_a_fold_that_is_retried() -> None:
    time_left = TimeLeft([(0, 0)], 0.0)
    for now in range(10, 60):
        time_left.update(report(0, (now - 10) / 100), float(now))
    before = time_left.seconds(59.0)
    for now in range(70, 80):
        time_left.update(report(0, (now - 70) / 100), float(now))
    after = time_left.seconds(79.0)
    assert before is not None
    assert after is not None
    assert after > before + 30


def test_seconds_are_zero_at_the_end() -> None:
    time_left = TimeLeft([(0, 0)], 0.0)
    time_left.update(report(0, 0.5), 1.0)
    time_left.finish((0, 0), 9.0)
    assert time_left.seconds(9.0) == 0
