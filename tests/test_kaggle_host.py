"""Tests of `KaggleHost` and the credentials: Kaggle's real client against a simulated server."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from conftest import files_with_other_names
from kaggle_server import DATE, KEY, TOKEN, USER, Fault, KaggleServer, error, zipped

from kaggle_digits.errors import (
    CredentialsError,
    DataError,
    NetworkError,
    NotReachedError,
    RefusedError,
    WriteError,
)
from kaggle_digits.hosts.credentials import HIDDEN, find_credentials, scrub
from kaggle_digits.hosts.kaggle import KaggleHost
from kaggle_digits.hosts.kaggle.client import ATTEMPTS, LONGEST_WAIT
from kaggle_digits.workspace import FILES

JSON = {"Content-Type": "application/json"}
HTML = Fault(200, b"<html>Sign in</html>", {"Content-Type": "text/html"})


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between retries in seconds, which are skipped."""
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    return pauses


@pytest.fixture
def host(kaggle: KaggleServer, pauses: list[float]) -> KaggleHost:
    return KaggleHost("digit-recognizer")


@pytest.fixture
def no_key(kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name, raising=False)


def save(name: str, content: str | bytes, mode: int = 0o600) -> Path:
    """Write a file into the home folder."""
    path = Path.home() / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


def downloaded(host: KaggleHost, folder: Path) -> dict[str, bytes]:
    (folder / "new").mkdir()
    host.download(folder / "new")
    return {path.name: path.read_bytes() for path in (folder / "new").iterdir()}


# Downloads


@pytest.mark.parametrize("fault", [Fault(truncated=True), HTML, Fault(corrupted=True), Fault(200, b"")])
def test_download_falls_back_to_single_files_when_bundle_is_damaged(
    host: KaggleHost, kaggle: KaggleServer, tmp_path: Path, fault: Fault
) -> None:
    kaggle.fail("digit-recognizer.zip", *[fault] * ATTEMPTS)
    # One of them is zipped, as Kaggle may send it.
    kaggle.fail("train.csv", Fault(truncated=True), Fault(200, kaggle.bundle()))
    assert downloaded(host, tmp_path) == kaggle.files
    assert [kaggle.count(name) for name in ("digit-recognizer.zip", "train.csv", "test.csv")] == [ATTEMPTS, 2, 1]


def test_download_retries_damaged_bundle(host: KaggleHost, kaggle: KaggleServer, tmp_path: Path) -> None:
    kaggle.fail("digit-recognizer.zip", Fault(corrupted=True))
    assert downloaded(host, tmp_path) == kaggle.files
    assert (kaggle.count("digit-recognizer.zip"), kaggle.count("train.csv")) == (2, 0)


