"""Tests of `download`: files from a host, a folder or a zip file, and files that were copied by hand."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import suppress
from pathlib import Path, PurePath

import pytest
from conftest import (
    OTHER_COMPETITIONS,
    SMALL,
    competition_files,
    csv_bytes,
    files_with_other_names,
    full_disk,
    sample_bytes,
    small_digits,
    write_files,
)
from kaggle_server import zipped

from kaggle_digits import Workspace, download, train
from kaggle_digits.errors import DataError, NetworkError, WriteError
from kaggle_digits.files import lock, sha256
from kaggle_digits.workspace import FILES, find_files

OTHER = {
    "train.csv": csv_bytes(*small_digits(50, seed=7)),
    "test.csv": csv_bytes(small_digits(20, seed=8)[0]),
    "sample_submission.csv": sample_bytes(20),
}


class QueueHost:
    """A host that returns files from a queue."""

    def __init__(self, queue: list[dict[str, bytes]]) -> None:
        self.queue = queue

    def download(self, folder: Path) -> None:
        if not self.queue:
            raise NetworkError("Kaggle cannot be reached.", "Try later.")
        write_files(folder, self.queue.pop(0))


@pytest.fixture
def hosted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, bytes]]:
    """The files that each download returns, in this order. When the list is empty, downloads fail."""
    queue: list[dict[str, bytes]] = []

    monkeypatch.setattr("kaggle_digits.data.download.open_host", lambda workspace, mnist_dir: QueueHost(queue))
    return queue


def files_in(workspace: Workspace) -> dict[str, bytes]:
    return {name: (workspace.data / name).read_bytes() for name in FILES}


def test_download_writes_files_and_manifest(tmp_path: Path, hosted: list) -> None:
    workspace = Workspace.at(tmp_path)
    hosted.append(competition_files())
    result = download(workspace)
    assert (result.train_rows, result.test_rows, result.fetched) == (100, 30, True)
    manifest = json.loads((workspace.data / "manifest.json").read_text())
    assert manifest["files"]["train.csv"] == {
        "bytes": len(competition_files()["train.csv"]),
        "sha256": sha256(workspace.data / "train.csv"),
    }
    assert {p.name for p in workspace.data.iterdir()} == {*FILES, "manifest.json", "cache", ".lock"}


def test_download_accepts_valid_files_copied_by_hand(workspace: Workspace, hosted: list) -> None:
    assert not download(workspace).fetched
    assert (workspace.data / "manifest.json").exists()


def test_download_rejects_and_keeps_invalid_files_copied_by_hand(workspace: Workspace, hosted: list) -> None:
    (workspace.data / "train.csv").write_text("label\n1\n")
    with pytest.raises(DataError, match=r"pixel783, which .*train\.csv does not have"):
        download(workspace)
    assert (workspace.data / "train.csv").read_text() == "label\n1\n"


def test_download_replaces_damaged_file(tmp_path: Path, hosted: list) -> None:
    workspace = Workspace.at(tmp_path)
    hosted += [competition_files(), competition_files()]
    download(workspace)
    with open(workspace.data / "test.csv", "ab") as stream:
        stream.write(b"0,0\r\n")
    assert download(workspace).fetched
    assert files_in(workspace) == competition_files()
    (backup,) = workspace.data.glob("test.csv.*.bak")
    assert backup.read_bytes() == competition_files()["test.csv"] + b"0,0\r\n"


def test_download_loses_no_file_and_is_repeated_when_a_rename_fails(tmp_path: Path, hosted: list) -> None:
    hosted.append(competition_files())
    first = Workspace.at(tmp_path / "first")
    download(first)
    failed_writes = []
    for at in range(40):
        workspace = Workspace.at(tmp_path / str(at))
        shutil.copytree(first.root, workspace.root)
        hosted[:] = [OTHER]
        with full_disk(at) as failed, suppress(WriteError):
            download(workspace, force=True)
        if not failed:
            break
        failed_writes += failed
        kept = {path.read_bytes() for path in workspace.data.iterdir() if path.is_file()}
        assert kept.issuperset(competition_files().values())
        hosted[:] = [OTHER]
        download(workspace)
        assert files_in(workspace) == (competition_files() if failed == ["manifest.json"] else OTHER)
    assert {*FILES, "manifest.json"} <= set(failed_writes)
    assert files_in(workspace) == OTHER


def test_download_repairs_a_download_that_was_killed(tmp_path: Path, hosted: list) -> None:
    workspace = Workspace.at(tmp_path)
    hosted += [competition_files(), OTHER, OTHER]
    download(workspace)
    old = (workspace.data / "test.csv").read_bytes()
    download(workspace, force=True)
    (workspace.data / "test.csv").write_bytes(old)  # as if the process was killed before it replaced this file
    write_files(workspace.data / ".download", {"test.csv": b"incomplete"})
    assert download(workspace).fetched
    assert files_in(workspace) == OTHER
    assert not (workspace.data / ".download").exists()


def test_download_reports_changed_files_and_keeps_backups(tmp_path: Path, hosted: list) -> None:
    workspace = Workspace.at(tmp_path)
    first = competition_files()
    hosted += [first, first, OTHER | {"train.csv": first["train.csv"]}]
    assert download(workspace).changed == ()
    write_files(workspace.data / "host", {"submissions.json": b"{}"})
    assert download(workspace, force=True).changed == ()
    assert download(workspace, force=True).changed == ("test.csv", "sample_submission.csv")
    digest = hashlib.sha256(first["test.csv"]).hexdigest()[:12]
    assert (workspace.data / f"test.csv.{digest}.bak").read_bytes() == first["test.csv"]
    assert (workspace.data / "host" / "submissions.json").exists()


def test_check_manifest_rejects_changed_files(tmp_path: Path, hosted: list) -> None:
    workspace = Workspace.at(tmp_path)
    hosted.append(competition_files())
    download(workspace)
    (workspace.data / "train.csv").write_bytes(OTHER["train.csv"])
    with pytest.raises(DataError, match=r"train\.csv is not the file that was downloaded"):
        train(workspace, preset="lenet", folds=2, settings=SMALL)
    assert not workspace.runs.exists()


def test_download_accepts_complete_files_in_read_only_folder(
    workspace: Workspace, hosted: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    download(workspace)
    monkeypatch.setattr("kaggle_digits.data.download.lock", lambda *_: pytest.fail("locked"))
    assert not download(workspace).fetched


@pytest.mark.parametrize("damaged", ["train.csv", "sample_submission.csv"])
def test_download_keeps_old_files_when_new_ones_are_invalid(
    workspace: Workspace, hosted: list, damaged: str
) -> None:
    before = files_in(workspace)
    hosted.append(OTHER | {damaged: OTHER[damaged][:-30]})
    with pytest.raises(NetworkError, match="The download is damaged: digit-recognizer/"):
        download(workspace, force=True)
    assert files_in(workspace) == before
    assert {p.name for p in workspace.data.iterdir()} == {*FILES, ".lock"}


def source_with(folder: Path, files: dict[str, bytes], kind: str) -> Path:
    """Return a folder, or a zip file, with files in folders."""
    for name, content in files.items():
        path = folder / "source" / name
        write_files(path.parent, {path.name: content})
    if kind == "folder":
        return folder / "source"
    return Path(shutil.make_archive(str(folder / "source"), "zip", folder / "source"))


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize(
    ("folders", "found"),
    [
        (("", "other/"), ""),  # the files of the folder or zip itself
        (("train.csv other/", "mine/"), "mine/"),  # only one folder has all of them
        (("one/", "two/"), r"source.* in exactly one folder, .*, but has: one/sample.*, two/train\.csv\. Put"),
        (
            ("train.csv one/", "test.csv sample_submission.csv two/"),
            r"source.* in exactly one folder, .*, but has: one/train\.csv, two/sample_.*csv, two/test\.csv\.",
        ),
    ],
)
def test_download_takes_all_files_from_one_folder(
    tmp_path: Path, kind: str, folders: tuple[str, ...], found: str
) -> None:
    files = {}
    for place in folders:
        *names, folder = place.split(" ")
        files |= {folder + name: competition_files(50 + 10 * len(folder))[name] for name in names or FILES}
    workspace, source = Workspace.at(tmp_path / "work"), source_with(tmp_path, files, kind)
    if found in ("", "mine/"):
        download(workspace, source=source)
        assert files_in(workspace) == {name: files[found + name] for name in FILES}
    else:
        with pytest.raises(DataError, match=found):
            download(workspace, source=source)


@pytest.mark.parametrize("kind", ["folder", "zip", "zip of zips"])
@pytest.mark.parametrize("competition", OTHER_COMPETITIONS)
def test_download_takes_files_with_other_names(tmp_path: Path, competition: str, kind: str) -> None:
    files = files_with_other_names(competition)
    names = {f"mine/{name}": content for name, content in files.items()}
    if kind == "zip of zips":
        names = {f"{name}.zip": zipped({Path(name).name: content}) for name, content in names.items()}
    workspace = Workspace.at(tmp_path / "work", competition)
    assert download(workspace, source=source_with(tmp_path, names, kind)).test_rows == 30
    assert workspace.data.name == competition
    assert list(files_in(workspace).values()) == list(files.values())


IN_FOLDER = " ".join(f"folder/{name}" for name in FILES)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("Train.CSV tests.csv gender_submission.csv a.csv test", "Train.CSV tests.csv gender_submission.csv"),
        ("train.csv test.csv sample_submission.csv train_sample.csv submission.csv pretest.csv", " ".join(FILES)),
        ("train.csv.zip test.csv train.csv sample.csv train.zip", "train.csv test.csv sample.csv"),
        ("a_train.csv a_test.csv sample_test.csv ._a_train.csv", "a_train.csv a_test.csv sample_test.csv"),
        ("a/train.csv a/test.csv a/my_submission.csv " + IN_FOLDER, IN_FOLDER),
        ("train_1.csv train_2.csv test.csv sample.csv", ""),
        ("train.csv test.csv", ""),
        ("train.csv test.csv sample.csv submission.csv", ""),
    ],
)
def test_find_files_prefers_exact_names_and_needs_one_file_of_each_kind(names: str, found: str) -> None:
    paths = [PurePath(name) for name in names.split()]
    if found:
        expected = dict(zip(FILES, map(PurePath, found.split()), strict=True))
        assert find_files(paths, "It") == expected
    else:
        with pytest.raises(DataError, match=r"^It must have, .*, but has: .*test\.csv.*\. Put the files into"):
            find_files(paths, "It")


def test_download_rejects_a_competition_of_another_format(tmp_path: Path, hosted: list) -> None:
    """It is no damage of the download, which would be one of `digit-recognizer`."""
    hosted.append(OTHER | {"train.csv": OTHER["train.csv"].replace(b"\r\n3,", b"\r\n12,", 1)})
    with pytest.raises(DataError, match=r"^letters/train\.csv, row 4: the label is 12.*\. Choose a competition"):
        download(Workspace.at(tmp_path, "letters"))


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_download_names_invalid_file_at_its_source(tmp_path: Path, kind: str) -> None:
    files = {f"mine/{name}": content for name, content in OTHER.items()}
    files["mine/train.csv"] = files["mine/train.csv"].replace(b"\r\n3,", b"\r\n12,", 1)
    source = source_with(tmp_path, files, kind)
    with pytest.raises(DataError) as caught:
        download(Workspace.at(tmp_path / "work"), source=source)
    assert caught.value.problem == f"{source}/mine/train.csv, row 4: the label is 12, not a digit from 0 to 9."
    assert caught.value.remedy.startswith("Choose the zip file that the browser saved, or a folder with the files")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("there.zip", b"PK no zip", "there.zip is damaged"),
        ("there.zip", None, "does not exist"),
        ("folder/train.csv", b"", r"folder must have, .*, but has: train\.csv\."),
    ],
)
def test_download_rejects_invalid_source(
    tmp_path: Path, hosted: list, name: str, content: bytes | None, message: str
) -> None:
    source = tmp_path / name
    if content is not None:
        write_files(source.parent, {source.name: content})
    with pytest.raises(DataError, match=message):
        download(Workspace.at(tmp_path / "work"), source=source if source.suffix == ".zip" else source.parent)


def test_download_rejects_a_second_download_at_the_same_time(workspace: Workspace) -> None:
    with lock(workspace.data / ".lock", ""), pytest.raises(WriteError, match="Another download"):
        download(workspace)


@pytest.mark.parametrize("mount", ["", "digit-recognizer", "competitions/digit-recognizer"])
def test_download_finds_folder_where_kaggle_mounts_the_data(tmp_path: Path, mount: str) -> None:
    files = competition_files()
    write_files(tmp_path / "input" / mount, files)
    write_files(tmp_path / "input" / "another-competition", {"train.csv": b"", "test.csv": b""})
    folder = download(Workspace.at(tmp_path / "work"), source=tmp_path / "input").folder
    assert {name: (folder / name).read_bytes() for name in files} == files
