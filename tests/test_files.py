"""Tests of `kaggle_digits.files`: atomic writes, links, pipes, JSON, zip files and the errors of all of them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import pipe_with_reader

from kaggle_digits.errors import DataError, WriteError
from kaggle_digits.files import make_folder, read_errors, read_json, unpack, unzip, write_bytes

CONTENT = b"ImageId,Label\n" + b"".join(b"%d,%d\n" % (i, i % 10) for i in range(200))


def zipped(name: str = "folder/ü.csv") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, CONTENT)
    return stream.getvalue()


def saved(folder: Path, content: bytes) -> Path:
    path = folder / "a.zip"
    path.write_bytes(content)
    return path


def test_unzip_names_damaged_zip_and_missing_file(tmp_path: Path) -> None:
    unzip(saved(tmp_path, zipped()), ["ü.csv"], tmp_path)
    assert (tmp_path / "ü.csv").read_bytes() == CONTENT
    changed = zipped().replace(zipped()[60:64], b"\0\0\0\0")
    for content in (b"<html>", zipped()[:-10], changed):
        with pytest.raises(DataError, match=r"^a\.zip is damaged: .* Get it again"):
            unzip(saved(tmp_path, content), ["ü.csv"], tmp_path)
    with pytest.raises(DataError, match=r"^a\.zip is damaged: it has no a\.json\. Get it again"):
        unzip(saved(tmp_path, zipped()), ["a.json"], tmp_path)


def test_unpack_replaces_a_zip_by_the_file_in_it(tmp_path: Path) -> None:
    path = saved(tmp_path, zipped())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/folder/._ü.csv", b"what a Mac adds")
    for _ in range(2):  # the second time, it is no zip any more
        unpack(path)
        assert path.read_bytes() == CONTENT


def test_unzip_does_not_write_outside_the_folder(tmp_path: Path) -> None:
    archive = saved(tmp_path, zipped("../../train.csv"))
    with zipfile.ZipFile(archive, "a") as files:
        files.writestr("../../older/train.csv", b"which is further down")
    unzip(archive, ["train.csv"], tmp_path / "data")
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.csv")} == {"data/train.csv"}
    assert (tmp_path / "data" / "train.csv").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "a.json is missing."),
        (b"{", "a.json is damaged: "),
        (b"[1]", "a.json is damaged: it does not contain a JSON object."),
        (b"[" * 100_000, "a.json is damaged: "),
    ],
)
def test_read_json_names_missing_or_damaged_file(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_json(path, "Create it again.")
    assert problem in caught.value.problem
    assert caught.value.remedy == "Create it again."


def test_read_errors_explains_what_cannot_be_read(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match=r"folder cannot be read: Is a directory\."),
        read_errors(Path("folder"), ""),
    ):
        tmp_path.read_bytes()
    with pytest.raises(DataError, match=r"a\.bin is damaged: MemoryError\."), read_errors(Path("a.bin"), ""):
        raise MemoryError


def test_write_bytes_replaces_the_target_of_a_link(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/file")
    for content in (b"first", b"second"):
        write_bytes(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "folder" / "file").read_bytes() == content
    assert {path.name for path in tmp_path.rglob("*")} == {"folder", "link", "file", "home"}


@pytest.mark.parametrize("name", ["pipe", "link"])
def test_write_bytes_writes_into_pipe(tmp_path: Path, name: str) -> None:
    (tmp_path / "link").symlink_to("pipe")
    with pipe_with_reader(tmp_path / "pipe") as received:
        write_bytes(tmp_path / name, CONTENT)
    assert received == [CONTENT]
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("write", [make_folder, lambda path: write_bytes(path, b"")], ids=["folder", "file"])
def test_write_errors_names_link_to_a_drive_that_is_not_there(
    tmp_path: Path, write: Callable[[Path], object]
) -> None:
    (tmp_path / "data").symlink_to("/no-drive/data")
    for path in (tmp_path / "data", tmp_path / "data" / "below"):
        with pytest.raises(WriteError, match="data is a link to /no-drive/data, which does not exist"):
            write(path)
