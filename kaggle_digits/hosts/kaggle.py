"""Kaggle as a host, through its official client. Only this module imports the `kaggle` package.

The client prints some errors instead of raising them, has no timeouts and does not retry. This module keeps stdout
clean, sets timeouts and turns failures into errors of this package. Responses are parsed inside the function that
is retried, so that a response that is not valid is retried like a network error.
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
from contextlib import closing, contextmanager, redirect_stdout, suppress
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

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
    HIDDEN,
    client_variables,
    credential_file,
    credential_source,
    is_readable_by_others,
    rejected_credentials,
    scrub,
    set_variables,
    usable_home,
)
from kaggle_digits.workspace import FILES, SAMPLE_CSV

T = TypeVar("T")

ATTEMPTS = 4
SOCKET_TIMEOUT = 60.0
"""Seconds without data after which a connection counts as dropped."""
BRIEF_TIMEOUT = 10.0
"""The same for polling, where the next poll follows soon."""
LOG_TIMEOUT = 30.0
"""The same for the log of a kernel, which has a new line every ten seconds while it trains."""
OUTPUT_PAGE = 200
"""How many files of the output of a kernel are listed in one request."""
LONGEST_WAIT = 120.0
"""Maximum total of the pauses between the retries of one request, in seconds."""
REFUSALS = (400, 401, 403, 404, 429)
"""Status codes that mean that no submission was made. After others, such as 408 and 5xx, it may have been made."""
LONGEST_MESSAGE = 300
"""Maximum length of a message from Kaggle that is shown, in characters."""
FETCHES = 3
"""Maximum number of downloads of a file without a checksum, until two of them have the same content."""

_TRY_LATER = "Check the network and Kaggle's status, then try again."


class _Client:
    """An authenticated client of Kaggle for a competition, and its requests with this package's errors.

    Requests that are safe to repeat are tried up to `attempts` times after network and server errors. A connection
    without data for `timeout` seconds counts as dropped.
    """

    def __init__(self, slug: str, attempts: int = ATTEMPTS, timeout: float = SOCKET_TIMEOUT) -> None:
        self._slug = slug
        self._attempts = attempts
        self._timeout = timeout

    @cached_property
    def _api(self) -> Any:
        """The authenticated client."""
        file = credential_file(credential_source())
        if file is not None:
            _warn_if_readable_by_others(file)
        with _client_settings(self._timeout):
            try:
                api = _authenticated_client()
            except SystemExit:
                raise rejected_credentials("they are invalid or expired") from None
            except Exception as error:
                raise _translated(error, self._slug) from error
        # Disable the client's own retries. They resume an interrupted download and may append an error page to
        # the file; the retries of this class start the download again.
        api.download_file = partial(api.download_file, max_retries=0)
        return api

    def _request(self, call: Callable[[Any], T]) -> T:
        """Make a request that is safe to repeat, with jittered retries after network and server errors."""
        from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

        backoff = wait_random_exponential(multiplier=1, max=10)

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            return backoff(state) + getattr(error, "retry_after", 0.0)

        def stop(state: RetryCallState) -> bool:
            return state.attempt_number >= self._attempts or state.idle_for + state.upcoming_sleep > LONGEST_WAIT

        def is_retryable(error: BaseException) -> bool:
            return isinstance(error, NetworkError)

        retrying = Retrying(retry=retry_if_exception(is_retryable), stop=stop, wait=wait, reraise=True)
        result: T = retrying(self._request_once, call)
        return result

    def _request_once(self, call: Callable[[Any], T]) -> T:
        """Make a request without retries."""
        api = self._api
        with _client_settings(self._timeout):
            try:
                return call(api)
            except Exception as error:
                raise self._explained(error) from error

    def _explained(self, error: Exception) -> KaggleDigitsError:
        """Return the error of this package for an exception from the client."""
        return _translated(error, self._slug)


class KaggleHost(_Client):
    """A competition at Kaggle: see `kaggle_digits.hosts.Host` for the methods, `_Client` for the parameters."""

    def download(self, folder: Path) -> None:
        """Download the files and check their sizes against Kaggle's list of files.

        The bundle is tried first, because its zip file has checksums and the client checks nothing. If it is still
        damaged after all retries, the files are downloaded one by one, from other URLs.
        """
        sizes = self._request(self._sizes)
        try:
            self._request(lambda api: self._download_bundle(api, folder, sizes))
        except _ThrottledError:
            raise
        except NetworkError:
            for name in FILES:
                self._download_file(folder, name, sizes[name])

    def try_download(self) -> None:
        """Download the smallest file and discard it. Kaggle refuses this if the rules have not been accepted."""
        with _temporary_folder() as folder:
            self._request(
                lambda api: api.competition_download_file(self._slug, SAMPLE_CSV, str(folder), True, True)
            )

    def allowance(self) -> int | None:
        """Return how many submissions are left today, or None if the user has no team yet."""

        def numbers(api: Any) -> list[int]:
            limits = api.competition_get_submission_limits(self._slug)
            return [int(n) for n in (limits.num_allowed_now, limits.num_today, limits.num_total)]

        allowed, *used = self._request(numbers)
        # Before the first submission, Kaggle returns zero for all numbers. This is not a used-up limit.
        return allowed if allowed or any(used) else None

    def upload(self, csv: Path) -> str:
        """Upload a submission file, without retries, and return the token for `create`.

        This submits nothing. The client's own `competition_submit` does both steps in one call, so that an error
        would not say whether a submission may have been made.
        """
        return self._request_once(lambda api: self._upload(api, csv))

    def create(self, upload: str, description: str) -> str:
        """Make a submission of an uploaded file, without retries: a retry could make a second submission.

        A `NetworkError` means that Kaggle may have made it: there is no response, or it is not clearly a refusal
        by Kaggle.
        """
        return self._request_once(lambda api: self._create(api, upload, description))

    def submissions(self) -> Iterator[Submission]:
        """Yield the user's submissions, newest first. Pages are requested as they are needed."""
        seen: set[str] = set()
        page = 1
        while fresh := [s for s in self._submissions_page(page) if s.ref not in seen]:
            for submission in fresh:
                seen.add(submission.ref)
                yield submission
            page += 1

    def standing(self) -> Standing:
        """Return the rank on the public leaderboard. Kaggle removes entries after two months."""
        import pandas as pd

        # In a separate folder, because the client gives the file the same name as the data bundle.
        with _temporary_folder() as folder:
            self._request(lambda api: api.competition_leaderboard_download(self._slug, str(folder)))
            with _as_damaged_download():
                content = read_zipped(_only_file(folder), "*.csv")
        try:
            board = pd.read_csv(io.BytesIO(content), encoding="utf-8-sig", dtype=str, keep_default_na=False)
            # Team names are not unique, user names are.
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

    def without_retries(self) -> KaggleHost:
        """Return the same host with a short timeout and no retries, for polling."""
        host = copy(self)  # shares the authenticated client
        host._attempts, host._timeout = 1, BRIEF_TIMEOUT
        return host

    def _sizes(self, api: Any) -> dict[str, int]:
        """Return the size in bytes of each of the competition's three files."""
        sizes = {file.name: int(file.total_bytes) for file in api.competition_list_files(self._slug).files}
        missing = [name for name in FILES if name not in sizes]
        if missing:
            raise NetworkError(
                f"Kaggle's response is not valid: its list of files has no {', '.join(missing)}.", _TRY_LATER
            )
        return sizes

    def _download_bundle(self, api: Any, folder: Path, sizes: dict[str, int]) -> None:
        with _temporary_folder(folder) as temporary, _as_damaged_download():
            api.competition_download_files(self._slug, str(temporary), force=True, quiet=True)
            unzip(_only_file(temporary), FILES, folder)
        for name in FILES:
            _check_size(folder / name, sizes[name])

    def _download_file(self, folder: Path, name: str, size: int) -> None:
        """Download a single file. If it is not zipped, it has no checksum: repeat until two copies are equal."""
        digests: set[str] = set()
        for _ in range(FETCHES):
            digest = self._request(lambda api: self._download_once(api, folder, name, size))
            if digest is None or digest in digests:
                return
            digests.add(digest)
        raise NetworkError(f"The download is damaged: {name} has different content each time.", _TRY_LATER)

    def _download_once(self, api: Any, folder: Path, name: str, size: int) -> str | None:
        """Download a single file once; return its SHA-256, or None if it was zipped and its checksum is valid."""
        with _temporary_folder(folder) as temporary, _as_damaged_download():
            api.competition_download_file(self._slug, name, str(temporary), force=True, quiet=True)
            downloaded = _only_file(temporary)
            # Kaggle may send it zipped, under any name.
            zipped = downloaded.stat().st_size != size
            if zipped:
                unzip(downloaded, (name,), folder)
            else:
                downloaded.replace(folder / name)
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
            response = client.competitions.competition_api_client.start_submission_upload(request)
            # The client does not raise upload errors: it prints them, with the secret URL of the upload.
            if api.upload_complete(str(csv), response.create_url, quiet=True) != ResumableUploadResult.COMPLETE:
                raise NetworkError(
                    "The upload of the file to Kaggle failed.",
                    "Nothing was submitted; try again.",
                )
            return str(response.token)

    def _create(self, api: Any, upload: str, description: str) -> str:
        from kagglesdk.competitions.types.competition_api_service import ApiCreateSubmissionRequest

        request = ApiCreateSubmissionRequest()
        request.competition_name = self._slug
        request.blob_file_tokens = upload
        request.submission_description = description
        with api.build_kaggle_client() as client:
            create = client.competitions.competition_api_client.create_submission
            response = _sent_once(lambda: create(request), self._slug, "to the submission")
        if not response.ref:
            raise NetworkError("Kaggle's response to the submission has no reference.", _TRY_LATER)
        return str(response.ref)

    def _submissions_page(self, page: int) -> list[Submission]:
        return self._request(
            lambda api: [_submission(s) for s in api.competition_submissions(self._slug, page_number=page) or []]
        )


