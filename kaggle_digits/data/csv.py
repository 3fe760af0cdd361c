"""Parse, validate and cache the competition's CSV files."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kaggle_digits.arrays import Int64, UInt8
from kaggle_digits.errors import DataError, WriteError
from kaggle_digits.files import read_npz, regular_file, replacing, sha256
from kaggle_digits.workspace import (
    CLASSES,
    LABEL_COLUMN,
    PIXEL_COLUMNS,
    SAMPLE_CSV,
    SIDE,
    SUBMISSION_COLUMNS,
    TEST_CSV,
    TRAIN_CSV,
)

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class LabelledDigits:
    """The labelled rows of ``train.csv``, in the order of the file."""

    images: UInt8  # grey values, [n, 28, 28], from 0 (background) to 255 (ink)
    labels: UInt8  # the digits, [n]
    sha256: str  # of the CSV file


@dataclass(frozen=True)
class UnlabelledDigits:
    """The rows of ``test.csv``, in the order of the file. There are no labels."""

    images: UInt8  # grey values, [m, 28, 28], from 0 (background) to 255 (ink)
    ids: Int64  # from ``sample_submission.csv``, [m]
    sha256: str  # of ``test.csv``


@dataclass(frozen=True)
class Data:
    """A competition's training and test rows."""

    train: LabelledDigits
    test: UnlabelledDigits

    @property
    def hashes(self) -> dict[str, str]:
        """The SHA-256 of both files, keyed by file name."""
        return {TRAIN_CSV: self.train.sha256, TEST_CSV: self.test.sha256}


def load_data(folder: Path) -> Data:
    """Load the training and the test rows of a competition's data folder: see `load_train` and `load_test`."""
    return Data(load_train(folder), load_test(folder))


def load_train(folder: Path) -> LabelledDigits:
    """Load ``train.csv`` of a competition's data folder; `DataError` if it is missing or not valid.

    The file is parsed and validated once. After that, its arrays are read from ``cache/`` as long as the file's
    size and modification time, or its SHA-256, have not changed.
    """
    arrays = _cached(folder / TRAIN_CSV, _parse_train, ("images", "labels"))
    return LabelledDigits(arrays["images"], arrays["labels"], str(arrays["sha256"]))


def load_test(folder: Path) -> UnlabelledDigits:
    """Load ``test.csv``, with its ids; `DataError` if a file is not valid or their numbers of rows differ."""
    arrays = _cached(folder / TEST_CSV, _parse_test, ("images",))
    images, ids = arrays["images"], load_sample(folder)
    if len(images) != len(ids):
        raise DataError(
            f"{folder / TEST_CSV} has {len(images):,} rows but {SAMPLE_CSV} has {len(ids):,}.",
            "Download all three files again with the command: download --force.",
        )
    return UnlabelledDigits(images, ids, str(arrays["sha256"]))


def load_test_images(folder: Path) -> UInt8:
    """Load the images of ``test.csv`` without their ids, uint8 [m, 28, 28]; `DataError` as in `load_test`."""
    images: UInt8 = _cached(folder / TEST_CSV, _parse_test, ("images",))["images"]
    return images


def load_sample(folder: Path) -> Int64:
    """Load the ids of ``sample_submission.csv``, int64 [m]. A submission must have these ids, in this order."""
    path = folder / SAMPLE_CSV
    ids = _column(_read_csv(path, SUBMISSION_COLUMNS, "int64"), SUBMISSION_COLUMNS[0])
    if len(np.unique(ids)) != len(ids):
        raise DataError(f"{path} has duplicate values in the column {SUBMISSION_COLUMNS[0]}.", _DOWNLOAD_AGAIN)
    return ids


