"""Tests of `kaggle_digits.data.csv`: valid and invalid CSV files, and their cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import competition_files, csv_bytes, sample_bytes, small_digits, write_files
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kaggle_digits.data import csv as data_csv
from kaggle_digits.data.csv import load_sample, load_test, load_train
from kaggle_digits.errors import DataError

in_one_folder = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def test_load_train_returns_arrays(tmp_path: Path) -> None:
    images, labels = small_digits(30)
    write_files(tmp_path, {"train.csv": csv_bytes(images, labels)})
    train_set = load_train(tmp_path)
    assert train_set.images.dtype == train_set.labels.dtype == np.uint8
    np.testing.assert_array_equal(train_set.images, images)
    np.testing.assert_array_equal(train_set.labels, labels)


def test_load_test_returns_ids_and_no_labels(tmp_path: Path) -> None:
    write_files(tmp_path, competition_files(test_rows=12))
    test_set = load_test(tmp_path)
    assert test_set.images.shape == (12, 28, 28)
    np.testing.assert_array_equal(test_set.ids, np.arange(1, 13))
    assert not hasattr(test_set, "labels")


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("quoted", [False, True])
def test_load_train_reads_csv_dialects(tmp_path: Path, newline: str, bom: bytes, quoted: bool) -> None:
    images, labels = small_digits(10)
    content = csv_bytes(images, labels, newline)
    if quoted:
        header, rest = content.split(b"\n", 1)
        names = header.strip().split(b",")
        content = b",".join(b'"' + name + b'"' for name in names) + newline.encode() + rest
    write_files(tmp_path, {"train.csv": bom + content})
    np.testing.assert_array_equal(load_train(tmp_path).images, images)


@in_one_folder
@given(
    images=arrays(np.uint8, st.tuples(st.integers(1, 4), st.just(28), st.just(28))),
    label=st.integers(0, 9),
    newline=st.sampled_from(["\n", "\r\n"]),
)
def test_load_train_returns_the_digits_that_were_written(
    tmp_path: Path, images: np.ndarray, label: int, newline: str
) -> None:
    labels = np.full(len(images), label, np.uint8)
    write_files(tmp_path, {"train.csv": csv_bytes(images, labels, newline)})
    train_set = load_train(tmp_path)
    np.testing.assert_array_equal(train_set.images, images)
    np.testing.assert_array_equal(train_set.labels, labels)


VALID = csv_bytes(*small_digits(10))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Empty CSV file"),
        (VALID.split(b"\r\n")[0] + b"\r\n", "no rows"),
        (VALID.replace(b"label", b"digit", 1), "column 1 is 'digit', not 'label'"),
        (VALID.replace(b"pixel0,pixel1", b"pixel1,pixel0", 1), "column 2 is 'pixel1', not 'pixel0'"),
        (csv_bytes(small_digits(5)[0]), "expected 785 columns, got 784"),
        (VALID.replace(b"\r\n3,", b"\r\n10,", 1), r"row 4: the label is 10"),
        (VALID.replace(b"\r\n3,", b"\r\n256,", 1), r"column label: row 4: .* invalid value '256'"),
        (VALID.replace(b"\r\n3,", b"\r\n-1,", 1), r"column label: row 4: .* invalid value '-1'"),
        (VALID.replace(b"\r\n3,", b"\r\nNaN,", 1), r"column label: row 4: .* invalid value 'NaN'"),
        (VALID.replace(b"\r\n3,", b"\r\n3.0,", 1), r"column label: row 4: .* invalid value '3\.0'"),
        (VALID.replace(b"\r\n3,", b"\r\nthree,", 1), r"column label: row 4: .* invalid value 'three'"),
        (VALID.replace(b"\r\n3,", b"\r\n,", 1), r"column label: row 4: .* invalid value ''"),
        (VALID.replace(b"\r\n3,", b"\r\n3,7,", 1), r"row 4: Expected 785 columns, got 786"),
        (VALID[:-40], r"row 10: Expected 785 columns, got 7\d\d"),
        (b"\xff\xfe\x00\x01" * 100, "does not have the columns"),
        (b"<html><body>Sorry</body></html>", "does not have the columns"),
    ],
)
def test_load_train_rejects_invalid_csv(tmp_path: Path, content: bytes, message: str) -> None:
    write_files(tmp_path, {"train.csv": content})
    with pytest.raises(DataError, match=message) as caught:
        load_train(tmp_path)
    assert "train.csv" in caught.value.problem
    assert "download" in caught.value.remedy


@in_one_folder
@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
@example(b'"')
@example(b"label\n\n\n")
@example(b"\xef\xbb\xbf")
def test_load_data_raises_only_data_errors_for_any_bytes(tmp_path: Path, content: bytes) -> None:
    write_files(tmp_path, {"train.csv": content, "sample_submission.csv": content})
    with pytest.raises(DataError):
        load_train(tmp_path)
    with pytest.raises(DataError):
        load_sample(tmp_path)


@in_one_folder
@given(at=st.integers(0, len(VALID) - 1), byte=st.integers(0, 255))
def test_load_train_reads_or_rejects_file_with_a_changed_byte(tmp_path: Path, at: int, byte: int) -> None:
    write_files(tmp_path, {"train.csv": VALID[:at] + bytes([byte]) + VALID[at + 1 :]})
    try:
        train_set = load_train(tmp_path)
    except DataError:
        return
    assert train_set.images.shape[1:] == (28, 28)
    assert train_set.labels.max() <= 9


def test_load_train_names_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.csv is missing"):
        load_train(tmp_path)


def test_load_train_rejects_folder(tmp_path: Path) -> None:
    (tmp_path / "train.csv").mkdir()
    with pytest.raises(DataError, match=r"train\.csv is a folder, not a regular file"):
        load_train(tmp_path)


def test_load_test_rejects_sample_of_other_length(tmp_path: Path) -> None:
    write_files(tmp_path, competition_files(test_rows=12) | {"sample_submission.csv": sample_bytes(11)})
    with pytest.raises(DataError, match=r"12 rows but sample_submission\.csv has 11"):
        load_test(tmp_path)


def test_load_sample_rejects_duplicate_ids(tmp_path: Path) -> None:
    write_files(tmp_path, {"sample_submission.csv": b"ImageId,Label\n1,0\n1,0\n"})
    with pytest.raises(DataError, match="duplicate values in the column ImageId"):
        load_sample(tmp_path)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The CSV files that were parsed and not read from their cache."""
    paths: list[Path] = []
    parse = data_csv._read_csv
    monkeypatch.setattr(data_csv, "_read_csv", lambda path, *rest: paths.append(path) or parse(path, *rest))
    return paths