KernelState = Literal["QUEUED", "RUNNING", "COMPLETE", "ERROR", "CANCELLED", "NOT_FOUND", "UNKNOWN"]
_STATES: dict[str, KernelState] = {
    "NEW_SCRIPT": "QUEUED",
    "CANCEL_REQUESTED": "RUNNING",  # it ends soon
    "CANCEL_ACKNOWLEDGED": "CANCELLED",
}
"""Kaggle's states that have another name here."""
SESSION_TIMEOUT = 9 * 3600
"""Seconds after which Kaggle ends a kernel, an hour after it starts no more folds."""


@dataclass(frozen=True)
class KernelStatus:
    """The status of a kernel at Kaggle."""

    state: KernelState  # UNKNOWN if Kaggle's response says nothing about the kernel
    words: str = ""  # why it failed, or why its state is unknown


@dataclass(frozen=True)
class GpuHours:
    """The user's weekly GPU quota."""

    left: float  # hours
    total: float  # hours per week
    reset: datetime | None  # when the next week starts, in UTC

    def as_json(self) -> dict[str, Any]:
        """Return the quota for JSON; the time of the reset is in ISO 8601."""
        reset = self.reset and self.reset.isoformat(timespec="seconds")
        return {"left": round(self.left, 2), "total": round(self.total, 2), "reset": reset}

    def describe(self) -> str:
        """Return a sentence with the hours and the time of the reset."""
        reset = f", and the quota is reset on {self.reset:%Y-%m-%d at %H:%M} UTC" if self.reset else ""
        return f"{self.left:.1f} of {self.total:.0f} GPU hours are left this week{reset}."


