"""Measure the baselines for the leaderboards of the local competitions and write them into the package.

    python scripts/measure_baselines.py --root DIR [--mnist-dir DIR]

The baselines are k nearest neighbours and logistic regression on the pixels, and the preset `lenet` with 5 folds.
The competition's scorer computes their scores from the hidden labels. Interrupted runs in DIR are continued.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from kaggle_digits import Workspace, download, train
from kaggle_digits.data.csv import load_sample, load_test, load_train
from kaggle_digits.hosts.local import LocalHost
from kaggle_digits.submissions.submit import submission_file, write_submission

BOARD = Path(__file__).parents[1] / "kaggle_digits" / "hosts" / "leaderboard.csv"
PIXEL_BASELINES = {
    "k nearest neighbours (k = 3)": KNeighborsClassifier(3),
    "logistic regression": LogisticRegression(C=0.01, max_iter=200),
}


def score(workspace: Workspace, file: Path) -> float:
    """Return the score of a submission file, without an entry in the history of submissions."""
    return LocalHost(workspace)._score(file.read_bytes())


def pixel_score(workspace: Workspace, classifier: Any) -> float:
    """Return the score of a classifier that is trained on the pixels."""
    train_set, test_set = load_train(workspace.data), load_test(workspace.data)
    classifier.fit(train_set.images.reshape(len(train_set.images), -1) / 255, train_set.labels)
    digits = classifier.predict(test_set.images.reshape(len(test_set.images), -1) / 255)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "submission.csv"
        write_submission(file, load_sample(workspace.data), test_set.ids, np.eye(10, dtype=np.float32)[digits])
        return score(workspace, file)


def main() -> None:
    """Measure the baselines and write the leaderboard."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--mnist-dir", type=Path)
    arguments = parser.parse_args()
    rows = []
    for competition in ("rehearsal", "rehearsal-full"):
        workspace = Workspace.at(arguments.root, competition)
        download(workspace, mnist_dir=arguments.mnist_dir)
        for team, classifier in PIXEL_BASELINES.items():
            rows.append((competition, team, pixel_score(workspace, classifier)))
        run = train(workspace, preset="lenet")
        rows.append((competition, "LeNet, 5 folds", score(workspace, submission_file(workspace, run.name))))
        print(*rows[-3:], sep="\n")
    with open(BOARD, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("competition", "team", "score"))
        writer.writerows(rows)


if __name__ == "__main__":
    main()
