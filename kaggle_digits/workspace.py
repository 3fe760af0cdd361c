"""Competitions: their names, hosts and files, and the folders of a workspace."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import groupby
from operator import attrgetter
from pathlib import Path, PurePath
from typing import Literal

from kaggle_digits.errors import DataError, UsageError

FULL_TRAIN_ROWS, FULL_TEST_ROWS = 42_000, 28_000
"""The numbers of training and of test rows of `digit-recognizer` and `rehearsal-full`."""
CLASSES = 10
SIDE = 28
"""Height and width of an image, in pixels."""

TRAIN_CSV = "train.csv"
TEST_CSV = "test.csv"
SAMPLE_CSV = "sample_submission.csv"
FILES = (TRAIN_CSV, TEST_CSV, SAMPLE_CSV)
"""The names of a competition's files on this machine. At Kaggle, they may have others: see `find_files`."""

DEFAULT_COMPETITION = "digit-recognizer"
LOCAL_COMPETITIONS = ("rehearsal", "rehearsal-full")
"""These have their data and their scorer on this machine; any other name is that of a competition at Kaggle."""


@dataclass(frozen=True)
class Competition:
    """A competition in Digit Recognizer's format.

    The names of columns, the ids and the numbers of rows are those of its files: see `kaggle_digits.data.csv`.
    """

    name: str  # also of its folders under ``data/``, ``runs/`` and ``submissions/``
    host: Literal["kaggle", "local"]  # where submissions are scored: at Kaggle, or on this machine

    @property
    def among(self) -> str:
        """What is said after a rank on the leaderboard, if it is not one among people."""
        return " among local baselines" if self.host == "local" else ""


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
        """Return the workspace of a competition below `root`; `UsageError` if its name is not valid.

        Any competition at Kaggle is called by the last part of its address. Its files must have the format of
        ``digit-recognizer``.
        """
        if competition in LOCAL_COMPETITIONS:
            return cls(Path(root), Competition(competition, "local"))
        # Who misspells one of these may have no account, and would be asked for credentials.
        similar = get_close_matches(competition.lower(), LOCAL_COMPETITIONS, 1, cutoff=0.85)
        if similar or not re.fullmatch("[A-Za-z0-9][A-Za-z0-9-]*", competition):
            suggestion = "".join(f" Did you mean {name!r}?" for name in similar)
            raise UsageError(
                f"There is no competition called {competition!r}.{suggestion}",
                f"Choose {', '.join(LOCAL_COMPETITIONS)}, or the last part of the address of a competition at "
                f"Kaggle, such as {DEFAULT_COMPETITION}.",
            )
        return cls(Path(root), Competition(competition, "kaggle"))

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


_WORDS = {SAMPLE_CSV: "sample|submission", TRAIN_CSV: "train", TEST_CSV: "test"}
"""What the names of files contain at least, as regular expressions. A sample may have the others, too."""


def find_files(paths: Iterable[PurePath], source: object) -> dict[str, PurePath]:
    """Return the paths of the three `FILES` in `source`, by their names on this machine; `DataError` if unclear.

    All three are in one folder. If no folder has files of exactly these names, each may be the only CSV file there
    with ``train``, ``test``, or ``sample`` or ``submission`` in its name, and may be zipped.
    """
    is_table = re.compile(r"[^.].*\.csv(\.zip)?", re.IGNORECASE).fullmatch
    tables = sorted((path for path in paths if is_table(path.name)), key=lambda path: (path.parent, path.name))
    folders = [_choose(list(inside)) for _, inside in groupby(tables, key=attrgetter("parent"))]
    complete = [files for files in folders if len(files) == len(FILES)]
    exact = [files for files in complete if all(path.name == name for name, path in files.items())]
    for candidates in (exact, complete):
        top = [files for files in candidates if len(files[TRAIN_CSV].parts) == 1]
        if top or len(candidates) == 1:
            return (top or candidates)[0]
    raise DataError(
        f"{source} must have, in exactly one folder, one CSV file each with train, with test, and with sample or "
        f"submission in its name, but has: {textwrap.shorten(', '.join(map(str, tables)) or 'none', 300)}.",
        f"Put the files into a folder, as {', '.join(FILES)}, and take them from there: download --from FOLDER.",
    )


def _choose(paths: list[PurePath]) -> dict[str, PurePath]:
    """Return the files that can be told apart among the CSV files of a folder, by their names on this machine."""
    chosen: dict[str, PurePath] = {}
    for name, words in _WORDS.items():
        similar = [path for path in paths if re.search(words, path.name.lower())]
        exact = [path for path in similar if path.name.lower().removesuffix(".zip") == name]
        if exact or len(similar) == 1:
            chosen[name] = (exact or similar)[0]
        paths = [path for path in paths if path not in similar]
    return chosen
