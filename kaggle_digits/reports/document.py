"""The content of a report as a document that can be written as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from kaggle_digits.arrays import Float32, Int64, UInt8
from kaggle_digits.data.csv import Data
from kaggle_digits.evaluation.calibration import cross_fit, fit_temperature, temper
from kaggle_digits.evaluation.metrics import (
    confusion_matrix,
    expected_calibration_error,
    log_loss,
    mean_softmax,
    reliability,
    summarise,
    suspects,
)
from kaggle_digits.evaluation.significance import (
    LEVEL,
    drift_p,
    outlier_fold_p_values,
    score_deviation,
    wilson_interval,
)
from kaggle_digits.reports.findings import make_findings
from kaggle_digits.reports.network import NetworkDetails
from kaggle_digits.runs.directory import FoldsRun, MeanRun, Run, check_data
from kaggle_digits.runs.ensemble import gather_oof
from kaggle_digits.runs.schema import FINISHED
from kaggle_digits.submissions.ledger import Entry
from kaggle_digits.submissions.submit import entry_of_run
from kaggle_digits.workspace import CLASSES, Workspace

VERSION = 1
SHOWN = 60
"""How many of the worst errors and of the test rows on which the networks disagree are shown on the page."""
PAIRS, EXAMPLES = 6, 12
"""How many of the most confused pairs of digits are listed, and how many examples of each."""
ARTICLE_ROW = 1888
"""The test row, counted from 0, whose prediction is printed in the article
"CNN卷积神经网络实现手写数字识别(基于tensorflow)", on which the preset `lenet` is based."""
GOOD_ACCURACY = 0.98
"""The out-of-fold accuracy from which on errors say something about the labels. About .15 % of MNIST's labels are
wrong (Northcutt, Athalye and Mueller, NeurIPS 2021): below it, more than 9 of 10 errors are the networks' own."""
FIRST_ROWS = 25
"""How many test rows are shown with their predictions; the article shows as many."""


def make_document(workspace: Workspace, run: Run, data: Data, details: NetworkDetails | None) -> dict[str, Any]:
    """Return the report of a run, or of the finished folds of an unfinished one: see ``report.schema.json``.

    `details` are those of its first network. Rows are numbered from 0, as in ``folds.csv``. `DataError` if the run
    was trained on other data, or one of its files is missing or damaged; the error names the file.
    """
    check_data(run, data.hashes)
    train_set, networks = data.train, run.networks()
    own_folds = run.trained_folds() if isinstance(run, FoldsRun) else []
    oof, split, known = out_of_fold_predictions(run, train_set.labels)
    folds = _folds(run) if isinstance(run, FoldsRun) else []
    missing = set(range(run.info.folds)) - set(own_folds) if isinstance(run, FoldsRun) else set()
    entry = entry_of_run(workspace, run.name)
    document: dict[str, Any] = {
        "version": VERSION,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": run.info.as_json(),
        "missing_folds": sorted(missing),
        "folds": folds,
        "fold_accuracy": _spread([fold["accuracy"] for fold in folds]),
        "out_of_fold": _out_of_fold(oof, train_set.labels, split, known) if known.any() else None,
        "test": _test(networks, run, data) if networks else None,
        "members": _members(run, train_set.labels) if isinstance(run, MeanRun) else None,
        "submission": {"ref": entry.ref, "time": entry.time, "status": entry.status} if entry else None,
        "leaderboard": _leaderboard(entry),
        "layers": details.layers if details else None,
    }
    _compare_with_leaderboard(document)
    submit = workspace.command("submit", "--run", run.name) if run.info.status == FINISHED else ""
    return document | {"findings": make_findings(document, run.command(), submit)}


def out_of_fold_predictions(run: Run, labels: UInt8) -> tuple[Float32, UInt8, Any]:
    """Return out-of-fold softmaxes, the part of each row for cross-fitting, and which rows have a prediction."""
    if not isinstance(run, FoldsRun):
        # The member runs of a mean can have different folds, so its rows have no folds in common. Any five parts
        # do: cross-fitting only has to fit the temperature on other rows than it is measured on.
        return (
            run.oof_softmax(len(labels)),
            (np.arange(len(labels)) % 5).astype(np.uint8),
            np.ones(len(labels), bool),
        )
    if not (finished := run.trained_folds()):
        return (
            np.zeros((len(labels), CLASSES), np.float32),
            np.zeros(len(labels), np.uint8),
            np.zeros(len(labels), bool),
        )
    oof, split = gather_oof(run, finished, labels)
    return oof, split, np.isin(split, finished)


