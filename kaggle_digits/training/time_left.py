"""An estimate of the time that is left of a training, from the progress of its folds."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import mean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kaggle_digits.training.fold import Progress

Fold = tuple[int, int]
"""The seed and the number of a fold."""

SHORTEST_MEASUREMENT = 2.0
"""Seconds of training of a fold before its speed is used."""
FIRST_SECONDS, FIRST_SHARE = 60.0, 0.05
"""The time is not estimated before so many seconds have passed or so much of the training is done."""
ENDING = 0.3
"""Until a fold has ended, its ending is assumed to take this share of the time of its start-up."""


@dataclass
class _Course:
    """What is known of the training of a fold: the first and the last report, and when its worker was free.

    Attributes
    ----------
    free_at : float
        When the worker could start the fold.
    first_at, first_done : float
        The time of the first report, and the fraction of the steps that were done. The first report comes after
        the first step, which also compiles the network, so the time between the first and the last report is
        training only.
    last_at, last_done : float
        The same of the last report.
    """

    free_at: float
    first_at: float
    first_done: float
    last_at: float
    last_done: float

    @property
    def rate(self) -> float | None:
        """The fraction of a fold's steps per second, or None if this is not known yet."""
        seconds = self.last_at - self.first_at
        if seconds < SHORTEST_MEASUREMENT or self.last_done <= self.first_done:
            return None
        return (self.last_done - self.first_done) / seconds


@dataclass
class TimeLeft:
    """Estimates the time that is left, from the speed of the steps and from what folds need besides their steps.

    A fold takes the time of its start-up (loading TensorFlow, compiling), of its steps, and of its ending
    (prediction, writing). These are measured separately, since a speed that includes the start-up would be much
    too low at the beginning. Folds that have not started yet are then distributed over the workers, because
    with five folds on two workers, one worker has nothing to do at the end.

    Parameters
    ----------
    missing : iterable of tuple
        The folds to train.
    started_at : float
        When the training was started; like all times, in seconds from any starting point.
    """

    missing: Iterable[Fold]
    started_at: float
    _waiting: set[Fold] = field(init=False)
    _total: int = field(init=False)
    _active: dict[Fold, _Course] = field(init=False, default_factory=dict)
    _workers: int = field(init=False, default=0)
    _rates: list[float] = field(init=False, default_factory=list)
    _start_ups: list[float] = field(init=False, default_factory=list)
    _endings: list[float] = field(init=False, default_factory=list)
    _free: list[float] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._waiting = set(self.missing)
        self._total = len(self._waiting)

    def update(self, progress: Progress, now: float) -> None:
        """Take note of a report on a fold."""
        fold = progress.seed, progress.fold
        course = self._active.get(fold)
        if course is None or progress.done < course.last_done:  # a new fold, or one that is retried
            self._waiting.discard(fold)
            # A retried fold starts again where its worker died; any other starts when a worker is free.
            if course is not None:
                free_at = course.last_at
            else:
                free_at = self._free.pop(0) if self._free else self.started_at
            self._active[fold] = _Course(free_at, now, progress.done, now, progress.done)
            self._start_ups.append(now - free_at)
            self._workers = max(self._workers, len(self._active))
        elif progress.done > course.last_done:
            course.last_at, course.last_done = now, progress.done

    def finish(self, fold: Fold, now: float) -> None:
        """Take note of a finished fold."""
        self._waiting.discard(fold)
        self._free.append(now)
        course = self._active.pop(fold, None)
        if course is not None:
            self._endings.append(now - course.last_at)
            self._rates += [course.rate] if course.rate else []

    def _share_done(self) -> float:
        """Return the share of the steps of all folds that are done."""
        partly = sum(course.last_done for course in self._active.values())
        finished = self._total - len(self._waiting) - len(self._active)
        return (finished + partly) / self._total

    def seconds(self, now: float) -> float | None:
        """Return the time that is left in seconds; None before it can be estimated."""
        rates = [course.rate for course in self._active.values() if course.rate] or self._rates
        if not rates:
            return 0.0 if not self._waiting and not self._active else None
        if now - self.started_at < FIRST_SECONDS and self._share_done() < FIRST_SHARE:
            return None
        rate, start_up = mean(rates), mean(self._start_ups)
        ending = mean(self._endings or [ENDING * start_up])
        ends = [
            max(0.0, course.last_at + (1 - course.last_done) / (course.rate or rate) + ending - now)
            for course in self._active.values()
        ]
        # Workers without a report are starting a fold, or, at the end, have nothing to do.
        starting = [min(0.0, free - now) for free in self._free[: len(self._waiting)]]
        ends = (ends + starting)[: max(self._workers, len(ends))] or [0.0]
        heapq.heapify(ends)
        for _ in self._waiting:
            heapq.heappush(ends, heapq.heappop(ends) + start_up + 1 / rate + ending)
        return max([0.0, *ends])
