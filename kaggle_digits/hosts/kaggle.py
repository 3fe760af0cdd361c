"""Kaggle, through its official client: the only module that touches the `kaggle` package.

The client prints where it should raise, waits without end and never retries; this module gives it a clean stdout,
a deadline, and a sentence for each of its failures.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from kaggle_digits.competition import FILES, SAMPLE_CSV
from kaggle_digits.errors import (
    CredentialsError,
    DataError,
    KaggleDigitsError,
    NetworkError,
    RefusedError,
    WriteError,
)
from kaggle_digits.files import read_zipped, unzip
from kaggle_digits.hosts import Standing, Status, Submission

T = TypeVar("T")

ATTEMPTS = 4
SOCKET_TIMEOUT = 60.0
"""Seconds without a byte after which a connection counts as dropped."""
LONGEST_WAIT = 60.0
"""Seconds: a server that asks for a longer pause before the next try is not waited for."""

_TRY_LATER = "Check the network and Kaggle's status, then run the same command again."


class KaggleHost:
    """A competition at Kaggle: see `kaggle_digits.hosts.Host` for its methods.

    Parameters
    ----------
    slug : str
        The competition's name at Kaggle.
    attempts : int
        How often to ask what is safe to ask again, when the network or the server is in the way.
    timeout : float
        Seconds without a byte after which a connection counts as dropped.
    """

    def __init__(self, slug: str, attempts: int = ATTEMPTS, timeout: float = SOCKET_TIMEOUT) -> None:
        self._slug = slug
        self._attempts = attempts
        self._timeout = timeout

    def download(self, folder: Path) -> None:
        """Download the files and check their sizes against Kaggle's listing.

        The bundle comes first: its zip carries checksums, and the client checks nothing. Where it arrives
        damaged, the files are fetched one by one, which Kaggle serves by another way.
        """
        sizes = self._sizes()
        try:
            self._download_bundle(folder, sizes)
        except NetworkError:
            for name in FILES:
                self._download_file(folder, name, sizes[name])

    def try_download(self) -> None:
        """Get the smallest file and forget it: a download is refused to whoever has not accepted the rules."""
        with tempfile.TemporaryDirectory() as folder:
            self._ask(lambda api: api.competition_download_file(self._slug, SAMPLE_CSV, folder, True, True))

    def allowance(self) -> int | None:
        """Return how many submissions are left today; None for somebody who is on no team yet."""
        limits = self._ask(lambda api: api.competition_get_submission_limits(self._slug))
        # All zero is Kaggle's answer before the first submission, not a used-up allowance.
        if limits.num_allowed_now == limits.num_today == limits.num_total == 0:
            return None
        return int(limits.num_allowed_now)

    def submit(self, csv: Path, description: str) -> str:
        """Upload and submit a file, in a single try: a second one could make a second submission."""
        response = self._ask_once(
            lambda api: api.competition_submit(str(csv), description, self._slug, quiet=True)
        )
        if not response.ref:
            # A failed upload does not raise: the client prints why, with the secret address of the upload in it,
            # and its answer has no reference.
            raise NetworkError(
                "The upload of the file to Kaggle failed.", "Nothing was submitted; run the same command again."
            )
        return str(response.ref)

    def submissions(self) -> Iterator[Submission]:
        """Yield the person's submissions, newest first; pages are asked for as they are needed."""
        seen: set[int] = set()
        page = 1
        while fresh := [s for s in self._submissions_page(page) if s.ref not in seen]:
            for submission in fresh:
                seen.add(submission.ref)
                yield _submission(submission)
            page += 1

    def standing(self) -> Standing:
        """Return the place on the public leaderboard, whose entries Kaggle drops after two months."""
        import pandas as pd

        # In a folder of its own, for the client gives it the name of the data bundle.
        with tempfile.TemporaryDirectory() as folder:
            self._ask(lambda api: api.competition_leaderboard_download(self._slug, folder))
            with _as_damage_on_the_wire():
                content = read_zipped(_only_file(Path(folder)), "*.csv")
        try:
            board = pd.read_csv(io.BytesIO(content), encoding="utf-8-sig", dtype=str, keep_default_na=False)
            # Names of teams are not unique, those of users are.
            if "TeamMemberUserNames" in board:
                user = str(self._api.config_values.get("username", ""))
                mine = board["TeamMemberUserNames"].map(lambda names: user in re.split(r"[,;\s]+", names))
            else:
                mine = board["TeamName"].isin({s.team for s in self.submissions() if s.team})
            if not mine.any():
                return Standing(None, len(board))
            row = int(mine.to_numpy().argmax())
            return Standing(int(board["Rank"][row]) if "Rank" in board else row + 1, len(board))
        except (ValueError, KeyError) as error:
            raise NetworkError("Kaggle's leaderboard cannot be read.", _TRY_LATER) from error

    def _sizes(self) -> dict[str, int]:
        """Return the size in bytes of each of the competition's three files."""
        listing = self._ask(lambda api: api.competition_list_files(self._slug))
        sizes = {file.name: int(file.total_bytes) for file in listing.files}
        missing = [name for name in FILES if name not in sizes]
        if missing:
            raise RefusedError(
                f"The competition {self._slug!r} has no {', '.join(missing)}.",
                "Choose a competition in the format of Digit Recognizer.",
            )
        return sizes

    def _download_bundle(self, folder: Path, sizes: dict[str, int]) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            self._ask(lambda api: api.competition_download_files(self._slug, scratch, force=True, quiet=True))
            with _as_damage_on_the_wire():
                unzip(_only_file(Path(scratch)), FILES, folder)
        for name in FILES:
            _check_size(folder / name, sizes[name])

    def _download_file(self, folder: Path, name: str, size: int) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            self._ask(lambda api: api.competition_download_file(self._slug, name, scratch, force=True, quiet=True))
            arrived = _only_file(Path(scratch))
            # A single file may arrive zipped, under whatever name.
            if arrived.stat().st_size != size:
                with _as_damage_on_the_wire():
                    unzip(arrived, (name,), folder)
            else:
                arrived.replace(folder / name)
        _check_size(folder / name, size)

    def _submissions_page(self, page: int) -> list[Any]:
        return self._ask(lambda api: api.competition_submissions(self._slug, page_number=page)) or []

    @cached_property
    def _api(self) -> Any:
        """The authenticated client."""
        source = credential_source()
        try:
            with _tamed_client(self._timeout):
                api = _import_client()
                # The import swallows what goes wrong in it; asking again tells.
                if not api.config_values.get("auth_method"):
                    api.authenticate()
        except SystemExit:
            raise _unknown_credentials(source, "they are invalid or expired") from None
        except Exception as error:
            raise _explained(error, self._slug) from error
        # One layer of retries, ours, which starts a download anew: the client's goes on where a body was cut, and
        # can splice an error page into the file.
        api.download_file = partial(api.download_file, max_retries=0)
        return api

    def _ask(self, question: Callable[[Any], T]) -> T:
        """Ask Kaggle what is safe to ask twice: with capped, jittered retries on network and server trouble."""
        from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

        backoff = wait_random_exponential(multiplier=1, max=10)

        def wait(state: Any) -> float:
            error = state.outcome.exception()
            return max(backoff(state), getattr(error, "retry_after", 0.0))

        retrying = Retrying(
            retry=retry_if_exception(
                lambda error: (
                    isinstance(error, NetworkError) and getattr(error, "retry_after", 0.0) <= LONGEST_WAIT
                )
            ),
            stop=stop_after_attempt(self._attempts),
            wait=wait,
            reraise=True,
        )
        answer: T = retrying(self._ask_once, question)
        return answer

    def _ask_once(self, question: Callable[[Any], T]) -> T:
        api = self._api
        try:
            with _tamed_client(self._timeout):
                return question(api)
        except Exception as error:
            raise _explained(error, self._slug) from error