def present_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of ``train.csv`` and ``test.csv``, keyed by name, as far as they are in the folder."""
    return {name: _digest(folder / name) for name in (TRAIN_CSV, TEST_CSV) if os.path.exists(folder / name)}


_DOWNLOAD_AGAIN = "Download the file again with the command: download --force."


def _parse_train(path: Path) -> dict[str, UInt8]:
    table = _read_csv(path, (LABEL_COLUMN, *PIXEL_COLUMNS), "uint8")
    labels = _column(table, LABEL_COLUMN)
    if labels.max() >= CLASSES:
        row = int(np.argmax(labels >= CLASSES))
        raise DataError(
            f"{path}, row {row + 1}: the label is {labels[row]}, not a digit from 0 to 9.", _DOWNLOAD_AGAIN
        )
    return {"images": _images(table), "labels": labels}


def _parse_test(path: Path) -> dict[str, UInt8]:
    return {"images": _images(_read_csv(path, PIXEL_COLUMNS, "uint8"))}


def _read_csv(path: Path, columns: tuple[str, ...], dtype: str) -> pa.Table:
    """Read a CSV file of integers with exactly these columns, in this order."""
    import pyarrow as pa
    from pyarrow import csv

    def parse(threads: bool) -> pa.Table:
        table = csv.read_csv(
            _regular_file(path),
            csv.ReadOptions(use_threads=threads),
            # Valid files have no line breaks in values. Without this, a stray quote would make the reader take
            # the rest of the file for one value.
            csv.ParseOptions(newlines_in_values=False),
            csv.ConvertOptions(column_types=dict.fromkeys(columns, dtype), null_values=[]),
        )
        _check_columns(path, table.column_names, columns)
        return table

    try:
        table = parse(threads=True)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.", _DOWNLOAD_AGAIN) from error
    except (pa.ArrowInvalid, UnicodeDecodeError):
        # Only the single-threaded reader reports the number of the row that is not valid.
        try:
            table = parse(threads=False)
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise _invalid(path, columns, error) from error
    if table.num_rows == 0:
        raise DataError(f"{path} has a header but no rows.", _DOWNLOAD_AGAIN)
    return table


def _regular_file(path: Path) -> Path:
    try:
        return regular_file(path, "Remove it, then download the file with the command: download.")
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path} is missing.", "Get it with the command: download.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", _DOWNLOAD_AGAIN) from error


def _digest(path: Path) -> str:
    try:
        return sha256(_regular_file(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", _DOWNLOAD_AGAIN) from error


def _invalid(path: Path, columns: tuple[str, ...], error: Exception) -> DataError:
    """Return the error for what the CSV reader reports, with the name of the column and the number of the row."""
    with open(path, encoding="utf-8-sig", errors="replace") as stream:
        header = stream.readline(100_000).strip("\r\n").split(",")
    if header != [""]:
        _check_columns(path, [name.strip('"') for name in header], columns)
    # The reader counts columns from 0, and the header as row 1; people count data rows from 1.
    text = re.sub(r"Row #(\d+)", lambda found: f"row {int(found[1]) - 1}", str(error).splitlines()[0])
    text = re.sub(r"In CSV column #(\d+)", lambda found: f"column {columns[int(found[1])]}", text)
    return DataError(f"{path} is not valid: {text[:120].rstrip('.')}.", _DOWNLOAD_AGAIN)


def _check_columns(path: Path, found: list[str], expected: tuple[str, ...]) -> None:
    if tuple(found) == expected:
        return
    if len(found) != len(expected):
        detail = f"expected {len(expected)} columns, got {len(found)}"
    else:
        at = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
        detail = f"column {at + 1} is {found[at][:40]!r}, not {expected[at]!r}"
    shape = ",".join(expected) if len(expected) < 4 else f"{expected[0]},{expected[1]},…,{expected[-1]}"
    raise DataError(f"{path} does not have the columns {shape}: {detail}.", _DOWNLOAD_AGAIN)


def _column(table: pa.Table, name: str) -> npt.NDArray[Any]:
    column: npt.NDArray[Any] = table[name].to_numpy()
    return column


def _images(table: pa.Table) -> UInt8:
    pixels = np.empty((table.num_rows, len(PIXEL_COLUMNS)), np.uint8)
    for i, name in enumerate(PIXEL_COLUMNS):
        pixels[:, i] = _column(table, name)
    return pixels.reshape(-1, SIDE, SIDE)


def _is_valid_cache(known: dict[str, npt.NDArray[Any]], names: tuple[str, ...]) -> bool:
    """Return whether a cache has the expected arrays: another version or another program may have written it."""
    if not {"stamp", "sha256", *names} <= known.keys():
        return False
    rows = known["images"].shape[:1]
    shapes = {"stamp": (2,), "images": (*rows, SIDE, SIDE), "labels": rows}
    return (
        rows not in ((), (0,))
        and known["stamp"].dtype == np.int64
        and all(known[name].dtype == np.uint8 for name in names)
        and all(known[name].shape == shapes[name] for name in ("stamp", *names))
        and ("labels" not in names or known["labels"].max() < CLASSES)
        and re.fullmatch("[0-9a-f]{64}", str(known["sha256"])) is not None
    )


def _cached(path: Path, parse: Any, names: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays called `names` that `parse` returns for a CSV file, from its cache if that is valid."""
    status = _regular_file(path).stat()
    cache = path.parent / "cache" / f"{path.stem}.npz"
    stamp = np.array([status.st_size, status.st_mtime_ns])
    known = read_npz(cache)
    if known is not None and not _is_valid_cache(known, names):
        known = None
    if known and np.array_equal(known["stamp"], stamp):
        return known
    digest = _digest(path)
    if known and str(known["sha256"]) == digest:
        arrays = known | {"stamp": stamp}
    else:
        arrays = parse(path) | {"sha256": np.array(digest), "stamp": stamp}
    try:
        with replacing(cache) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, **arrays)
    except WriteError:
        pass  # The folder may be read-only. Without a cache, the next load parses the file again.
    return arrays
