"""The report's document: everything it says, as numbers and words that JSON can hold."""

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
from kaggle_digits.evaluation.significance import LEVEL, drift_p, out_of_line_p, score_deviation, wilson_interval
from kaggle_digits.reports.findings import find_what_matters
from kaggle_digits.reports.inside import Inside
from kaggle_digits.runs.directory import FoldsRun, MeanRun, Run
from kaggle_digits.runs.ensemble import gather_oof
from kaggle_digits.runs.plan import check_data
from kaggle_digits.runs.schema import FINISHED
from kaggle_digits.submissions.ledger import Entry
from kaggle_digits.submissions.submit import entry_of_run
from kaggle_digits.workspace import CLASSES, Workspace

VERSION = 1
SHOWN = 60
"""How many of the worst mistakes and of the rows that the folds disagree on are listed."""
PAIRS, EXAMPLES = 6, 12
"""How many of the most confused pairs are listed, and how many examples of each."""
ARTICLE_ROW = 1888
"""The test row, from 0, whose prediction the article prints."""
FIRST_ROWS = 25
"""How many test rows are shown with their predictions, as in the article."""


def make_document(workspace: Workspace, run: Run, data: Data, inside: Inside | None) -> dict[str, Any]:
    """Return the report of a run, of what is finished of it.

    Parameters
    ----------
    workspace : Workspace
        Whose run it is.
    run : Run
        What the report is about.
    data : Data
        The rows.
    inside : Inside or None
        Of the first of its networks.

    Returns
    -------
    dict
        What ``report.schema.json`` describes. Rows are numbered from 0, as in ``folds.csv``.

    Raises
    ------
    DataError
        If the run was made from other data, or an artefact is missing or damaged; the error names it.
    """
    check_data(run, data)
    train_set, networks = data.train, run.networks()
    own_folds = run.trained_folds() if isinstance(run, FoldsRun) else []
    oof, split, known = _predictions(run, train_set.labels)
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
        "layers": inside.layers if inside else None,
    }
    _compare_with_leaderboard(document)
    submit = workspace.command("submit", "--run", run.name) if run.info.status == FINISHED else ""
    return document | {"findings": find_what_matters(document, run.command(), submit)}