def test_load_train_parses_once(tmp_path: Path, parsed: list[Path]) -> None:
    path = write_files(tmp_path, {"train.csv": VALID}) / "train.csv"
    first = load_train(tmp_path)
    np.testing.assert_array_equal(load_train(tmp_path).images, first.images)
    os.utime(path, ns=(1, 1))  # another time, the same content
    assert load_train(tmp_path).sha256 == first.sha256
    assert parsed == [path]


def test_load_train_parses_changed_file_again(tmp_path: Path, parsed: list[Path]) -> None:
    write_files(tmp_path, {"train.csv": VALID})
    load_train(tmp_path)
    write_files(tmp_path, {"train.csv": csv_bytes(*small_digits(20))})
    assert len(load_train(tmp_path).labels) == 20
    assert len(parsed) == 2


@pytest.mark.parametrize("damage", [b"", b"PK", b"not a npz file"])
def test_load_train_replaces_damaged_cache(tmp_path: Path, parsed: list[Path], damage: bytes) -> None:
    write_files(tmp_path, {"train.csv": VALID})
    load_train(tmp_path)
    (tmp_path / "cache" / "train.npz").write_bytes(damage)
    assert len(load_train(tmp_path).labels) == 10
    assert len(parsed) == 2


class Trap:
    """An object that creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.trace,)


def flag_as_encrypted(path: Path) -> None:
    """Set the "encrypted" bit in each entry of a zip file."""
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        at = content.find(signature)
        while at >= 0:
            content[at + offset] |= 1
            at = content.find(signature, at + 4)
    path.write_bytes(content)


def write_pickle(path: Path) -> None:
    with np.load(path) as known:
        arrays = dict(known) | {"images": np.array([Trap(path.with_name("trace"))], object)}
    with open(path, "wb") as stream:
        np.savez(stream, **arrays)


def write_npy(path: Path) -> None:
    with open(path, "wb") as stream:
        np.save(stream, np.zeros(3))


def remove_labels(path: Path) -> None:
    with np.load(path) as known:
        arrays = {name: known[name] for name in known.files if name != "labels"}
    np.savez(path, **arrays)


@pytest.mark.parametrize("tamper", [flag_as_encrypted, write_pickle, write_npy, remove_labels])
def test_load_train_replaces_modified_cache(
    tmp_path: Path, parsed: list[Path], tamper: Callable[[Path], None]
) -> None:
    write_files(tmp_path, {"train.csv": VALID})
    first = load_train(tmp_path)
    tamper(tmp_path / "cache" / "train.npz")
    np.testing.assert_array_equal(load_train(tmp_path).images, first.images)
    assert len(parsed) == 2
    np.testing.assert_array_equal(load_train(tmp_path).labels, first.labels)
    assert len(parsed) == 2
    assert not (tmp_path / "cache" / "trace").exists()


@in_one_folder
@given(head=st.integers(0, 10_000), offset=st.integers(0, 120), byte=st.integers(0, 255))
def test_load_train_reads_or_replaces_cache_with_changed_bytes(
    tmp_path: Path, head: int, offset: int, byte: int
) -> None:
    write_files(tmp_path, {"train.csv": VALID})
    load_train(tmp_path)
    cache = tmp_path / "cache" / "train.npz"
    content = bytearray(cache.read_bytes())
    # Change only headers. Most other bytes are grey values, which the checksums of the zip file protect. What
    # Hypothesis draws does not depend on the content, because the cache contains the time of train.csv.
    heads = [at for at in range(len(content) - 3) if content[at : at + 2] in (b"PK", b"\x93N")]
    at = heads[head % len(heads)] + offset
    if at < len(content):
        content[at] = byte
    cache.write_bytes(content)
    assert len(load_train(tmp_path).labels) == 10


def rewrite_cache(path: Path, **changes: np.ndarray) -> None:
    """Change arrays in a cache, but not its stamp, so that it still counts as current."""
    with np.load(path) as known:
        arrays = dict(known)
    np.savez(path, **arrays | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"images": np.zeros((10, 28, 28), np.float64)},
        {"images": np.zeros((10, 784), np.uint8)},
        {"images": np.zeros((10, 28, 29), np.uint8)},
        {"images": np.zeros((0, 28, 28), np.uint8), "labels": np.zeros(0, np.uint8)},
        {"images": np.zeros((9, 28, 28), np.uint8)},
        {"images": np.array("digits")},
        {"labels": np.zeros(10, np.int64)},
        {"labels": np.zeros((10, 1), np.uint8)},
        {"labels": np.zeros(9, np.uint8)},
        {"labels": np.full(10, 10, np.uint8)},
        {"sha256": np.zeros(3)},
        {"sha256": np.array("no digest")},
    ],
    ids=lambda changes: "-".join(f"{name}:{array.dtype}{list(array.shape)}" for name, array in changes.items()),
)
def test_load_train_parses_again_when_cache_has_wrong_arrays(
    tmp_path: Path, parsed: list[Path], changes: dict[str, np.ndarray]
) -> None:
    path = write_files(tmp_path, {"train.csv": VALID}) / "train.csv"
    first = load_train(tmp_path)
    rewrite_cache(tmp_path / "cache" / "train.npz", **changes)
    for _ in range(2):  # the second time, from the new cache
        again = load_train(tmp_path)
        np.testing.assert_array_equal(again.images, first.images)
        np.testing.assert_array_equal(again.labels, first.labels)
        assert again.sha256 == first.sha256
    assert parsed == [path, path]


def test_load_test_parses_again_when_cache_has_wrong_dtype(tmp_path: Path, parsed: list[Path]) -> None:
    write_files(tmp_path, competition_files(test_rows=12))
    first = load_test(tmp_path)
    rewrite_cache(tmp_path / "cache" / "test.npz", images=np.zeros((12, 28, 28), np.int16))
    np.testing.assert_array_equal(load_test(tmp_path).images, first.images)
    assert [path.name for path in parsed].count("test.csv") == 2


@pytest.mark.parametrize("name", ["train.csv", "cache/train.npz"])
def test_load_train_does_not_block_on_pipe(tmp_path: Path, name: str) -> None:
    write_files(tmp_path, {"train.csv": VALID})
    load_train(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    if name == "train.csv":
        with pytest.raises(DataError, match=r"train\.csv is a pipe or a device, not a regular file"):
            load_train(tmp_path)
    else:
        assert len(load_train(tmp_path).labels) == 10
        assert (tmp_path / name).is_file()  # replaced