@contextmanager
def _tamed_client(timeout: float) -> Iterator[None]:
    """Keep the client's prints off stdout and its waits for the network bounded."""
    from requests.adapters import HTTPAdapter
    from urllib3 import Retry

    send = HTTPAdapter.send

    def send_in_time(adapter: Any, request: Any, **options: Any) -> Any:
        adapter.max_retries = Retry(0, read=False)
        return send(adapter, request, **options | {"timeout": timeout})

    # The client mostly sets no timeout, gives an upload ten tries, and offers no place to set either.
    HTTPAdapter.send = send_in_time  # type: ignore[method-assign, assignment]
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        HTTPAdapter.send = send  # type: ignore[method-assign]


def _import_client() -> Any:
    """Import the client's ready-made `KaggleApi`, which authenticates as it is imported."""
    # With one of these set the client prints tokens and Authorization headers; it decides so when imported.
    chatty = {name: os.environ.pop(name) for name in ("VERBOSE", "VERBOSE_OUTPUT") if name in os.environ}
    try:
        import kaggle
    finally:
        os.environ |= chatty
    return kaggle.api


class _ThrottledError(NetworkError):
    """The server asks for a pause of `retry_after` seconds."""

    def __init__(self, problem: str, remedy: str, retry_after: float) -> None:
        super().__init__(problem, remedy)
        self.retry_after = retry_after


