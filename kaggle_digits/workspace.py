"""Competitions: their names, hosts and file formats, and the folders of a workspace."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kaggle_digits.errors import unknown_name

FULL_TRAIN_ROWS, FULL_TEST_ROWS = 42_000, 28_000
"""The numbers of training and of test rows of `digit-recognizer` and `rehearsal-full`."""
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

    The number of rows is not fixed: ``test.csv`` must have as many rows as ``sample_submission.csv``.
    """

    name: str  # also of its folders under ``data/``, ``runs/`` and ``submissions/``
    host: Literal["kaggle", "local"]  # where submissions are scored: at Kaggle, or on this machine
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


@dataclass(frozen=True)
class Workspace:
    """The folders of one competition below a root folder.

    Attributes
    ----------
    root : pathlib.Path
        The folder that holds ``data/``, ``runs/`` and ``submissions/``.
    competition : Competition
        Its name is the name of the folder inside each of them.
    """

    root: Path
    competition: Competition

    @classmethod
    def at(cls, root: str | Path = ".", competition: str = DEFAULT_COMPETITION) -> Workspace:
        """Return the workspace of a competition below `root`; `UsageError` if there is none of this name."""
        if competition not in COMPETITIONS:
            raise unknown_name("competition", competition, COMPETITIONS)
        return cls(Path(root), COMPETITIONS[competition])

    def words(self, *words: str) -> list[str]:
        """Return the words of a command line for this workspace."""
        options = []
        if self.competition.name != DEFAULT_COMPETITION:
            options += ["--competition", self.competition.name]
        if self.root != Path():
            options += ["--root", str(self.root)]
        return ["kaggle-digits", *options, *words]

    def command(self, *words: str) -> str:
        """Return a command line for this workspace, quoted for the shell."""
        return shlex.join(self.words(*words))

    @property
    def data(self) -> Path:
        """``data/<competition>``: the three CSV files, their manifest and the cache."""
        return self.root / "data" / self.competition.name

    @property
    def runs(self) -> Path:
        """``runs/<competition>``: one folder per run."""
        return self.root / "runs" / self.competition.name

    @property
    def comparisons(self) -> Path:
        """``comparisons/<competition>``: one folder per comparison of runs."""
        return self.root / "comparisons" / self.competition.name

    @property
    def submissions(self) -> Path:
        """``submissions/<competition>``: one folder per run, and the ledger."""
        return self.root / "submissions" / self.competition.name
