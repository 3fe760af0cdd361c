"""The time that is left of a training, estimated from the progress of its folds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean

SHORTEST_MEASUREMENT = 3.0
"""Seconds of training of a fold before its speed is used."""


@dataclass
class Course:
    """The training of a fold; all times are in seconds from any starting point."""

    started: float | None = None
    finished: float | None = None
    reports: list[tuple[float, float]] = field(default_factory=list)  # times, and the shares of the steps done

    def pace(self) -> float | None:
        """Return the time that all steps take, None if it is not known yet."""
        if not self.reports:
            return None
        # From the first report on: before it, TensorFlow is loaded and the network is compiled.
        (start, before), (now, done) = self.reports[0], self.reports[-1]
        return (now - start) / (done - before) if now - start >= SHORTEST_MEASUREMENT and done > before else None


def seconds_left(courses: Sequence[Course], now: float) -> float | None:
    """Return the time until all folds are finished; None before the speed of a fold is known."""
    active = [(c, c.started, c.pace()) for c in courses if c.started is not None and c.finished is None]
    lengths = [c.finished - c.started for c in courses if c.finished is not None and c.started is not None]
    # A finished fold is the better measure, because it includes the predictions after the last step.
    lengths = lengths or [c.reports[0][0] - started + pace for c, started, pace in active if pace]
    if not lengths:
        return None
    length, ends = mean(lengths), []
    for course, started, pace in active:
        last, done = course.reports[-1] if course.reports else (started, 0.0)
        ends.append(last + (1 - done) * pace if pace else started + length)
    left = sorted(max(0.0, end - now) for end in ends) or [0.0]
    # Each waiting fold is trained by the worker that is free first. All of them take equally long, so the workers
    # become free in the same order in each round; without waiting folds, `rounds` is -1.
    rounds, worker = divmod(sum(c.started is None for c in courses) - 1, len(left))
    return max(left[-1], left[worker] + (rounds + 1) * length)
