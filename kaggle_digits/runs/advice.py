"""What to know about a run before one of the few submissions of a day is spent on it."""

from __future__ import annotations

from contextlib import suppress

from kaggle_digits.data.csv import load_train
from kaggle_digits.errors import DataError
from kaggle_digits.evaluation.significance import LEVEL, mcnemar_p
from kaggle_digits.files import sha256
from kaggle_digits.runs.directory import Run, list_runs, read_run
from kaggle_digits.submissions.ledger import Entry
from kaggle_digits.submissions.submit import ledger_of, submission_file
from kaggle_digits.workspace import Workspace


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
    best_score = max((entry.score or 0.0 for entry in scored), default=None)
    best = [entry for entry in scored if entry.score == best_score]
    if not best or any(entry.run == run.name and _is_current(workspace, entry) for entry in best):
        return "", False
    entry, words = best[-1], f"The best score so far is {best_score:.5f}"
    if not entry.run:
        return f"{words}, of a file that belongs to no run.", False
    words += f", of the run {entry.run}."
    labels, other_wrong = load_train(workspace.data).labels, None
    with suppress(DataError):
        if _is_current(workspace, entry):
            other_wrong = read_run(workspace.runs / entry.run).oof_softmax(len(labels)).argmax(1) != labels
    if other_wrong is None:
        return f"{words} Its predictions are not there any more, so the two cannot be compared.", False
    wrong = run.oof_softmax(len(labels)).argmax(1) != labels
    only_run, only_other = int((wrong & ~other_wrong).sum()), int((other_wrong & ~wrong).sum())
    p = mcnemar_p(only_run, only_other)
    if p >= LEVEL:
        chance = f"Out-of-fold, {run.name} is not better or worse than chance would explain (p = {p:.2g})."
        return f"{words} {chance}", False
    is_worse = only_run > only_other
    verdict = f"{'worse' if is_worse else 'better'}, by more than chance would explain (p = {p:.2g})"
    return f"{words} Out-of-fold, {run.name} is {verdict}.", is_worse


def _is_current(workspace: Workspace, entry: Entry) -> bool:
    """Tell whether the file of a ledger entry is still the submission of its run, which was not trained again."""
    path = submission_file(workspace, entry.run)
    return path.is_file() and sha256(path) == entry.sha256
