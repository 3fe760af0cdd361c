"""A competition at Kaggle as a host: its files, submissions and leaderboard."""

import io
import re
import zipfile
from collections.abc import Iterator
from datetime import UTC
from functools import partial
from itertools import count
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import requests

from kaggle_digits.errors import DataError, KaggleDigitsError, NetworkError, RefusedError
from kaggle_digits.files import unpack, unzip
from kaggle_digits.hosts import Standing, Submission
from kaggle_digits.hosts.kaggle.client import TRY_LATER, Client, error_message, save, shown
from kaggle_digits.workspace import DEFAULT_COMPETITION, SAMPLE_CSV, find_files


class KaggleHost(Client):
    """A competition at Kaggle: see `kaggle_digits.hosts.Host` for the methods, `Client` for the parameters."""

    _service = "competitions.competition_api_client"

    def download(self, folder: Path) -> None:
        """Download the files and check their sizes against Kaggle's list of files."""
        files = self._files()
        try:
            # First the bundle, because its zip file has checksums.
            self._request(partial(self._download, folder, files, "download_data_files"))
        except NetworkError:  # the bundle is still damaged after all retries; the files have other URLs
            method = "download_data_file"
            for name, file in files.items():
                self._request(partial(self._download, folder, {name: file}, method, file_name=file.name))

    def try_download(self) -> None:
        """Download the smallest file and discard it. Kaggle refuses this if the rules have not been accepted."""
        name = SAMPLE_CSV if self._slug == DEFAULT_COMPETITION else self._files()[SAMPLE_CSV].name
        self._request(lambda: self._about("download_data_file", file_name=name).content)

    def allowance(self) -> int | None:
        """Return how many submissions are left today, or None if the user has no team yet."""
        limits = self._request(lambda: self._about("get_submission_limits"))
        # Before the first submission, Kaggle returns zero for all numbers. This is not a used-up limit.
        is_known = limits.num_allowed_now or limits.num_today or limits.num_total
        return limits.num_allowed_now if is_known else None

    def upload(self, csv: Path) -> str:
        """Upload a submission file, without retries, and return the token for `create`. This submits nothing."""
        size, time = csv.stat().st_size, int(csv.stat().st_mtime)
        fields = {"file_name": csv.name, "content_length": size, "last_modified_epoch_seconds": time}
        started = self._request_once(lambda: self._about("start_submission_upload", **fields))
        result: int | str
        with open(csv, "rb") as file:
            try:
                result = requests.put(started.create_url, data=file, timeout=self._timeout).status_code
            except requests.RequestException as error:  # its message has the secret address
                result = type(error).__name__
        if result not in (200, 201):
            problem = f"The upload of the file to Kaggle failed ({result})."
            raise NetworkError(problem, "Nothing was submitted; try again.")
        return str(started.token)

    def create(self, upload: str, description: str) -> str:
        """Make a submission of an uploaded file, without retries; see `Host.create` for its errors."""
        fields = {"blob_file_tokens": upload, "submission_description": description}
        response = self._send_once(lambda: self._about("create_submission", **fields), "submission")
        if not response.ref:
            raise NetworkError("Kaggle's response to the submission has no reference.", TRY_LATER)
        return str(response.ref)

    def submissions(self) -> Iterator[Submission]:
        """Yield the user's submissions, newest first. Pages are requested as they are needed."""
        seen: set[str] = set()
        for page in count(1):
            listed = self._request(partial(self._about, "list_submissions", page=page, page_size=20)).submissions
            fresh = [s for s in map(_submission, listed or []) if s.ref not in seen]
            if not fresh:
                return
            yield from fresh
            seen |= {s.ref for s in fresh}

    def standing(self) -> Standing:
        """Return the rank on the public leaderboard. Kaggle removes entries after two months."""
        import pandas as pd

        content = self._request(lambda: self._about("download_leaderboard").content)
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive, archive.open(archive.namelist()[0]) as csv:
                board = pd.read_csv(csv, encoding="utf-8-sig", dtype=str, keep_default_na=False)
            user = self._kaggle.username  # team names are not unique
            is_mine = board["TeamMemberUserNames"].map(lambda names: user in re.split(r"[,;\s]+", names))
            return Standing(next(map(int, board["Rank"][is_mine]), None), len(board))
        except Exception as error:  # pandas and zipfile raise errors of many types
            raise NetworkError("Kaggle's leaderboard cannot be read.", TRY_LATER) from error

    def _about(self, name: str, **fields: object) -> Any:
        """Call a method of the client about this competition."""
        return self._call(name, competition_name=self._slug, **fields)

    def _files(self) -> dict[str, Any]:
        """Return what Kaggle lists about the competition's files, by their names on this machine."""
        listed = self._request(lambda: self._about("list_data_files").files or [])
        files: dict[PurePath, Any] = {PurePosixPath(file.name): file for file in listed}
        return {name: files[path] for name, path in find_files(files, f"The competition {self._slug}").items()}

    def _download(self, folder: Path, files: dict[str, Any], method: str, **fields: object) -> None:
        """Download files in a zip, or one file as it is, and check their sizes in bytes."""
        archive = folder / f"{self._slug}.zip"
        paths = {name: folder / PurePosixPath(file.name).name for name, file in files.items()}
        try:
            save(self._about(method, **fields), archive)
            # Kaggle may send a single file zipped, too.
            if [file.total_bytes for file in files.values()] == [archive.stat().st_size]:
                archive.replace(next(iter(paths.values())))
            else:
                unzip(archive, [path.name for path in paths.values()], folder)
            for name, path in paths.items():
                if (found := path.stat().st_size) != (size := files[name].total_bytes):
                    raise DataError(f"{path.name} has {found:,} bytes, but Kaggle lists {size:,}.", TRY_LATER)
                unpack(path.replace(folder / name))
        except DataError as error:
            raise NetworkError(f"The download is damaged: {error.problem}", TRY_LATER) from error
        finally:
            archive.unlink(missing_ok=True)

    def _status_error(self, response: Any) -> KaggleDigitsError:
        words = error_message(response)
        if response.status_code < 500 and re.search("notebook|kernel|code competition", words, re.IGNORECASE):
            remedy = "Upload submission.csv from a notebook: add the file to one at Kaggle that copies it to "
            remedy += f"/kaggle/working, and submit that at https://www.kaggle.com/competitions/{self._slug}."
            return RefusedError(f"Kaggle refuses the request: {words}.", remedy)
        if response.status_code == 403:
            rules = f"https://www.kaggle.com/competitions/{self._slug}/rules"
            remedy = f"If you have not joined the competition yet, accept its rules at {rules}, then try again; "
            remedy += "if there is no such page, check the name."
            return RefusedError(f"Kaggle refuses the request: {words}.", remedy)
        if response.status_code == 404:
            remedy = "Check the name: it is the last part of the address of the competition's page."
            return RefusedError(f"Kaggle does not know the competition {self._slug!r}: {words}.", remedy)
        return super()._status_error(response)


def _submission(entry: Any) -> Submission:
    return Submission(
        ref=str(entry.ref),
        time=entry.date.replace(tzinfo=UTC).isoformat(timespec="seconds") if entry.date else "",
        description=entry.description,
        status=entry.status.name,
        score=float(entry.public_score) if re.fullmatch(r"0(\.\d+)?|1(\.0*)?", entry.public_score) else None,
        reason=shown(entry.error_description),
        file_name=entry.file_name,
        team=entry.team_name,
    )
