"""An estimate of the time that is left of a training, from the progress of its folds."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kaggle_digits.training.fold import Progress

Fold = tuple[int, int]
"""The seed and the number of a fold."""

SHORTEST_MEASUREMENT = 3.0
"""Seconds of training of a fold before its speed is used."""


@dataclass
class _Course:
    """A fold that is being trained."""

    started: float
    reports: list[tuple[float, float]]  # times, and the shares of the steps that were done

    @property
    def pace(self) -> float | None:
        """The seconds that all steps take, None if not known yet."""
        if not self.reports:
            return None
        # From the first report on: before it, TensorFlow is loaded and the network is compiled.
        (start, first), (end, last) = self.reports[0], self.reports[-1]
        return (end - start) / (last - first) if end - start >= SHORTEST_MEASUREMENT and last > first else None


class TimeLeft:
    """Estimates the time that is left of some folds; all times are in seconds from any starting point."""

    def __init__(self, missing: Iterable[Fold]) -> None:
        self._waiting = set(missing)
        self._active: dict[Fold, _Course] = {}
        self._lengths: list[float] = []

    def start(self, fold: Fold, now: float) -> None:
        """Take note of a fold that is started, perhaps once more after its worker died."""
        self._waiting.discard(fold)
        self._active[fold] = _Course(now, [])

    def update(self, progress: Progress, now: float) -> None:
        """Take note of a report on a fold."""
        fold = progress.seed, progress.fold
        if fold not in self._active:
            self.start(fold, now)
        self._active[fold].reports.append((now, progress.done))

    def finish(self, fold: Fold, now: float) -> None:
        """Take note of a finished fold."""
        self._waiting.discard(fold)
        if course := self._active.pop(fold, None):
            self._lengths.append(now - course.started)

    def seconds(self, now: float) -> float | None:
        """Return the time that is left; None before the speed of a fold is known."""
        if not self._waiting and not self._active:
            return 0.0
        measured = [c.reports[0][0] - c.started + c.pace for c in self._active.values() if c.pace]
        if not measured and not self._lengths:
            return None
        # A finished fold is the better measure, because it includes the predictions after the last step.
        length = mean(self._lengths or measured)
        ends = [
            max(
                0.0,
                c.reports[-1][0] + (1 - c.reports[-1][1]) * c.pace - now if c.pace else c.started + length - now,
            )
            for c in self._active.values()
        ] or [0.0]
        # Each waiting fold is trained by the worker that is free first.
        heapq.heapify(ends)
        for _ in self._waiting:
            heapq.heapreplace(ends, ends[0] + length)
        return max(ends)
