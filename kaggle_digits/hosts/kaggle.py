"""Kaggle, through its official client: the only module that touches the `kaggle` package.

The client prints where it should raise, waits without end and never retries; this module gives it a clean stdout,
a deadline, and a sentence for each of its failures. Whatever of an answer is used is read inside the request, so
that invalid and damaged answers are retried like network trouble.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from copy import copy
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from kaggle_digits.errors import (
    DataError,
    KaggleDigitsError,
    NetworkError,
    NotReachedError,
    RefusedError,
    UsageError,
    WriteError,
)
from kaggle_digits.files import read_zipped, sha256, unzip, write_errors
from kaggle_digits.hosts import Standing, Status, Submission
from kaggle_digits.hosts.credentials import (
    credential_file,
    credential_source,
    room_for_the_client,
    scrub,
    unknown_credentials,
)
from kaggle_digits.workspace import FILES, SAMPLE_CSV

T = TypeVar("T")

ATTEMPTS = 4
SOCKET_TIMEOUT = 60.0
"""Seconds without a byte after which a connection counts as dropped."""
BRIEF_TIMEOUT = 10.0
"""The same where a look is repeated anyway."""
LONGEST_WAIT = 120.0
"""Seconds that the pauses between the tries of one question may come to; no server is waited for longer."""
REFUSALS = (400, 401, 403, 404)
"""Statuses with which Kaggle refuses to make a submission. Others, such as 408, 409 and 5xx, may come after it."""
LONGEST_WORDS = 300
"""Characters that are shown of what Kaggle says."""
FETCHES = 3
"""How often a file without a checksum is fetched, until it has come twice with the same bytes."""

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

        The bundle comes first: its zip carries checksums, and the client checks nothing. Where it keeps arriving
        damaged, the files are fetched one by one, which Kaggle serves by another way.
        """
        sizes = self._ask(self._sizes)
        try:
            self._ask(lambda api: self._download_bundle(api, folder, sizes))
        except _ThrottledError:
            raise
        except NetworkError:
            for name in FILES:
                self._download_file(folder, name, sizes[name])

    def try_download(self) -> None:
        """Get the smallest file and forget it: a download is refused to whoever has not accepted the rules."""
        with _scratch() as folder:
            self._ask(lambda api: api.competition_download_file(self._slug, SAMPLE_CSV, str(folder), True, True))

    def allowance(self) -> int | None:
        """Return how many submissions are left today; None for somebody who is on no team yet."""

        def numbers(api: Any) -> list[int]:
            limits = api.competition_get_submission_limits(self._slug)
            return [int(n) for n in (limits.num_allowed_now, limits.num_today, limits.num_total)]

        allowed, *used = self._ask(numbers)
        # All zero is Kaggle's answer before the first submission, not a used-up allowance.
        return allowed if allowed or any(used) else None

    def upload(self, csv: Path) -> str:
        """Upload a submission file in a single try, and return the token by which `create` names it.

        Nothing is submitted by this. The client's own `competition_submit` does both steps in one, and what goes
        wrong in the first could not be told from what goes wrong in the second.
        """
        return self._ask_once(lambda api: self._upload(api, csv))

    def create(self, upload: str, description: str) -> str:
        """Make a submission of an uploaded file, in a single try: a second one could make a second submission.

        Raises
        ------
        NetworkError
            If Kaggle may have made it: there is no answer, or none that is certainly Kaggle's refusal.
        NotReachedError
            If there was no connection to Kaggle.
        RefusedError, CredentialsError
            If Kaggle has refused it.
        """
        return self._ask_once(lambda api: self._create(api, upload, description))

    def submissions(self) -> Iterator[Submission]:
        """Yield the person's submissions, newest first; pages are asked for as they are needed."""
        seen: set[str] = set()
        page = 1
        while fresh := [s for s in self._submissions_page(page) if s.ref not in seen]:
            for submission in fresh:
                seen.add(submission.ref)
                yield submission
            page += 1

    def standing(self) -> Standing:
        """Return the rank on the public leaderboard, whose entries Kaggle drops after two months."""
        import pandas as pd

        # In a folder of its own, for the client gives it the name of the data bundle.
        with _scratch() as folder:
            self._ask(lambda api: api.competition_leaderboard_download(self._slug, str(folder)))
            with _as_damage_on_the_wire():
                content = read_zipped(_only_file(folder), "*.csv")
        try:
            board = pd.read_csv(io.BytesIO(content), encoding="utf-8-sig", dtype=str, keep_default_na=False)
            # Names of teams are not unique, those of users are.
            user = self._api.config_values.get("username")
            if user and "TeamMemberUserNames" in board:
                mine = board["TeamMemberUserNames"].map(lambda names: user in re.split(r"[,;\s]+", names))
            else:
                mine = board["TeamName"].isin({s.team for s in self.submissions() if s.team})
            if not mine.any():
                return Standing(None, len(board))
            row = int(mine.to_numpy().argmax())
            return Standing(int(board["Rank"][row]) if "Rank" in board else row + 1, len(board))
        except (ValueError, KeyError) as error:
            raise NetworkError("Kaggle's leaderboard cannot be read.", _TRY_LATER) from error

    def impatient(self) -> KaggleHost:
        """Return the same host, asked once and briefly: for looks that are repeated anyway."""
        host = copy(self)  # with the client, which is authenticated
        host._attempts, host._timeout = 1, BRIEF_TIMEOUT
        return host

    def _sizes(self, api: Any) -> dict[str, int]:
        """Return the size in bytes of each of the competition's three files."""
        sizes = {file.name: int(file.total_bytes) for file in api.competition_list_files(self._slug).files}
        missing = [name for name in FILES if name not in sizes]
        if missing:
            raise NetworkError(
                f"Kaggle's answer is not valid: its list of files has no {', '.join(missing)}.", _TRY_LATER
            )
        return sizes

    def _download_bundle(self, api: Any, folder: Path, sizes: dict[str, int]) -> None:
        with _scratch(folder) as scratch, _as_damage_on_the_wire():
            api.competition_download_files(self._slug, str(scratch), force=True, quiet=True)
            unzip(_only_file(scratch), FILES, folder)
        for name in FILES:
            _check_size(folder / name, sizes[name])

    def _download_file(self, folder: Path, name: str, size: int) -> None:
        """Download a single file: zipped, with a checksum, or plain, and then with the same bytes twice."""
        fetched: set[str] = set()
        for _ in range(FETCHES):
            digest = self._ask(lambda api: self._fetch_file(api, folder, name, size))
            if digest is None or digest in fetched:
                return
            fetched.add(digest)
        raise NetworkError(f"The download arrived damaged: {name} has other bytes each time.", _TRY_LATER)

    def _fetch_file(self, api: Any, folder: Path, name: str, size: int) -> str | None:
        """Fetch a single file; return its SHA-256, or None if it came with a checksum, which is right."""
        with _scratch(folder) as scratch, _as_damage_on_the_wire():
            api.competition_download_file(self._slug, name, str(scratch), force=True, quiet=True)
            arrived = _only_file(scratch)
            # It may arrive zipped, under whatever name.
            zipped = arrived.stat().st_size != size
            if zipped:
                unzip(arrived, (name,), folder)
            else:
                arrived.replace(folder / name)
        _check_size(folder / name, size)
        return None if zipped else sha256(folder / name)

    def _upload(self, api: Any, csv: Path) -> str:
        from kaggle.api.kaggle_api_extended import ResumableUploadResult
        from kagglesdk.competitions.types.competition_api_service import ApiStartSubmissionUploadRequest

        request = ApiStartSubmissionUploadRequest()
        request.competition_name = self._slug
        request.file_name = csv.name
        request.content_length = csv.stat().st_size
        request.last_modified_epoch_seconds = int(csv.stat().st_mtime)
        with api.build_kaggle_client() as client:
            answer = client.competitions.competition_api_client.start_submission_upload(request)
            # What goes wrong is not raised: the client prints it, with the secret address of the upload in it.
            if api.upload_complete(str(csv), answer.create_url, quiet=True) != ResumableUploadResult.COMPLETE:
                raise NetworkError(
                    "The upload of the file to Kaggle failed.",
                    "Nothing was submitted; run the same command again.",
                )
            return str(answer.token)

    def _create(self, api: Any, upload: str, description: str) -> str:
        import requests
        from kagglesdk.competitions.types.competition_api_service import ApiCreateSubmissionRequest

        request = ApiCreateSubmissionRequest()
        request.competition_name = self._slug
        request.blob_file_tokens = upload
        request.submission_description = description
        with api.build_kaggle_client() as client:
            try:
                answer = client.competitions.competition_api_client.create_submission(request)
            except requests.HTTPError as error:
                if error.response is not None and _is_refusal(error.response):
                    raise
                # A proxy or a gateway on the way may answer anything after Kaggle has made the submission.
                raise _unclear(error.response) from error
            except Exception as error:
                explained = _explained(error, self._slug)
                if _never_connected(error):
                    raise NotReachedError(explained.problem, explained.remedy) from error
                # Whatever it is, it came after the request had gone out.
                raise NetworkError(explained.problem, _TRY_LATER) from error
        if not answer.ref:
            raise NetworkError("Kaggle's answer to the submission has no reference.", _TRY_LATER)
        return str(answer.ref)

    def _submissions_page(self, page: int) -> list[Submission]:
        return self._ask(
            lambda api: [_submission(s) for s in api.competition_submissions(self._slug, page_number=page) or []]
        )

    @cached_property
    def _api(self) -> Any:
        """The authenticated client."""
        file = credential_file(credential_source())
        if file is not None:
            _warn_of_readers(file)
        with _tamed_client(self._timeout):
            try:
                api = _import_client()
                # The import swallows what goes wrong in it; asking again tells.
                if not api.config_values.get("auth_method"):
                    api.authenticate()
            except SystemExit:
                raise unknown_credentials("they are invalid or expired") from None
            except Exception as error:
                raise _explained(error, self._slug) from error
        # One layer of retries, ours, which starts a download anew: the client's goes on where a body was cut, and
        # can splice an error page into the file.
        api.download_file = partial(api.download_file, max_retries=0)
        return api

    def _ask(self, question: Callable[[Any], T]) -> T:
        """Ask Kaggle what is safe to ask twice: with capped, jittered retries on network and server trouble."""
        from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

        backoff = wait_random_exponential(multiplier=1, max=10)

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            return backoff(state) + getattr(error, "retry_after", 0.0)

        def stop(state: RetryCallState) -> bool:
            return state.attempt_number >= self._attempts or state.idle_for + state.upcoming_sleep > LONGEST_WAIT

        def may_pass(error: BaseException) -> bool:
            return isinstance(error, NetworkError)

        retrying = Retrying(retry=retry_if_exception(may_pass), stop=stop, wait=wait, reraise=True)
        answer: T = retrying(self._ask_once, question)
        return answer

    def _ask_once(self, question: Callable[[Any], T]) -> T:
        """Ask Kaggle in a single try."""
        api = self._api
        with _tamed_client(self._timeout):
            try:
                return question(api)
            except Exception as error:
                raise _explained(error, self._slug) from error


