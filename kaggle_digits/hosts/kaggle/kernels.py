"""The user's kernels (notebooks and scripts) at Kaggle, which train on Kaggle's machines."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import requests

from kaggle_digits.errors import DataError, KaggleDigitsError, NetworkError, RefusedError
from kaggle_digits.files import temporary_folder
from kaggle_digits.hosts.kaggle.client import FIX_IT, TRY_LATER, Client, T, error_message, is_refusal, save, shown

SESSION_TIMEOUT = 9 * 3600
"""Seconds after which Kaggle ends a kernel, an hour after it starts no more folds."""
CONTINUE = "Run the same command again to continue with it, or delete it with --cancel; finished folds are kept."
"""What to do if a kernel or its output cannot be read."""

STATES = {"NEW_SCRIPT": "QUEUED", "CANCEL_REQUESTED": "RUNNING", "CANCEL_ACKNOWLEDGED": "CANCELLED"}
"""Kaggle's states that have another name here. A kernel ends soon after a request to cancel it."""


@dataclass(frozen=True)
class KernelStatus:
    """The status of a kernel at Kaggle."""

    state: str  # QUEUED, RUNNING, COMPLETE, ERROR, CANCELLED, NOT_FOUND, or UNKNOWN if Kaggle does not say
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


class _NotFoundError(RefusedError):
    """Kaggle says that there is no such kernel, or that the user may not see it; it does not distinguish these."""


