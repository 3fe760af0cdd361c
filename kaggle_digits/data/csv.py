"""Parse, validate and cache the competition's CSV files."""

from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kaggle_digits.arrays import Int64, UInt8
from kaggle_digits.errors import DataError, WriteError
from kaggle_digits.files import read_errors, replacing, sha256
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

_DOWNLOAD_AGAIN = "Download the file again with the command: download --force."


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
    """Load ``train.csv`` of a competition's data folder; `DataError` if it is missing or not valid."""
    path = folder / TRAIN_CSV
    cells, digest = _load(path, (LABEL_COLUMN, *PIXEL_COLUMNS))
    labels = cells[:, 0].copy()
    if labels.max() >= CLASSES:
        row = int(np.argmax(labels >= CLASSES))
        raise DataError(
            f"{path}, row {row + 1}: the label is {labels[row]}, not a digit from 0 to 9.", _DOWNLOAD_AGAIN
        )
    return LabelledDigits(cells[:, 1:].reshape(-1, SIDE, SIDE), labels, digest)


def load_test(folder: Path) -> UnlabelledDigits:
    """Load ``test.csv``, with its ids; `DataError` if a file is not valid or their numbers of rows differ."""
    cells, digest = _load(folder / TEST_CSV, PIXEL_COLUMNS)
    ids = load_sample(folder)
    if len(cells) != len(ids):
        raise DataError(
            f"{folder / TEST_CSV} has {len(cells):,} rows but {SAMPLE_CSV} has {len(ids):,}.",
            "Download all three files again with the command: download --force.",
        )
    return UnlabelledDigits(cells.reshape(-1, SIDE, SIDE), ids, digest)


def load_sample(folder: Path) -> Int64:
    """Load the ids of ``sample_submission.csv``, int64 [m]. A submission must have these ids, in this order."""
    path = folder / SAMPLE_CSV
    ids: Int64 = _parse(path, SUBMISSION_COLUMNS, np.int64)[:, 0]
    if len(np.unique(ids)) != len(ids):
        raise DataError(f"{path} has duplicate values in the column {SUBMISSION_COLUMNS[0]}.", _DOWNLOAD_AGAIN)
    return ids


def present_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of ``train.csv`` and ``test.csv``, keyed by name, as far as they are in the folder."""
    hashes = {}
    for path in (folder / TRAIN_CSV, folder / TEST_CSV):
        if path.exists():
            with _reading(path):
                hashes[path.name] = sha256(path)
    return hashes


def _reading(path: Path) -> AbstractContextManager[None]:
    return read_errors(path, _DOWNLOAD_AGAIN if path.exists() else "Get it with the command: download.")


def _load(path: Path, columns: tuple[str, ...]) -> tuple[UInt8, str]:
    """Return the values of a CSV file, uint8 [rows, columns], and its SHA-256.

    They are read from ``cache/`` as long as size and modification time of the file are the same.
    """
    cache = path.parent / "cache" / f"{path.stem}.npz"
    with _reading(path):
        status = path.stat()
        stamp = np.array([status.st_size, status.st_mtime_ns])
        with suppress(Exception), np.load(cache) as arrays:  # without a valid cache, the file is parsed
            if np.array_equal(arrays["stamp"], stamp):
                return arrays["cells"], str(arrays["sha256"])
        digest, cells = sha256(path), _parse(path, columns, np.uint8)
    with suppress(WriteError), replacing(cache) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, cells=cells, sha256=digest, stamp=stamp)
    return cells, digest


def _parse(path: Path, columns: tuple[str, ...], dtype: type[np.integer[Any]]) -> npt.NDArray[Any]:
    """Return the values of a CSV file of integers with exactly these columns, in this order, [rows, columns]."""
    import pyarrow as pa
    from pyarrow import csv

    types = dict.fromkeys(columns, pa.from_numpy_dtype(dtype))
    with _reading(path):
        table = csv.read_csv(
            path,
            # With several threads, the reader does not report the number of a row that is not valid.
            csv.ReadOptions(use_threads=False),
            # Valid files have no line breaks in values. Without this, a stray quote would make the reader take
            # the rest of the file for one value.
            csv.ParseOptions(newlines_in_values=False),
            csv.ConvertOptions(column_types=types, null_values=[]),
        )
        if tuple(table.column_names) != columns:
            raise ValueError(f"it does not have the {len(columns)} columns from {columns[0]} to {columns[-1]}")
        if table.num_rows == 0:
            raise ValueError("it has a header but no rows")
    cells = np.empty((table.num_rows, len(columns)), dtype)
    for i, name in enumerate(columns):
        cells[:, i] = table[name].to_numpy()
    return cells
