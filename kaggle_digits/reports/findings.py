"""The findings of a report: what to trust, what to check, and what to do next."""

from collections.abc import Iterator
from statistics import fmean
from typing import get_args

from kaggle_digits.evaluation.significance import score_deviation
from kaggle_digits.reports.facts import Finding, FoldFacts, OutOfFold, ReportFacts, Severity, TestFacts

MANY_SUSPECTS = 200
"""More than one suspicious label in this many rows is a problem, fewer are a warning."""
GUESSING = 0.1
"""The accuracy of a network that is not trained."""
USUAL_RISE = 0.005
"""The validation accuracy of a training of full length may rise by up to this in the last quarter of its epochs,
because the learning rate falls."""


def make_findings(report: ReportFacts, train: str, submit: str) -> list[Finding]:
    """Return the findings, problems first; `train` and `submit` are the commands to do so, or empty."""
    found: list[Finding] = []
    if report.missing_folds:
        text = f"{_folds(report.missing_folds)} not trained yet. Continue with: {train}"
        found.append(Finding("problem", "The run is not finished", text))
    if len(report.folds) > 1:
        found += _differences(report.folds)
    if report.out_of_fold and report.test:
        found += _score(report, report.out_of_fold, report.test)
    if report.out_of_fold:
        found += _suspects(report.out_of_fold)
    if report.folds:
        found += _fit(report)
    found += _next(report.submission, submit)
    # A stable sort: within a severity, the order above stays.
    return sorted(found, key=lambda finding: get_args(Severity).index(finding.severity))


def _differences(folds: list[FoldFacts]) -> Iterator[Finding]:
    """Report folds that are worse than the others, or were trained with other versions of packages."""
    if outliers := [fold for fold in folds if fold.out_of_line]:
        title = f"{_folds([fold.fold for fold in outliers])} worse than the other{'s' * (len(folds) > 2)}"
        text = "; ".join(f"fold {fold.fold}: {fold.errors} errors in {fold.rows:,} rows" for fold in outliers)
        text += ". The error rate is significantly higher than that of the other folds. Check its learning curve "
        text += "and its errors, and train with another --seed to see if the cause is the rows or the training."
        yield Finding("warning", title, text)
    else:
        text = "No fold has a significantly higher error rate than the others (Fisher's exact test)."
        yield Finding("ok", "The folds agree", text)
    same = set.intersection(*(set(fold.versions.items()) for fold in folds))
    others = {fold.fold: [" ".join(pair) for pair in fold.versions.items() if pair not in same] for fold in folds}
    if named := "; ".join(f"fold {fold}: {', '.join(versions)}" for fold, versions in others.items() if versions):
        text = f"{named}. The ensemble is valid; to use the same versions, train a new run with --run."
        yield Finding("warning", "Folds were trained with different versions", text)


def _score(report: ReportFacts, total: OutOfFold, test: TestFacts) -> Iterator[Finding]:
    """Compare the score with that of the folds, and the predicted digits with those of the validation rows."""
    (low, high), board = test.expected_from_out_of_fold.interval, report.leaderboard
    networks = f"a test row is predicted by {test.networks} networks and an out-of-fold row by "
    networks += f"{report.networks_per_row()}."
    if not board or board.gap is None:
        text = f"{low:.5f} to {high:.5f}, from the out-of-fold accuracy (95 % interval). It is likely to be higher"
        text += f", because {networks}"
        if test.expected_accuracy is not None:
            text += f" The calibrated probabilities predict a score of {test.expected_accuracy:.5f}."
        yield Finding("warning", "Expected score", text)
    else:
        score = f"The score is {board.score:.5f}, {board.gap:+.5f} compared with the out-of-fold accuracy. This is"
        expected = f"the 95 % interval ({low:.5f} to {high:.5f})"
        if board.within_noise:
            yield Finding("ok", "Leaderboard and folds agree", f"{score} within {expected}.")
        elif board.gap > 0:
            text = f"{score} above {expected}, as expected: {networks}"
            yield Finding("ok", "The leaderboard is above the folds", text)
        else:
            text = f"{score} below {expected}. Check for duplicates in different folds, for a change in the test "
            text += "rows, and for choices that were made with the out-of-fold rows."
            yield Finding("problem", "The leaderboard is below the folds", text)
    if (p := test.class_shares.chi_squared_p) < 0.01:
        text = "The networks predict other shares of the digits in the test set than in their validation rows"
        title = "The class distribution of the test set differs"
        yield Finding("warning", title, f"{text} (chi-squared test, p = {p:.2g}).")


def _suspects(total: OutOfFold) -> Iterator[Finding]:
    """Report the labels that may be wrong."""
    if suspects := len(total.suspects):
        severity: Severity = "problem" if suspects * MANY_SUSPECTS > total.rows else "warning"
        are = "They are" if suspects > 1 else "It is"
        text = f"{are} among the {total.errors:,} errors; better training cannot fix wrong labels. The HTML page "
        title = f"{suspects} label{'s' * (suspects > 1)} may be wrong"
        yield Finding(severity, title, f"{text}shows the rows.")


def _fit(report: ReportFacts) -> Iterator[Finding]:
    """Find out if the training was too short; else compare it with validation, to tell over- from underfitting."""
    history, rows = report.mean_history(), sum(fold.rows for fold in report.folds)
    curve = [GUESSING, *(epoch["val_accuracy"] for epoch in history)]
    epochs, validation = len(history), curve[-1]
    late = max(1, epochs // 4)
    # The last epoch is measured on more rows, and with test-time augmentation, so that it is nearly always higher.
    curve = curve[:-1] if late > 1 else curve
    last = len(curve) - 1
    rise = curve[last] - curve[last - late]
    if rise > max(USUAL_RISE, 2 * score_deviation(validation, rows, rows)):
        text = f"From epoch {last - late} to {last}, the validation accuracy still rose by {rise:.4f}, to "
        text += f"{curve[last]:.4f}. Train a new run with more epochs: --set epochs={2 * epochs}."
        yield Finding("problem", "The training was too short", text)
        return
    # Augmentation and hard-example mining both lower the training accuracy, so that it says nothing here.
    settings = report.run.as_json()["settings"]
    altered = ("hard_rows", "rotation", "scale", "shear", "shift", "elastic")
    if validation == 1 or any(settings.get(name) for name in altered):
        return
    training = fmean(fold.history[-1]["accuracy"] for fold in report.folds)
    text = f"Training accuracy {training:.4f}, validation accuracy {validation:.4f}: more "
    # Overfitting is called so if fitting the training rows explains 30 % of the validation errors.
    if training - validation > 0.3 * (1 - validation):
        text += "augmentation, as in the presets fast and default, or dropout may help, more epochs will not."
        yield Finding("warning", "The networks overfit", text)
    else:
        yield Finding("warning", "The networks underfit", f"{text}epochs or a larger network may help.")


def _next(submission: dict[str, str] | None, submit: str) -> Iterator[Finding]:
    if submission is None and submit:
        yield Finding("problem", "Not submitted yet", f"Submit it with: {submit}")
    elif submission and submission["status"] == "ERROR":
        title = "The submission was scored as an error"
        yield Finding("problem", title, "See the reason with the command: score")
    elif submission and submission["status"] != "COMPLETE":
        yield Finding("warning", "Submitted, but not scored yet", "Check again with the command: score")


def _folds(numbers: list[int]) -> str:
    return f"Fold{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))} {'is' if len(numbers) == 1 else 'are'}"