def _folds(run: FoldsRun) -> list[dict[str, Any]]:
    finished = run.trained_folds()
    metrics = [run.fold_metrics(fold) for fold in finished]
    p_values = outlier_fold_p_values([m.errors for m in metrics], [m.rows for m in metrics])
    rate = sum(m.errors for m in metrics) / max(1, sum(m.rows for m in metrics))
    rows = []
    for fold, m, p in zip(finished, metrics, p_values, strict=True):
        history = run.history(fold)
        rows.append(
            {
                "fold": fold,
                **{name: value for name, value in m.as_json().items() if name != "files"},
                "interval": wilson_interval(m.rows - m.errors, m.rows),
                "out_of_line_p": p,
                "out_of_line": p < LEVEL and m.errors > rate * m.rows,
                "images_per_second": float(np.median([epoch["images_per_second"] for epoch in history])),
                "history": history,
            }
        )
    return rows


def _spread(values: Sequence[float]) -> dict[str, float | None] | None:
    """Return mean and standard deviation."""
    if not values:
        return None
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def _out_of_fold(oof: Float32, labels: UInt8, split: UInt8, known: Any) -> dict[str, Any]:
    """Return the metrics, errors and calibration of all rows that have an out-of-fold prediction."""
    numbers = np.flatnonzero(known)
    softmax, labels, split = oof[known], labels[known], split[known]
    # The temperature of a fold is fitted on the other folds, so a single fold cannot be calibrated.
    can_calibrate = bool((split != split[0]).any())
    calibrated = cross_fit(softmax, labels, split)
    predicted = softmax.argmax(1)
    confusion = confusion_matrix(softmax, labels)
    # The worst errors first: those with the lowest calibrated probability of the label.
    likelihood = calibrated[np.arange(len(labels)), labels]
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(likelihood[wrong], kind="stable")]

    def mistakes(rows: Int64) -> list[dict[str, Any]]:
        return [
            {
                "row": int(numbers[i]),
                "label": int(labels[i]),
                "predicted": int(predicted[i]),
                "confidence": float(calibrated[i, predicted[i]]),
            }
            for i in rows
        ]

    pairs = [
        {
            "label": int(label),
            "predicted": int(other),
            "rows": int(confusion[label, other]),
            "examples": mistakes(wrong[(labels[wrong] == label) & (predicted[wrong] == other)][:EXAMPLES]),
        }
        for label, other in _largest(confusion)
    ]
    total = summarise(softmax, labels)
    is_good = total["accuracy"] >= GOOD_ACCURACY
    return total | {
        "interval": wilson_interval(total["rows"] - total["errors"], total["rows"]),
        "confusion": confusion.tolist(),
        "digits": _by_digit(confusion),
        "confused_pairs": pairs,
        "misclassified": mistakes(wrong),
        "suspects": mistakes(suspects(calibrated, labels)) if can_calibrate and is_good else [],
        "calibration": {
            "temperature": fit_temperature(softmax, np.eye(CLASSES, dtype=np.float32)[labels]),
            "log_loss_before": total["log_loss"],
            "log_loss_after": log_loss(calibrated, labels),
            "ece_before": expected_calibration_error(softmax, labels),
            "ece_after": expected_calibration_error(calibrated, labels),
            "reliability_before": reliability(softmax, labels),
            "reliability_after": reliability(calibrated, labels),
        }
        if can_calibrate
        else None,
    }


def _largest(confusion: Int64) -> list[tuple[int, int]]:
    """Return the most frequent pairs (label, wrong prediction), the most frequent first."""
    mistakes = confusion * (1 - np.eye(CLASSES, dtype=np.int64))
    order = np.argsort(-mistakes, axis=None, kind="stable")[:PAIRS]
    return [(int(i), int(j)) for i, j in (np.unravel_index(at, mistakes.shape) for at in order) if mistakes[i, j]]


def _by_digit(confusion: Int64) -> list[dict[str, Any]]:
    """Return precision, recall and F1 of each digit; None where the denominator is 0."""
    rows = []
    for digit in range(CLASSES):
        correct = int(confusion[digit, digit])
        actual, predicted = int(confusion[digit].sum()), int(confusion[:, digit].sum())
        rows.append(
            {
                "digit": digit,
                "rows": actual,
                "missed": actual - correct,
                "precision": correct / predicted if predicted else None,
                "recall": correct / actual if actual else None,
                "f1": 2 * correct / (actual + predicted) if actual + predicted else None,
            }
        )
    return rows


