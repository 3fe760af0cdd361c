"""The IDX files of MNIST: reading, verification and download."""

import gzip
import hashlib
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np

from kaggle_digits.arrays import UInt8
from kaggle_digits.errors import NetworkError
from kaggle_digits.files import read_errors, write_bytes

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
    """Return the array of unsigned bytes in the content of an IDX file, which is known to be valid."""
    # Two zero bytes, a type code (8: unsigned byte), the number of dimensions, each dimension as a big-endian
    # 32-bit integer, then the values in C order.
    shape = struct.unpack_from(f">{content[3]}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def read_mnist(folder: Path) -> tuple[UInt8, UInt8]:
    """Return MNIST's images [70000, 28, 28] and labels [70000] from its files, plain or gzipped, train first."""
    arrays = []
    remedy = "Choose a folder with MNIST's four IDX files, with --mnist-dir or KAGGLE_DIGITS_MNIST_DIR."
    for name, expected in MNIST_SHA256.items():
        path = folder / name if (folder / name).exists() else folder / f"{name}.gz"
        with read_errors(path, remedy):
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            if hashlib.sha256(content).hexdigest() != expected:
                raise ValueError("its content is not that of MNIST")
        arrays.append(parse_idx(content))
    return np.concatenate(arrays[::2]), np.concatenate(arrays[1::2])


def fetch_mnist(folder: Path) -> None:
    """Download the files of MNIST that `folder` does not have, from a public mirror."""
    for name, expected in MNIST_SHA256.items():
        path = folder / f"{name}.gz"
        if not path.exists():
            write_bytes(path, _download(path.name, expected))


def _download(name: str, expected: str) -> bytes:
    """Return the first gzipped file at a mirror whose uncompressed content has the expected SHA-256."""
    import requests

    for mirror in MIRRORS:
        with suppress(Exception):  # whatever is wrong with a mirror, there is another one
            content = requests.get(mirror + name, timeout=60).content
            if hashlib.sha256(gzip.decompress(content)).hexdigest() == expected:
                return content
    remedy = "Check the network, or choose a folder with the four IDX files of MNIST, with --mnist-dir."
    raise NetworkError(f"The file {name} of MNIST could not be downloaded from any mirror.", remedy)