def _predictions(run: Run, labels: UInt8) -> tuple[Float32, UInt8, Any]:
    """Return out-of-fold softmaxes, what parts they are cross-fitted by, and which rows have one."""
    if not isinstance(run, FoldsRun):
        # No network is new to the rows of one part and not of another, so that any parts do.
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
    p_values = out_of_line_p([m.errors for m in metrics], [m.rows for m in metrics])
    rows = []
    for fold, m, p in zip(finished, metrics, p_values, strict=True):
        history = run.history(fold)
        rows.append(
            {
                "fold": fold,
                # Older versions did not measure them.
                "data_seconds": None,
                "peak_memory": None,
                "versions": {},
                **{name: value for name, value in m.as_json().items() if name != "files"},
                "interval": wilson_interval(m.rows - m.errors, m.rows),
                "out_of_line_p": p,
                "out_of_line": p < LEVEL,
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
    """Return what the rows say that have an out-of-fold prediction."""
    numbers = np.flatnonzero(known)
    softmax, labels, split = oof[known], labels[known], split[known]
    # A single fold has no others that its temperature could be fitted on.
    can_calibrate = bool((split != split[0]).any())
    tempered = cross_fit(softmax, labels, split)
    predicted = softmax.argmax(1)
    confusion = confusion_matrix(softmax, labels)
    # The worst first: by how little was left for the label, at probabilities that mean what they say.
    likelihood = tempered[np.arange(len(labels)), labels]
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(likelihood[wrong], kind="stable")]

    def mistakes(rows: Int64) -> list[dict[str, Any]]:
        return [
            {
                "row": int(numbers[i]),
                "label": int(labels[i]),
                "predicted": int(predicted[i]),
                "confidence": float(tempered[i, predicted[i]]),
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
    return total | {
        "interval": wilson_interval(total["rows"] - total["errors"], total["rows"]),
        "confusion": confusion.tolist(),
        "digits": _by_digit(confusion),
        "confused_pairs": pairs,
        "worst": mistakes(wrong[:SHOWN]),
        "suspects": mistakes(suspects(tempered, labels)) if can_calibrate else [],
        "calibration": {
            "temperature": fit_temperature(softmax, np.eye(CLASSES, dtype=np.float32)[labels]),
            "log_loss_before": total["log_loss"],
            "log_loss_after": log_loss(tempered, labels),
            "ece_before": expected_calibration_error(softmax, labels),
            "ece_after": expected_calibration_error(tempered, labels),
            "reliability_before": reliability(softmax, labels),
            "reliability_after": reliability(tempered, labels),
        }
        if can_calibrate
        else None,
    }


def _largest(confusion: Int64) -> list[tuple[int, int]]:
    """Return the pairs (label, prediction) that are most often confused, the worst first."""
    mistakes = confusion * (1 - np.eye(CLASSES, dtype=np.int64))
    order = np.argsort(-mistakes, axis=None, kind="stable")[:PAIRS]
    return [(int(i), int(j)) for i, j in (np.unravel_index(at, mistakes.shape) for at in order) if mistakes[i, j]]


def _by_digit(confusion: Int64) -> list[dict[str, Any]]:
    """Return precision, recall and F1 of each digit; None where nothing was predicted or nothing was there."""
    rows = []
    for digit in range(CLASSES):
        right = int(confusion[digit, digit])
        there, said = int(confusion[digit].sum()), int(confusion[:, digit].sum())
        rows.append(
            {
                "digit": digit,
                "rows": there,
                "missed": there - right,
                "precision": right / said if said else None,
                "recall": right / there if there else None,
                "f1": 2 * right / (there + said) if there + said else None,
            }
        )
    return rows


def _test(networks: Sequence[tuple[FoldsRun, int]], run: Run, data: Data) -> dict[str, Any]:
    """Return what the networks say of the test rows, and how far they agree. There are no labels here."""
    labels, test_set = data.train.labels, data.test
    rows = len(test_set.images)
    softmaxes = np.stack([member.fold_test_softmax(fold, rows) for member, fold in networks])
    # Half-way, the mean of what there is.
    ensembled = run.has_ensemble()
    mean = run.test_softmax(rows) if ensembled else mean_softmax(softmaxes)
    temperature = run.ensemble_metrics().calibration.temperature if ensembled else 1.0
    tempered = temper(mean, temperature)
    predicted, votes = mean.argmax(1), softmaxes.argmax(2)
    agreeing = (votes == predicted).mean(0)
    counts = [np.bincount(values, minlength=CLASSES) for values in (labels, predicted)]

    def seen(row: int) -> dict[str, Any]:
        return {
            "row": row,
            "id": int(test_set.ids[row]),
            "predicted": int(predicted[row]),
            "confidence": float(tempered[row].max()),
            "votes": {str(digit): int((votes[:, row] == digit).sum()) for digit in np.unique(votes[:, row])},
        }

    disputed = np.flatnonzero(agreeing < 1)
    disputed = disputed[np.lexsort((tempered[disputed].max(1), agreeing[disputed]))]
    article = min(ARTICLE_ROW, len(mean) - 1)
    return {
        "rows": rows,
        "networks": len(networks),
        "temperature": temperature,
        "unanimous": float((agreeing == 1).mean()),
        "disputed": [seen(int(row)) for row in disputed[:SHOWN]],
        "by_networks": _agreement_by_number(softmaxes),
        "class_shares": {
            "train": (counts[0] / len(labels)).tolist(),
            "test": (counts[1] / len(mean)).tolist(),
            "chi_squared_p": drift_p(counts[0].tolist(), counts[1].tolist()),
        },
        # The mean of probabilities that mean what they say is the share that is right; a mean of runs has none.
        "expected_accuracy": float(tempered.max(1).mean()) if ensembled and isinstance(run, FoldsRun) else None,
        "first_rows": [seen(row) for row in range(min(FIRST_ROWS, len(mean)))],
        "one_row": seen(article) | {"probabilities": tempered[article].tolist()},
    }


def _agreement_by_number(softmaxes: Float32) -> list[float]:
    """Return the share of test rows on which the mean of the first 1, 2, … networks says what that of all does."""
    predicted = np.cumsum(softmaxes, axis=0, dtype=np.float64).argmax(2)
    return [float(share) for share in (predicted == predicted[-1]).mean(1)]


def _members(run: MeanRun, labels: UInt8) -> list[dict[str, Any]]:
    """Return for the mean of the first 1, 2, … member runs the errors on the training rows, all out-of-fold."""
    members = run.members()
    sums = np.cumsum([member.oof_softmax(len(labels)) for member in members], axis=0, dtype=np.float64)
    return [
        {"run": member.name, "errors": int((some.argmax(1) != labels).sum())}
        for member, some in zip(members, sums, strict=True)
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
    """Add what score is to be expected, and whether the one there is differs by more than chance."""
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
