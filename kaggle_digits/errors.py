"""The errors a user can cause, each with what is wrong, how to fix it, and an exit code."""

from collections.abc import Collection
from difflib import get_close_matches


class KaggleDigitsError(Exception):
    """An error that a user can cause, which the command line prints as two sentences, without a traceback.

    Parameters
    ----------
    problem : str
        One sentence that says what is wrong.
    remedy : str
        One sentence that says how to fix it. Commands and options in it have the names of the command line; in
        Python, they are functions and arguments of the same names.
    """

    exit_code = 1

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem} {self.remedy}"

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows in a notebook instead of a traceback."""
        return [f"{type(self).__name__}: {self.problem}", self.remedy]


class UsageError(KaggleDigitsError):
    """An option or argument is not valid."""

    exit_code = 2


def unknown_name(kind: str, name: str, names: Collection[str]) -> UsageError:
    """Return the error for a name that is none of `names`; it suggests the one that is most similar."""
    suggestion = "".join(f" Did you mean {similar!r}?" for similar in get_close_matches(name, names, 1))
    return UsageError(f"There is no {kind} called {name!r}.{suggestion}", f"Choose one of: {', '.join(names)}.")


class CredentialsError(KaggleDigitsError):
    """There are no Kaggle credentials, or Kaggle does not accept them."""

    exit_code = 3


class RefusedError(KaggleDigitsError):
    """The host refused the request: rules not accepted, unknown competition, daily limit reached."""

    exit_code = 4


class NetworkError(KaggleDigitsError):
    """Network or server error after all retries, corrupt download, or score still pending at the timeout."""

    exit_code = 5


class NotReachedError(NetworkError):
    """No connection to the host was made, so the host cannot have processed the request."""


class DataError(KaggleDigitsError):
    """Data, a submission file or an artefact is missing, damaged or not valid."""

    exit_code = 6


class ScoringError(KaggleDigitsError):
    """The host scored the submission as an error."""

    exit_code = 7


class WriteError(KaggleDigitsError):
    """A file cannot be written (disk full, no permission), or another process has locked it."""

    exit_code = 8
