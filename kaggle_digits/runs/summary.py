"""A summary of a competition's runs: their status, accuracy and score."""

from __future__ import annotations

from typing import Any

from kaggle_digits.errors import DataError
from kaggle_digits.runs.directory import FoldsRun, Run, list_runs, run_names
from kaggle_digits.submissions.submit import entry_of_run
from kaggle_digits.workspace import Workspace


def summarise_runs(workspace: Workspace) -> list[dict[str, Any]]:
    """Return one row per run of the competition: the most recently updated first, damaged runs last.

    ``trained`` and ``folds`` are counts. What is not known, such as the score before it is submitted, is None.
    """
    runs = {run.name: run for run in list_runs(workspace)}
    rows = []
    for name in dict.fromkeys((*runs, *run_names(workspace))):
        entry = entry_of_run(workspace, name)
        row: dict[str, Any] = {"name": name, "status": "damaged"}
        row |= dict.fromkeys(("trained", "folds", "rows", "errors", "accuracy"))
        rows.append(row | {"score": entry.score if entry else None} | (_facts(runs[name]) if name in runs else {}))
    return rows


def _facts(run: Run) -> dict[str, Any]:
    facts: dict[str, Any] = {"status": run.info.status}
    if isinstance(run, FoldsRun):
        facts |= {"trained": len(run.trained_folds()), "folds": run.info.folds}
    if run.has_ensemble():
        try:
            metrics = run.ensemble_metrics()
        except DataError:
            return facts | {"status": "damaged"}
        facts |= {"rows": metrics.rows, "errors": metrics.errors, "accuracy": metrics.accuracy}
    return facts
