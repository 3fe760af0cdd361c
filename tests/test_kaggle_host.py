"""Tests of `KaggleHost` and the credentials: Kaggle's real client against a simulated server."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import re
import tempfile
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from conftest import unload_client
from kaggle_server import DATE, KEY, TOKEN, USER, Fault, KaggleServer, error

from kaggle_digits import Workspace
from kaggle_digits.errors import (
    CredentialsError,
    NetworkError,
    NotReachedError,
    RefusedError,
    UsageError,
    WriteError,
)
from kaggle_digits.hosts.credentials import HIDDEN, scrub
from kaggle_digits.hosts.kaggle import ATTEMPTS, FETCHES, LONGEST_WAIT, KaggleHost
from kaggle_digits.submissions.submit import send, wait_for_score
from kaggle_digits.training.observer import Observer


@pytest.fixture
def host(kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch) -> KaggleHost:
    """A Kaggle host, with a new import of the client."""
    unload_client(monkeypatch)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return KaggleHost("digit-recognizer")


def remove_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name)


def downloaded(host: KaggleHost, folder: Path) -> dict[str, bytes]:
    host.download(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_download_writes_three_files(host: KaggleHost, kaggle: KaggleServer, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert downloaded(host, tmp_path / "new") == kaggle.files


@pytest.mark.parametrize(
    "fault",
    [
        Fault(truncated=True),
        Fault(status=200, body=b"<html>Sorry</html>", headers={"Content-Type": "text/html"}),
        Fault(corrupted=True),
        Fault(status=200, body=b""),
    ],
    ids=["incomplete", "html", "damaged", "empty"],
)
def test_download_falls_back_to_single_files_when_bundle_is_damaged(
    host: KaggleHost, kaggle: KaggleServer, tmp_path: Path, fault: Fault
) -> None:
    kaggle.fail("digit-recognizer.zip", *[fault] * 9)
    (tmp_path / "new").mkdir()
    assert downloaded(host, tmp_path / "new") == kaggle.files
    assert kaggle.count("train.csv") == 2


def test_download_retries_damaged_bundle(host: KaggleHost, kaggle: KaggleServer, tmp_path: Path) -> None:
    kaggle.fail("digit-recognizer.zip", Fault(corrupted=True))
    (tmp_path / "new").mkdir()
    assert downloaded(host, tmp_path / "new") == kaggle.files
    assert (kaggle.count("digit-recognizer.zip"), kaggle.count("train.csv")) == (2, 0)


@pytest.fixture
def no_bundle(kaggle: KaggleServer) -> KaggleServer:
    """A server whose bundle is always damaged."""
    kaggle.fail("digit-recognizer.zip", *[Fault(corrupted=True)] * ATTEMPTS)
    return kaggle


def test_download_unzips_single_file(host: KaggleHost, no_bundle: KaggleServer, tmp_path: Path) -> None:
    no_bundle.fail("train.csv", Fault(status=200, body=no_bundle.bundle()))
    (tmp_path / "new").mkdir()
    assert downloaded(host, tmp_path / "new") == no_bundle.files
    assert (no_bundle.count("train.csv"), no_bundle.count("test.csv")) == (1, 2)


@pytest.mark.parametrize("faults", [[Fault(corrupted=True)], [Fault(), Fault(corrupted=True)]])
def test_download_repeats_single_file_until_two_copies_are_equal(
    host: KaggleHost, no_bundle: KaggleServer, tmp_path: Path, faults: list[Fault]
) -> None:
    no_bundle.fail("train.csv", *faults)
    (tmp_path / "new").mkdir()
    assert downloaded(host, tmp_path / "new") == no_bundle.files
    assert no_bundle.count("train.csv") == FETCHES


def test_download_rejects_single_file_that_always_differs(
    host: KaggleHost, no_bundle: KaggleServer, tmp_path: Path
) -> None:
    size = len(no_bundle.files["train.csv"])
    no_bundle.fail("train.csv", *[Fault(status=200, body=bytes([48 + i]) * size) for i in range(FETCHES)])
    with pytest.raises(NetworkError, match=r"damaged: train\.csv has different content each time"):
        host.download(tmp_path)


def test_download_handles_bundle_with_names_that_are_not_text(
    host: KaggleHost, kaggle: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("ü.csv", b"")
    bundle = stream.getvalue().replace("ü".encode(), b"\xff\xff")
    monkeypatch.setattr(kaggle, "bundle", lambda: bundle)
    (tmp_path / "new").mkdir()
    assert downloaded(host, tmp_path / "new") == kaggle.files


def test_download_rejects_wrong_file_sizes(
    host: KaggleHost, kaggle: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = {"files": [{"name": name, "totalBytes": 1} for name in kaggle.files]}
    monkeypatch.setattr(kaggle, "ListDataFiles", lambda request: listing)
    with pytest.raises(NetworkError, match="damaged"):
        host.download(tmp_path)


def test_host_retries_on_server_errors(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.fail("GetSubmissionLimits", error(500, "Oops"), Fault(dropped=True), error(503, "Busy"))
    assert host.allowance() == 10


def test_host_limits_retries(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.fail("GetSubmissionLimits", *[error(503, "Busy with other things")] * 20)
    with pytest.raises(NetworkError, match="Busy with other things"):
        host.allowance()
    assert kaggle.count("GetSubmissionLimits") == ATTEMPTS


def test_without_retries_makes_one_request(host: KaggleHost, kaggle: KaggleServer) -> None:
    assert list(host.submissions()) == []
    before = len(kaggle.requests)
    kaggle.fail("ListSubmissions", error(429, "Slow down", **{"Retry-After": "50"}))
    with pytest.raises(NetworkError):
        list(host.without_retries().submissions())
    assert len(kaggle.requests) == before + 1
    assert list(host.without_retries().submissions()) == []


def test_host_waits_for_retry_after_seconds(
    host: KaggleHost, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    kaggle.fail("GetSubmissionLimits", error(429, "Slow down", **{"Retry-After": "33"}))
    assert host.allowance() == 10
    (pause,) = pauses
    assert 33 <= pause <= 34


@pytest.mark.parametrize("status", [429, 503])
def test_host_waits_for_retry_after_date(
    host: KaggleHost, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    kaggle.fail("GetSubmissionLimits", error(status, "Slow down", **{"Retry-After": date}))
    assert host.allowance() == 10
    (pause,) = pauses
    assert 30 < pause < 42


@pytest.mark.parametrize("retry_after", ["soon", "-5", "nan", "", "Thu, 99 Nov 2026 10:00:00 GMT"])
def test_host_ignores_invalid_retry_after(
    host: KaggleHost, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch, retry_after: str
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    kaggle.fail("GetSubmissionLimits", error(429, "Slow down", **{"Retry-After": retry_after}))
    assert host.allowance() == 10
    assert 0 <= pauses[0] <= 1


@pytest.mark.parametrize("status", [429, 503])
def test_host_limits_total_pause_of_retries(
    host: KaggleHost, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    kaggle.fail("GetSubmissionLimits", *[error(status, "Slow down", **{"Retry-After": "50"})] * 9)
    with pytest.raises(NetworkError, match="Slow down"):
        host.allowance()
    assert len(pauses) == 2
    assert sum(pauses) <= LONGEST_WAIT


@pytest.mark.parametrize("retry_after", ["86400", "20"])
def test_download_makes_no_other_request_when_rate_limited(
    host: KaggleHost, kaggle: KaggleServer, tmp_path: Path, retry_after: str
) -> None:
    kaggle.fail("DownloadDataFiles", *[error(429, "Slow down", **{"Retry-After": retry_after})] * ATTEMPTS)
    with pytest.raises(NetworkError, match="Slow down"):
        host.download(tmp_path)
    assert kaggle.count("DownloadDataFile") == 0


def test_host_rejects_too_long_retry_after(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.fail("GetSubmissionLimits", error(429, "Slow down", **{"Retry-After": "86400"}))
    with pytest.raises(NetworkError, match="Slow down"):
        host.allowance()
    assert kaggle.count("GetSubmissionLimits") == 1


@pytest.mark.parametrize(
    ("status", "kind"), [(401, CredentialsError), (403, RefusedError), (404, RefusedError), (400, RefusedError)]
)
def test_host_shows_refusals_and_does_not_retry(
    host: KaggleHost, kaggle: KaggleServer, status: int, kind: type[Exception]
) -> None:
    kaggle.fail("ListDataFiles", error(status, "Kaggle's message"))
    with pytest.raises(kind, match="Kaggle's message"):
        host.download(Path("nowhere"))
    assert kaggle.count("ListDataFiles") == 1


GOOGLE = {"code": 403, "message": "The message.", "status": "PERMISSION_DENIED", "details": [{"reason": "no"}]}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"code": 403, "message": "The message."}, "The message"),
        ({"error": GOOGLE}, "The message"),
        ({"error": json.dumps(GOOGLE)}, "The message"),
        ({"message": json.dumps({"error": GOOGLE})}, "The message"),
        ([{"error": GOOGLE}], "The message"),
        ({"error": "The message"}, "The message"),
        ({"errors": [{"message": "The message."}, "and more", {"code": 5}]}, "The message; and more"),
        ({"message": "", "error": {"message": "The message"}}, "The message"),
        ("The message", "The message"),
        (b"The message", "The message"),
        (b"403", "Forbidden"),
        ({"error": {"code": 403, "details": [{"reason": "no"}]}}, "Forbidden"),
        ({"message": "{'code': 403}"}, "Forbidden"),
        ({"errors": ["The message", "{'code': 403}"]}, "The message"),
        ({"message": "<html>Sorry</html>"}, "Forbidden"),
        ([], "Forbidden"),
        (b'{"message": "The mess', "Forbidden"),
        (b"[" * 100_000, "Forbidden"),
        (b'{"error":' * 300 + b"1" + b"}" * 300, "Forbidden"),
        (b"", "Forbidden"),
    ],
)
def test_host_extracts_message_from_error_response(
    host: KaggleHost, kaggle: KaggleServer, body: object, words: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = "application/json" if isinstance(body, dict) else "text/plain"
    kaggle.fail("GetSubmissionLimits", Fault(403, content, {"Content-Type": kind}))
    with pytest.raises(RefusedError) as caught:
        host.allowance()
    assert caught.value.problem == f"Kaggle refuses the request: {words}."


@pytest.mark.parametrize(
    ("message", "start", "end"),
    [
        ("Too many words. " * 50, "Too many", " words. Too many…."),
        ("x" * 400, "xxx", "xxx…."),
        ("x" * 300, "xxx", "xxx."),
    ],
)
def test_host_shortens_long_message_at_a_word(
    host: KaggleHost, kaggle: KaggleServer, message: str, start: str, end: str
) -> None:
    kaggle.fail("GetSubmissionLimits", error(403, message))
    with pytest.raises(RefusedError) as caught:
        host.allowance()
    words = caught.value.problem.removeprefix("Kaggle refuses the request: ")
    assert words.startswith(start)
    assert words.endswith(end)
    assert 290 < len(words) <= 301


def test_download_names_rules_page_on_403(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.fail("ListDataFiles", error(403, "You must accept this competition's rules"))
    with pytest.raises(RefusedError, match="competitions/digit-recognizer/rules"):
        host.download(Path("nowhere"))


@pytest.mark.parametrize("document", [{}, {"files": None}, {"files": [{"name": "titanic.csv"}]}])
def test_download_rejects_invalid_list_of_files(
    host: KaggleHost, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch, document: dict
) -> None:
    monkeypatch.setattr(kaggle, "ListDataFiles", lambda request: document)
    with pytest.raises(NetworkError, match=r"Kaggle's (response is not valid|client cannot read)"):
        host.download(Path("nowhere"))
    assert kaggle.count("ListDataFiles") == ATTEMPTS


def test_allowance_rejects_invalid_limits(
    host: KaggleHost, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kaggle, "limits", {"numAllowedNow": "many"})
    with pytest.raises(NetworkError, match="Kaggle's client cannot read the response"):
        host.allowance()


@pytest.mark.parametrize(
    ("body", "words"), [(b"<html>Sign in</html>", "it is a web page instead of JSON"), (b"", "other content")]
)
@pytest.mark.parametrize("kind", ["text/html", "application/json"])
def test_host_rejects_responses_that_are_not_json(
    host: KaggleHost, kaggle: KaggleServer, body: bytes, words: str, kind: str
) -> None:
    kaggle.fail("GetSubmissionLimits", *[Fault(200, body, {"Content-Type": kind})] * ATTEMPTS)
    with pytest.raises(NetworkError, match=words) as caught:
        host.allowance()
    assert "JSONDecodeError" not in str(caught.value)


def test_host_needs_credentials(
    host: KaggleHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    remove_key(monkeypatch)
    with pytest.raises(CredentialsError, match="no Kaggle credentials"):
        host.allowance()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("with_key", [True, False])
def test_host_names_source_of_rejected_token(
    host: KaggleHost, monkeypatch: pytest.MonkeyPatch, with_key: bool
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_wrong")
    if not with_key:
        monkeypatch.delenv("KAGGLE_KEY")
    with pytest.raises(CredentialsError, match="KAGGLE_API_TOKEN") as caught:
        host.allowance()
    assert "KGAT_wrong" not in str(caught.value)
    used_instead = "unset KAGGLE_API_TOKEN to use those from KAGGLE_USERNAME and KAGGLE_KEY"
    assert (used_instead in caught.value.remedy) == with_key
    assert ("were not used" in caught.value.problem) == with_key


@pytest.mark.parametrize(("mode", "warns"), [(0o644, True), (0o640, True), (0o600, False)])
def test_host_warns_when_others_can_read_key_file(
    host: KaggleHost,
    kaggle: KaggleServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture,
    mode: int,
    warns: bool,
) -> None:
    remove_key(monkeypatch)
    path = Path.home() / ".kaggle" / "kaggle.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"username": USER, "key": KEY}))
    path.chmod(mode)
    with caplog.at_level(logging.WARNING):
        assert host.allowance() == 10
        assert KaggleHost("digit-recognizer").allowance() == 10
    assert len(caplog.messages) == warns
    assert all(f"chmod 600 {path}" in message for message in caplog.messages)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("token", ["KGAT_with\nline", "KGAT_" + "x" * 400, "KGAT_end\r\n", "KGAT_ü"])
def test_credential_source_does_not_show_invalid_token(
    host: KaggleHost, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", token)
    with pytest.raises(CredentialsError, match="The content of KAGGLE_API_TOKEN is not a valid token") as caught:
        host.allowance()
    assert "KGAT" not in str(caught.value)


@pytest.mark.parametrize(("variable", "half"), [("KAGGLE_USERNAME", "username"), ("KAGGLE_KEY", "key")])
def test_credential_source_names_variable_of_incomplete_credentials(
    host: KaggleHost, monkeypatch: pytest.MonkeyPatch, variable: str, half: str
) -> None:
    monkeypatch.delenv({"username": "KAGGLE_KEY", "key": "KAGGLE_USERNAME"}[half])
    with pytest.raises(CredentialsError, match=f"{variable} has a Kaggle {half} but no"):
        host.allowance()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"username": "ada"}', r"kaggle\.json has a Kaggle username but no key"),
        ('{"key": "0123"}', r"kaggle\.json has a Kaggle key but no username"),
        ("{", "is not a JSON object"),
        ("[]", "is not a JSON object"),
    ],
)
def test_credential_source_rejects_incomplete_and_invalid_key_files(
    host: KaggleHost, monkeypatch: pytest.MonkeyPatch, content: str, message: str
) -> None:
    monkeypatch.setenv("KAGGLE_USERNAME", "")
    monkeypatch.delenv("KAGGLE_KEY")
    folder = Path.home() / ".kaggle"
    folder.mkdir(exist_ok=True)
    (folder / "kaggle.json").write_text(content)
    with pytest.raises(CredentialsError, match=message):
        host.allowance()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_host_reads_key_file_with_byte_order_mark(
    host: KaggleHost, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    remove_key(monkeypatch)
    path = Path.home() / ".kaggle" / "kaggle.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"username": USER, "key": KEY}), encoding=encoding)
    before = dict(os.environ)
    assert host.allowance() == 10
    assert dict(os.environ) == before
    assert scrub(f"{KEY} or {BASIC}") == f"{HIDDEN} or {HIDDEN}"


@pytest.mark.parametrize(
    ("place", "variable", "problem", "remedy"),
    [
        (".kaggle", None, r"\.kaggle is a file, not a folder with kaggle\.json inside", "Make it such a folder"),
        (
            "mine/kaggle.json",
            "mine/kaggle.json",
            r"mine/kaggle\.json is a file, not a folder",
            "set KAGGLE_CONFIG_DIR",
        ),
        (".kaggle/kaggle.json.txt", None, r"kaggle\.json\.txt has a wrong name", r"Rename it to kaggle\.json\."),
    ],
)
def test_credential_source_says_what_was_found(
    host: KaggleHost, monkeypatch: pytest.MonkeyPatch, place: str, variable: str | None, problem: str, remedy: str
) -> None:
    remove_key(monkeypatch)
    path = Path.home() / place
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"username": USER, "key": KEY}))
    if variable:
        monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(Path.home() / variable))
    with pytest.raises(CredentialsError, match=problem) as caught:
        host.allowance()
    assert re.search(remedy, caught.value.remedy)
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    assert KaggleHost("digit-recognizer").allowance() == 10


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_credential_source_names_unreadable_token_file(host: KaggleHost, content: bytes | None) -> None:
    path = Path.home() / ".kaggle" / "access_token"
    path.parent.mkdir(exist_ok=True)
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(CredentialsError, match="access_token cannot be read"):
        host.allowance()


def test_host_accepts_token_from_environment(host: KaggleHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    assert host.allowance() == 10


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home folder that nobody can create, not even root."""
    (tmp_path / "file").write_text("a file instead of a folder")
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return tmp_path / "file" / "home"