class SessionLimitError(RefusedError):
    """The user runs as many kernels as Kaggle allows at the same time."""


class NotDeletedError(NetworkError):
    """Kaggle did not confirm that a kernel was deleted, so it may still run."""


class KernelNotFoundError(RefusedError):
    """Kaggle says that there is no such kernel, or that the user may not see it; it does not distinguish these."""


class KaggleKernels(_Client):
    """The user's kernels (notebooks and scripts) at Kaggle: see `_Client` for its parameters.

    A kernel is called by its slug, the last part of its address.
    """

    def user(self) -> str:
        """Return the user's name at Kaggle."""
        name = self._api.config_values.get("username")
        if not name:
            raise rejected_credentials("they have no user name")
        return str(name)

    def address(self, slug: str) -> str:
        """Return the address of a kernel's page."""
        return f"https://www.kaggle.com/code/{self.user()}/{slug}"

    def push(self, slug: str, source: str, gpu: bool) -> None:
        """Create a private script kernel and start it, without retries: a retry could start a second session.

        Its slug must be new, because a push to an existing kernel starts a second session. With `gpu` it gets two
        T4 GPUs; without, it uses no quota. A `NetworkError` means that Kaggle may have started it, a
        `NotDeletedError` that Kaggle refused it after it was created, and did not confirm that it was deleted.
        """
        response = self._request_once(lambda api: self._push(api, slug, source, gpu))
        if response.invalid_competition_sources:
            self.delete(slug)
            raise RefusedError(
                f"Kaggle does not let a kernel use the data of {self._slug}.",
                f"Accept the rules at https://www.kaggle.com/competitions/{self._slug}/rules, then try again.",
            )
        if words := _shortened(_line(str(response.error or ""))):
            if "session count" in words:
                raise SessionLimitError(
                    f"Kaggle refuses the kernel: {words}.", "Wait until one of your kernels has ended."
                )
            if gpu and "quota" in words.lower():
                with suppress(KaggleDigitsError):
                    words += f". {self.gpu_hours().describe()}".rstrip(".")
                raise RefusedError(
                    f"Kaggle refuses the kernel: {words}.",
                    "Wait for the reset, or train without GPUs: --on kaggle-cpu.",
                )
            raise RefusedError(
                f"Kaggle refuses the kernel: {words}.", "Fix what the message names, then try again."
            )
        # For example from a proxy. It does not say that Kaggle has the kernel.
        if not (response.ref or response.url or response.version_number):
            raise NetworkError("Kaggle's response to the kernel is empty.", _TRY_LATER)

    def status(self, slug: str) -> KernelStatus:
        """Return the status of a kernel, from a single request. After most errors, it is unknown."""
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelSessionStatusRequest

        def status(api: Any) -> KernelStatus:
            request = ApiGetKernelSessionStatusRequest()
            request.user_name, request.kernel_slug = self.user(), slug
            with api.build_kaggle_client() as client:
                response = client.kernels.kernels_api_client.get_kernel_session_status(request)
            name = response.status.name
            return KernelStatus(_STATES.get(name, name), _line(str(response.failure_message or "")))

        try:
            return self._request_once(status)
        except KernelNotFoundError as error:
            return KernelStatus("NOT_FOUND", error.problem)
        except (NetworkError, RefusedError) as error:
            return KernelStatus("UNKNOWN", error.problem)

    def log_lines(self, slug: str) -> Iterator[str]:
        """Yield the lines of a running kernel's log, from its start on, until the stream ends or fails."""
        follower = copy(self)  # shares the authenticated client
        follower._timeout = LOG_TIMEOUT
        try:
            with closing(self._api.kernels_logs_stream(f"{self.user()}/{slug}")) as stream:
                while (event := follower._request_once(lambda api: next(stream, None))) is not None:
                    yield from str(event["data"]).splitlines()
        # The log is only shown. Whatever is wrong with it must not end a training.
        except Exception:
            logging.getLogger(__name__).debug("The log of %s is not available.", slug, exc_info=True)

    def output(self, slug: str, name: str, folder: Path) -> tuple[Path | None, str]:
        """Download one file of a kernel's output; return its path, None if there is none, and the kernel's log.

        Its content is not checked: Kaggle's client saves the page of an error as the file.
        """
        # The client joins names from the server to the folder. The pattern lets only the wanted name pass, so a
        # name with a path cannot write outside of the folder.
        pattern = rf"\A{re.escape(name)}\Z"

        def fetch(api: Any) -> None:
            kernel = f"{self.user()}/{slug}"
            try:
                api.kernels_output(kernel, str(folder), pattern, force=True, quiet=True, page_size=OUTPUT_PAGE)
            except ValueError as error:
                # The client raises it instead of the error with status 401 or 403.
                if str(error).startswith("Cannot access kernel"):
                    raise _kernel_not_found(403, "permission denied") from error
                raise

        self._request(fetch)
        path, log = folder / name, folder / f"{slug}.log"
        return path if path.is_file() else None, _log_text(log.read_text(errors="replace") if log.exists() else "")

    def delete(self, slug: str) -> None:
        """Delete a kernel, which also ends its session; `NotDeletedError` if Kaggle does not confirm it."""
        from kagglesdk.kernels.types.kernels_api_service import ApiDeleteKernelRequest

        def delete(api: Any) -> str:
            request = ApiDeleteKernelRequest()
            request.user_name, request.kernel_slug = self.user(), slug
            with api.build_kaggle_client() as client:
                response = client.kernels.kernels_api_client.delete_kernel(request)
            # The client ignores this message and reports success.
            return str(getattr(response, "error_message", None) or "")

        try:
            why = self._request(delete)
        except KernelNotFoundError as error:
            # It is gone if its status says the same; otherwise the user may not delete it.
            why = "" if self.status(slug).state == "NOT_FOUND" else error.problem
        except (NetworkError, RefusedError) as error:
            why = error.problem
        if why:
            raise NotDeletedError(
                f"Kaggle did not confirm that the kernel {slug} was deleted: {_line(why).rstrip('.')}.",
                f"It may still run; delete it at {self.address(slug)}, or try again.",
            )

    def gpu_hours(self) -> GpuHours:
        """Return the user's weekly GPU quota."""

        def hours(api: Any) -> GpuHours:
            # The attributes, because `to_dict` drops whole days.
            answer = api.quota_view()
            used, total = (
                time.total_seconds() / 3600 if time else 0.0
                for time in (answer.gpu_quota.time_used, answer.gpu_quota.total_time_allowed)
            )
            return GpuHours(max(0.0, total - used), total, answer.quota_refresh_time)

        return self._request(hours)

    def _explained(self, error: Exception) -> KaggleDigitsError:
        """Return the error of this package, with words about kernels where the client's error has a response."""
        import requests

        if not isinstance(error, requests.HTTPError) or error.response is None:
            return super()._explained(error)
        status, words = error.response.status_code, _error_message(error.response)
        if status in (403, 404) and _is_refusal(error.response):
            return _kernel_not_found(status, words)
        if 400 <= status < 500 and status not in (401, 429):
            return RefusedError(
                f"Kaggle refuses the request (status {status}): {words}.",
                "Fix what the message names, then try again.",
            )
        return super()._explained(error)

    def _push(self, api: Any, slug: str, source: str, gpu: bool) -> Any:
        from kagglesdk.kernels.types.kernels_api_service import ApiSaveKernelRequest

        request = ApiSaveKernelRequest()
        request.slug, request.new_title = f"{self.user()}/{slug}", slug
        request.text, request.language, request.kernel_type = source, "python", "script"
        request.is_private, request.enable_internet = True, False
        request.competition_data_sources = [self._slug]
        request.enable_gpu = gpu
        if gpu:
            request.machine_shape = "NvidiaTeslaT4"
        request.session_timeout_seconds = SESSION_TIMEOUT
        with api.build_kaggle_client() as client:
            return _sent_once(
                lambda: client.kernels.kernels_api_client.save_kernel(request), self._slug, "to the kernel"
            )