def _explained(error: Exception, slug: str) -> KaggleDigitsError:
    """Turn whatever the client raised into an error with two sentences and an exit code."""
    import requests
    import urllib3

    if isinstance(error, KaggleDigitsError):
        return error
    # A response is false when its status is an error, so compare with None.
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return _explained_status(error.response, slug)
    if isinstance(error, requests.RequestException | urllib3.exceptions.HTTPError | ConnectionError):
        return NetworkError(f"Kaggle cannot be reached: {type(error).__name__}.", _TRY_LATER)
    if isinstance(error, OSError):
        return WriteError(
            f"Cannot write {error.filename or 'the download'}: {error.strerror or error}.",
            "Free some space or mend the permissions of the folder, then run the same command again.",
        )
    # What the client makes of an answer that isn't the API's, or of a file that is too short. Its words may hold a
    # secret, so they are for --debug.
    return NetworkError(f"Kaggle's answer makes no sense to its client: {type(error).__name__}.", _TRY_LATER)


def _explained_status(response: Any, slug: str) -> KaggleDigitsError:
    status, words = response.status_code, _kaggles_words(response)
    if status == 401:
        return _unknown_credentials(credential_source(), words)
    if status == 403:
        return RefusedError(
            f"Kaggle refuses: {words}.",
            "If you have not joined the competition yet, accept its rules at "
            f"https://www.kaggle.com/competitions/{slug}/rules, then run the same command again.",
        )
    if status == 404:
        return RefusedError(
            f"Kaggle does not know the competition {slug!r}: {words}.",
            "Check the name with: kaggle competitions list --search digit.",
        )
    if status == 429:
        try:
            pause = float(response.headers.get("Retry-After", 0))
        except ValueError:
            pause = 0.0
        return _ThrottledError(f"Kaggle asks for fewer requests: {words}.", "Wait a while, then try again.", pause)
    if status >= 500:
        return NetworkError(f"Kaggle has trouble of its own (status {status}): {words}.", _TRY_LATER)
    return RefusedError(f"Kaggle refuses (status {status}): {words}.", "Mend what it names, then try again.")


def _kaggles_words(response: Any) -> str:
    """Return what the server says in the body of an error, which the client's own exceptions leave out."""
    import requests

    try:
        text = response.text.strip()
    except requests.RequestException:
        return "its answer was cut off"
    try:
        document = json.loads(text)
        text = str(document.get("message") or document.get("error") or "") if isinstance(document, dict) else text
    except ValueError:
        pass
    if not text or text.startswith("<"):
        text = response.reason or "no reason given"
    return " ".join(text.split())[:300].rstrip(".")


def credential_source() -> str:
    """Return the name of the place whose credentials the client uses: the first one that has any.

    Raises
    ------
    CredentialsError
        If there are none, or what is there cannot be credentials.
    """
    for source in credential_sources():
        return source
    raise CredentialsError("There are no Kaggle credentials on this machine.", _GET_CREDENTIALS)


