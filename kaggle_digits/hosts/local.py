"""A competition on this machine: data, hidden labels, scoring, a daily limit and a leaderboard."""

import gzip
import hashlib
import io
import os
import secrets
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import numpy as np

from kaggle_digits.arrays import UInt8
from kaggle_digits.errors import RefusedError
from kaggle_digits.files import lock, read_errors, replacing, write_json
from kaggle_digits.hosts import Host, Standing, Status, Submission
from kaggle_digits.hosts.idx import fetch_mnist, parse_idx, read_mnist
from kaggle_digits.workspace import FILES, SIDE, Workspace

LABEL_COLUMN = "label"
PIXEL_COLUMNS = tuple(f"pixel{i}" for i in range(SIDE * SIDE))
SUBMISSION_COLUMNS = ("ImageId", "Label")
"""The names of columns in the files of a local competition, which are those of Digit Recognizer."""
DAILY_LIMIT = 10
"""Maximum number of submissions per day (UTC)."""
PACKAGE = resources.files("kaggle_digits.hosts")


class LocalHost(Host):
    """A competition on this machine, with its state in ``data/<competition>/host/``; see `Host` for methods."""

    def __init__(self, workspace: Workspace, mnist_dir: Path | None = None) -> None:
        self._competition = workspace.competition.name
        self._state = workspace.data / "host"
        self._mnist_dir = mnist_dir or os.environ.get("KAGGLE_DIGITS_MNIST_DIR")
        self._uploads: dict[str, bytes] = {}

    def download(self, folder: Path) -> None:
        """Write the three CSV files into `folder`, and the hidden labels into the host's folder."""
        train_images, train_labels, test_images, hidden_labels = self._arrays()
        train, test, sample = (folder / name for name in FILES)
        write_submission_csv(self._state / "hidden_labels.csv", hidden_labels)
        write_images_csv(train, train_images, train_labels)
        write_images_csv(test, test_images)
        write_submission_csv(sample, np.zeros_like(hidden_labels))

    def allowance(self) -> int:
        """Return how many submissions are left today (UTC)."""
        today = datetime.now(UTC).date().isoformat()
        return DAILY_LIMIT - sum(s.time.startswith(today) for s in self.submissions())

    def upload(self, csv: Path) -> str:
        """Store a file's content for `create`, and return its name."""
        self._uploads[csv.name] = csv.read_bytes()
        return csv.name

    def create(self, upload: str, description: str) -> str:
        """Score a file and store the result. A file that cannot be scored gets the status ERROR, as at Kaggle."""
        with lock(self._state / ".lock", f"Another submission to {self._competition} is running."):
            if self.allowance() <= 0:
                problem = f"The daily limit of {DAILY_LIMIT} submissions to {self._competition} has been reached."
                raise RefusedError(problem, "Submit again after midnight UTC.")
            try:
                score, reason = self._score(self._uploads[upload]), ""
            except (ValueError, TypeError) as error:
                score, reason = None, str(error)
            status: Status = "ERROR" if score is None else "COMPLETE"
            # Not a counter: it would start at 1 again, and repeat references, if the history was removed.
            ref, time = secrets.token_hex(4), datetime.now(UTC).isoformat(timespec="seconds")
            new = Submission(ref, time, description, status, score, reason, file_name=upload, team="you")
            history = {"submissions": [asdict(s) for s in (new, *self.submissions())]}
            write_json(self._state / "submissions.json", history)
        return ref

    def submissions(self) -> list[Submission]:
        """Return all submissions, newest first."""
        from pydantic import TypeAdapter

        path = self._state / "submissions.json"
        if not path.exists():
            return []
        with read_errors(path, "Remove it to start a new history."):
            return TypeAdapter(dict[str, list[Submission]]).validate_json(path.read_bytes())["submissions"]

    def standing(self) -> Standing:
        """Return the rank of the best submission among the baselines on the leaderboard."""
        others = baselines(self._competition)
        own = [s.score for s in self.submissions() if s.score is not None]
        if not own:
            return Standing(None, len(others))
        return Standing(1 + sum(score > max(own) for score in others.values()), len(others) + 1)

    def _score(self, content: bytes) -> float:
        """Return the accuracy of a submission file; raise a `ValueError` if it cannot be scored."""
        import pandas as pd

        path = self._state / "hidden_labels.csv"
        if not path.exists():
            write_submission_csv(path, self._arrays()[-1])
        truth, submitted = pd.read_csv(path), pd.read_csv(io.BytesIO(content), encoding="utf-8-sig")
        key, target = SUBMISSION_COLUMNS
        if tuple(submitted.columns) != SUBMISSION_COLUMNS:
            raise ValueError(f"The columns must be {key},{target}")
        submitted = submitted.sort_values(key, ignore_index=True)
        if not submitted[key].equals(truth[key]):
            raise ValueError(f"The column {key} must contain each id from 1 to {len(truth)} once")
        return round(float((submitted[target] == truth[target]).mean()), 5)

    def _arrays(self) -> list[UInt8]:
        """Return the images and labels of the training rows, then those of the test rows, which are hidden."""
        if self._competition == "rehearsal":
            names = "train-images-idx3", "train-labels-idx1", "test-images-idx3", "hidden-labels-idx1"
            files = [PACKAGE.joinpath("mnist", f"rehearsal-{name}-ubyte.gz") for name in names]
            return [parse_idx(gzip.decompress(file.read_bytes())) for file in files]
        if not self._mnist_dir:
            fetch_mnist(self._state / "mnist")
        arrays = read_mnist(Path(self._mnist_dir or self._state / "mnist"))
        order = shuffled(len(arrays[0]), self._competition)
        cut = len(order) * 3 // 5  # 42,000 training rows of 70,000, as in digit-recognizer
        return [array[rows] for rows in (order[:cut], order[cut:]) for array in arrays]


def shuffled(count: int, name: str) -> list[int]:
    """Return the numbers from 0 to `count` - 1, shuffled in an order that depends only on `name`."""
    # By SHA-256, because the order of a random number generator may change with the version of its library.
    return sorted(range(count), key=lambda i: hashlib.sha256(f"kaggle-digits {name} {i}".encode()).digest())


def baselines(competition: str) -> dict[str, float]:
    """Return the scores of the other teams on the leaderboard, measured with ``scripts/measure_baselines.py``."""
    import csv

    rows = csv.DictReader(PACKAGE.joinpath("leaderboard.csv").read_text(encoding="utf-8").splitlines())
    return {row["team"]: float(row["score"]) for row in rows if row["competition"] == competition}


def write_images_csv(path: Path, images: UInt8, labels: UInt8 | None = None) -> None:
    """Write ``train.csv`` or, without labels, ``test.csv``: one row per image, one column per pixel."""
    import pyarrow as pa
    from pyarrow import csv

    pixels = np.ascontiguousarray(images.reshape(len(images), -1).T)
    columns = {} if labels is None else {LABEL_COLUMN: labels}
    columns |= dict(zip(PIXEL_COLUMNS, pixels, strict=True))
    with replacing(path) as temporary:
        csv.write_csv(pa.table(columns), temporary, csv.WriteOptions(quoting_style="none"))


def write_submission_csv(path: Path, labels: UInt8) -> None:
    """Write a submission, or any other file of its format, such as ``sample_submission.csv``."""
    import pandas as pd

    key, target = SUBMISSION_COLUMNS
    with replacing(path) as temporary:
        pd.DataFrame({key: np.arange(1, len(labels) + 1), target: labels}).to_csv(temporary, index=False)
