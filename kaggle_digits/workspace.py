"""What a competition is: its name, its host and the shape of its files."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
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


@dataclass(frozen=True)
class Workspace:
    """The folders of one competition below a root folder.

    Attributes
    ----------
    root : pathlib.Path
        The folder that holds ``data/``, ``runs/`` and ``submissions/``.
    competition : Competition
        Names the folder inside each of them.
    """

    root: Path
    competition: Competition

    @classmethod
    def at(cls, root: str | Path = ".", competition: str = DEFAULT_COMPETITION) -> Workspace:
        """Return the workspace of the competition called `competition` below `root`.

        Raises
        ------
        UsageError
            If there is no such competition.
        """
        return cls(Path(root), find_competition(competition))

    def command(self, *words: str) -> str:
        """Return a command line for this workspace, ready to be pasted."""
        options = []
        if self.competition.name != DEFAULT_COMPETITION:
            options += ["--competition", self.competition.name]
        if self.root != Path():
            options += ["--root", str(self.root)]
        return shlex.join(["kaggle-digits", *options, *words])

    @property
    def data(self) -> Path:
        """``data/<competition>``: the three CSV files, their manifest and the cache."""
        return self.root / "data" / self.competition.name

    @property
    def runs(self) -> Path:
        """``runs/<competition>``: a folder a run."""
        return self.root / "runs" / self.competition.name

    @property
    def submissions(self) -> Path:
        """``submissions/<competition>``: a folder a run, and the ledger."""
        return self.root / "submissions" / self.competition.name
