"""Where a competition lives: one interface to Kaggle and to a competition held on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from kaggle_digits.workspace import Workspace

Status = Literal["PENDING", "COMPLETE", "ERROR", "UNKNOWN"]


@dataclass(frozen=True)
class Submission:
    """A submission as its host remembers it.

    Attributes
    ----------
    ref : str
        The host's reference.
    time : str
        When it was made, ISO 8601 in UTC.
    description : str
        The message it was sent with.
    status : {"PENDING", "COMPLETE", "ERROR", "UNKNOWN"}
        How far the host's scoring is.
    score : float or None
        The public score, an accuracy from 0 to 1.
    reason : str
        The host's words on a status of ERROR, else empty.
    team : str
        The team's name on the leaderboard, empty if the host does not say.
    file_name : str
        The name that the file was uploaded under, empty if the host does not say.
    """

    ref: str
    time: str
    description: str
    status: Status
    score: float | None
    reason: str
    team: str
    file_name: str = ""


@dataclass(frozen=True)
class Standing:
    """A rank on the leaderboard.

    Attributes
    ----------
    rank : int or None
        1 is the best; None when the person is not on the board.
    teams : int
        How many are.
    """

    rank: int | None
    teams: int

    @property
    def percentile(self) -> float | None:
        """The share of teams at or above this rank, in percent: 5.0 is the top 5 %."""
        return None if self.rank is None else 100 * self.rank / self.teams


class Host(Protocol):
    """What the pipeline asks of a host.

    Every method raises a `KaggleDigitsError`, and nothing else, for what a person or the network can cause.
    """

    def download(self, folder: Path) -> None:
        """Put the competition's three CSV files, complete and unpacked, into an existing empty folder."""

    def allowance(self) -> int | None:
        """Return how many submissions are left today, or None if the host does not say."""

    def upload(self, csv: Path) -> str:
        """Upload a submission file, which makes no submission yet, and return what `create` needs to name it."""

    def create(self, upload: str, description: str) -> str:
        """Make a submission of an uploaded file, in a single try, and return its reference.

        Raises
        ------
        NetworkError
            If the answer was lost or is unclear: the submission may have been made all the same.
        NotReachedError, or any other KaggleDigitsError
            If the submission was certainly not made.
        """

    def submissions(self) -> Iterable[Submission]:
        """Return the person's submissions, newest first."""

    def standing(self) -> Standing:
        """Return the person's rank on the leaderboard."""

    def impatient(self) -> Host:
        """Return the same host, asked once and briefly: for looks that are repeated anyway."""


def open_host(workspace: Workspace, mnist_dir: Path | None = None) -> Host:
    """Return the host of the workspace's competition.

    Parameters
    ----------
    workspace : Workspace
        The competition, and where its files are.
    mnist_dir : pathlib.Path, optional
        For ``rehearsal-full``: the folder of MNIST's IDX files. Default: ``$KAGGLE_DIGITS_MNIST_DIR``, else
        they are downloaded from a public mirror.
    """
    if workspace.competition.host == "kaggle":
        from kaggle_digits.hosts.kaggle import KaggleHost

        return KaggleHost(workspace.competition.name)
    from kaggle_digits.hosts.local import LocalHost

    return LocalHost(workspace, mnist_dir)
