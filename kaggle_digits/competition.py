"""What a competition is: its name, its host and the shape of its files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kaggle_digits.errors import UsageError

CLASSES = 10
SIDE = 28
"""Height and width of an image, in pixels."""

LABEL_COLUMN = "label"
PIXEL_COLUMNS = tuple(f"pixel{i}" for i in range(SIDE * SIDE))
SUBMISSION_COLUMNS = ("ImageId", "Label")

TRAIN_CSV = "train.csv"
TEST_CSV = "test.csv"
SAMPLE_CSV = "sample_submission.csv"
FILES = (TRAIN_CSV, TEST_CSV, SAMPLE_CSV)


@dataclass(frozen=True)
class Competition:
    """A competition in Digit Recognizer's format.

    Row counts are not part of it: a test set must match its ``sample_submission.csv``, whatever its length.

    Attributes
    ----------
    name : str
        The slug, which also names its folders under ``data/``, ``runs/`` and ``submissions/``.
    host : {"kaggle", "local"}
        Where it lives: at Kaggle, or on this machine.
    summary : str
        One line for people.
    """

    name: str
    host: Literal["kaggle", "local"]
    summary: str


COMPETITIONS = {
    competition.name: competition
    for competition in (
        Competition("digit-recognizer", "kaggle", "the real one, at Kaggle: 42,000 / 28,000 digits"),
        Competition("rehearsal", "local", "on this machine, no account: 4,200 / 2,800 digits of MNIST"),
        Competition("rehearsal-full", "local", "on this machine: all of MNIST as 42,000 / 28,000 digits"),
    )
}
DEFAULT_COMPETITION = "digit-recognizer"


def find_competition(name: str) -> Competition:
    """Return the competition called `name`.

    Raises
    ------
    UsageError
        If there is none.
    """
    try:
        return COMPETITIONS[name]
    except KeyError:
        raise UsageError(
            f"There is no competition called {name!r}.", f"Choose one of: {', '.join(COMPETITIONS)}."
        ) from None
