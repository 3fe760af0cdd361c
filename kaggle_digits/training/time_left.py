"""An estimate of the time that is left of a training, from the progress of its folds."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import mean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kaggle_digits.training.fold import Progress

Fold = tuple[int, int]
"""The seed and the number of a fold."""

SHORTEST_MEASUREMENT = 3.0
"""Seconds of training of a fold before its speed is used."""


class TimeLeft:
    """Estimates the time that is left of some folds; all times are in seconds from any starting point."""

    def __init__(self, missing: Iterable[Fold]) -> None:
        self._waiting = set(missing)
        # When a fold was started, and its reports: their times, and the shares of the steps that were done.
        self._active: dict[Fold, tuple[float, list[tuple[float, float]]]] = {}
        self._lengths: list[float] = []

    def start(self, fold: Fold, now: float) -> None:
        """Take note of a fold that is started, perhaps once more after its worker died."""
        self._waiting.discard(fold)
        self._active[fold] = now, []

    def update(self, progress: Progress, now: float) -> None:
        """Take note of a report on a fold."""
        fold = progress.seed, progress.fold
        if fold not in self._active:
            self.start(fold, now)
        self._active[fold][1].append((now, progress.done))

    def finish(self, fold: Fold, now: float) -> None:
        """Take note of a finished fold."""
        self._waiting.discard(fold)
        if fold in self._active:
            self._lengths.append(now - self._active.pop(fold)[0])

    def seconds(self, now: float) -> float | None:
        """Return the time that is left; None before the speed of a fold is known."""
        ends, starts, measured = [], [], []
        for started, reports in self._active.values():
            # From the first report on: before it, TensorFlow is loaded and the network is compiled.
            (first, before), (last, done) = (reports[0], reports[-1]) if reports else [(now, 0.0)] * 2
            if last - first >= SHORTEST_MEASUREMENT and done > before:
                pace = (last - first) / (done - before)
                ends.append(last + (1 - done) * pace)
                measured.append(first - started + pace)
            else:
                starts.append(started)
        # A finished fold is the better measure, because it includes the predictions after the last step.
        if not (lengths := self._lengths or measured):
            return None
        length = mean(lengths)
        ends += [started + length for started in starts]
        left = sorted(max(0.0, end - now) for end in ends) or [0.0]
        # Each waiting fold is trained by the worker that is free first. All of them take equally long, so the
        # workers become free in the same order in each round; without waiting folds, `rounds` is -1.
        rounds, worker = divmod(len(self._waiting) - 1, len(left))
        return max(left[-1], left[worker] + (rounds + 1) * length)
