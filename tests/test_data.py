"""Tests of `kaggle_digits.data.csv`: valid and invalid CSV files, and their cache."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import (
    OTHER_COMPETITIONS,
    competition_files,
    csv_bytes,
    files_with_other_names,
    sample_bytes,
    small_digits,
    write_files,
)

from kaggle_digits.data import csv as data_csv
from kaggle_digits.data.csv import load_data, load_sample, load_test, load_train
from kaggle_digits.errors import DataError
from kaggle_digits.workspace import FILES


def test_load_train_returns_arrays(tmp_path: Path) -> None:
    images, labels = small_digits(30)
    write_files(tmp_path, competition_files(30))
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
    train = bom + b",".join(names) + newline.encode() + rest
    write_files(tmp_path, competition_files() | {"train.csv": train})
    np.testing.assert_array_equal(load_train(tmp_path).images, images)


VALID = csv_bytes(*small_digits(10))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no header"),
        (VALID.split(b"\r\n")[0] + b"\r\n", "no rows"),
        (VALID.replace(b"\r\n3,", b"\r\n10,", 1), r"row 4: the label is 10"),
        (VALID.replace(b"\r\n3,", b"\r\n256,", 1), r"column label: Row #5: .* invalid value '256'"),
        (VALID.replace(b"\r\n3,", b"\r\n3.0,", 1), r"column label: Row #5: .* invalid value '3\.0'"),
        (VALID.replace(b"\r\n3,", b"\r\n,", 1), r"column label: Row #5: .* invalid value ''"),
        (VALID.replace(b"\r\n3,", b"\r\n3,7,", 1), r"Row #5: Expected 785 columns, got 786"),
        (VALID[:-40], r"Row #11: Expected 785 columns, got 7\d\d"),
    ],
)
def test_load_train_rejects_invalid_csv(tmp_path: Path, content: bytes, message: str) -> None:
    write_files(tmp_path, competition_files() | {"train.csv": content})
    with pytest.raises(DataError, match=message) as caught:
        load_train(tmp_path)
    assert "train.csv" in caught.value.problem
    assert caught.value.remedy == "Download the file again with the command: download --force."


@pytest.mark.parametrize("competition", OTHER_COMPETITIONS)
def test_load_data_finds_columns_whatever_their_names(tmp_path: Path, competition: str) -> None:
    files = files_with_other_names(competition).values()
    write_files(tmp_path / "other", dict(zip(FILES, files, strict=True)))
    data, expected = load_data(tmp_path / "other"), load_data(write_files(tmp_path, competition_files()))
    np.testing.assert_array_equal(data.train.images, expected.train.images)
    np.testing.assert_array_equal(data.train.labels, expected.train.labels)
    np.testing.assert_array_equal(data.test.images, expected.test.images)
    ids = {"uni-digits": np.arange(29, -1, -1), "course-mnist": np.arange(1001, 1031)}
    np.testing.assert_array_equal(data.test.ids, ids[competition])


def test_load_data_finds_columns_by_name_in_any_order(tmp_path: Path) -> None:
    files, (images, labels) = competition_files(), small_digits(100)
    train = pd.read_csv(io.BytesIO(files["train.csv"]))
    train = pd.concat([train, pd.Series(range(1000, 1100), name="ImageId")], axis=1)  # and ids, which are not used
    files["train.csv"] = train[train.columns[::-1]].to_csv(index=False).encode()
    train_set = load_data(write_files(tmp_path, files)).train
    np.testing.assert_array_equal(train_set.images, images)
    np.testing.assert_array_equal(train_set.labels, labels)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("train.csv", "pixel783", "x", r"test\.csv has the column pixel783, which .*train\.csv does not have"),
        ("test.csv", "pixel0", "row,pixel0", r"test\.csv has the column row, which .*train\.csv does not have"),
        ("train.csv", "label,", "", r"train\.csv must have exactly one column that .*labels, but has none"),
        ("train.csv", "label", "label,day", r"but has the columns label, day\. Download all three"),
        ("train.csv", "label,pixel0", "<html>", r"has the column pixel0, which"),
        ("sample_submission.csv", "Label", "A,B", r"two columns, .*but has the columns ImageId, A, B\."),
        ("both", "pixel0", "x,pixel0", r"784 columns of pixels, but has 785: the columns x, .*, pixel783\."),
        ("both", ",pixel783", "", r"but has 783: the columns pixel0, pixel1, pixel2, …, pixel782\."),
        ("both", "pixel7,", "pixel6,", r"784 columns of pixels, but has 783"),
    ],
)
def test_load_data_names_columns_that_do_not_fit(
    tmp_path: Path, name: str, old: str, new: str, message: str
) -> None:
    files = competition_files()
    for file in ("train.csv", "test.csv") if name == "both" else (name,):
        header, rest = files[file].split(b"\n", 1)
        files[file] = header.replace(old.encode(), new.encode(), 1) + b"\n" + rest
    with pytest.raises(DataError, match=message):
        load_data(write_files(tmp_path, files))


def test_load_train_names_missing_file(tmp_path: Path) -> None:
    write_files(tmp_path, {name: content for name, content in competition_files().items() if name != "train.csv"})
    with pytest.raises(DataError, match=r"train\.csv is missing\. Get it with the command: download\.$"):
        load_train(tmp_path)


def test_load_test_rejects_sample_of_other_length(tmp_path: Path) -> None:
    write_files(tmp_path, competition_files(test_rows=12) | {"sample_submission.csv": sample_bytes(11)})
    with pytest.raises(DataError, match=r"12 rows but sample_submission\.csv has 11"):
        load_test(tmp_path)


def test_load_test_rejects_ids_that_are_not_those_of_the_sample(tmp_path: Path) -> None:
    train, test, sample = files_with_other_names("uni-digits").values()
    other = sample.replace(b"\n29,", b"\n30,")
    write_files(tmp_path, dict(zip(FILES, (train, test, other), strict=True)))
    with pytest.raises(DataError, match=r"The column id of .*test\.csv does not have the same ids as sample_sub"):
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
    path = write_files(tmp_path, competition_files()) / "train.csv"
    first = load_train(tmp_path)
    np.testing.assert_array_equal(load_train(tmp_path).images, first.images)
    assert parsed == [path]


def test_load_train_parses_changed_file_again(tmp_path: Path, parsed: list[Path]) -> None:
    write_files(tmp_path, competition_files(10))
    load_train(tmp_path)
    write_files(tmp_path, {"train.csv": csv_bytes(*small_digits(20))})
    assert len(load_train(tmp_path).labels) == 20
    assert len(parsed) == 2


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def remove_columns(path: Path) -> None:
    """Write what earlier versions wrote."""
    with np.load(path) as known:
        arrays = {name: known[name] for name in known.files if name != "columns"}
    np.savez(path, **arrays)


@pytest.mark.parametrize("damage", [truncate, remove_columns])
def test_load_train_replaces_damaged_cache(
    tmp_path: Path, parsed: list[Path], damage: Callable[[Path], None]
) -> None:
    write_files(tmp_path, competition_files(10))
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
    write_files(tmp_path, competition_files(10) | {"cache": b"a file instead of a folder"})
    for _ in range(2):
        assert len(load_train(tmp_path).labels) == 10
    assert len(parsed) == 2
