"""Comparison of runs: their metrics, and McNemar's test for each pair on the same out-of-fold rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

import numpy as np

from kaggle_digits.arrays import Float32, Int64
from kaggle_digits.data.csv import LabelledDigits
from kaggle_digits.errors import DataError
from kaggle_digits.evaluation.calibration import cross_fit
from kaggle_digits.evaluation.metrics import summarise
from kaggle_digits.evaluation.significance import LEVEL, holm, mcnemar_p, wilson_interval
from kaggle_digits.reports.document import out_of_fold_predictions
from kaggle_digits.runs.directory import Run
from kaggle_digits.submissions.submit import entry_of_run
from kaggle_digits.workspace import Workspace

VERSION = 1
SHOWN = 24
"""How many of the errors that only one run of a pair makes are listed."""


def make_comparison(workspace: Workspace, runs: Sequence[Run], train_set: LabelledDigits) -> dict[str, Any]:
    """Return the comparison of two or more runs that have an ensemble and were trained on these data.

    ``runs`` has one row per run. ``pairs`` has for each pair of runs the numbers of rows that only the first, only
    the second and both predicted wrongly, the p-value of McNemar's exact test, the same after Holm's correction
    for all pairs, the verdict in words, the settings that differ, and the rows themselves, with the same
    calibrated probabilities as in the reports.
    """
    for run in runs:
        if run.info.data.train != train_set.sha256:
            raise DataError(
                f"The run {run.name} was trained on another train.csv than the current one.",
                "Compare only runs that were trained on the same data.",
            )
    softmaxes = [run.oof_softmax(len(train_set.labels)) for run in runs]
    calibrated = [
        cross_fit(softmax, train_set.labels, out_of_fold_predictions(run, train_set.labels)[1])
        for run, softmax in zip(runs, softmaxes, strict=True)
    ]
    wrong = [softmax.argmax(1) != train_set.labels for softmax in softmaxes]
    pairs: list[dict[str, Any]] = []
    for i, j in combinations(range(len(runs)), 2):
        only_first, only_second = np.flatnonzero(wrong[i] & ~wrong[j]), np.flatnonzero(wrong[j] & ~wrong[i])
        pairs.append(
            {
                "first": runs[i].name,
                "second": runs[j].name,
                "both_wrong": int((wrong[i] & wrong[j]).sum()),
                "only_first_wrong": len(only_first),
                "only_second_wrong": len(only_second),
                "mcnemar_p": mcnemar_p(len(only_first), len(only_second)),
                "differences": _differences(runs[i].info.as_json(), runs[j].info.as_json()),
                "first_mistakes": _mistakes(only_first, calibrated[i], train_set),
                "second_mistakes": _mistakes(only_second, calibrated[j], train_set),
            }
        )
    for pair, p in zip(pairs, holm([pair["mcnemar_p"] for pair in pairs]), strict=True):
        pair["mcnemar_p_holm"], pair["differ"] = p, p < LEVEL
        pair["verdict"] = _verdict(pair)
    return {
        "version": VERSION,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "competition": runs[0].info.competition,
        "runs": [_row(workspace, run, softmax, train_set) for run, softmax in zip(runs, softmaxes, strict=True)],
        "pairs": pairs,
    }


def _verdict(pair: dict[str, Any]) -> str:
    """Return a sentence that says which run of a pair is better."""
    first, second, more, fewer = (
        pair[name] for name in ("first", "second", "only_first_wrong", "only_second_wrong")
    )
    if more == fewer:
        return f"{first} and {second} make the same number of errors."
    if more < fewer:
        first, second, more, fewer = second, first, fewer, more
    difference = f"{second} makes {more - fewer} fewer error{'s' * (more - fewer > 1)} than {first}"
    p = f"(p = {pair['mcnemar_p_holm']:.2g})"
    if pair["differ"]:
        return f"{difference}, which chance does not explain {p}: {second} is better."
    return f"{difference}, which may be chance {p}: neither is better for certain."


def _row(workspace: Workspace, run: Run, softmax: Float32, train_set: LabelledDigits) -> dict[str, Any]:
    info, total = run.info.as_json(), summarise(softmax, train_set.labels)
    entry = entry_of_run(workspace, run.name)
    return {
        "name": run.name,
        "preset": info.get("preset"),
        "folds": info.get("folds"),
        "seed": info.get("seed"),
        "members": info.get("members"),
        **total,
        "interval": wilson_interval(total["rows"] - total["errors"], total["rows"]),
        "log_loss_after": run.ensemble_metrics().calibration.log_loss_after,
        "train_seconds": info.get("train_seconds"),
        "score": entry.score if entry else None,
    }


def _differences(first: dict[str, Any], second: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the settings in which two runs differ: a mapping from name to both values."""
    plain = [{**info, **info.get("settings", {})} for info in (first, second)]
    settings = dict.fromkeys((*first.get("settings", {}), *second.get("settings", {})))
    names = ("preset", "folds", "seed", "members", *settings)
    pairs = {name: [info.get(name) for info in plain] for name in names}
    return {name: values for name, values in pairs.items() if values[0] != values[1]}


def _mistakes(rows: Int64, softmax: Float32, train_set: LabelledDigits) -> list[dict[str, Any]]:
    """Return the first `SHOWN` of these rows, the most confident errors first."""
    order = rows[np.argsort(-softmax[rows].max(1), kind="stable")][:SHOWN]
    return [
        {
            "row": int(row),
            "label": int(train_set.labels[row]),
            "predicted": int(softmax[row].argmax()),
            "confidence": float(softmax[row].max()),
        }
        for row in order
    ]
