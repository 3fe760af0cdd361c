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
    """A submission as its host lists it."""

    ref: str
    time: str  # in ISO 8601 and UTC
    description: str
    status: Status
    score: float | None  # the public score, an accuracy from 0 to 1
    reason: str  # the host's error message for the status ERROR, else empty
    file_name: str = ""  # of the uploaded file, empty if the host does not say
    team: str = ""  # its name on the leaderboard


@dataclass(frozen=True)
class Standing:
    """A rank on the leaderboard."""

    rank: int | None  # 1 is the best; None if the user is not on the leaderboard
    teams: int  # on the leaderboard

    @property
    def percentile(self) -> float | None:
        """The share of teams at or above this rank, in percent: 5.0 is the top 5 %."""
        return None if self.rank is None else 100 * self.rank / self.teams


class Host(Protocol):
    """The methods of every host. What the user, the network or the server can cause is a `KaggleDigitsError`."""

    def download(self, folder: Path) -> None:
        """Download the competition's three CSV files, unzipped, as `FILES` into an existing empty folder."""

    def allowance(self) -> int | None:
        """Return how many submissions are left today, or None if the host does not say."""

    def upload(self, csv: Path) -> str:
        """Upload a submission file and return its token for `create`. This does not make a submission."""

    def create(self, upload: str, description: str) -> str:
        """Make a submission of an uploaded file, without retries, and return its reference.

        A `NetworkError` means that there was no clear response: the submission may have been made. After a
        `NotReachedError`, or any other error, it was not made.
        """

    def submissions(self) -> Iterable[Submission]:
        """Return the user's submissions, newest first."""

    def standing(self) -> Standing:
        """Return the user's rank on the leaderboard."""

    def without_retries(self) -> Host:
        """Return the same host with a short timeout and no retries, for polling."""
        return self


def open_host(workspace: Workspace, mnist_dir: Path | None = None) -> Host:
    """Return the host of the workspace's competition; `mnist_dir` has the IDX files for ``rehearsal-full``."""
    from kaggle_digits.hosts.kaggle import KaggleHost
    from kaggle_digits.hosts.local import LocalHost

    is_kaggle = workspace.competition.host == "kaggle"
    return KaggleHost(workspace.competition.name) if is_kaggle else LocalHost(workspace, mnist_dir)