def test_download_rejects_wrong_file_sizes(
    host: KaggleHost, kaggle: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = {"files": [{"name": name, "totalBytes": 1} for name in kaggle.files]}
    monkeypatch.setattr(kaggle, "ListDataFiles", lambda request: listing)
    with pytest.raises(NetworkError, match="damaged"):
        host.download(tmp_path)


def test_download_rejects_invalid_list_of_files(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.files = {"titanic.csv": b""}
    with pytest.raises(DataError, match=r"^The competition digit-recognizer must have, .* has: titanic\.csv\."):
        host.download(Path("nowhere"))


@pytest.mark.parametrize("fault", [Fault(), Fault(corrupted=True)])
@pytest.mark.parametrize("ending", ["", ".zip"])
def test_download_finds_files_with_other_names(
    kaggle: KaggleServer, tmp_path: Path, pauses: list[float], ending: str, fault: Fault
) -> None:
    """As they are, or each in a zip, in the bundle or, if that is damaged, one by one."""
    kaggle.competition, files = "uni-digits", files_with_other_names("uni-digits")
    kaggle.files = {f"{n}{ending}": zipped({n: c}) if ending else c for n, c in files.items()} | {"notes.txt": b""}
    kaggle.fail("uni-digits.zip", *[fault] * ATTEMPTS)
    assert downloaded(KaggleHost("uni-digits"), tmp_path) == dict(zip(FILES, files.values(), strict=True))
    assert kaggle.count(f"mnist_train.csv{ending}") == fault.corrupted


def test_download_raises_write_error_when_it_cannot_write(host: KaggleHost, kaggle: KaggleServer) -> None:
    with pytest.raises(WriteError, match=r"Cannot write nowhere.* Free some space"):
        host.download(Path("nowhere"))
    assert kaggle.count("digit-recognizer.zip") == 1


def test_download_names_rules_page_on_403(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.fail("ListDataFiles", error(403, "You must accept this competition's rules"))
    with pytest.raises(RefusedError, match="competitions/digit-recognizer/rules"):
        host.download(Path("nowhere"))


# Retries


def test_host_retries_on_server_errors(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.fail("GetSubmissionLimits", error(500, "Oops"), Fault(dropped=True), error(503, "Busy"))
    assert host.allowance() == 10
    kaggle.fail("GetSubmissionLimits", *[error(503, "Busy with other things")] * 20)
    with pytest.raises(NetworkError, match="Busy with other things"):
        host.allowance()
    assert kaggle.count("GetSubmissionLimits") == 2 * ATTEMPTS


def test_without_retries_makes_one_request(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.fail("ListSubmissions", error(429, "Slow down", **{"Retry-After": "50"}))
    with pytest.raises(NetworkError):
        list(host.without_retries().submissions())
    assert kaggle.requests == ["ListSubmissions"]


@pytest.mark.parametrize(
    ("status", "retry_after", "seconds"), [(429, "33", 33), (503, "date", 39), (429, "soon", 0), (503, "", 0)]
)
def test_host_waits_for_retry_after_seconds(
    host: KaggleHost, kaggle: KaggleServer, pauses: list[float], status: int, retry_after: str, seconds: int
) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    header = {"Retry-After": date if retry_after == "date" else retry_after}
    kaggle.fail("GetSubmissionLimits", error(status, "Slow down", **header))
    assert host.allowance() == 10
    (pause,) = pauses
    assert seconds - 2 <= pause <= seconds + 2


@pytest.mark.parametrize(("retry_after", "number"), [("50", 2), ("86400", 0)])
def test_host_limits_total_pause_of_retries(
    host: KaggleHost, kaggle: KaggleServer, pauses: list[float], retry_after: str, number: int
) -> None:
    kaggle.fail("GetSubmissionLimits", *[error(429, "Slow down", **{"Retry-After": retry_after})] * 9)
    with pytest.raises(NetworkError, match="Slow down"):
        host.allowance()
    assert len(pauses) == number
    assert sum(pauses) <= LONGEST_WAIT


# Errors


@pytest.mark.parametrize(
    ("status", "kind"), [(401, CredentialsError), (403, RefusedError), (404, RefusedError), (400, RefusedError)]
)
def test_host_shows_refusals_and_does_not_retry(
    host: KaggleHost, kaggle: KaggleServer, status: int, kind: type[Exception]
) -> None:
    kaggle.fail("ListDataFiles", error(status, "Kaggle's message."))
    with pytest.raises(kind, match=r"Kaggle's message[.;] "):
        host.download(Path("nowhere"))
    assert kaggle.count("ListDataFiles") == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"code": 403, "message": "The message."}', "The message"),
        (b'{"error": {"code": 403, "message": "The message."}}', "The message"),
        (b'{"errors": []}', "Forbidden"),
        (b"<html>Sorry</html>", "Forbidden"),
        (b'{"message": "' + b"Too many words. " * 50 + b'"}', "Too many words. " * 18 + "Too many…"),
    ],
)
def test_host_extracts_message_from_error_response(
    host: KaggleHost, kaggle: KaggleServer, body: bytes, words: str
) -> None:
    kaggle.fail("GetSubmissionLimits", Fault(403, body))
    with pytest.raises(RefusedError) as caught:
        host.allowance()
    assert caught.value.problem == f"Kaggle refuses the request: {words}."


@pytest.mark.parametrize("fault", [HTML, Fault(200, b"", JSON)])
def test_host_rejects_responses_that_are_not_json(host: KaggleHost, kaggle: KaggleServer, fault: Fault) -> None:
    kaggle.fail("GetSubmissionLimits", *[fault] * ATTEMPTS)
    with pytest.raises(NetworkError, match="it is a web page or other content instead of JSON"):
        host.allowance()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_PROXY", "http://ada:s3@cr3t@127.0.0.1:9"),
        ("HTTPS_PROXY", "ada:s3cr3t@proxy:3128"),
        ("REQUESTS_CA_BUNDLE", "missing.pem"),
    ],
)
def test_host_names_variables_if_kaggle_cannot_be_reached(
    host: KaggleHost, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.delenv("http_proxy")
    if name != "HTTP_PROXY":
        monkeypatch.delenv("KAGGLE_API_ENVIRONMENT")  # the real address
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    with pytest.raises(NetworkError, match=rf"Kaggle cannot be reached: \w+\. .*\b{name}\b") as caught:
        host.without_retries().allowance()
    assert "cr3t" not in str(caught.value)


# Credentials


@pytest.mark.usefixtures("no_key")
@pytest.mark.parametrize("half", ["", "KAGGLE_USERNAME", "KAGGLE_KEY"])
def test_host_needs_credentials(
    host: KaggleHost, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch, half: str
) -> None:
    if half:
        monkeypatch.setenv(half, KEY)
    with pytest.raises(CredentialsError, match=r"no Kaggle credentials .*settings/api.* rehearsal"):
        host.allowance()
    assert kaggle.requests == []


KEY_FILE = json.dumps({"username": USER, "key": KEY})
OLD = {"access_token": "old", "access_token_expiration": "2020-01-01T00:00:00+00:00"}
LOGIN_FILE = json.dumps({"username": USER, "refresh_token": "refresh", "scopes": []} | OLD)


@pytest.mark.usefixtures("no_key")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        (".kaggle/kaggle.json", KEY_FILE),
        (".kaggle/kaggle.json", KEY_FILE.encode("utf-16")),
        (".config/kaggle/kaggle.json", KEY_FILE),
        (".kaggle/access_token", f"{TOKEN}\n"),
        (".kaggle/access_token.txt", TOKEN),
        (".kaggle/credentials.json", LOGIN_FILE),
    ],
)
def test_host_finds_credentials_in_files(host: KaggleHost, kaggle: KaggleServer, name: str, content: str) -> None:
    (Path.home() / ".config").mkdir()
    save(name, content)
    assert host.allowance() == 10
    kaggle.board = [(1, "Ada's team", "1.00000", "bob"), (2, "Ada's team", "0.99757", USER)]
    assert host.standing().rank == 2
    assert kaggle.count("GenerateAccessToken") == ("credentials" in name)