@contextmanager
def _client_settings(timeout: float) -> Iterator[None]:
    """Redirect the client's output, and set a timeout and no retries for its requests."""
    from requests.adapters import HTTPAdapter
    from urllib3 import Retry

    send = HTTPAdapter.send

    def send_with_timeout(adapter: Any, request: Any, **options: Any) -> Any:
        adapter.max_retries = Retry(0, read=False)
        return send(adapter, request, **options | {"timeout": timeout})

    # The client mostly sets no timeout, tries an upload ten times, and has no setting for either.
    HTTPAdapter.send = send_with_timeout  # type: ignore[method-assign, assignment]
    try:
        with usable_home(), redirect_stdout(io.StringIO()):
            yield
    finally:
        HTTPAdapter.send = send  # type: ignore[method-assign]


@cache
def _warn_if_readable_by_others(path: Path) -> None:
    """Log a warning, once per file, if other users can read a file with credentials."""
    if is_readable_by_others(path):
        logging.getLogger(__name__).warning(
            "Other users of this machine can read %s. Fix its permissions with: chmod 600 %s",
            path,
            shlex.quote(str(path)),
        )


def _authenticated_client() -> Any:
    """Return the client's `KaggleApi` object, which authenticates when it is imported."""
    with set_variables(client_variables()):
        import kaggle

        # The import hides authentication errors; authenticating again raises them.
        if not kaggle.api.config_values.get("auth_method"):
            kaggle.api.authenticate()
    return kaggle.api


