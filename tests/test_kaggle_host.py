"""The real client against a server that plays Kaggle."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import competition_files
from kaggle_server import KEY, TOKEN, Fault, KaggleServer, error

from kaggle_digits.errors import CredentialsError, NetworkError, RefusedError
from kaggle_digits.hosts.kaggle import ATTEMPTS, KaggleHost


@pytest.fixture
def host(kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch) -> KaggleHost:
    """The host, with a client that is imported anew, for it reads its environment when it is imported."""
    for name in [n for n in sys.modules if n.split(".")[0] in ("kaggle", "kagglesdk")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return KaggleHost("digit-recognizer")


def downloaded(host: KaggleHost, folder: Path) -> dict[str, bytes]:
    host.download(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_download_brings_the_three_files(host: KaggleHost, kaggle: KaggleServer, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert downloaded(host, tmp_path / "new") == kaggle.files


@pytest.mark.parametrize(
    "fault",
    [
        Fault(cut=True),
        Fault(status=200, body=b"<html>Sorry</html>", headers={"Content-Type": "text/html"}),
        Fault(spoil=True),
        Fault(status=200, body=b""),
    ],
    ids=["cut", "html", "spoilt", "empty"],
)
def test_a_damaged_bundle_is_replaced_by_single_files(
    host: KaggleHost, kaggle: KaggleServer, tmp_path: Path, fault: Fault
) -> None:
    kaggle.fail("digit-recognizer.zip", *[fault] * 9)
    (tmp_path / "new").mkdir()
    assert downloaded(host, tmp_path / "new") == kaggle.files
    assert kaggle.count("train.csv") == 1


def test_a_single_file_may_arrive_zipped(host: KaggleHost, kaggle: KaggleServer, tmp_path: Path) -> None:
    kaggle.fail("digit-recognizer.zip", Fault(spoil=True))
    kaggle.fail("train.csv", Fault(status=200, body=kaggle.bundle()))
    (tmp_path / "new").mkdir()
    assert downloaded(host, tmp_path / "new") == kaggle.files


def test_wrong_sizes_are_damage_on_the_wire(
    host: KaggleHost, kaggle: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = {"files": [{"name": name, "totalBytes": 1} for name in kaggle.files]}
    monkeypatch.setattr(kaggle, "ListDataFiles", lambda request: listing)
    with pytest.raises(NetworkError, match="damaged"):
        host.download(tmp_path)


def test_server_trouble_is_retried(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.fail("GetSubmissionLimits", error(500, "Oops"), Fault(drop=True), error(503, "Busy"))
    assert host.allowance() == 10


def test_retries_are_capped(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.fail("GetSubmissionLimits", *[error(503, "Busy with other things")] * 20)
    with pytest.raises(NetworkError, match="Busy with other things"):
        host.allowance()
    assert kaggle.count("GetSubmissionLimits") == ATTEMPTS


def test_retry_after_is_obeyed(host: KaggleHost, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    kaggle.fail("GetSubmissionLimits", error(429, "Slow down", **{"Retry-After": "33"}))
    assert host.allowance() == 10
    assert pauses == [33.0]


def test_an_unreasonable_retry_after_is_an_error(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.fail("GetSubmissionLimits", error(429, "Slow down", **{"Retry-After": "86400"}))
    with pytest.raises(NetworkError, match="Slow down"):
        host.allowance()
    assert kaggle.count("GetSubmissionLimits") == 1


@pytest.mark.parametrize(
    ("status", "kind"), [(401, CredentialsError), (403, RefusedError), (404, RefusedError), (400, RefusedError)]
)
def test_refusals_are_said_in_kaggles_words_and_not_retried(
    host: KaggleHost, kaggle: KaggleServer, status: int, kind: type[Exception]
) -> None:
    kaggle.fail("ListDataFiles", error(status, "Kaggle's own words"))
    with pytest.raises(kind, match="Kaggle's own words"):
        host.download(Path("nowhere"))
    assert kaggle.count("ListDataFiles") == 1


def test_rules_not_accepted_says_where_to_accept_them(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.fail("ListDataFiles", error(403, "You must accept this competition's rules"))
    with pytest.raises(RefusedError, match="competitions/digit-recognizer/rules"):
        host.download(Path("nowhere"))


def test_no_credentials(host: KaggleHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.delenv("KAGGLE_USERNAME")
    monkeypatch.delenv("KAGGLE_KEY")
    with pytest.raises(CredentialsError, match="no Kaggle credentials"):
        host.allowance()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("with_key", [True, False])
def test_a_bad_token_is_named_by_its_source(
    host: KaggleHost, monkeypatch: pytest.MonkeyPatch, with_key: bool
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_wrong")
    if not with_key:
        monkeypatch.delenv("KAGGLE_KEY")
    with pytest.raises(CredentialsError, match="KAGGLE_API_TOKEN") as caught:
        host.allowance()
    assert "KGAT_wrong" not in str(caught.value)


@pytest.mark.parametrize("token", ["KGAT_with\nline", "KGAT_" + "x" * 400, "KGAT_end\r\n", "KGAT_ü"])
def test_what_cannot_be_a_token_is_not_shown(
    host: KaggleHost, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", token)
    with pytest.raises(CredentialsError, match="KAGGLE_API_TOKEN holds is no token") as caught:
        host.allowance()
    assert "KGAT" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"username": "ada"}', "a Kaggle username but no key"),
        ('{"key": "0123"}', "a Kaggle key but no username"),
        ("{", "no JSON object"),
        ("[]", "no JSON object"),
    ],
)
def test_half_and_broken_key_files(
    host: KaggleHost, monkeypatch: pytest.MonkeyPatch, content: str, message: str
) -> None:
    monkeypatch.setenv("KAGGLE_USERNAME", "")
    monkeypatch.delenv("KAGGLE_KEY")
    folder = Path.home() / ".kaggle"
    folder.mkdir(exist_ok=True)
    (folder / "kaggle.json").write_text(content)
    with pytest.raises(CredentialsError, match=message):
        host.allowance()


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_token_file_that_cannot_be_read(host: KaggleHost, content: bytes | None) -> None:
    path = Path.home() / ".kaggle" / "access_token"
    path.parent.mkdir(exist_ok=True)
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(CredentialsError, match="access_token cannot be read"):
        host.allowance()


def test_a_good_token(host: KaggleHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    assert host.allowance() == 10


def test_verbose_prints_no_secret(
    host: KaggleHost, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("VERBOSE", "1")
    host.allowance()
    printed = capfd.readouterr()
    assert printed.out == ""
    assert KEY not in printed.err


def test_all_zero_limits_are_no_used_up_allowance(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.limits = {"numToday": 0, "numTotal": 0, "numAllowedNow": 0}
    assert host.allowance() is None
    kaggle.limits = {"numToday": 5, "numTotal": 9, "numAllowedNow": 0}
    assert host.allowance() == 0


def test_submit_uploads_the_file(host: KaggleHost, kaggle: KaggleServer, tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    path.write_bytes(b"ImageId,Label\n1,7\n")
    assert host.submit(path, "a description") == "1000"
    assert kaggle.submissions[0]["content"] == path.read_bytes()
    assert kaggle.submissions[0]["description"] == "a description"


def test_a_failed_upload_is_an_error(
    host: KaggleHost, kaggle: KaggleServer, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "submission.csv").write_bytes(b"ImageId,Label\n1,7\n")
    kaggle.fail("upload", Fault(status=403, body=b"no"))
    with pytest.raises(NetworkError, match="upload of the file to Kaggle failed"):
        host.submit(tmp_path / "submission.csv", "")
    assert kaggle.submissions == []
    assert capsys.readouterr().out == ""


def test_submissions_are_read_page_by_page(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.submissions = [
        {"ref": ref, "date": "2026-11-24T10:00:00Z", "status": "COMPLETE", "publicScore": "0.99"}
        for ref in range(45, 0, -1)
    ]
    assert next(iter(host.submissions())).ref == "45"
    assert kaggle.count("ListSubmissions") == 1
    assert [s.ref for s in host.submissions()] == [str(ref) for ref in range(45, 0, -1)]


def test_standing_on_the_leaderboard(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.board = [(1, "Best", "1.00000", "bob"), (2, "Ada's team", "0.99757", "ada"), (3, "c", "0.9", "c")]
    standing = host.standing()
    assert (standing.place, standing.teams) == (2, 3)
    assert standing.percentile == pytest.approx(66.7, abs=0.1)


def test_a_namesake_on_the_leaderboard(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.board = [(1, "Ada's team", "1.00000", "another"), (2, "Ada's team", "0.99757", "ada")]
    assert host.standing().place == 2


def test_a_leaderboard_of_another_form(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.fail("DownloadLeaderboard", Fault(status=200, body=b"no zip"))
    with pytest.raises(NetworkError, match="arrived damaged"):
        host.standing()


def test_standing_of_somebody_who_dropped_out(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.board = [(1, "Best", "1.00000", "bob")]
    assert host.standing().place is None


def test_files_of_another_format(host: KaggleHost, kaggle: KaggleServer) -> None:
    kaggle.files = {"titanic.csv": b""}
    with pytest.raises(RefusedError, match=r"no train\.csv"):
        host.download(Path("nowhere"))
    assert competition_files().keys() == {"train.csv", "test.csv", "sample_submission.csv"}