@pytest.mark.parametrize("place", ["value", "path"])
def test_host_prefers_token_in_environment(
    host: KaggleHost, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN if place == "value" else str(save("token", TOKEN)))
    save(".kaggle/access_token", "KGAT_wrong")
    assert host.allowance() == 10
    assert kaggle.requests == ["IntrospectToken", "GetSubmissionLimits"]


@pytest.mark.parametrize(
    ("with_key", "fault"), [(True, None), (False, error(401, "Unauthenticated")), (False, error(404, "Not found"))]
)
def test_host_names_source_of_rejected_token(
    host: KaggleHost, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch, with_key: bool, fault: Fault | None
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_wrong")
    if not with_key:
        monkeypatch.delenv("KAGGLE_KEY")
    if fault:
        kaggle.fail("IntrospectToken", fault)
    with pytest.raises(CredentialsError, match=r"KAGGLE_API_TOKEN: they are invalid or expired\.") as caught:
        host.allowance()
    assert "KGAT_wrong" not in str(caught.value)
    used_instead = "remove KAGGLE_API_TOKEN to use those from KAGGLE_USERNAME and KAGGLE_KEY"
    assert (used_instead in caught.value.remedy) == with_key


@pytest.mark.usefixtures("no_key")
@pytest.mark.parametrize("content", ["{", LOGIN_FILE])
def test_host_rejects_login_that_has_ended(host: KaggleHost, kaggle: KaggleServer, content: str) -> None:
    save(".kaggle/credentials.json", content)
    kaggle.fail("GenerateAccessToken", error(401, "Revoked"))
    with pytest.raises(CredentialsError, match="invalid or expired"):
        host.allowance()


@pytest.mark.usefixtures("no_key")
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("KAGGLE_API_TOKEN", "KGAT_with\nline", "The content of KAGGLE_API_TOKEN is not a valid token"),
        (".kaggle/kaggle.json", "{", r"kaggle\.json cannot be read as a JSON object"),
        (".kaggle/access_token", b"\xff\xfe\x00", "access_token cannot be read as text"),
        (".kaggle/access_token", "KGAT_ü", "The content of .*access_token is not a valid token"),
    ],
)
def test_find_credentials_explains_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, name: str, content: str | bytes, message: str
) -> None:
    if name.startswith("KAGGLE"):
        monkeypatch.setenv(name, str(content))
    else:
        save(name, content)
    with pytest.raises(CredentialsError, match=f"{message}.*settings/api") as caught:
        find_credentials()
    assert "KGAT" not in str(caught.value)