@contextmanager
def _tamed_client(timeout: float) -> Iterator[None]:
    """Keep the client's prints off stdout, and its waits for a byte bounded."""
    from requests.adapters import HTTPAdapter
    from urllib3 import Retry

    send = HTTPAdapter.send

    def send_in_time(adapter: Any, request: Any, **options: Any) -> Any:
        adapter.max_retries = Retry(0, read=False)
        return send(adapter, request, **options | {"timeout": timeout})

    # The client mostly sets no timeout, gives an upload ten tries, and offers no place to set either.
    HTTPAdapter.send = send_in_time  # type: ignore[method-assign, assignment]
    try:
        with room_for_the_client(), redirect_stdout(io.StringIO()):
            yield
    finally:
        HTTPAdapter.send = send  # type: ignore[method-assign]


@cache
def _warn_of_readers(path: Path) -> None:
    """Say once, on stderr unless logging goes elsewhere, that others can read a file of credentials."""
    if path.stat().st_mode & 0o044:
        logging.getLogger(__name__).warning(
            "Other users of this machine can read %s. Keep them out: chmod 600 %s", path, shlex.quote(str(path))
        )


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
    """The server asks for fewer requests, or for a pause of `retry_after` seconds."""

    def __init__(self, problem: str, remedy: str, retry_after: float = 0.0) -> None:
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
    if isinstance(error, json.JSONDecodeError | requests.JSONDecodeError):
        found = "a web page" if error.doc.lstrip().startswith("<") else "something else"
        return NetworkError(
            f"Kaggle's answer is not valid: it is {found} instead of JSON.",
            "See in a browser whether this network asks you to sign in first, then run the same command again.",
        )
    if isinstance(
        error, requests.RequestException | urllib3.exceptions.HTTPError | ConnectionError | TimeoutError
    ):
        return NetworkError(f"Kaggle cannot be reached: {type(error).__name__}.", _TRY_LATER)
    if isinstance(error, OSError):
        # What fails to be written has an errno.
        if error.errno is None and (variable := _missing_certificates()):
            # Neither Kaggle nor the network is at fault, and no other try would go better: it is wrong usage.
            return UsageError(
                f"There is no {os.environ[variable]}, where {variable} says that certificates are.",
                f"Unset {variable}, or set it to a file of certificates that exists.",
            )
        return WriteError(
            f"Cannot write {error.filename or 'the download'}: {error.strerror or error}.",
            "Free some space or fix the permissions of the folder, then run the same command again.",
        )
    # What the client makes of an answer that isn't the API's, or of a file that is too short. Its words may hold a
    # secret, so they are for --debug.
    return NetworkError(f"Kaggle's client cannot read Kaggle's answer: {type(error).__name__}.", _TRY_LATER)


