"""The connection to Kaggle: authentication, timeouts, retries, and failures as errors of this package."""

import json
import os
import re
import textwrap
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Self, TypeVar, get_type_hints

import requests
from urllib3 import Retry
from urllib3.exceptions import ConnectTimeoutError, InvalidHeader, NewConnectionError

from kaggle_digits.errors import KaggleDigitsError, NetworkError, NotReachedError, RefusedError, WriteError
from kaggle_digits.hosts.credentials import find_credentials, rejected_credentials, scrub

T = TypeVar("T")

ATTEMPTS = 4
LONGEST_WAIT = 120.0
"""Maximum total of the pauses between the retries of one request, in seconds."""
SHORT_TIMEOUT = 10.0
"""Seconds without data after which Kaggle counts as unreachable, if there are no retries."""
REFUSALS = (400, 401, 403, 404, 429)
"""Status codes that mean that nothing was done. After others, such as 408 and 5xx, it may have been done."""
TRY_LATER = "Check the network and Kaggle's status, then try again."
FIX_IT = "Fix what the message names, then try again."


class Client:
    """An authenticated client of Kaggle for a competition, and its requests with this package's errors."""

    _service: str  # the part of the client that `_call` uses

    def __init__(self, slug: str, attempts: int = ATTEMPTS, timeout: float = 60.0) -> None:
        self._slug = slug
        self._attempts = attempts  # of requests that are safe to repeat
        self._timeout = timeout  # seconds without data after which a connection counts as dropped

    @cached_property
    def _kaggle(self) -> Any:
        """The authenticated `KaggleClient`; its attribute `username` is the user's name."""
        from kagglesdk import KaggleClient, KaggleCredentials
        from kagglesdk.security.types.oauth_service import IntrospectTokenRequest

        credentials = find_credentials()[0]
        client = KaggleClient(api_token="")  # with None, it would look for credentials itself
        http = client.http_client().__enter__()
        session = http._session
        session.send = partial(session.send, timeout=self._timeout)
        client.username = credentials.username
        session.auth = (credentials.username, credentials.key) if credentials.key else None
        if credentials.key:
            return client
        request = IntrospectTokenRequest()
        try:
            login = None if credentials.token else KaggleCredentials.load(client)
            request.token = login.get_access_token() if login else credentials.token
            if request.token:
                session.auth = http.BearerAuth(request.token)
                answer = client.security.oauth_client.introspect_token(request)
                client.username = answer.username if answer.active else ""
        except requests.HTTPError as error:
            if getattr(error.response, "status_code", None) not in (400, 401, 403, 404):
                raise
        if not client.username:
            raise rejected_credentials("they are invalid or expired")
        return client

    def without_retries(self) -> Self:
        """Return the same client with a short timeout and no retries, for polling and for checks."""
        return type(self)(self._slug, attempts=1, timeout=SHORT_TIMEOUT)

    def _call(self, name: str, **fields: object) -> Any:
        """Call a method of the client, such as ``list_submissions``, with the fields of its request."""
        method = attrgetter(f"{self._service}.{name}")(self._kaggle)
        request = get_type_hints(method)["request"]()
        for field, value in fields.items():
            setattr(request, field, value)
        return method(request)

    def _request(self, call: Callable[[], T]) -> T:
        """Make a request that is safe to repeat, with jittered retries after network and server errors."""
        from tenacity import Retrying, retry_if_exception_type, wait_random_exponential

        def stop(state: Any) -> Any:
            return state.attempt_number >= self._attempts or state.idle_for + state.upcoming_sleep > LONGEST_WAIT

        def wait(state: Any) -> float:
            return backoff(state) + _retry_after(state.outcome.exception().__cause__)

        backoff = wait_random_exponential(multiplier=1, max=10)
        retrying = Retrying(retry=retry_if_exception_type(NetworkError), stop=stop, wait=wait, reraise=True)
        result: T = retrying(self._request_once, call)
        return result

    def _request_once(self, call: Callable[[], T]) -> T:
        """Make a request without retries."""
        try:
            return call()
        except Exception as error:
            raise self._translated(error) from error

    def _send_once(self, call: Callable[[], T], what: str) -> T:
        """Send a request that must not be repeated; see `Host.create` for its errors."""
        self._request_once(lambda: self._kaggle)  # an error of the authentication is not one of the request
        try:
            return call()
        except requests.HTTPError as error:
            response: Any = error.response
            if is_refusal(response):
                refusal = self._status_error(response)
                # With status 429 it is a `NetworkError`, which would mean that it may have been carried out.
                raise RefusedError(*refusal.args) if isinstance(refusal, NetworkError) else refusal from error
            # A proxy or gateway may have sent this response after Kaggle has carried out the request.
            problem = f"The response to the {what} is unclear (status {response.status_code})"
            raise NetworkError(f"{problem}: {error_message(response)}.", TRY_LATER) from error
        except Exception as error:
            explained = self._translated(error)
            if _never_connected(error):
                raise NotReachedError(explained.problem, explained.remedy) from error
            # The error occurred after the request was sent, so it may have been carried out.
            raise NetworkError(explained.problem, TRY_LATER) from error

    def _translated(self, error: Exception) -> KaggleDigitsError:
        """Return the error of this package for an exception from the client or from requests."""
        match error:
            case KaggleDigitsError():
                return error
            case requests.HTTPError():
                return self._status_error(error.response)
            case json.JSONDecodeError():
                problem = "Kaggle's response is not valid: it is a web page or other content instead of JSON."
                remedy = "Check in a browser whether this network requires you to sign in first, then try again."
                return NetworkError(problem, remedy)
            # requests raises an OSError without a number if a file of certificates does not exist.
            case requests.RequestException() | ConnectionError() | TimeoutError() | OSError(errno=None):
                return _unreachable(error)
            case OSError():
                remedy = "Free some space or fix the permissions of the folder, then run the same command again."
                return WriteError(f"Cannot write {error.filename or 'the download'}: {error.strerror}.", remedy)
        # For responses that are not from Kaggle. The message may contain a secret, so only --debug shows it.
        return NetworkError(f"Kaggle's client cannot read the response: {type(error).__name__}.", TRY_LATER)

    def _status_error(self, response: Any) -> KaggleDigitsError:
        """Return the error for a response whose status is an error."""
        status, words = response.status_code, error_message(response)
        if status == 401:
            return rejected_credentials(words)
        if status == 429:
            return NetworkError(f"Kaggle asks for fewer requests: {words}.", "Try again in a few minutes.")
        if status >= 500:
            return NetworkError(f"Kaggle's server reports an error (status {status}): {words}.", TRY_LATER)
        return RefusedError(f"Kaggle refuses the request (status {status}): {words}.", FIX_IT)


