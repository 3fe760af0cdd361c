"""The estimate of the remaining training time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kaggle_digits.training.time_left import Course, seconds_left


def train(folds: int, workers: int, done_before: float = 0.0) -> Iterator[tuple[float, float | None]]:
    """Yield the remaining seconds and their estimate for each second of a training with folds of equal length."""
    start_up, steps, ending = 10, 200, 8
    length = start_up + steps * (1 - done_before) + ending
    starts = [length * (fold // workers) for fold in range(folds)]
    total = starts[-1] + length
    courses = [Course() for _ in range(folds)]
    for now in range(int(total)):
        for course, start in zip(courses, starts, strict=True):
            if now == start + length:
                course.finished = now
            elif now == start:
                course.started = now
            elif start + start_up <= now < start + length:
                course.reports.append((now, min(1.0, done_before + (now - start - start_up) / steps)))
        yield total - now, seconds_left(courses, now)


@pytest.mark.parametrize(("folds", "workers", "done_before"), [(1, 1, 0), (5, 2, 0), (2, 2, 0.5)])
def test_seconds_left_is_within_20_percent_once_the_speed_is_known(
    folds: int, workers: int, done_before: float
) -> None:
    estimates = list(train(folds, workers, done_before))
    assert all(estimate is None for _, estimate in estimates[:13])
    for left, estimate in estimates[13:]:
        assert estimate == pytest.approx(left, rel=0.2, abs=9)


def test_seconds_left_is_zero_at_the_end() -> None:
    course = Course(0.0, None, [(now, (now - 10) / 100) for now in range(10, 60)])
    assert seconds_left([course], 59) == pytest.approx(51)
    course.finished = 120
    assert seconds_left([course], 120) == 0
