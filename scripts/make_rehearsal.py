"""Create the data of the competition `rehearsal`, which are part of the package, from MNIST's IDX files.

python scripts/make_rehearsal.py MNIST_DIR
"""

from __future__ import annotations

import gzip
import struct
import sys
from pathlib import Path

from kaggle_digits.arrays import UInt8
from kaggle_digits.hosts.idx import read_mnist
from kaggle_digits.hosts.local import shuffled

TRAIN_ROWS, TEST_ROWS = 4_200, 2_800
FOLDER = Path(__file__).parents[1] / "kaggle_digits" / "hosts" / "mnist"


def format_idx(values: UInt8) -> bytes:
    """Return the content of an IDX file that holds `values`: the inverse of `parse_idx`."""
    return struct.pack(f">2xBB{values.ndim}I", 8, values.ndim, *values.shape) + values.tobytes()


def main(mnist_dir: Path) -> None:
    """Write the four files: a random sample of MNIST, with a tenth of the rows of the real competition."""
    images, labels = read_mnist(mnist_dir)
    order = shuffled(len(images), "rehearsal")
    train, test = order[:TRAIN_ROWS], order[TRAIN_ROWS : TRAIN_ROWS + TEST_ROWS]
    for name, values in {
        "train-images-idx3-ubyte": images[train],
        "train-labels-idx1-ubyte": labels[train],
        "test-images-idx3-ubyte": images[test],
        "hidden-labels-idx1-ubyte": labels[test],
    }.items():
        path = FOLDER / f"rehearsal-{name}.gz"
        # No time in the gzip header, so that the files are reproducible to the byte.
        path.write_bytes(gzip.compress(format_idx(values), 9, mtime=0))
        print(f"{path.name}: {values.shape}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