def test_host_prints_no_secret_with_verbose(
    host: KaggleHost, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("VERBOSE", "1")
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    assert host.allowance() == 10
    assert capfd.readouterr() == ("", "")


# Submissions and the leaderboard


def test_allowance_is_unknown_when_all_limits_are_zero(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.limits = {"numToday": 0, "numTotal": 0, "numAllowedNow": 0}
    assert host.allowance() is None
    kaggle.limits = {"numToday": 5, "numTotal": 9, "numAllowedNow": 0}
    assert host.allowance() == 0


@pytest.fixture
def csv() -> Path:
    return save("submission-0123456789ab.csv", "ImageId,Label\n1,7\n")


def test_create_makes_submission_of_upload(host: KaggleHost, kaggle: KaggleServer, csv: Path) -> None:
    upload = host.upload(csv)
    assert kaggle.submissions == []
    assert host.create(upload, "a description") == "1000"
    (submission,) = host.submissions()
    assert kaggle.submissions[0]["content"] == csv.read_bytes()
    assert (submission.description, submission.file_name) == ("a description", "submission-0123456789ab.csv")
    assert (submission.status, submission.time) == ("COMPLETE", "2026-11-24T10:00:00+00:00")


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ("upload", Fault(403, b"no")),
        ("upload", Fault(dropped=True)),
        ("StartSubmissionUpload", error(503, "Busy")),
    ],
)
def test_upload_raises_network_error_on_failure(
    host: KaggleHost, kaggle: KaggleServer, csv: Path, call: str, fault: Fault
) -> None:
    kaggle.fail(call, fault)
    with pytest.raises(NetworkError):
        host.upload(csv)
    assert kaggle.count(call) == 1
    assert kaggle.submissions == []


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "http://there-is-no.invalid:80"])
def test_create_raises_not_reached_error_without_connection(
    host: KaggleHost, csv: Path, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    upload = host.upload(csv)
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, proxy)
    with pytest.raises(NotReachedError, match="cannot be reached"):
        host.create(upload, "")


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
        *(error(status, "Your daily limit is used up") for status in (400, 403, 429)),
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
    assert kaggle.count("CreateSubmission") == 1


@pytest.mark.parametrize(
    "message",
    [
        "Submission not allowed: This competition only accepts Submissions from Notebooks.",
        "Code competition submissions require both the output file name and the version label",
    ],
)
@pytest.mark.parametrize("call", ["StartSubmissionUpload", "CreateSubmission"])
def test_submission_to_a_code_competition_names_the_way_by_a_notebook(
    host: KaggleHost, kaggle: KaggleServer, csv: Path, call: str, message: str
) -> None:
    kaggle.fail(call, error(400, message))
    with pytest.raises(RefusedError, match=r"Upload submission\.csv from a notebook") as caught:
        host.create(host.upload(csv), "")
    assert message.rstrip(".") in caught.value.problem