class _ThrottledError(NetworkError):
    """The server asks for fewer requests, or for a pause of `retry_after` seconds (rate limit)."""

    def __init__(self, problem: str, remedy: str, retry_after: float = 0.0) -> None:
        super().__init__(problem, remedy)
        self.retry_after = retry_after


def _translated(error: Exception, slug: str) -> KaggleDigitsError:
    """Return the error of this package for an exception from the client."""
    import requests
    import urllib3

    if isinstance(error, KaggleDigitsError):
        return error
    # A response is false when its status is an error, so compare with None.
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return _status_error(error.response, slug)
    if isinstance(error, json.JSONDecodeError | requests.JSONDecodeError):
        found = "a web page" if error.doc.lstrip().startswith("<") else "other content"
        return NetworkError(
            f"Kaggle's response is not valid: it is {found} instead of JSON.",
            "Check in a browser whether this network requires you to sign in first, then try again.",
        )
    if isinstance(
        error, requests.RequestException | urllib3.exceptions.HTTPError | ConnectionError | TimeoutError
    ):
        return _proxy_error(error) or NetworkError(
            f"Kaggle cannot be reached: {type(error).__name__}.", _TRY_LATER
        )
    if isinstance(error, OSError):
        # Errors while writing a file have an errno; the client's library raises OSError without one.
        if error.errno is None and (variable := _missing_certificates()):
            # A retry cannot succeed before the variable is changed, so this is not a network error.
            return UsageError(
                f"The file of certificates that {variable} names does not exist: {os.environ[variable]}.",
                f"Unset {variable}, or set it to a file of certificates that exists.",
            )
        return WriteError(
            f"Cannot write {error.filename or 'the download'}: {error.strerror or error}.",
            "Free some space or fix the permissions of the folder, then run the same command again.",
        )
    # The client raises such errors for responses that are not from the API and for files that are too short. The
    # message may contain a secret, so only --debug shows it.
    return NetworkError(f"Kaggle's client cannot read the response: {type(error).__name__}.", _TRY_LATER)