def _missing_certificates() -> str | None:
    """Return the variable that makes requests look for certificates where there is nothing, if one does."""
    # Not SSL_CERT_FILE, which requests passes over.
    used = next(filter(os.environ.get, ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")), None)
    return used if used and not os.path.exists(os.environ[used]) else None


def _explained_status(response: Any, slug: str) -> KaggleDigitsError:
    status, words = response.status_code, _kaggles_words(response)
    pause = _pause_asked_for(response.headers.get("Retry-After", ""))
    if status == 401:
        return unknown_credentials(words)
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
        return _ThrottledError(
            f"Kaggle asks for fewer requests: {words}.", "Wait a while, then try again.", pause or 0.0
        )
    if status >= 500:
        problem = f"Kaggle has trouble of its own (status {status}): {words}."
        return NetworkError(problem, _TRY_LATER) if pause is None else _ThrottledError(problem, _TRY_LATER, pause)
    return RefusedError(f"Kaggle refuses (status {status}): {words}.", "Fix what it names, then try again.")


def _is_refusal(response: Any) -> bool:
    """Tell whether an answer is certainly Kaggle's own refusal: a status that it refuses with, in its own form."""
    try:
        document = response.json()
    except ValueError:
        return False
    form = document.get("error", document) if isinstance(document, dict) else None
    if not isinstance(form, dict) or not isinstance(form.get("message"), str):
        return False
    # The client takes a code in the body for the status too, whatever the status line says.
    return form.get("code") in REFUSALS and response.status_code in (200, form["code"])


def _never_connected(error: BaseException | None) -> bool:
    """Tell whether a request failed before there was a connection that it could have gone out by."""
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

    # The client's library wraps them, as arguments and as causes, several times over.
    while error is not None:
        reason = getattr(error, "reason", None) or getattr(error, "original_error", None)
        inner = reason if isinstance(reason, BaseException) else next(iter(error.args), None)
        if isinstance(error, NewConnectionError | ConnectTimeoutError):
            return True
        error = inner if isinstance(inner, BaseException) else None
    return False


def _unclear(response: Any) -> NetworkError:
    """Return the error of an answer that leaves open whether a submission was made."""
    if response is None:
        return NetworkError("Kaggle's answer to the submission is unclear.", _TRY_LATER)
    words = _kaggles_words(response)
    return NetworkError(
        f"The answer to the submission is unclear (status {response.status_code}): {words}.", _TRY_LATER
    )


def _pause_asked_for(retry_after: str) -> float | None:
    """Return the seconds in a Retry-After header, a number or a date, or None if it has neither."""
    with suppress(ValueError):
        seconds = float(retry_after)
        return seconds if seconds >= 0 else None
    with suppress(ValueError):
        date = parsedate_to_datetime(retry_after)
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return max(0.0, (date - datetime.now(UTC)).total_seconds())
    return None


def _kaggles_words(response: Any) -> str:
    """Return what the server says in the body of an error, which the client's own exceptions leave out."""
    import requests

    try:
        text = response.text.strip()
    except requests.RequestException:
        return "its answer was cut off"
    words = ""
    with suppress(RecursionError):  # a document without a bottom
        words = _message(text)
    return _shortened(_line(words or response.reason or "no reason given"))


def _message(document: Any) -> str:
    """Return the words in what a server answers an error with, as text or parsed; empty if it has none."""
    if isinstance(document, str):
        try:
            parsed = json.loads(document)
        except ValueError:
            # A web page, or a document that is damaged or written by Python, is nothing for a person to read.
            return "" if document.lstrip().startswith(("<", "{", "[")) else document
        return _message(parsed)
    if isinstance(document, list):
        return "; ".join(words.rstrip(".") for words in map(_message, document) if words)
    if isinstance(document, dict):
        return next(filter(None, (_message(document.get(name)) for name in ("message", "error", "errors"))), "")
    return ""


def _shortened(words: str) -> str:
    """Return a line without its full stop, cut after a word if it is longer than `LONGEST_WORDS`."""
    if len(words) > LONGEST_WORDS:
        start = words[: LONGEST_WORDS - 1]
        words = (start.rpartition(" ")[0] or start).rstrip(" .,;:") + "…"
    return words.rstrip(".")


def _line(text: str) -> str:
    """Return a server's words without secrets and control characters, in one line."""
    return " ".join(scrub(text).split())


def _submission(entry: Any) -> Submission:
    time: datetime | None = entry.date
    status: Status = entry.status.name if entry.status is not None else "UNKNOWN"
    return Submission(
        ref=str(entry.ref),
        time=time.replace(tzinfo=UTC).isoformat(timespec="seconds") if time else "",
        description=str(entry.description or ""),
        status=status,
        score=_score(entry.public_score),
        reason=_line(str(entry.error_description or "")),
        team=str(entry.team_name or ""),
        file_name=str(entry.file_name or ""),
    )


def _score(text: Any) -> float | None:
    """Return the accuracy that a server's text stands for, or None if it stands for none."""
    try:
        score = float(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return score if 0 <= score <= 1 else None


@contextmanager
def _scratch(folder: Path | None = None) -> Iterator[Path]:
    """Yield an empty folder for what the client leaves, inside `folder` or in the system's temporary one."""
    with write_errors(folder or Path("into the temporary folder")):
        scratch = tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True)
    with scratch as name:
        yield Path(name)


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