@pytest.mark.parametrize(
    ("text", "score"), [("0.99757", 0.99757), ("1", 1.0), ("0", 0.0), ("NaN", None), ("-1.0", None), ("", None)]
)
def test_submissions_have_no_score_when_it_is_invalid(
    host: KaggleHost, kaggle: KaggleServer, text: str, score: float | None
) -> None:
    kaggle.submissions = [{"ref": 1, "date": DATE, "status": "COMPLETE", "publicScore": text}]
    assert next(host.submissions()).score == score


def test_submissions_requests_pages_when_needed(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.submissions = [{"ref": ref, "date": DATE, "status": "PENDING"} for ref in range(45, 0, -1)]
    assert next(host.submissions()).ref == "45"
    assert kaggle.count("ListSubmissions") == 1
    assert [s.ref for s in host.submissions()] == [str(ref) for ref in range(45, 0, -1)]


def test_standing_returns_rank_and_teams(host: KaggleHost, kaggle: KaggleServer) -> None:
    ada = (2, "Ada's team", "0.99757", f"eve, {USER}")
    kaggle.board = [(1, "Best", "1.00000", "bob"), ada, (3, "c", "0.9", "c")]
    standing = host.standing()
    assert (standing.rank, standing.teams) == (2, 3)
    assert standing.percentile == pytest.approx(66.7, abs=0.1)
    kaggle.board = [(1, "Ada's team", "1.00000", "bob")]
    assert host.standing().rank is None
    kaggle.fail("DownloadLeaderboard", Fault(200, b"no zip"))
    with pytest.raises(NetworkError, match="leaderboard cannot be read"):
        host.standing()


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"{KEY} is unknown", f"{HIDDEN} is unknown"),
        (f"Authorization: Bearer {'x' * 20}", f"Authorization: Bearer {HIDDEN}"),
        ("KGAT_of_somebody_else", HIDDEN),
        (f"{KEY[:8]}\x1b[0m{KEY[8:]}", HIDDEN),
        ("via http://user:p@ss@proxy:3128/", f"via http://{HIDDEN}@proxy:3128/"),
        ("https://storage/x?a=1&X-Goog-Signature=0f, no", f"https://storage/x?{HIDDEN} no"),
        ("url: /x?X-Goog-Signature=0f&upload_id=9 (", f"url: /x?X-Goog-Signature={HIDDEN}&upload_id={HIDDEN} ("),
        ("\x1b]0;title\x07\x1b[31mred\x1b[0m\x9b2J\r\x00\u202e", "red"),
        ("line\n\tline", "line\n\tline"),
        ("Accept its rules at https://www.kaggle.com/competitions/digit-recognizer/rules, then go on.",) * 2,
        ("Basic questions? Write to ada@example.org: 100 % answered.",) * 2,
    ],
)
def test_scrub_removes_secrets(monkeypatch: pytest.MonkeyPatch, text: str, clean: str) -> None:
    monkeypatch.setenv("KAGGLE_KEY", KEY)
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
    path = save(f".kaggle/{name}", content)
    if name == "elsewhere":
        monkeypatch.setenv("KAGGLE_API_TOKEN", str(path))
    assert scrub(f"{path}: s3cr3t-t0ken") == f"{path}: {HIDDEN}"
    monkeypatch.setenv("KAGGLE_API_TOKEN", "s3cr3t-t0ken")
    path.write_bytes(b"\xff[")
    assert scrub(f"{path}: s3cr3t-t0ken") == f"{path}: {HIDDEN}"


def test_host_scrubs_messages(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.fail("GetSubmissionLimits", error(400, f"Not \x1b[31m{KEY}\x1b[0m, nor {'.' * 270}{KEY}"))
    with pytest.raises(RefusedError, match=re.escape(f"Not {HIDDEN}, nor")) as caught:
        host.allowance()
    assert KEY[:4] not in caught.value.problem
    kaggle.submissions = [{"ref": 1, "status": "ERROR", "errorDescription": f"row 1\n\x1b[2Jsays {KEY}"}]
    assert next(host.submissions()).reason == f"row 1 says {HIDDEN}"
