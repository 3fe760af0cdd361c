"""Tests of `kaggle_digits.files`: valid and damaged zip files, and paths that are not regular files."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import pipe_with_reader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kaggle_digits import files
from kaggle_digits.errors import DataError, WriteError
from kaggle_digits.files import (
    make_folder,
    open_log,
    read_json,
    read_npz,
    read_zipped,
    regular_file,
    sha256,
    write_bytes,
    write_output,
)

CONTENT = b"ImageId,Label\n" + b"".join(b"%d,%d\n" % (i, i % 10) for i in range(200))
METHODS = {
    "stored": zipfile.ZIP_STORED,
    "deflated": zipfile.ZIP_DEFLATED,
    "bzip2": zipfile.ZIP_BZIP2,
    "lzma": zipfile.ZIP_LZMA,
}


def zipped(method: int, name: str = "folder/ü.csv") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr(name, CONTENT)
    return stream.getvalue()


def saved(folder: Path, content: bytes) -> Path:
    path = folder / "a.zip"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_read_zipped_reads_every_compression_method(tmp_path: Path, method: int) -> None:
    assert read_zipped(saved(tmp_path, zipped(method)), "*.csv") == CONTENT


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@given(
    spots=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=4),
    end=st.none() | st.floats(0, 1),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_read_zipped_raises_only_data_errors_for_damaged_zips(
    tmp_path: Path, method: int, spots: list[tuple[float, int]], end: float | None
) -> None:
    content = bytearray(zipped(method))
    for place, change in spots:
        content[int(place * (len(content) - 1))] ^= change
    if end is not None:
        del content[int(end * len(content)) :]
    # A changed name may still match the pattern, but changed content must be found by its checksum.
    with suppress(DataError):
        assert read_zipped(saved(tmp_path, bytes(content)), "*.csv") == CONTENT


def test_read_zipped_rejects_names_that_are_not_text(tmp_path: Path) -> None:
    content = zipped(zipfile.ZIP_DEFLATED).replace("ü".encode(), b"\xff\xff")
    with pytest.raises(DataError, match="not a complete zip file"):
        read_zipped(saved(tmp_path, content), "*.csv")


def test_read_zipped_rejects_invalid_lzma_stream(tmp_path: Path) -> None:
    content = bytearray(zipped(zipfile.ZIP_LZMA))
    # The offset of the LZMA properties: after the header, the name, the version and the length of the properties.
    content[30 + len("folder/ü.csv".encode()) + 4] = 0xFF
    with pytest.raises(DataError, match="not a complete zip file"):
        read_zipped(saved(tmp_path, bytes(content)), "*.csv")


def test_read_zipped_rejects_too_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, zipped(zipfile.ZIP_DEFLATED))
    monkeypatch.setattr(files, "LARGEST_MEMBER", len(CONTENT) - 1)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(DataError, match=f"{len(CONTENT):,} bytes after unpacking are too many"):
        read_zipped(path, "*.csv")


def test_read_zipped_rejects_file_larger_than_its_header_says(tmp_path: Path) -> None:
    content = zipped(zipfile.ZIP_DEFLATED).replace(struct.pack("<I", len(CONTENT)), struct.pack("<I", 10))
    with pytest.raises(DataError, match="not a complete zip file"):
        read_zipped(saved(tmp_path, content), "*.csv")


def test_read_zipped_raises_data_error_when_memory_runs_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    path = saved(tmp_path, zipped(zipfile.ZIP_DEFLATED))
    monkeypatch.setattr(zipfile.ZipExtFile, "read", fail)
    with pytest.raises(DataError, match="MemoryError"):
        read_zipped(path, "*.csv")


def special_file(folder: Path, kind: str) -> Path:
    """Create a path that is not a regular file. Opening the pipe would block, because nothing writes to it."""
    path = folder / kind
    if kind == "a pipe or a device":
        os.mkfifo(path)
    elif kind == "a link to a device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    return path


@pytest.mark.parametrize("kind", ["a pipe or a device", "a link to a device", "a folder"])
def test_regular_file_rejects_pipes_devices_and_folders(tmp_path: Path, kind: str) -> None:
    path = special_file(tmp_path, kind)
    description = "a folder" if kind == "a folder" else "a pipe or a device"
    with pytest.raises(DataError, match=f"{kind} is {description}, not a regular file\\. Fix it\\."):
        regular_file(path, "Fix it.")
    for read in (read_json, sha256, open_log, lambda path: read_zipped(path, "*.csv")):
        with pytest.raises(DataError, match="not a regular file"):
            read(path)
    assert read_npz(path) is None


def test_regular_file_follows_links_and_passes_on_missing_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    assert regular_file(tmp_path / "link", "") == tmp_path / "link"
    with pytest.raises(FileNotFoundError):
        regular_file(tmp_path / "none", "")


def test_write_bytes_replaces_the_target_of_a_link(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/file")
    for content in (b"first", b"second"):
        write_bytes(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "folder" / "file").read_bytes() == content
    assert {path.name for path in tmp_path.rglob("*")} == {"folder", "link", "file", "home"}


def test_write_bytes_replaces_a_link_to_a_pipe_and_not_the_pipe(tmp_path: Path) -> None:
    """As root, a device such as /dev/null could be replaced, too."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    write_bytes(tmp_path / "link", b"content")
    assert (tmp_path / "pipe").is_fifo()
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "link").read_bytes() == b"content"


@pytest.mark.parametrize("write", [make_folder, lambda path: write_bytes(path, b"")], ids=["folder", "file"])
def test_write_errors_names_link_to_a_drive_that_is_not_there(
    tmp_path: Path, write: Callable[[Path], object]
) -> None:
    (tmp_path / "data").symlink_to("/no-drive/data")
    with pytest.raises(WriteError, match="data is a link to /no-drive/data, which does not exist"):
        write(tmp_path / "data")
    with pytest.raises(WriteError, match="data is a link to /no-drive/data, which does not exist"):
        write(tmp_path / "data" / "below")


@pytest.mark.parametrize("name", ["pipe", "link"])
def test_write_output_writes_into_pipe(tmp_path: Path, name: str) -> None:
    (tmp_path / "link").symlink_to("pipe")
    with pipe_with_reader(tmp_path / "pipe") as received:
        write_output(tmp_path / name, CONTENT)
    assert received == [CONTENT]
    assert (tmp_path / "link").is_symlink()
