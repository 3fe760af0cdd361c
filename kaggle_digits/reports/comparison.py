"""Comparison of runs: their metrics, and McNemar's test for each pair on the same out-of-fold rows."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

from kaggle_digits.data.csv import LabelledDigits
from kaggle_digits.evaluation.calibration import cross_fit
from kaggle_digits.evaluation.metrics import summarise
from kaggle_digits.evaluation.significance import LEVEL, holm, mcnemar_p, wilson_interval
from kaggle_digits.reports.content import list_mistakes
from kaggle_digits.runs.directory import FoldsRun, MeanRun, check_data
from kaggle_digits.runs.ensemble import read_predictions
from kaggle_digits.submissions.submit import entry_of_run
from kaggle_digits.workspace import TRAIN_CSV, Workspace

SHOWN = 24
"""How many of the errors that only one run of a pair makes are listed."""


def make_comparison(
    workspace: Workspace, runs: Sequence[FoldsRun | MeanRun], train_set: LabelledDigits
) -> dict[str, Any]:
    """Return the comparison of runs; `DataError` if one is not finished or was trained on other data."""
    rows, wrong = [], []
    for run in runs:
        run.require_ensemble()
        check_data(run, {TRAIN_CSV: train_set.sha256})
        numbers, labels, parts, softmax = read_predictions(run, train_set.labels)
        if len(numbers) < len(train_set.labels):
            raise run.unfinished()
        total, info, entry = summarise(softmax, labels), run.info.as_json(), entry_of_run(workspace, run.name)
        row = {name: info.get(name) for name in ("preset", "folds", "seed", "members", "train_seconds")} | total
        row["interval"] = wilson_interval(total["rows"] - total["errors"], total["rows"])
        row["log_loss_after"] = run.ensemble_metrics().calibration.log_loss_after
        rows.append({"name": run.name, **row, "score": entry.score if entry else None})
        mistakes = list_mistakes(numbers, labels, softmax, cross_fit(softmax, labels, parts))
        # The most confident ones first.
        wrong.append(mistakes.sort_values("confidence", ascending=False, kind="stable"))
    pairs: list[dict[str, Any]] = []
    for (first, first_wrong), (second, second_wrong) in combinations(zip(runs, wrong, strict=True), 2):
        only_first = first_wrong[~first_wrong["row"].isin(second_wrong["row"])]
        only_second = second_wrong[~second_wrong["row"].isin(first_wrong["row"])]
        pairs.append(
            {
                "first": first.name,
                "second": second.name,
                "both_wrong": len(first_wrong) - len(only_first),
                "only_first_wrong": len(only_first),
                "only_second_wrong": len(only_second),
                "mcnemar_p": mcnemar_p(len(only_first), len(only_second)),
                "differences": _differences(first.info.as_json(), second.info.as_json()),
                "first_mistakes": only_first[:SHOWN].to_dict("records"),
                "second_mistakes": only_second[:SHOWN].to_dict("records"),
            }
        )
    for pair, p in zip(pairs, holm([pair["mcnemar_p"] for pair in pairs]), strict=True):
        pair |= {"mcnemar_p_holm": p, "differ": p < LEVEL}
        pair["verdict"] = _verdict(pair)
    written = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "version": 1,
        "written": written,
        "competition": workspace.competition.name,
        "runs": rows,
        "pairs": pairs,
    }


def _verdict(pair: dict[str, Any]) -> str:
    """Return a sentence that says which run of a pair is better."""
    wrong = [(pair["only_first_wrong"], pair["first"]), (pair["only_second_wrong"], pair["second"])]
    (fewer, better), (more, worse) = sorted(wrong)
    if more == fewer:
        return f"{pair['first']} and {pair['second']} make the same number of errors."
    verdict = f"{better} makes {more - fewer} fewer error{'s' * (more - fewer > 1)} than {worse}, which"
    p = "(p < 0.0001)" if pair["mcnemar_p_holm"] < 1e-4 else f"(p = {pair['mcnemar_p_holm']:.2g})"
    if pair["differ"]:
        return f"{verdict} chance does not explain {p}: {better} is better."
    return f"{verdict} may be chance {p}: neither is better for certain."


def _differences(first: dict[str, Any], second: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the settings in which two runs differ: a mapping from name to both values."""
    names = ["preset", "folds", "seed", "members", "network", "network_sha256"]
    names += [*first.get("settings", {}), *second.get("settings", {})]
    plain = [info | info.get("settings", {}) for info in (first, second)]
    return {name: values for name in names if (values := [info.get(name) for info in plain])[0] != values[1]}
