"""Parse, validate and cache the competition's CSV files."""

import csv
import re
import textwrap
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kaggle_digits.arrays import Int64, UInt8
from kaggle_digits.errors import DataError, WriteError
from kaggle_digits.files import read_errors, replacing, sha256
from kaggle_digits.workspace import CLASSES, SAMPLE_CSV, SIDE, TEST_CSV, TRAIN_CSV

_DOWNLOAD_AGAIN = "Download the file again with the command: download --force."
_DOWNLOAD_ALL_AGAIN = "Download all three files again with the command: download --force."


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
    ids: Int64  # from its own column of ids, if there is one, otherwise from ``sample_submission.csv``, [m]
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


@dataclass(frozen=True)
class Sample:
    """What ``sample_submission.csv`` says about a submission: the names of its two columns, and its ids."""

    key: str  # the name of the column of ids
    target: str  # the name of the column of predictions
    ids: Int64  # of the rows of a submission, in their order, [m]


def load_data(folder: Path) -> Data:
    """Load the training and the test rows of a competition's data folder: see `load_train` and `load_test`."""
    return Data(load_train(folder), load_test(folder))


def load_train(folder: Path) -> LabelledDigits:
    """Load ``train.csv`` of a competition's data folder; `DataError` if it is missing or not valid."""
    path = folder / TRAIN_CSV
    cells, digest = _load(path, _find_columns(folder))
    labels = cells[:, 0].copy()
    if labels.max() >= CLASSES:
        row = int(np.argmax(labels >= CLASSES))
        raise DataError(
            f"{path}, row {row + 1}: the label is {labels[row]}, not a digit from 0 to 9.", _DOWNLOAD_AGAIN
        )
    return LabelledDigits(cells[:, 1:].reshape(-1, SIDE, SIDE), labels, digest)


def load_test(folder: Path) -> UnlabelledDigits:
    """Load ``test.csv``, with its ids; `DataError` if a file is not valid or their rows differ."""
    path, sample = folder / TEST_CSV, load_sample(folder)
    cells, digest = _load(path, _find_columns(folder)[1:])
    if len(cells) != len(sample.ids):
        raise DataError(
            f"{path} has {len(cells):,} rows but {SAMPLE_CSV} has {len(sample.ids):,}.", _DOWNLOAD_ALL_AGAIN
        )
    ids = sample.ids
    if sample.key in _header(path):
        ids = _parse(path, (sample.key,), np.int64)[:, 0]
        if not np.array_equal(np.sort(ids), np.sort(sample.ids)):
            problem = f"The column {sample.key} of {path} does not have the same ids as {SAMPLE_CSV}."
            raise DataError(problem, _DOWNLOAD_ALL_AGAIN)
    return UnlabelledDigits(cells.reshape(-1, SIDE, SIDE), ids, digest)


def load_sample(folder: Path) -> Sample:
    """Load ``sample_submission.csv`` of a competition's data folder; `DataError` if it is missing or not valid."""
    path = folder / SAMPLE_CSV
    key, target = _sample_columns(folder)
    ids: Int64 = _parse(path, (key,), np.int64)[:, 0]
    if len(np.unique(ids)) != len(ids):
        raise DataError(f"{path} has duplicate values in the column {key}.", _DOWNLOAD_AGAIN)
    return Sample(key, target, ids)


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


def _header(path: Path) -> list[str]:
    """Return the names of the columns of a CSV file."""
    with _reading(path), open(path, encoding="utf-8-sig", newline="") as stream:
        header = next(csv.reader(stream), [])
        if not header:
            raise ValueError("it has no header")
        return header


def _sample_columns(folder: Path) -> tuple[str, str]:
    """Return the names of the columns of ids and of predictions in ``sample_submission.csv``."""
    path, header = folder / SAMPLE_CSV, _header(folder / SAMPLE_CSV)
    if len(header) != 2:
        problem = f"{path} must have two columns, ids and labels, but has {_names(header)}."
        raise DataError(problem, _DOWNLOAD_AGAIN)
    return header[0], header[1]