@pytest.mark.parametrize("with_token", [True, False])
def test_host_works_with_read_only_home(
    host: KaggleHost, monkeypatch: pytest.MonkeyPatch, no_home: Path, with_token: bool
) -> None:
    if with_token:
        remove_key(monkeypatch)
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    before = dict(os.environ)
    assert host.allowance() == 10
    assert dict(os.environ) == before


def test_host_names_rejected_token_with_read_only_home(
    host: KaggleHost, monkeypatch: pytest.MonkeyPatch, no_home: Path
) -> None:
    remove_key(monkeypatch)
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_wrong")
    with pytest.raises(
        CredentialsError, match="not accept the credentials from KAGGLE_API_TOKEN: they are invalid"
    ):
        host.allowance()


@pytest.mark.parametrize("variable", ["KAGGLE_CONFIG_DIR", "XDG_CONFIG_HOME"])
def test_host_works_without_configuration_folder(
    host: KaggleHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    remove_key(monkeypatch)
    (tmp_path / "file").write_text("a file instead of a folder")
    monkeypatch.setenv(variable, str(tmp_path / "file" / "kaggle"))
    if variable == "KAGGLE_CONFIG_DIR":
        (Path.home() / ".kaggle").mkdir()
        (Path.home() / ".kaggle" / "access_token").write_text(TOKEN)
    else:
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    assert host.allowance() == 10
    assert os.environ[variable] == str(tmp_path / "file" / "kaggle")


@pytest.mark.parametrize(
    "variables", [{}, {"KAGGLE_API_TOKEN": TOKEN}, {"KAGGLE_USERNAME": USER, "KAGGLE_KEY": KEY}]
)
def test_host_works_with_home_without_search_permission(
    host: KaggleHost, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    remove_key(monkeypatch)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    home = str(Path.home())

    def refused(call: Callable[..., object]) -> Callable[..., object]:
        def refuse(path: object, *arguments: object, **options: object) -> object:
            if str(path).startswith(f"{home}/"):
                raise PermissionError(13, "Permission denied", str(path))
            return call(path, *arguments, **options)

        return refuse

    # Not with permission bits, because they do not apply to root, who may run the tests.
    for name in ("stat", "mkdir"):
        monkeypatch.setattr(os, name, refused(getattr(os, name)))
    before = dict(os.environ)
    if variables:
        assert host.allowance() == 10
    else:
        with pytest.raises(CredentialsError, match="no Kaggle credentials"):
            host.allowance()
    assert dict(os.environ) == before


def test_host_prints_no_secret_with_verbose(
    host: KaggleHost, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("VERBOSE", "1")
    host.allowance()
    printed = capfd.readouterr()
    assert printed.out == ""
    assert KEY not in printed.err


def test_allowance_is_unknown_when_all_limits_are_zero(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.limits = {"numToday": 0, "numTotal": 0, "numAllowedNow": 0}
    assert host.allowance() is None
    kaggle.limits = {"numToday": 5, "numTotal": 9, "numAllowedNow": 0}
    assert host.allowance() == 0


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "submission-0123456789ab.csv"
    path.write_bytes(b"ImageId,Label\n1,7\n")
    return path


def test_create_makes_submission_of_upload(host: KaggleHost, kaggle: KaggleServer, csv: Path) -> None:
    upload = host.upload(csv)
    assert kaggle.submissions == []
    assert host.create(upload, "a description") == "1000"
    (submission,) = host.submissions()
    assert kaggle.submissions[0]["content"] == csv.read_bytes()
    assert (submission.description, submission.file_name) == ("a description", "submission-0123456789ab.csv")


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ("upload", Fault(status=403, body=b"no")),
        ("StartSubmissionUpload", Fault(dropped=True)),
        ("StartSubmissionUpload", error(503, "Busy")),
        ("StartSubmissionUpload", Fault(status=200, body=b"<html>")),
    ],
)
def test_upload_raises_network_error_on_failure(
    host: KaggleHost, kaggle: KaggleServer, csv: Path, call: str, fault: Fault, capsys: pytest.CaptureFixture
) -> None:
    kaggle.fail(call, fault)
    with pytest.raises(NetworkError):
        host.upload(csv)
    assert kaggle.submissions == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("with_token", [True, False])
@pytest.mark.parametrize(
    ("requests", "curl", "named"),
    [
        ("missing.pem", "", "REQUESTS"),
        ("", "missing.pem", "CURL"),
        ("missing.pem", "also-missing.pem", "REQUESTS"),
    ],
)
def test_host_names_variable_of_missing_certificates(
    host: KaggleHost,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    requests: str,
    curl: str,
    named: str,
    with_token: bool,
) -> None:
    if with_token:
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    monkeypatch.delenv("KAGGLE_API_ENVIRONMENT")  # certificates are used only for the real address
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name, file in (("REQUESTS_CA_BUNDLE", requests), ("CURL_CA_BUNDLE", curl)):
        monkeypatch.setenv(name, str(tmp_path / file) if file else "")
    with pytest.raises(UsageError) as caught:
        host.allowance()
    variable = f"{named}_CA_BUNDLE"
    assert (
        caught.value.problem
        == f"The file of certificates that {variable} names does not exist: {tmp_path / 'missing.pem'}."
    )
    assert caught.value.remedy == f"Unset {variable}, or set it to a file of certificates that exists."


@pytest.mark.parametrize(
    ("names", "proxy", "shown"),
    [
        (["HTTP_PROXY", "http_proxy"], "http://127.0.0.1:9", "http://127.0.0.1:9"),
        (["http_proxy"], "127.0.0.1:9", "127.0.0.1:9"),
        (["HTTP_PROXY"], "http://ada:s3@cr3t@127.0.0.1:9", "http://***@127.0.0.1:9"),
        (["ALL_PROXY"], "socks5://ada:s3cr3t@127.0.0.1:9", "socks5://***@127.0.0.1:9"),
    ],
)
def test_host_names_variable_of_proxy_that_cannot_be_reached(
    host: KaggleHost, csv: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], proxy: str, shown: str
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in names:
        monkeypatch.setenv(name, proxy)
    with pytest.raises(NetworkError) as caught:
        host.upload(csv)
    assert caught.value.problem == (
        f"Kaggle cannot be reached through the proxy in {' and '.join(names)}: {shown}."
    )
    assert "unset it" in caught.value.remedy


@pytest.mark.parametrize(
    ("proxy", "shown"),
    [
        ("http://", "http://"),
        ("http:/127.0.0.1:9", "http:/127.0.0.1:9"),
        ("http://ada:s3cr3t@proxy:99999", "http://***@proxy:99999"),
        ("ada:s3cr3t@proxy:3128", "***@proxy:3128"),
        ("proxy:port", "proxy:port"),
        ("htp://proxy:3128", "htp://proxy:3128"),
    ],
)
def test_host_names_variable_of_proxy_that_is_no_address(
    host: KaggleHost, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch, proxy: str, shown: str
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, proxy)
    with pytest.raises(UsageError) as caught:
        host.allowance()
    assert re.fullmatch(
        rf"The proxy in HTTPS?_PROXY and HTTPS?_PROXY is not a valid address: {re.escape(shown)}\.",
        caught.value.problem,
    )
    assert kaggle.requests == []


def test_create_raises_not_reached_error_without_connection(
    host: KaggleHost, csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the upload, the proxy refuses connections, or its name cannot be resolved."""
    upload = host.upload(csv)
    for proxy in ("http://127.0.0.1:9", "http://there-is-no.invalid:80"):
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, proxy)
        with pytest.raises(NotReachedError, match="cannot be reached"):
            host.create(upload, "")


JSON = {"Content-Type": "application/json"}
UNCLEAR = {
    "lost": Fault(response_lost=True),
    "dropped": Fault(dropped=True),
    "busy": error(503, "Busy"),
    "no reference": Fault(200, b"{}", JSON),
    "time-out of a gateway": Fault(408, b"<html>Request Timeout</html>", handled=True),
    "refusal of a gateway": Fault(403, b"Forbidden", handled=True),
    "refusal of a gateway in JSON": Fault(403, b'{"message": "Forbidden"}', JSON, handled=True),
    "conflict": error(409, "Conflict", handled=True),
    "code and status differ": Fault(403, b'{"code": 400, "message": "Bad"}', JSON, handled=True),
    "list": Fault(400, b"[]", JSON, handled=True),
    "too many for a gateway": Fault(429, b"<html>Slow down</html>", handled=True),
}


@pytest.mark.parametrize("fault", UNCLEAR.values(), ids=UNCLEAR)
def test_create_raises_network_error_for_unclear_response(
    host: KaggleHost, kaggle: KaggleServer, csv: Path, fault: Fault
) -> None:
    """The submission may have been made."""
    upload = host.upload(csv)
    kaggle.fail("CreateSubmission", fault)
    with pytest.raises(NetworkError) as caught:
        host.create(upload, "")
    assert not isinstance(caught.value, NotReachedError)
    assert len(kaggle.submissions) == (fault.handled or fault.response_lost)
    assert kaggle.count("CreateSubmission") == 1


@pytest.mark.parametrize(
    "fault",
    [
        error(400, "Your daily limit is used up"),
        error(403, "Your daily limit is used up"),
        error(429, "Your daily limit is used up"),
        Fault(404, b'{"error": {"code": 404, "message": "Your daily limit is used up"}}', JSON),
        Fault(200, b'{"code": 400, "message": "Your daily limit is used up"}', JSON),
    ],
)
def test_create_raises_refused_error_when_kaggle_refuses(
    host: KaggleHost, kaggle: KaggleServer, csv: Path, fault: Fault
) -> None:
    upload = host.upload(csv)
    kaggle.fail("CreateSubmission", fault)
    with pytest.raises(RefusedError, match="daily limit is used up"):
        host.create(upload, "")


@pytest.mark.parametrize(
    ("text", "score"),
    [("0.99757", 0.99757), ("1", 1.0), ("0", 0.0)]
    + [(text, None) for text in ("NaN", "-1.0", "", "inf", "1.5", "best", None, [], 10**400)],
)
def test_submissions_have_no_score_when_it_is_invalid(
    host: KaggleHost, kaggle: KaggleServer, text: object, score: float | None
) -> None:
    kaggle.submissions = [{"ref": 1, "date": DATE, "status": "COMPLETE", "publicScore": text}]
    assert next(host.submissions()).score == score


def test_submissions_requests_pages_when_needed(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.submissions = [
        {"ref": ref, "date": "2026-11-24T10:00:00Z", "status": "COMPLETE", "publicScore": "0.99"}
        for ref in range(45, 0, -1)
    ]
    assert next(iter(host.submissions())).ref == "45"
    assert kaggle.count("ListSubmissions") == 1
    assert [s.ref for s in host.submissions()] == [str(ref) for ref in range(45, 0, -1)]


def test_standing_returns_rank_and_teams(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.board = [(1, "Best", "1.00000", "bob"), (2, "Ada's team", "0.99757", "ada"), (3, "c", "0.9", "c")]
    standing = host.standing()
    assert (standing.rank, standing.teams) == (2, 3)
    assert standing.percentile == pytest.approx(66.7, abs=0.1)


def test_standing_ignores_team_with_same_name(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.board = [(1, "Ada's team", "1.00000", "another"), (2, "Ada's team", "0.99757", "ada")]
    assert host.standing().rank == 2


def test_standing_has_no_rank_for_unknown_user(
    host: KaggleHost, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    kaggle.board = [(1, "Best", "1.00000", ""), (2, "Ada's team", "0.99757", "")]
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    monkeypatch.setitem(host._api.config_values, "username", "")
    assert host.standing().rank is None
    kaggle.submissions = [{"ref": 1, "date": DATE, "status": "COMPLETE", "teamName": "Ada's team"}]
    assert host.standing().rank == 2


def test_standing_raises_write_error_on_full_disk(
    host: KaggleHost, kaggle: KaggleServer, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(workspace.root / "missing"))
    for request in (host.standing, host.try_download):
        with pytest.raises(WriteError, match="Cannot write"):
            request()
    file = workspace.root / "mine.csv"
    file.write_text("ImageId,Label\n" + "".join(f"{i},1\n" for i in range(1, 31)))
    entry = wait_for_score(host, workspace, send(host, workspace, file).entry, 10, Observer())
    assert (entry.status, entry.score) == ("COMPLETE", 0.99757)


def test_standing_rejects_leaderboard_in_another_format(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.fail("DownloadLeaderboard", Fault(status=200, body=b"no zip"))
    with pytest.raises(NetworkError, match="The download is damaged"):
        host.standing()


def test_standing_has_no_rank_when_kaggle_removed_entry(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.board = [(1, "Best", "1.00000", "bob")]
    assert host.standing().rank is None


BASIC = base64.b64encode(f"{USER}:{KEY}".encode()).decode()


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"{KEY} is unknown", f"{HIDDEN} is unknown"),
        (f"you sent {BASIC}", f"you sent {HIDDEN}"),
        (f"Authorization: Bearer {'x' * 20}", f"Authorization: Bearer {HIDDEN}"),
        ("KGAT_of_somebody_else", HIDDEN),
        (f"{KEY[:8]}\x1b[0m{KEY[8:]}", HIDDEN),
        ("via http://user:p@ss@proxy:3128/", f"via http://{HIDDEN}@proxy:3128/"),
        ("https://storage/x?a=1&X-Goog-Signature=0f, no", f"https://storage/x?{HIDDEN} no"),
        (
            "with url: /x?X-Goog-Signature=0f&upload_id=9 (",
            f"with url: /x?X-Goog-Signature={HIDDEN}&upload_id={HIDDEN} (",
        ),
        ("\x1b]0;title\x07\x1b[31mred\x1b[0m\x9b2J\r\x00\u202e", "red"),
        ("line\n\tline", "line\n\tline"),
        ("Accept its rules at https://www.kaggle.com/competitions/digit-recognizer/rules, then go on.",) * 2,
        ("Basic questions? Write to ada@example.org: 100 % answered.",) * 2,
    ],
)
@pytest.mark.usefixtures("kaggle")
def test_scrub_removes_secrets(text: str, clean: str) -> None:
    assert scrub(text) == clean


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("access_token", "s3cr3t-t0ken\n"),
        ("access_token.txt", "s3cr3t-t0ken"),
        ("kaggle.json", '{"username": "ada", "key": "s3cr3t-t0ken"}'),
        ("credentials.json", '{"username": "ada", "refresh_token": "s3cr3t-t0ken", "scopes": []}'),
        ("elsewhere", "s3cr3t-t0ken"),
    ],
)
def test_scrub_removes_secrets_of_every_source(monkeypatch: pytest.MonkeyPatch, name: str, content: str) -> None:
    path = Path.home() / ".kaggle" / name
    path.parent.mkdir()
    path.write_text(content)
    if name == "elsewhere":
        monkeypatch.setenv("KAGGLE_API_TOKEN", str(path))
    assert scrub(f"{path}: s3cr3t-t0ken") == f"{path}: {HIDDEN}"
    monkeypatch.setenv("KAGGLE_API_TOKEN", "s3cr3t-t0ken")
    path.write_bytes(b"\xff[")
    assert scrub(f"{path}: s3cr3t-t0ken") == f"{path}: {HIDDEN}"


def test_host_scrubs_messages(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.fail("GetSubmissionLimits", error(400, f"Not \x1b[31m{KEY}\x1b[0m, nor {'.' * 270}{KEY}"))
    with pytest.raises(RefusedError, match="Not ") as caught:
        host.allowance()
    assert KEY[:4] not in caught.value.problem
    assert "\x1b" not in caught.value.problem
    reason = f"row 1\n\x1b[2Jsays {KEY}"
    kaggle.submissions = [{"ref": 1, "date": DATE, "status": "ERROR", "errorDescription": reason}]
    assert next(host.submissions()).reason == f"row 1 says {HIDDEN}"
