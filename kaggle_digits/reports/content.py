"""Compute what a report says, from the files of a run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from kaggle_digits.arrays import Float32, Int64, UInt8
from kaggle_digits.data.csv import Data
from kaggle_digits.evaluation import significance
from kaggle_digits.evaluation.calibration import calibrate, cross_fit, temper
from kaggle_digits.evaluation.metrics import confusion_matrix, mean_softmax, reliability, summarise, suspects
from kaggle_digits.reports import facts
from kaggle_digits.reports.findings import make_findings
from kaggle_digits.runs.artefacts import FoldFolder
from kaggle_digits.runs.directory import FoldsRun, MeanRun, check_data
from kaggle_digits.runs.ensemble import read_predictions
from kaggle_digits.submissions.submit import entry_of_run
from kaggle_digits.workspace import CLASSES, Workspace

if TYPE_CHECKING:
    import pandas as pd

DISPUTED = 60
"""How many of the test rows on which the networks disagree are listed."""
PAIRS, EXAMPLES = 6, 12
"""How many of the most confused pairs of digits are listed, and how many examples of each."""
ARTICLE_ROW = 1888
"""The test row, counted from 0, whose prediction is printed in the article
"CNN卷积神经网络实现手写数字识别(基于tensorflow)", on which the preset `lenet` is based."""
FIRST_ROWS = 25
"""How many test rows are shown with their predictions; the article shows as many."""
GOOD_ACCURACY = 0.98
"""The out-of-fold accuracy from which on errors say something about the labels. About .15 % of MNIST's labels are
wrong (Northcutt, Athalye and Mueller, NeurIPS 2021): below it, more than 9 of 10 errors are the networks' own."""


def make_report(
    workspace: Workspace, run: FoldsRun | MeanRun, data: Data, layers: list[facts.Layer] | None
) -> facts.ReportFacts:
    """Return the report of a run, or of the finished folds of an unfinished one; `DataError` if it is damaged."""
    check_data(run, data.hashes)
    labels, entry = data.train.labels, entry_of_run(workspace, run.name)
    folds: list[dict[str, Any]] = []
    missing, members, board = set[int](), None, None
    if isinstance(run, MeanRun):
        softmaxes = [member.oof_softmax(len(labels)) for member in run.members()]
        errors = (np.cumsum(softmaxes, axis=0, dtype=np.float64).argmax(2) != labels).sum(1).tolist()
        members = [{"run": name, "errors": count} for name, count in zip(run.info.members, errors, strict=True)]
    else:
        folds, missing = _folds(run), set(range(run.info.folds)) - set(run.trained_folds())
    temperature = run.ensemble_metrics().calibration.temperature if run.ensemble.is_finished else None
    total = out_of_fold(*read_predictions(run, labels), temperature) if folds or members else None
    test = _test(run, data, temperature, total) if total and run.networks() else None
    if entry and entry.score is not None:
        board = {name: getattr(entry, name) for name in ("time", "ref", "score", "cv", "gap", "rank")}
        if total and entry.gap is not None:
            noise = significance.score_deviation(total.accuracy, total.rows, len(data.test.ids))
            board |= {"gap_deviation": noise, "within_noise": abs(entry.gap) <= 1.96 * noise}
    accuracies = [fold["accuracy"] for fold in folds]
    sd = float(np.std(accuracies, ddof=1)) if len(folds) > 1 else None
    document = {
        "version": 1,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": run.info,
        "missing_folds": sorted(missing),
        "folds": folds,
        "fold_accuracy": {"mean": float(np.mean(accuracies)), "sd": sd} if folds else None,
        "out_of_fold": total,
        "test": test,
        "members": members,
        "submission": {"ref": entry.ref, "time": entry.time, "status": entry.status} if entry else None,
        "leaderboard": board,
        "layers": layers,
        "findings": [],
    }
    report = facts.ReportFacts.model_validate(document)
    return report.model_copy(update={"findings": make_findings(report, run.command())})


def list_mistakes(rows: Int64, labels: UInt8, softmax: Float32, calibrated: Float32) -> pd.DataFrame:
    """Return the misclassified rows, those with the lowest calibrated probability of the label first."""
    import pandas as pd

    predicted, all_rows = softmax.argmax(1), range(len(rows))
    mistakes = pd.DataFrame({"row": rows, "label": labels, "predicted": predicted})
    mistakes["confidence"] = calibrated[all_rows, predicted]
    order = np.argsort(calibrated[all_rows, labels], kind="stable")
    return mistakes.iloc[order].query("label != predicted")


def out_of_fold(
    rows: Int64, labels: UInt8, parts: UInt8, softmax: Float32, temperature: float | None
) -> facts.OutOfFold:
    """Return metrics, errors and calibration of predictions; `temperature` is that of the ensemble, if any."""
    calibrated = cross_fit(softmax, labels, parts)
    mistakes, confusion = list_mistakes(rows, labels, softmax, calibrated), confusion_matrix(softmax, labels)
    groups = [table.to_dict("records") for _, table in mistakes.groupby(["label", "predicted"])]
    document = summarise(softmax, labels) | {
        "confusion": confusion.tolist(),
        "digits": [_digit(digit, confusion) for digit in range(CLASSES)],
        "confused_pairs": [
            {"label": pair[0]["label"], "predicted": pair[0]["predicted"], "rows": len(pair)}
            | {"examples": pair[:EXAMPLES]}
            for pair in sorted(groups, key=len, reverse=True)[:PAIRS]
        ],
        "misclassified": mistakes.to_dict("records"),
        "suspects": [],
        "calibration": None,
    }
    document["interval"] = significance.wilson_interval(len(rows) - document["errors"], len(rows))
    if (parts != parts[0]).any():  # a part is calibrated with the other ones
        document["calibration"] = calibrate(softmax, labels, parts, []) | {
            "temperature": temperature,
            "reliability_before": reliability(softmax, labels),
            "reliability_after": reliability(calibrated, labels),
        }
        if document["accuracy"] >= GOOD_ACCURACY:
            suspicious = mistakes["row"].isin(rows[suspects(calibrated, labels)])
            document["suspects"] = mistakes[suspicious].to_dict("records")
    return facts.OutOfFold.model_validate(document)


