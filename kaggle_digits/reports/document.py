"""The report's document: everything it says, as numbers and words that JSON can hold."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np

from kaggle_digits.data import load_train
from kaggle_digits.errors import DataError
from kaggle_digits.files import Workspace
from kaggle_digits.ledger import Entry
from kaggle_digits.metrics import confusion_matrix, summarise
from kaggle_digits.runs import Run
from kaggle_digits.submission import ledger_of

VERSION = 1


def make_document(workspace: Workspace, run: Run) -> dict[str, Any]:
    """Return the report of a run, of what is finished of it.

    Returns
    -------
    dict
        ``version``, ``run`` (what was run), ``missing_folds``, ``folds`` (a row each, with its ``history``),
        ``fold_accuracy`` (mean and standard deviation over folds), ``out_of_fold`` (on all rows that have a
        prediction: rows, errors, accuracy, log-loss, confusion matrix by label and prediction) and
        ``leaderboard`` (the last scored submission, or None).
    """
    info = run.info()
    train_set = load_train(workspace.data)
    if info["data"]["train.csv"] != train_set.sha256:
        raise DataError(
            f"The run {run.name} was made from another train.csv than is here now.",
            "Bring its data back, or train again under another name.",
        )
    labels = train_set.labels
    numbers = range(info.get("folds", 0))
    finished = [fold for fold in numbers if run.is_trained(fold)]
    if "members" in info:
        oof, predicted = run.oof_softmax(), np.ones(len(labels), bool)
    else:
        split = run.folds()
        oof, predicted = np.zeros((len(labels), 10), np.float32), np.isin(split, finished)
        for fold in finished:
            oof[split == fold] = run.val_softmax(fold)
    accuracies = [run.fold_metrics(fold)["accuracy"] for fold in finished]
    return {
        "version": VERSION,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": info,
        "missing_folds": [fold for fold in numbers if fold not in finished],
        "folds": [{"fold": fold, **run.fold_metrics(fold), "history": run.history(fold)} for fold in finished],
        "fold_accuracy": {
            "mean": float(np.mean(accuracies)),
            "sd": float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None,
        }
        if accuracies
        else None,
        "out_of_fold": summarise(oof[predicted], labels[predicted])
        | {"confusion": confusion_matrix(oof[predicted], labels[predicted]).tolist()}
        if predicted.any()
        else None,
        "leaderboard": _leaderboard(ledger_of(workspace).entries(), run.name),
    }


def _leaderboard(entries: list[Entry], run: str) -> dict[str, Any] | None:
    for entry in reversed(entries):
        if entry.run == run and entry.status == "COMPLETE" and entry.score:
            return {
                "time": entry.time,
                "ref": entry.ref,
                "score": float(entry.score),
                "cv": float(entry.cv) if entry.cv else None,
                "gap": entry.gap,
                "rank": int(entry.rank) if entry.rank else None,
            }
    return None