def _test(networks: Sequence[tuple[FoldsRun, int]], run: Run, data: Data) -> dict[str, Any]:
    """Return the predictions for the test rows and the agreement of the networks. Test rows have no labels."""
    labels, test_set = data.train.labels, data.test
    rows = len(test_set.images)
    softmaxes = np.stack([member.fold_test_softmax(fold, rows) for member, fold in networks])
    # An unfinished run has no ensemble yet: take the mean of its finished folds.
    ensembled = run.has_ensemble()
    mean = run.test_softmax(rows) if ensembled else mean_softmax(softmaxes)
    temperature = run.ensemble_metrics().calibration.temperature if ensembled else 1.0
    calibrated = temper(mean, temperature)
    predicted, votes = mean.argmax(1), softmaxes.argmax(2)
    agreement = (votes == predicted).mean(0)
    shares = [np.bincount(values, minlength=CLASSES) / len(values) for values in (labels, predicted)]

    def prediction(row: int) -> dict[str, Any]:
        return {
            "row": row,
            "id": int(test_set.ids[row]),
            "predicted": int(predicted[row]),
            "confidence": float(calibrated[row].max()),
            "votes": {str(digit): int((votes[:, row] == digit).sum()) for digit in np.unique(votes[:, row])},
        }

    # Sorted by agreement, then by confidence: the most uncertain rows first.
    disputed = np.flatnonzero(agreement < 1)
    disputed = disputed[np.lexsort((calibrated[disputed].max(1), agreement[disputed]))]
    article = min(ARTICLE_ROW, len(mean) - 1)
    return {
        "rows": rows,
        "networks": len(networks),
        "temperature": temperature,
        "unanimous": float((agreement == 1).mean()),
        "disputed": [prediction(int(row)) for row in disputed[:SHOWN]],
        "by_networks": _agreement_by_number(softmaxes),
        "class_shares": {
            "train": shares[0].tolist(),
            "test": shares[1].tolist(),
            "chi_squared_p": _drift_p(networks, votes),
        },
        # The mean confidence of calibrated predictions estimates their accuracy. Not for a mean of runs: its
        # temperature is fitted on out-of-fold rows, which fewer networks predict than test rows.
        "expected_accuracy": float(calibrated.max(1).mean()) if ensembled and isinstance(run, FoldsRun) else None,
        "first_rows": [prediction(row) for row in range(min(FIRST_ROWS, len(mean)))],
        "one_row": prediction(article) | {"probabilities": calibrated[article].tolist()},
    }


def _drift_p(networks: Sequence[tuple[FoldsRun, int]], votes: Int64) -> float:
    """Test whether training and test rows have the same classes; `votes` are the predictions, [networks, m]."""
    # Each network's predictions for the test rows are compared with its own for its validation rows, not with
    # labels: a network that confuses digits changes both in the same way (Lipton, Wang and Smola, ICML 2018).
    own = np.concatenate([member.val_softmax(fold).argmax(1) for member, fold in networks])
    runs = len({member.name for member, _ in networks})
    known, new = (np.bincount(predicted, minlength=CLASSES) for predicted in (own, votes.ravel()))
    # Divided by how often each row was predicted, because the test assumes independent rows.
    return drift_p(known / runs, new / len(votes))


def _agreement_by_number(softmaxes: Float32) -> list[float]:
    """Return the share of test rows on which the mean of the first 1, 2, … networks predicts what all do."""
    predicted = np.cumsum(softmaxes, axis=0, dtype=np.float64).argmax(2)
    return [float(share) for share in (predicted == predicted[-1]).mean(1)]


def _members(run: MeanRun, labels: UInt8) -> list[dict[str, Any]]:
    """Return the number of out-of-fold errors of the mean of the first 1, 2, … member runs."""
    members = run.members()
    sums = np.cumsum([member.oof_softmax(len(labels)) for member in members], axis=0, dtype=np.float64)
    return [
        {"run": member.name, "errors": int((total.argmax(1) != labels).sum())}
        for member, total in zip(members, sums, strict=True)
    ]


def _leaderboard(entry: Entry | None) -> dict[str, Any] | None:
    if entry is None or entry.score is None:
        return None
    return {
        "time": entry.time,
        "ref": entry.ref,
        "score": entry.score,
        "cv": entry.cv,
        "gap": entry.gap,
        "rank": entry.rank,
    }


def _compare_with_leaderboard(document: dict[str, Any]) -> None:
    """Add the expected score, and whether the actual score differs from it by more than chance."""
    total, test, board = document["out_of_fold"], document["test"], document["leaderboard"]
    if not total or not test:
        return
    deviation = score_deviation(total["accuracy"], total["rows"], test["rows"])
    test["expected_from_out_of_fold"] = {
        "score": total["accuracy"],
        "interval": [total["accuracy"] - 1.96 * deviation, min(1.0, total["accuracy"] + 1.96 * deviation)],
    }
    if board and board["gap"] is not None:
        board["gap_deviation"] = deviation
        board["within_noise"] = abs(board["gap"]) <= 1.96 * deviation