def save(response: requests.Response, path: Path) -> None:
    """Write the content of a streamed response to a file, and check its length."""
    with open(path, "wb") as file:
        for chunk in response.iter_content(1 << 20):
            file.write(chunk)
    # The number of bytes that arrived. The file is longer if they were compressed.
    arrived, length = response.raw.tell(), response.headers.get("Content-Length")
    if length is not None and arrived != int(length):
        raise NetworkError(f"The download is damaged: {arrived:,} of {length} bytes arrived.", TRY_LATER)


def _unreachable(error: Exception) -> NetworkError:
    """Return the error for a request that failed; it names the variables of a proxy or of certificates."""
    pattern = re.compile(r"(https?|all)_proxy|(requests|curl)_ca_bundle", re.IGNORECASE)
    names = "".join(f", {name}" for name, value in os.environ.items() if value and pattern.fullmatch(name))
    remedy = f"Check the network{names} and Kaggle's status, then try again."
    return NetworkError(f"Kaggle cannot be reached: {type(error).__name__}.", remedy)


def _error_in(response: Any) -> dict[str, Any]:
    """Return the description of an error in Kaggle's JSON format, empty if the response has another format."""
    with suppress(Exception):
        document = response.json()
        return dict(document.get("error", document))
    return {}


def is_refusal(response: Any) -> bool:
    """Return whether a response is clearly a refusal by Kaggle: one of `REFUSALS`, with Kaggle's JSON format."""
    error = _error_in(response)
    # The client also treats a code in the body as the status, whatever the status line says.
    is_status = error.get("code") in REFUSALS and response.status_code in (200, error["code"])
    return is_status and isinstance(error.get("message"), str)


def error_message(response: Any) -> str:
    """Return the message in the body of an error response, which the client's exceptions do not include."""
    return shown(_error_in(response).get("message") or response.reason or "no reason given")


def shown(text: object) -> str:
    """Return a message from Kaggle in one line of at most 300 characters, without secrets and its full stop."""
    return textwrap.shorten(scrub(str(text or "")), 300, placeholder="…").rstrip(".")


def _never_connected(error: BaseException | None) -> bool:
    """Return whether a request failed before a connection was made, so that it cannot have been sent."""
    # requests and urllib3 wrap the original error several times, as an argument or as an attribute.
    while error is not None:
        reason = getattr(error, "reason", None) or getattr(error, "original_error", None)
        inner = reason if isinstance(reason, BaseException) else next(iter(error.args), None)
        if isinstance(error, NewConnectionError | ConnectTimeoutError):
            return True
        error = inner if isinstance(inner, BaseException) else None
    return False


def _retry_after(error: BaseException | None) -> float:
    """Return the seconds to wait that an error response asks for, with a number or a date; 0 if it does not."""
    response = getattr(error, "response", None)
    with suppress(InvalidHeader):
        return (response is not None and Retry().get_retry_after(response.raw)) or 0.0
    return 0.0
