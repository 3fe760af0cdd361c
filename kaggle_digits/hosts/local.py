"""A competition on this machine: data, hidden labels, scoring, a daily limit and a leaderboard."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import numpy as np

from kaggle_digits.arrays import UInt8
from kaggle_digits.errors import DataError, RefusedError
from kaggle_digits.files import lock, read_json, regular_file, replacing, write_json
from kaggle_digits.hosts import Standing, Submission
from kaggle_digits.hosts.idx import fetch_mnist, read_idx, read_mnist
from kaggle_digits.workspace import (
    FULL_TRAIN_ROWS,
    LABEL_COLUMN,
    PIXEL_COLUMNS,
    SAMPLE_CSV,
    SUBMISSION_COLUMNS,
    TEST_CSV,
    TRAIN_CSV,
    Workspace,
)

DAILY_LIMIT = 10
"""Maximum number of submissions per day (UTC)."""
MNIST_DIR_VARIABLE = "KAGGLE_DIGITS_MNIST_DIR"


@dataclass(frozen=True)
class _Rows:
    """A competition's images and labels, including the hidden labels of the test rows."""

    train_images: UInt8
    train_labels: UInt8
    test_images: UInt8
    hidden_labels: UInt8


class LocalHost:
    """A competition on this machine: see `kaggle_digits.hosts.Host` for its methods.

    Its state is in ``data/<competition>/host/``: the hidden labels, which only this module reads, the submissions,
    and a lock file.
    """

    def __init__(self, workspace: Workspace, mnist_dir: Path | None = None) -> None:
        self._competition = workspace.competition.name
        self._state = workspace.data / "host"
        variable = os.environ.get(MNIST_DIR_VARIABLE)
        self._mnist_dir = mnist_dir or (Path(variable) if variable else None)
        self._uploads: dict[str, bytes] = {}

    def download(self, folder: Path) -> None:
        """Write the three CSV files into `folder`, and the hidden labels into the host's folder."""
        rows = self._rows()
        self._write_hidden_labels(rows.hidden_labels)
        write_images_csv(folder / TRAIN_CSV, rows.train_images, rows.train_labels)
        write_images_csv(folder / TEST_CSV, rows.test_images)
        write_submission_csv(folder / SAMPLE_CSV, np.zeros_like(rows.hidden_labels))

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
                raise RefusedError(
                    f"The daily limit of {DAILY_LIMIT} submissions to {self._competition} has been reached.",
                    "Submit again after midnight UTC.",
                )
            try:
                score, reason = self._score(self._uploads[upload]), ""
            except ValueError as error:
                score, reason = None, str(error)
            submission = Submission(
                # Not a counter: it would start at 1 again, and repeat references, if the history was removed.
                ref=secrets.token_hex(4),
                time=datetime.now(UTC).isoformat(timespec="seconds"),
                description=description,
                status="ERROR" if score is None else "COMPLETE",
                score=score,
                reason=reason,
                team="you",
                file_name=upload,
            )
            document = {"submissions": [asdict(s) for s in (submission, *self.submissions())]}
            write_json(self._state / "submissions.json", document)
        return submission.ref

    def submissions(self) -> list[Submission]:
        """Return all submissions, newest first."""
        from pydantic import TypeAdapter, ValidationError

        path = self._state / "submissions.json"
        if not path.exists():
            return []
        try:
            found = TypeAdapter(list[Submission]).validate_python(read_json(path)["submissions"])
        except (KeyError, ValidationError) as error:
            raise DataError(f"{path} is damaged.", "Remove it to start a new history.") from error
        if not all(s.score is None or 0 <= s.score <= 1 for s in found):
            raise DataError(
                f"{path} is damaged: a score is not between 0 and 1.", "Remove it to start a new history."
            )
        return found

    def without_retries(self) -> LocalHost:
        """Return the host itself, which never retries."""
        return self

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

        truth_path = self._state / "hidden_labels.csv"
        if not truth_path.exists():
            self._write_hidden_labels(self._rows().hidden_labels)
        truth = pd.read_csv(regular_file(truth_path))
        submitted = pd.read_csv(io.BytesIO(content), encoding="utf-8-sig")
        if tuple(submitted.columns) != SUBMISSION_COLUMNS:
            raise ValueError(f"The columns must be {','.join(SUBMISSION_COLUMNS)}")
        if len(submitted) != len(truth):
            raise ValueError(f"The file must have {len(truth)} rows, got {len(submitted)}")
        key, target = SUBMISSION_COLUMNS
        both = truth.merge(submitted, on=key, suffixes=("_true", ""), validate="one_to_one")
        if len(both) != len(truth):
            raise ValueError(f"The column {key} must contain each id once")
        return round(float((both[f"{target}_true"] == both[target]).mean()), 5)

    def _write_hidden_labels(self, labels: UInt8) -> None:
        write_submission_csv(self._state / "hidden_labels.csv", labels)

    def _rows(self) -> _Rows:
        if self._competition == "rehearsal":
            return _rehearsal_rows()
        folder = self._mnist_dir
        if folder is None:
            folder = self._state / "mnist"
            fetch_mnist(folder)
        images, labels = read_mnist(folder)
        order = shuffled(len(images), self._competition)
        train, test = order[:FULL_TRAIN_ROWS], order[FULL_TRAIN_ROWS:]
        return _Rows(images[train], labels[train], images[test], labels[test])


def shuffled(count: int, name: str) -> list[int]:
    """Return the numbers from 0 to `count` - 1, shuffled in an order that depends only on `name`.

    They are sorted by the SHA-256 of ``kaggle-digits <name> <number>``, because the order of a random number
    generator may change with the version of its library.
    """
    return sorted(range(count), key=lambda i: hashlib.sha256(f"kaggle-digits {name} {i}".encode()).digest())


def baselines(competition: str) -> dict[str, float]:
    """Return the scores of the other teams on the leaderboard, measured with ``scripts/measure_baselines.py``."""
    import csv

    text = resources.files("kaggle_digits.hosts").joinpath("leaderboard.csv").read_text(encoding="utf-8")
    return {
        row["team"]: float(row["score"])
        for row in csv.DictReader(text.splitlines())
        if row["competition"] == competition
    }


def _rehearsal_rows() -> _Rows:
    with resources.as_file(resources.files("kaggle_digits.hosts").joinpath("mnist")) as folder:
        return _Rows(
            read_idx(folder / "rehearsal-train-images-idx3-ubyte.gz"),
            read_idx(folder / "rehearsal-train-labels-idx1-ubyte.gz"),
            read_idx(folder / "rehearsal-test-images-idx3-ubyte.gz"),
            read_idx(folder / "rehearsal-hidden-labels-idx1-ubyte.gz"),
        )


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