def _proxy_error(error: Exception) -> KaggleDigitsError | None:
    """Return the error that names the variable of a proxy that cannot be used; None if that is not the reason."""
    from requests.exceptions import InvalidSchema, InvalidURL, ProxyError
    from requests.utils import get_environ_proxies, select_proxy

    url = getattr(getattr(error, "request", None), "url", None) or "https://api.kaggle.com"
    proxy = select_proxy(url, get_environ_proxies(url))
    if proxy is None:
        return None
    # There are two variables for each scheme, in upper and lower case, and several may have the same value.
    variables = [name for name, value in os.environ.items() if value == proxy and name.lower().endswith("_proxy")]
    place = " and ".join(variables) or "the system's settings"
    address = re.sub(r"^(\w+://)?.*@", rf"\1{HIDDEN}@", proxy)
    if isinstance(error, InvalidURL | InvalidSchema):
        return UsageError(
            f"The proxy in {place} is not a valid address: {address}.",
            "Set it to an address such as http://proxy.example.org:3128, or unset it.",
        )
    if isinstance(error, ProxyError) or _never_connected(error):
        return NetworkError(
            f"Kaggle cannot be reached through the proxy in {place}: {address}.",
            "Correct its address or password, or unset it; if it is right, check the network.",
        )
    return None