def _find_columns(folder: Path) -> tuple[str, ...]:
    """Return the names of the column of labels and of those of pixels, which follow from the headers of the files.

    The pixels are the columns of ``test.csv``, in its order. The labels are the only column that ``train.csv`` has
    besides these. Both files may also have a column of ids, called as in ``sample_submission.csv``.
    """
    train, test = folder / TRAIN_CSV, folder / TEST_CSV
    others, pixels = dict.fromkeys(_header(train)), dict.fromkeys(_header(test))
    key, _ = _sample_columns(folder)
    for columns in (others, pixels):
        columns.pop(key, None)
    problem = ""
    if unknown := [name for name in pixels if name not in others]:
        problem = f"{test} has {_names(unknown)}, which {train} does not have."
    elif len(labels := [name for name in others if name not in pixels]) != 1:
        problem = f"{train} must have exactly one column that {test} does not have, with the labels, but "
        problem += f"has {_names(labels)}."
    elif len(pixels) != SIDE * SIDE:
        problem = f"{test} must have {SIDE * SIDE} columns of pixels, but has {len(pixels)}: {_names(pixels)}."
    if problem:
        raise DataError(problem, _DOWNLOAD_ALL_AGAIN)
    return (*labels, *pixels)


def _names(columns: Iterable[str]) -> str:
    """Return the names of some columns for a sentence."""
    columns = list(columns)
    shown = columns if len(columns) <= 5 else [*columns[:3], "…", columns[-1]]
    listed = f"the column{'s' * (len(columns) > 1)} {', '.join(shown)}" if columns else "none"
    return textwrap.shorten(listed, 100, placeholder=" …")


def _load(path: Path, columns: tuple[str, ...]) -> tuple[UInt8, str]:
    """Return the values of some columns of a CSV file, uint8 [rows, columns], and the file's SHA-256.

    They are read from ``cache/`` as long as the columns, and size and modification time of the file are the same.
    """
    cache = path.parent / "cache" / f"{path.stem}.npz"
    with _reading(path):
        status = path.stat()
        stamp = np.array([status.st_size, status.st_mtime_ns])
        with suppress(Exception), np.load(cache) as arrays:  # without a valid cache, the file is parsed
            if np.array_equal(arrays["stamp"], stamp) and np.array_equal(arrays["columns"], columns):
                return arrays["cells"], str(arrays["sha256"])
        digest, cells = sha256(path), _parse(path, columns, np.uint8)
    with suppress(WriteError), replacing(cache) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, cells=cells, columns=columns, sha256=digest, stamp=stamp)
    return cells, digest


def _parse(path: Path, columns: tuple[str, ...], dtype: type[np.integer[Any]]) -> npt.NDArray[Any]:
    """Return the values of some columns of a CSV file, which are integers, [rows, columns]."""
    import pyarrow as pa
    from pyarrow.csv import ConvertOptions, ParseOptions, ReadOptions, read_csv

    types = dict.fromkeys(columns, pa.from_numpy_dtype(dtype))
    with _reading(path):
        try:
            table = read_csv(
                path,
                # With several threads, the reader does not report the number of a row that is not valid.
                ReadOptions(use_threads=False),
                # Valid files have no line breaks in values. Without this, a stray quote would make the reader take
                # the rest of the file for one value.
                ParseOptions(newlines_in_values=False),
                ConvertOptions(column_types=types, include_columns=columns, null_values=[]),
            )
        except pa.ArrowInvalid as error:  # it has the number of the column that is not valid, from 0 on
            header = _header(path)
            named = re.sub(r"CSV column #(\d+)", lambda match: f"the column {header[int(match[1])]}", str(error))
            raise ValueError(named) from error
        if table.num_rows == 0:
            raise ValueError("it has a header but no rows")
    cells = np.empty((table.num_rows, len(columns)), dtype)
    for i, name in enumerate(columns):
        cells[:, i] = table[name].to_numpy()
    return cells
