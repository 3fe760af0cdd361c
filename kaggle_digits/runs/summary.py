"""A summary of a competition's runs: their status, accuracy and score."""

from __future__ import annotations

from typing import Any

from kaggle_digits.errors import DataError
from kaggle_digits.runs.directory import FoldsRun, Run, damaged_runs, list_runs
from kaggle_digits.submissions.submit import entry_of_run
from kaggle_digits.workspace import Workspace


def summarise_runs(workspace: Workspace) -> list[dict[str, Any]]:
    """Return one row per run of the competition: the most recently updated first, damaged runs last.

    Returns
    -------
    list of dict
        ``name``, ``status`` (also ``damaged``), ``trained`` and ``folds`` (counts, None for a mean of runs),
        ``rows``, ``errors`` and ``accuracy`` out-of-fold (None until the run is ensembled), ``score`` (None until
        the ledger has a score of the current submission file).
    """
    rows = [_row(workspace, run) for run in list_runs(workspace)]
    return rows + [_empty_row(workspace, name, "damaged") for name in damaged_runs(workspace)]


def _row(workspace: Workspace, run: Run) -> dict[str, Any]:
    row = _empty_row(workspace, run.name, run.info.status)
    if isinstance(run, FoldsRun):
        row |= {"trained": len(run.trained_folds()), "folds": run.info.folds}
    if run.has_ensemble():
        try:
            metrics = run.ensemble_metrics()
        except DataError:
            return row | {"status": "damaged"}
        row |= {"rows": metrics.rows, "errors": metrics.errors, "accuracy": metrics.accuracy}
    return row


def _empty_row(workspace: Workspace, name: str, status: str) -> dict[str, Any]:
    entry = entry_of_run(workspace, name)
    unknown = dict.fromkeys(("trained", "folds", "rows", "errors", "accuracy"))
    return {"name": name, "status": status, **unknown, "score": entry.score if entry else None}