def _missing_certificates() -> str | None:
    """Return the variable that names a missing file of certificates for requests, or None."""
    # Not SSL_CERT_FILE, which requests ignores.
    used = next(filter(os.environ.get, ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")), None)
    return used if used and not os.path.exists(os.environ[used]) else None


def _status_error(response: Any, slug: str) -> KaggleDigitsError:
    status, words = response.status_code, _error_message(response)
    pause = _parse_retry_after(response.headers.get("Retry-After", ""))
    if status == 401:
        return rejected_credentials(words)
    if status == 403:
        return RefusedError(
            f"Kaggle refuses the request: {words}.",
            "If you have not joined the competition yet, accept its rules at "
            f"https://www.kaggle.com/competitions/{slug}/rules, then try again.",
        )
    if status == 404:
        return RefusedError(
            f"Kaggle does not know the competition {slug!r}: {words}.",
            "Check the name with: kaggle competitions list --search digit.",
        )
    if status == 429:
        return _ThrottledError(
            f"Kaggle asks for fewer requests: {words}.", "Wait a few minutes, then try again.", pause or 0.0
        )
    if status >= 500:
        problem = f"Kaggle's server reports an error (status {status}): {words}."
        return NetworkError(problem, _TRY_LATER) if pause is None else _ThrottledError(problem, _TRY_LATER, pause)
    return RefusedError(
        f"Kaggle refuses the request (status {status}): {words}.", "Fix what the message names, then try again."
    )


def _is_refusal(response: Any) -> bool:
    """Return whether a response is clearly a refusal by Kaggle: one of `REFUSALS`, with Kaggle's JSON format."""
    try:
        document = response.json()
    except ValueError:
        return False
    content = document.get("error", document) if isinstance(document, dict) else None
    if not isinstance(content, dict) or not isinstance(content.get("message"), str):
        return False
    # The client also treats a code in the body as the status, whatever the status line says.
    return content.get("code") in REFUSALS and response.status_code in (200, content["code"])


def _never_connected(error: BaseException | None) -> bool:
    """Return whether a request failed before a connection was made, so that it cannot have been sent."""
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

    # requests and urllib3 wrap the original error several times, as an argument or as an attribute.
    while error is not None:
        reason = getattr(error, "reason", None) or getattr(error, "original_error", None)
        inner = reason if isinstance(reason, BaseException) else next(iter(error.args), None)
        if isinstance(error, NewConnectionError | ConnectTimeoutError):
            return True
        error = inner if isinstance(inner, BaseException) else None
    return False


def _kernel_not_found(status: int, words: str) -> KernelNotFoundError:
    return KernelNotFoundError(
        f"Kaggle does not know the kernel, or refuses access to it (status {status}): {words}.",
        "Check that the credentials are those of the account that sent it, and that the competition's rules are "
        "accepted; then try again.",
    )


def _sent_once(send: Callable[[], T], slug: str, to_what: str) -> T:
    """Send a request that must not be repeated, and tell a refusal from an unclear response.

    A `NetworkError` means that it may have been carried out, a `NotReachedError` that no connection was made, and
    `requests.HTTPError` or a `RefusedError` that Kaggle clearly refused it.
    """
    import requests

    try:
        return send()
    except requests.HTTPError as error:
        if error.response is not None and _is_refusal(error.response):
            refusal = _status_error(error.response, slug)
            if isinstance(refusal, NetworkError):  # 429: would mean that it may have been carried out
                raise RefusedError(*refusal.args) from error
            raise
        # A proxy or gateway may have sent this response after Kaggle has carried out the request.
        raise _unclear_response(error.response, to_what) from error
    except Exception as error:
        explained = _translated(error, slug)
        if _never_connected(error):
            raise NotReachedError(explained.problem, explained.remedy) from error
        # The error occurred after the request was sent, so it may have been carried out.
        raise NetworkError(explained.problem, _TRY_LATER) from error


def _unclear_response(response: Any, to_what: str) -> NetworkError:
    """Return the error for a response that does not say whether the request was carried out."""
    if response is None:
        return NetworkError(f"Kaggle's response {to_what} is unclear.", _TRY_LATER)
    words = _error_message(response)
    return NetworkError(f"The response {to_what} is unclear (status {response.status_code}): {words}.", _TRY_LATER)


def _parse_retry_after(retry_after: str) -> float | None:
    """Return the seconds in a Retry-After header, which has a number or a date; None if it is not valid."""
    with suppress(ValueError):
        seconds = float(retry_after)
        return seconds if seconds >= 0 else None
    with suppress(ValueError):
        date = parsedate_to_datetime(retry_after)
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return max(0.0, (date - datetime.now(UTC)).total_seconds())
    return None


def _error_message(response: Any) -> str:
    """Return the message in the body of an error response, which the client's exceptions do not include."""
    import requests

    try:
        text = response.text.strip()
    except requests.RequestException:
        return "the response is incomplete"
    words = ""
    with suppress(RecursionError):  # JSON that is nested too deeply
        words = _message(text)
    return _shortened(_line(words or response.reason or "no reason given"))


def _message(document: Any) -> str:
    """Return the message in the body of an error response, given as text or parsed JSON; empty if it has none."""
    if isinstance(document, str):
        try:
            parsed = json.loads(document)
        except ValueError:
            # Do not show web pages, damaged JSON or the text of Python objects to the user.
            return "" if document.lstrip().startswith(("<", "{", "[")) else document
        return _message(parsed)
    if isinstance(document, list):
        return "; ".join(words.rstrip(".") for words in map(_message, document) if words)
    if isinstance(document, dict):
        return next(filter(None, (_message(document.get(name)) for name in ("message", "error", "errors"))), "")
    return ""


def _shortened(words: str) -> str:
    """Return a line without its full stop, shortened at a word boundary if it is longer than `LONGEST_MESSAGE`."""
    if len(words) > LONGEST_MESSAGE:
        start = words[: LONGEST_MESSAGE - 1]
        words = (start.rpartition(" ")[0] or start).rstrip(" .,;:") + "…"
    return words.rstrip(".")


def _line(text: str) -> str:
    """Return a server's message in one line, without secrets and control characters."""
    return " ".join(scrub(text).split())


def _log_text(log: str) -> str:
    """Return the text of a kernel's log, which Kaggle sends as JSON: a list of pieces of output."""
    try:
        return "\n".join(str(piece["data"]).removesuffix("\n") for piece in json.loads(log))
    except (ValueError, TypeError, KeyError, RecursionError):
        return log


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
    """Return the accuracy in a server's text, or None if it is not a number from 0 to 1."""
    try:
        score = float(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return score if 0 <= score <= 1 else None


@contextmanager
def _temporary_folder(folder: Path | None = None) -> Iterator[Path]:
    """Yield an empty temporary folder for the client's files, inside `folder` or the system's temporary folder.

    Unlike `files.temporary_folder`, it does not turn errors of the block into write errors, because network errors
    of requests are also `OSError`.
    """
    with write_errors(folder or Path("into the temporary folder")):
        temporary = tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True)
    with temporary as name:
        yield Path(name)


@contextmanager
def _as_damaged_download() -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise NetworkError(f"The download is damaged: {error.problem}", _TRY_LATER) from error


def _check_size(path: Path, size: int) -> None:
    found = path.stat().st_size
    if found != size:
        raise NetworkError(
            f"The download is damaged: {path.name} has {found:,} bytes, but Kaggle lists {size:,}.",
            _TRY_LATER,
        )


def _only_file(folder: Path) -> Path:
    """Return the only file that the client saved in `folder`; its name comes from a URL."""
    files = [p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(".kaggle-partial")]
    if len(files) != 1:
        raise NetworkError("The client downloaded no file.", _TRY_LATER)
    return files[0]
