"""Tests of `kaggle_digits.data.csv`: valid and invalid CSV files, and their cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import competition_files, csv_bytes, sample_bytes, small_digits, write_files

from kaggle_digits.data import csv as data_csv
from kaggle_digits.data.csv import load_sample, load_test, load_train
from kaggle_digits.errors import DataError


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


@pytest.mark.parametrize(
    ("newline", "bom", "quote"), [("\n", b"", b""), ("\r\n", b"\xef\xbb\xbf", b""), ("\n", b"", b'"')]
)
def test_load_train_reads_csv_dialects(tmp_path: Path, newline: str, bom: bytes, quote: bytes) -> None:
    images, labels = small_digits(10)
    header, rest = csv_bytes(images, labels, newline).split(b"\n", 1)
    names = [quote + name + quote for name in header.strip().split(b",")]
    write_files(tmp_path, {"train.csv": bom + b",".join(names) + newline.encode() + rest})
    np.testing.assert_array_equal(load_train(tmp_path).images, images)


VALID = csv_bytes(*small_digits(10))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Empty CSV file"),
        (VALID.split(b"\r\n")[0] + b"\r\n", "no rows"),
        (VALID.replace(b"label", b"digit", 1), "does not have the 785 columns from label to pixel783"),
        (VALID.replace(b"pixel0,pixel1", b"pixel1,pixel0", 1), "does not have the 785 columns"),
        (csv_bytes(small_digits(5)[0]), "does not have the 785 columns"),
        (VALID.replace(b"\r\n3,", b"\r\n10,", 1), r"row 4: the label is 10"),
        (VALID.replace(b"\r\n3,", b"\r\n256,", 1), r"column #0: Row #5: .* invalid value '256'"),
        (VALID.replace(b"\r\n3,", b"\r\n3.0,", 1), r"column #0: Row #5: .* invalid value '3\.0'"),
        (VALID.replace(b"\r\n3,", b"\r\n,", 1), r"column #0: Row #5: .* invalid value ''"),
        (VALID.replace(b"\r\n3,", b"\r\n3,7,", 1), r"Row #5: Expected 785 columns, got 786"),
        (VALID[:-40], r"Row #11: Expected 785 columns, got 7\d\d"),
        (b"<html>\n<body>Sorry</body>\n</html>\n", "does not have the 785 columns"),
    ],
)
def test_load_train_rejects_invalid_csv(tmp_path: Path, content: bytes, message: str) -> None:
    write_files(tmp_path, {"train.csv": content})
    with pytest.raises(DataError, match=message) as caught:
        load_train(tmp_path)
    assert "train.csv" in caught.value.problem
    assert caught.value.remedy == "Download the file again with the command: download --force."


def test_load_train_names_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.csv is missing\. Get it with the command: download\.$"):
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
    parse = data_csv._parse
    monkeypatch.setattr(data_csv, "_parse", lambda path, *rest: paths.append(path) or parse(path, *rest))
    return paths


def test_load_train_parses_once(tmp_path: Path, parsed: list[Path]) -> None:
    path = write_files(tmp_path, {"train.csv": VALID}) / "train.csv"
    first = load_train(tmp_path)
    np.testing.assert_array_equal(load_train(tmp_path).images, first.images)
    assert parsed == [path]


def test_load_train_parses_changed_file_again(tmp_path: Path, parsed: list[Path]) -> None:
    write_files(tmp_path, {"train.csv": VALID})
    load_train(tmp_path)
    write_files(tmp_path, {"train.csv": csv_bytes(*small_digits(20))})
    assert len(load_train(tmp_path).labels) == 20
    assert len(parsed) == 2


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def remove_cells(path: Path) -> None:
    """Write what an earlier version wrote."""
    with np.load(path) as known:
        arrays = {name: known[name] for name in known.files if name != "cells"}
    np.savez(path, images=np.zeros((10, 28, 28), np.uint8), **arrays)


@pytest.mark.parametrize("damage", [truncate, remove_cells])
def test_load_train_replaces_damaged_cache(
    tmp_path: Path, parsed: list[Path], damage: Callable[[Path], None]
) -> None:
    write_files(tmp_path, {"train.csv": VALID})
    first = load_train(tmp_path)
    damage(tmp_path / "cache" / "train.npz")
    for _ in range(2):  # the second time, from the new cache
        again = load_train(tmp_path)
        np.testing.assert_array_equal(again.images, first.images)
        np.testing.assert_array_equal(again.labels, first.labels)
        assert again.sha256 == first.sha256
    assert len(parsed) == 2


def test_load_train_needs_no_cache(tmp_path: Path, parsed: list[Path]) -> None:
    """For example in a folder that cannot be written."""
    write_files(tmp_path, {"train.csv": VALID, "cache": b"a file instead of a folder"})
    for _ in range(2):
        assert len(load_train(tmp_path).labels) == 10
    assert len(parsed) == 2
