"""A summary of a competition's runs, and what to know about a run before it is submitted."""

from contextlib import suppress
from typing import Any

from kaggle_digits.data.csv import load_train
from kaggle_digits.errors import DataError
from kaggle_digits.evaluation.significance import LEVEL, mcnemar_p
from kaggle_digits.runs.directory import FoldsRun, Run, list_runs, read_run, run_names
from kaggle_digits.submissions.submit import entry_of_run, is_current, ledger_of
from kaggle_digits.workspace import Workspace

COLUMNS = ("name", "status", "trained", "folds", "rows", "errors", "accuracy", "score")


def summarise_runs(workspace: Workspace) -> list[dict[str, Any]]:
    """Return one row per run of the competition: the most recently updated first, damaged runs last.

    ``trained`` and ``folds`` are counts. What is not known, such as the score before it is submitted, is None.
    """
    runs = {run.name: run for run in list_runs(workspace)}
    rows = []
    for name in dict.fromkeys((*runs, *run_names(workspace))):
        run, entry = runs.get(name), entry_of_run(workspace, name)
        row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"name": name, "status": "damaged"}
        row["score"] = entry.score if entry else None
        if isinstance(run, FoldsRun):
            row |= {"trained": len(run.trained_folds()), "folds": run.info.folds}
        if run:
            with suppress(DataError):
                if run.ensemble.is_finished:
                    metrics = run.ensemble_metrics()
                    row |= {"rows": metrics.rows, "errors": metrics.errors, "accuracy": metrics.accuracy}
                row["status"] = run.info.status
        rows.append(row)
    return rows


def explain_choice(workspace: Workspace, chosen: Run) -> str:
    """Return sentences on why `find_run` chose a run without a name."""
    if not chosen.is_finished:
        return f"No run of the present data is finished. The latest one is {chosen.name}."
    words = f"The run is {chosen.name} (CV {chosen.ensemble_metrics().accuracy:.5f}), the finished one with the "
    words += "best out-of-fold accuracy."
    latest = list_runs(workspace)[0]
    return words if latest.is_finished else f"{words} {latest.name} is newer, but not finished."


def compare_with_best_score(workspace: Workspace, run: Run) -> tuple[str, bool]:
    """Return sentences about a run and the best score so far, and whether it is worse, by McNemar's test.

    They are empty if nothing was scored yet, or if the submission of the run itself has the best score.
    """
    scored = [entry for entry in ledger_of(workspace).entries() if entry.score is not None]
    best = [entry for entry in scored if entry.score == max(other.score or 0.0 for other in scored)]
    if not best or any(entry.run == run.name and is_current(workspace, entry) for entry in best):
        return "", False
    entry = best[-1]
    whose = f"the run {entry.run}" if entry.run else "a file that belongs to no run"
    words = f"The best score so far is {entry.score:.5f}, of {whose}."
    if not entry.run:
        return words, False
    labels, other = load_train(workspace.data).labels, None
    with suppress(DataError):
        if is_current(workspace, entry):
            other = read_run(workspace.runs / entry.run).oof_softmax(len(labels))
    if other is None:
        return f"{words} Its predictions are not there any more, so the two cannot be compared.", False
    wrong, other_wrong = (softmax.argmax(1) != labels for softmax in (run.oof_softmax(len(labels)), other))
    only_run, only_other = int((wrong & ~other_wrong).sum()), int((other_wrong & ~wrong).sum())
    p = mcnemar_p(only_run, only_other)
    is_worse = p < LEVEL and only_run > only_other
    verdict = "not better or worse than" if p >= LEVEL else f"{'worse' if is_worse else 'better'}, by more than"
    return f"{words} Out-of-fold, {run.name} is {verdict} chance would explain (p = {p:.2g}).", is_worse
