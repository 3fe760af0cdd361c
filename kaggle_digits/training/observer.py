"""Notification of events during training and submission."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kaggle_digits.training.fold import FoldTask, Progress


class Observer:
    """Base class for objects that are notified of events. It does nothing; subclasses override methods."""

    def start(self, run: str, tasks: Sequence[FoldTask], missing: Sequence[FoldTask]) -> None:
        """Handle the start of training: the name of the run, all its folds, and the folds to train."""

    def started(self, task: FoldTask) -> None:
        """Handle a fold whose process has been started; it has to import TensorFlow first."""

    def preparing(self, task: FoldTask, step: str) -> None:
        """Handle what the process of a fold does before it trains: ``importing TensorFlow`` or ``compiling``."""

    def progress(self, progress: Progress) -> None:
        """Handle the progress of a fold, about once a second and at the end of each epoch."""

    def finished(self, task: FoldTask) -> None:
        """Handle a fold that is trained and written."""

    def notice(self, sentence: str) -> None:
        """Handle a sentence for the user, such as that a fold is retried."""

    def confirm(self, question: str) -> bool:
        """Answer a question before something that cannot be undone. Nobody is asked here, so the answer is no."""
        return False

    def waiting(self, status: str) -> None:
        """Handle the status of a submission, at each poll while waiting for the score."""
