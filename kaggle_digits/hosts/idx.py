"""Read, verify and download the IDX files of MNIST."""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np

from kaggle_digits.arrays import UInt8
from kaggle_digits.errors import DataError, NetworkError
from kaggle_digits.files import regular_file

MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""The four files of MNIST and the SHA-256 of their uncompressed content."""

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)


def parse_idx(content: bytes) -> UInt8:
    """Return the array of unsigned bytes in an IDX file's uncompressed content; `ValueError` if it is not valid.

    The format is Yann LeCun's: two zero bytes, a type code (8: unsigned byte), the number of dimensions, each
    dimension as a big-endian 32-bit integer, then the values in C order.
    """
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError("not an IDX file of unsigned bytes")
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise ValueError("the header is incomplete")
    shape = struct.unpack(f">{content[3]}I", content[4:header])
    values = np.frombuffer(content, np.uint8, offset=header)
    if values.size != np.prod(shape, dtype=np.int64):
        raise ValueError(f"{values.size} values do not fill the shape {shape}")
    return values.reshape(shape)


def format_idx(values: UInt8) -> bytes:
    """Return the content of an IDX file that holds `values`: the inverse of `parse_idx`."""
    return struct.pack(f">2xBB{values.ndim}I", 8, values.ndim, *values.shape) + values.tobytes()


def read_idx(path: Path) -> UInt8:
    """Read an IDX file, plain or gzipped; `DataError` if it is missing or damaged."""
    return _parse(path, _read(path))


def read_mnist(folder: Path) -> tuple[UInt8, UInt8]:
    """Read MNIST from its four IDX files, plain or gzipped: its training images, then its test images.

    Returns the images, uint8 [70000, 28, 28], and the labels, uint8 [70000]; `DataError` if a file is missing, or
    its SHA-256 is not that of MNIST.
    """
    arrays = []
    for name, expected in MNIST_SHA256.items():
        path = next((p for p in (folder / name, folder / f"{name}.gz") if p.exists()), None)
        if path is None:
            raise DataError(
                f"{folder} has no {name} or {name}.gz.",
                "Choose the folder with the four IDX files of MNIST, with --mnist-dir or KAGGLE_DIGITS_MNIST_DIR.",
            )
        content = _read(path)
        if hashlib.sha256(content).hexdigest() != expected:
            raise DataError(f"The content of {path} is not that of MNIST.", "Download the file again.")
        arrays.append(_parse(path, content))
    train_images, train_labels, test_images, test_labels = arrays
    return np.concatenate([train_images, test_images]), np.concatenate([train_labels, test_labels])


def fetch_mnist(folder: Path) -> None:
    """Download the four IDX files of MNIST into `folder` from a public mirror, unless valid ones are there."""
    for name, expected in MNIST_SHA256.items():
        path = folder / f"{name}.gz"
        for mirror in MIRRORS:
            if not _has_content(path, expected):
                _retrieve(mirror + path.name, path)
        if not _has_content(path, expected):
            raise NetworkError(
                f"The file {name} of MNIST could not be downloaded from any mirror.",
                "Check the network, or choose a folder with the four IDX files of MNIST, with --mnist-dir.",
            )


def _has_content(path: Path, expected: str) -> bool:
    """Return whether an IDX file exists and its uncompressed content has this SHA-256."""
    try:
        return path.exists() and hashlib.sha256(_read(path)).hexdigest() == expected
    except DataError:
        return False


def _retrieve(url: str, path: Path) -> None:
    """Try to download a file and replace an existing one; the caller checks the content."""
    import pooch
    import requests

    pooch.get_logger().setLevel("ERROR")
    path.unlink(missing_ok=True)
    with suppress(requests.RequestException):
        pooch.retrieve(url, known_hash=None, fname=path.name, path=path.parent)


def _read(path: Path) -> bytes:
    try:
        content = regular_file(path).read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}.", "Download the file again.") from error


def _parse(path: Path, content: bytes) -> UInt8:
    try:
        return parse_idx(content)
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}.", "Download the file again.") from error
