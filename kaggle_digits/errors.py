"""The errors a user can cause, each with what is wrong, how to fix it, and an exit code."""

from __future__ import annotations


class KaggleDigitsError(Exception):
    """An error that ends in two sentences and an exit code instead of a traceback.

    Parameters
    ----------
    problem : str
        One sentence that says what is wrong.
    remedy : str
        One sentence that says how to fix it.
    """

    exit_code = 1

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} {remedy}")
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[KaggleDigitsError], tuple[str, str]]:
        # Workers send their errors to their parent.
        return type(self), (self.problem, self.remedy)


class UsageError(KaggleDigitsError):
    """The command or call was given something it cannot work with."""

    exit_code = 2


class CredentialsError(KaggleDigitsError):
    """There are no Kaggle credentials, or Kaggle does not know them."""

    exit_code = 3


class RefusedError(KaggleDigitsError):
    """The host refuses: rules not accepted, unknown competition, daily limit."""

    exit_code = 4


class NetworkError(KaggleDigitsError):
    """Network or server trouble after retries, damage on the wire, or still pending at the timeout."""

    exit_code = 5


class NotReachedError(NetworkError):
    """The host was not even connected to, and has certainly done nothing."""


class DataError(KaggleDigitsError):
    """Bad data, a bad submission file, or a damaged artefact."""

    exit_code = 6


class ScoringError(KaggleDigitsError):
    """The host scored the submission as an error."""

    exit_code = 7


class WriteError(KaggleDigitsError):
    """Something cannot be written (disk, permission), or the run is in use."""

    exit_code = 8
