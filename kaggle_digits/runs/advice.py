"""What to know about a run before one of the few submissions of a day is spent on it."""

from __future__ import annotations

from contextlib import suppress

from kaggle_digits.data.csv import load_train
from kaggle_digits.errors import DataError, UsageError
from kaggle_digits.evaluation.significance import LEVEL, mcnemar_p
from kaggle_digits.runs.directory import Run, find_run, list_runs
from kaggle_digits.submissions.ledger import Entry
from kaggle_digits.submissions.submit import ledger_of
from kaggle_digits.workspace import Workspace


def explain_choice(workspace: Workspace, chosen: Run) -> str:
    """Return a sentence on why a run was chosen for submission, naming newer runs that were not."""
    words = (
        f"The run is {chosen.name} (CV {_cv(chosen):.5f}), the finished one with the best out-of-fold accuracy."
    )
    for run in list_runs(workspace):
        if run.name == chosen.name:
            break
        if not run.is_finished:
            words += f" {run.name} is newer, but unfinished."
        else:
            with suppress(DataError):
                words += f" {run.name} is newer, but its CV is {_cv(run):.5f}."
    return words


def compare_with_best_score(workspace: Workspace, run: Run) -> str:
    """Return sentences that compare a run with the best score so far, by McNemar's test on out-of-fold rows.

    Returns
    -------
    str
        Empty if nothing was scored yet, or if the run itself has the best score.
    """
    scored = [entry for entry in ledger_of(workspace).entries() if entry.score is not None]
    best = max(scored, key=_score, default=None)
    if best is None or best.run == run.name:
        return ""
    words = f"The best score so far is {_score(best):.5f}"
    if not best.run:
        return f"{words}, of a file that belongs to no run."
    words += f", of the run {best.run}."
    try:
        labels = load_train(workspace.data).labels
        wrong, best_wrong = (
            other.oof_softmax(len(labels)).argmax(1) != labels for other in (run, find_run(workspace, best.run))
        )
    except (DataError, UsageError):
        return f"{words} Its out-of-fold predictions are not there any more, so the two cannot be compared."
    only_run, only_best = int((wrong & ~best_wrong).sum()), int((best_wrong & ~wrong).sum())
    p = mcnemar_p(only_run, only_best)
    if p >= LEVEL:
        return f"{words} Out-of-fold, {run.name} is not better or worse than chance would explain (p = {p:.2g})."
    verdict = "better" if only_run < only_best else "worse"
    return f"{words} Out-of-fold, {run.name} is {verdict}, by more than chance would explain (p = {p:.2g})."


def _cv(run: Run) -> float:
    return run.ensemble_metrics().accuracy


def _score(entry: Entry) -> float:
    return entry.score or 0.0