def _digit(digit: int, confusion: Int64) -> dict[str, Any]:
    correct, actual, predicted = map(
        int, (confusion[digit, digit], confusion[digit].sum(), confusion[:, digit].sum())
    )
    return {
        "digit": digit,
        "rows": actual,
        "missed": actual - correct,
        "precision": correct / predicted if predicted else None,
        "recall": correct / actual if actual else None,
        "f1": 2 * correct / (actual + predicted) if actual + predicted else None,
    }


def _folds(run: FoldsRun) -> list[dict[str, Any]]:
    finished = run.trained_folds()
    metrics = [fold.metrics() for fold in finished.values()]
    p_values = significance.outlier_fold_p_values([m.errors for m in metrics], [m.rows for m in metrics])
    rate = sum(m.errors for m in metrics) / max(1, sum(m.rows for m in metrics))
    folds = []
    for (number, fold), m, p in zip(finished.items(), metrics, p_values, strict=True):
        history = fold.history()
        comparison = {
            "fold": number,
            "interval": significance.wilson_interval(m.rows - m.errors, m.rows),
            "out_of_line_p": p,
            "out_of_line": p < significance.LEVEL and m.errors > rate * m.rows,
            "images_per_second": float(np.median([epoch["images_per_second"] for epoch in history])),
            "history": history,
        }
        folds.append(m.as_json() | comparison)
    return folds


def _test(
    run: FoldsRun | MeanRun, data: Data, temperature: float | None, total: facts.OutOfFold
) -> dict[str, Any]:
    """Return the predictions for the test rows and the agreement of the networks. Test rows have no labels."""
    ids, networks = data.test.ids, run.networks()
    softmaxes = np.stack([fold.softmax("test", len(ids)) for fold in networks])
    # An unfinished run has no ensemble yet: take the mean of its finished folds.
    mean = mean_softmax(softmaxes) if temperature is None else run.test_softmax(len(ids))
    calibrated = temper(mean, temperature or 1.0)
    predicted, confidence, votes = mean.argmax(1), calibrated.max(1), softmaxes.argmax(2)
    agreement = (votes == predicted).mean(0)
    # What the mean of the first 1, 2, … networks predicts.
    growing = np.cumsum(softmaxes, axis=0, dtype=np.float64).argmax(2)

    def prediction(row: int) -> dict[str, Any]:
        digits, counts = np.unique(votes[:, row], return_counts=True)
        return {
            "row": row,
            "id": int(ids[row]),
            "predicted": int(predicted[row]),
            "confidence": float(confidence[row]),
            "votes": dict(zip(map(str, digits), counts.tolist(), strict=True)),
        }

    # The rows on which the fewest networks agree, and of those the least certain, come first.
    uncertain = np.lexsort((confidence, agreement))[:DISPUTED].tolist()
    known, found = (
        np.bincount(digits, minlength=CLASSES) / len(digits) for digits in (data.train.labels, predicted)
    )
    noise = 1.96 * significance.score_deviation(total.accuracy, total.rows, len(ids))
    interval = [max(0.0, total.accuracy - noise), min(1.0, total.accuracy + noise)]
    article = min(ARTICLE_ROW, len(ids) - 1)
    drift = class_drift_p(networks, votes)
    return {
        "rows": len(ids),
        "networks": len(networks),
        "temperature": temperature or 1.0,
        "unanimous": float((agreement == 1).mean()),
        "disputed": [prediction(row) for row in uncertain if agreement[row] < 1],
        "by_networks": (growing == growing[-1]).mean(1).tolist(),
        "class_shares": {"train": known.tolist(), "test": found.tolist(), "chi_squared_p": drift},
        # The mean confidence of calibrated predictions estimates their accuracy. Not for a mean of runs: its
        # temperature is fitted on out-of-fold rows, which fewer networks predict than test rows.
        "expected_accuracy": float(confidence.mean()) if temperature and isinstance(run, FoldsRun) else None,
        "first_rows": [prediction(row) for row in range(min(FIRST_ROWS, len(ids)))],
        "one_row": prediction(article) | {"probabilities": calibrated[article].tolist()},
        "expected_from_out_of_fold": {"score": total.accuracy, "interval": interval},
    }


def class_drift_p(networks: Sequence[FoldFolder], votes: Int64) -> float:
    """Test whether training and test rows have the same classes; `votes` are the predictions, [networks, m]."""
    # Each network's predictions for the test rows are compared with its own for its validation rows, not with
    # labels: a network that confuses digits changes both in the same way (Lipton, Wang and Smola, ICML 2018).
    own = np.concatenate([fold.softmax("val").argmax(1) for fold in networks])
    runs = len({fold.path.parent for fold in networks})
    known, new = (np.bincount(digits, minlength=CLASSES) for digits in (own, votes.ravel()))
    # Divided by how often each row was predicted, because the test assumes independent rows.
    return significance.drift_p(known / runs, new / len(votes))