def credential_sources() -> Iterator[str]:
    """Yield the names of the places that have credentials, in the client's order: it uses those of the first.

    A token beats a key, a bad token too.

    Raises
    ------
    CredentialsError
        Where the next place is reached, if what it has cannot be credentials.
    """
    home = Path.home() / ".kaggle"
    token = os.environ.get("KAGGLE_API_TOKEN")
    if token:
        is_path = len(token) < 256 and Path(token).exists()
        _check_token(_read_text(Path(token)).strip() if is_path else token, "KAGGLE_API_TOKEN")
        yield "KAGGLE_API_TOKEN"
    for path in (home / "access_token", home / "access_token.txt"):
        if path.exists() and (text := _read_text(path).strip()):
            _check_token(text, str(path))
            yield str(path)
    variables = {"username": "KAGGLE_USERNAME", "key": "KAGGLE_KEY"}
    given = {name: os.environ[variable] for name, variable in variables.items() if os.environ.get(variable)}
    key_file = _kaggle_json()
    if key_file.exists():
        try:
            stored = json.loads(_read_text(key_file))
            given = {name: stored[name] for name in variables if stored.get(name)} | given
        except (ValueError, AttributeError):
            raise CredentialsError(f"{key_file} is no JSON object.", _GET_CREDENTIALS) from None
    if len(given) == 2:
        from_variables = all(os.environ.get(variable) for variable in variables.values())
        yield "KAGGLE_USERNAME and KAGGLE_KEY" if from_variables else str(key_file)
    if (home / "credentials.json").exists():
        yield str(home / "credentials.json")
    elif len(given) == 1:
        (half,) = given
        missing = "key" if half == "username" else "username"
        raise CredentialsError(f"There is a Kaggle {half} but no {missing}.", _GET_CREDENTIALS)


_GET_CREDENTIALS = (
    "Make a token at https://www.kaggle.com/settings/api and save it as ~/.kaggle/access_token, or set "
    "KAGGLE_API_TOKEN to it."
)


def _unknown_credentials(source: str, words: str) -> CredentialsError:
    return CredentialsError(
        f"Kaggle does not accept the credentials from {source}: {words}.",
        "Make a new token at https://www.kaggle.com/settings/api and put it there.",
    )


def _check_token(text: str, source: str) -> None:
    """Refuse what the client would choke on, with the text in its message."""
    if not re.fullmatch(r"[\x21-\x7e]{1,250}", text):
        raise CredentialsError(f"What {source} holds is no token.", _GET_CREDENTIALS)


def _kaggle_json() -> Path:
    """Return where the client looks for the key file."""
    folder = Path.home() / ".kaggle"
    if os.environ.get("KAGGLE_CONFIG_DIR"):
        folder = Path(os.environ["KAGGLE_CONFIG_DIR"])
    elif sys.platform.startswith("linux") and not folder.exists():
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle"
    return folder / "kaggle.json"


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialsError(f"{path} cannot be read as text.", _GET_CREDENTIALS) from error


def _submission(entry: Any) -> Submission:
    time: datetime | None = entry.date
    status: Status = entry.status.name if entry.status is not None else "UNKNOWN"
    try:
        score = float(entry.public_score)
    except (TypeError, ValueError):
        score = None
    return Submission(
        ref=str(entry.ref),
        time=time.replace(tzinfo=UTC).isoformat(timespec="seconds") if time else "",
        description=entry.description or "",
        status=status,
        score=score,
        reason=entry.error_description or "",
        team=entry.team_name or "",
    )


@contextmanager
def _as_damage_on_the_wire() -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise NetworkError(f"The download arrived damaged: {error.problem}", _TRY_LATER) from error


def _check_size(path: Path, size: int) -> None:
    found = path.stat().st_size
    if found != size:
        raise NetworkError(
            f"The download arrived damaged: {path.name} has {found:,} bytes, Kaggle lists {size:,}.",
            _TRY_LATER,
        )


def _only_file(folder: Path) -> Path:
    """Return the one file that the client left somewhere in `folder`, under a name made from a URL."""
    files = [p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(".kaggle-partial")]
    if len(files) != 1:
        raise NetworkError("The download did not arrive.", _TRY_LATER)
    return files[0]