class KaggleKernels(Client):
    """The user's kernels at Kaggle, called by the last part of their address; see `Client` for the parameters."""

    _service = "kernels.kernels_api_client"

    def user(self) -> str:
        """Return the user's name at Kaggle."""
        return str(self._request_once(lambda: self._kaggle.username))

    def address(self, slug: str) -> str:
        """Return the address of a kernel's page."""
        return f"https://www.kaggle.com/code/{self.user()}/{slug}"

    def push(self, slug: str, source: str, gpu: bool) -> None:
        """Create a private script kernel and start it once, with two T4 GPUs or, without `gpu`, with no quota.

        Its slug must be new, because a push to an existing kernel starts a second session. A `NetworkError` means
        that it may run.
        """
        fields: dict[str, object] = {"slug": f"{self.user()}/{slug}", "new_title": slug, "text": source}
        fields |= {"language": "python", "kernel_type": "script", "is_private": True, "enable_internet": False}
        fields |= {"enable_gpu": gpu, "machine_shape": "NvidiaTeslaT4" if gpu else None}
        fields |= {"competition_data_sources": [self._slug], "session_timeout_seconds": SESSION_TIMEOUT}
        response = self._send_once(lambda: self._call("save_kernel", **fields), "kernel")
        if words := shown(response.error):
            remedy = FIX_IT
            if "session count" in words:
                remedy = "Wait until one of your kernels has ended, then run the same command again."
            elif gpu and "quota" in words.lower():
                remedy = "Wait for the reset, or train without GPUs: --on kaggle-cpu."
                with suppress(KaggleDigitsError):
                    words += f". {self.gpu_hours().describe()}".rstrip(".")
            raise RefusedError(f"Kaggle refuses the kernel: {words}.", remedy)
        # For example from a proxy. It does not say that Kaggle has the kernel.
        if not (response.ref or response.url or response.version_number):
            raise NetworkError("Kaggle's response to the kernel is empty.", TRY_LATER)

    def status(self, slug: str) -> KernelStatus:
        """Return the status of a kernel, from a single request. After most errors, it is unknown."""
        try:
            response = self._request_once(lambda: self._about("get_kernel_session_status", slug))
        except (NetworkError, RefusedError) as error:
            return KernelStatus("NOT_FOUND" if isinstance(error, _NotFoundError) else "UNKNOWN", error.problem)
        name = response.status.name
        return KernelStatus(STATES.get(name, name), shown(response.failure_message))

    def log_lines(self, slug: str) -> Iterator[str]:
        """Yield the lines of a running kernel's log, from its start on, until the stream ends or fails."""
        try:
            http = self._kaggle.http_client()
            url = http._get_request_url("kernels", f"logs/stream/{self.user()}/{slug}")
            headers = {"Accept": "text/event-stream, */*", "Content-Type": None}
            with http._session.get(url, headers=headers, stream=True, timeout=self._timeout) as response:
                response.raise_for_status()
                for line in response.iter_lines():
                    if line == b"data: END_OF_LOG":
                        return
                    if line.startswith(b"data:"):
                        yield from str(json.loads(line[len(b"data:") :])["data"]).splitlines()
        # The log is only shown. Whatever is wrong with it must not end a training.
        except Exception:
            logging.getLogger(__name__).debug("The log of %s is not available.", slug, exc_info=True)

    def output(self, slug: str) -> tuple[list[str], str]:
        """Return the names of the files in a kernel's output, and the kernel's log."""
        urls, log = self._request(lambda: self._output(slug))
        with suppress(ValueError, TypeError, KeyError):  # Kaggle sends it as JSON: a list of pieces of output
            log = "\n".join(str(piece["data"]).removesuffix("\n") for piece in json.loads(log))
        return list(urls), log

    def download(self, slug: str, name: str, read: Callable[[Path], T]) -> T:
        """Return what `read` returns for a file of a kernel's output; after its `DataError`, download it again."""
        # Outside of the request, because it turns OSErrors, which those of the network are, into WriteErrors.
        with temporary_folder() as folder:
            return self._request(lambda: self._download(slug, folder / name, read))

    def delete(self, slug: str) -> None:
        """Delete a kernel, which also ends its session; `NetworkError` if Kaggle does not confirm it."""
        try:
            why = self._request(lambda: self._about("delete_kernel", slug)).error_message
        except (NetworkError, RefusedError) as error:
            # It is gone if its status says the same; otherwise the user may not delete it.
            is_gone = isinstance(error, _NotFoundError) and self.status(slug).state == "NOT_FOUND"
            why = "" if is_gone else error.problem
        if why:
            problem = f"Kaggle did not confirm that the kernel {slug} was deleted: {shown(why)}."
            raise NetworkError(problem, f"It may still run; delete it at {self.address(slug)}, or try again.")

    def gpu_hours(self) -> GpuHours:
        """Return the user's weekly GPU quota."""
        response = self._request(lambda: self._call("get_accelerator_quota_statistics"))
        times = response.gpu_quota.time_used, response.gpu_quota.total_time_allowed
        used, total = (time.total_seconds() / 3600 if time else 0.0 for time in times)
        return GpuHours(max(0.0, total - used), total, response.quota_refresh_time)

    def _about(self, name: str, slug: str, **fields: object) -> Any:
        """Call a method of the client about a kernel."""
        return self._call(name, user_name=self.user(), kernel_slug=slug, **fields)

    def _output(self, slug: str) -> tuple[dict[str, str], str]:
        """Return the addresses of the files in a kernel's output, by name, and the kernel's log."""
        urls: dict[str, str] = {}
        log = token = ""
        while True:
            page = self._about("list_kernel_session_output", slug, page_size=200, page_token=token)
            urls |= {file.file_name: file.url for file in page.files}
            log, token = log or page.log, page.next_page_token
            if not token:
                return urls, log

    def _download(self, slug: str, path: Path, read: Callable[[Path], T]) -> T:
        what = f"{path.name} in the output of {self.address(slug)}"
        urls, _ = self._output(slug)  # each time, because they expire
        if path.name not in urls:
            raise NetworkError(f"There is no {what}.", CONTINUE)
        response = requests.get(urls[path.name], stream=True, timeout=self._timeout)
        if not response.ok:
            raise NetworkError(f"{what} cannot be downloaded (status {response.status_code}).", CONTINUE)
        save(response, path)
        try:
            return read(path)
        except DataError as error:
            raise NetworkError(f"{what} cannot be read: {error.problem}", CONTINUE) from error

    def _status_error(self, response: Any) -> KaggleDigitsError:
        status, words = response.status_code, error_message(response)
        if status not in (403, 404) or not is_refusal(response):
            return super()._status_error(response)
        problem = f"Kaggle does not know the kernel, or refuses access to it (status {status}): {words}."
        return _NotFoundError(problem, "Check that the credentials are those of the account that sent it.")
