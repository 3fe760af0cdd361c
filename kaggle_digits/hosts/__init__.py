"""The interface to a competition's host: Kaggle, or a local host on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from kaggle_digits.workspace import Workspace

Status = Literal["PENDING", "COMPLETE", "ERROR", "UNKNOWN"]


@dataclass(frozen=True)
class Submission:
    """A submission as its host lists it.

    Attributes
    ----------
    ref : str
        The host's reference.
    time : str
        When it was made, in ISO 8601 and UTC.
    description : str
        The message it was sent with.
    status : {"PENDING", "COMPLETE", "ERROR", "UNKNOWN"}
        The host's status of the scoring.
    score : float or None
        The public score, an accuracy from 0 to 1.
    reason : str
        The host's error message for the status ERROR, else empty.
    team : str
        The team's name on the leaderboard, empty if the host does not say.
    file_name : str
        The name of the uploaded file, empty if the host does not say.
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
        1 is the best; None if the user is not on the leaderboard.
    teams : int
        The number of teams on the leaderboard.
    """

    rank: int | None
    teams: int

    @property
    def percentile(self) -> float | None:
        """The share of teams at or above this rank, in percent: 5.0 is the top 5 %."""
        return None if self.rank is None else 100 * self.rank / self.teams


class Host(Protocol):
    """The methods that every host has.

    Errors that the user, the network or the server can cause are raised as a `KaggleDigitsError`.
    """

    def download(self, folder: Path) -> None:
        """Download the competition's three CSV files, unzipped, into an existing empty folder."""

    def allowance(self) -> int | None:
        """Return how many submissions are left today, or None if the host does not say."""

    def upload(self, csv: Path) -> str:
        """Upload a submission file and return its token for `create`. This does not make a submission."""

    def create(self, upload: str, description: str) -> str:
        """Make a submission of an uploaded file, without retries, and return its reference.

        Raises
        ------
        NetworkError
            If there is no clear response: the submission may have been made.
        NotReachedError, or any other KaggleDigitsError
            If the submission was not made.
        """

    def submissions(self) -> Iterable[Submission]:
        """Return the user's submissions, newest first."""

    def standing(self) -> Standing:
        """Return the user's rank on the leaderboard."""

    def without_retries(self) -> Host:
        """Return the same host with a short timeout and no retries, for polling."""


def open_host(workspace: Workspace, mnist_dir: Path | None = None) -> Host:
    """Return the host of the workspace's competition.

    Parameters
    ----------
    workspace : Workspace
        The competition and its folders.
    mnist_dir : pathlib.Path, optional
        For ``rehearsal-full``: the folder with the IDX files of MNIST. By default it is
        ``$KAGGLE_DIGITS_MNIST_DIR``; if that is not set, the files are downloaded from a public mirror.
    """
    if workspace.competition.host == "kaggle":
        from kaggle_digits.hosts.kaggle import KaggleHost

        return KaggleHost(workspace.competition.name)
    from kaggle_digits.hosts.local import LocalHost

    return LocalHost(workspace, mnist_dir)
