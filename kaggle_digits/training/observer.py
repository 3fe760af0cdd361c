"""Who is told of what happens while folds train and a submission is scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kaggle_digits.training.fold import FoldTask, Progress


class Observer:
    """Is told of what happens, and does nothing: subclasses show what they want to show."""

    def start(self, run: str, tasks: Sequence[FoldTask], missing: Sequence[FoldTask]) -> None:
        """Hear the name of the run, all its folds, and those that are going to be trained."""

    def progress(self, progress: Progress) -> None:
        """Hear how far a fold is, about once a second and at the end of each epoch."""

    def finished(self, task: FoldTask) -> None:
        """Hear that a fold is trained and written."""

    def notice(self, sentence: str) -> None:
        """Hear in a sentence what a person should know, such as that a fold is begun once more."""

    def waiting(self, status: str) -> None:
        """Hear the status of a submission, at each look while it is waited for."""
