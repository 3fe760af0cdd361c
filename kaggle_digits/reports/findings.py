"""The findings of a report: what is unusual about a run, and what to do about it."""

from collections.abc import Iterator
from statistics import fmean
from typing import get_args

from kaggle_digits.evaluation.significance import score_deviation
from kaggle_digits.reports.facts import Finding, FoldFacts, OutOfFold, ReportFacts, Severity, TestFacts

MANY_SUSPECTS = 200
"""More than one suspicious label in this many rows is a problem; of MNIST's labels, about .15 % are wrong."""
GUESSING = 0.1
"""The accuracy of a network that is not trained."""
USUAL_RISE = 0.005
"""The validation accuracy of a training of full length may rise by up to this in the last quarter of its epochs,
because the learning rate falls."""


def make_findings(report: ReportFacts, train: str) -> list[Finding]:
    """Return what is unusual about a run, problems first; `train` is the command that continues it."""
    found: list[Finding] = []
    if report.missing_folds:
        text = f"{_folds(report.missing_folds)} not trained yet. Continue with: {train}"
        found.append(Finding("problem", "The run is not finished", text))
    if len(report.folds) > 1:
        found += _differences(report.folds)
    if report.out_of_fold and report.test:
        found += _test(report, report.test)
    if report.out_of_fold:
        found += _suspects(report.out_of_fold)
    if report.folds:
        found += _fit(report)
    found += _submission(report.submission)
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
    same = set.intersection(*(set(fold.versions.items()) for fold in folds))
    others = {fold.fold: [" ".join(pair) for pair in fold.versions.items() if pair not in same] for fold in folds}
    if named := "; ".join(f"fold {fold}: {', '.join(versions)}" for fold, versions in others.items() if versions):
        text = f"{named}. The ensemble is valid; to use the same versions, train a new run with --run."
        yield Finding("warning", "Folds were trained with different versions", text)


def _test(report: ReportFacts, test: TestFacts) -> Iterator[Finding]:
    """Report a score that is too low, and digits that are predicted more often than in the validation rows."""
    (low, high), board = test.expected_from_out_of_fold.interval, report.leaderboard
    if board and board.gap is not None and board.gap < 0 and not board.within_noise:
        text = f"The score is {board.score:.5f}, {board.gap:+.5f} compared with the out-of-fold accuracy. This is "
        text += f"below the 95 % interval ({low:.5f} to {high:.5f}). Check for duplicates in different folds, for "
        text += "a change in the test rows, and for choices that were made with the out-of-fold rows."
        yield Finding("problem", "The leaderboard is below the folds", text)
    if (p := test.class_shares.chi_squared_p) < 0.01:
        text = "The networks predict other shares of the digits in the test set than in their validation rows"
        title = "The class distribution of the test set differs"
        yield Finding("warning", title, f"{text} (chi-squared test, p = {p:.2g}).")


def _suspects(total: OutOfFold) -> Iterator[Finding]:
    """Report labels that may be wrong, if they are many."""
    if (suspects := len(total.suspects)) * MANY_SUSPECTS > total.rows:
        text = f"They are among the {total.errors:,} errors; better training cannot fix wrong labels."
        yield Finding("problem", f"{suspects} labels may be wrong", text)


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
        text = f"From epoch {last - late} to {last}, the validation accuracy still rose by {rise:.5f}, to "
        text += f"{curve[last]:.5f}. Train a new run with more epochs: --set epochs={2 * epochs}."
        yield Finding("problem", "The training was too short", text)
        return
    # Augmentation and hard-example mining both lower the training accuracy, so that it says nothing here.
    settings = report.run.as_json()["settings"]
    altered = ("hard_rows", "rotation", "scale", "shear", "shift", "elastic")
    if validation == 1 or any(settings.get(name) for name in altered):
        return
    training = fmean(fold.history[-1]["accuracy"] for fold in report.folds)
    text = f"Training accuracy {training:.5f}, validation accuracy {validation:.5f}: more "
    # Overfitting is called so if fitting the training rows explains 30 % of the validation errors.
    if training - validation > 0.3 * (1 - validation):
        text += "augmentation, as in the presets fast and default, or dropout may help, more epochs will not."
        yield Finding("warning", "The networks overfit", text)
    else:
        yield Finding("warning", "The networks underfit", f"{text}epochs or a larger network may help.")


def _submission(submission: dict[str, str] | None) -> Iterator[Finding]:
    if submission and submission["status"] == "ERROR":
        title = "The submission was scored as an error"
        yield Finding("problem", title, "See the reason with the command: score")
    elif submission and submission["status"] != "COMPLETE":
        yield Finding("warning", "Submitted, but not scored yet", "Check again with the command: score")


def _folds(numbers: list[int]) -> str:
    return f"Fold{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))} {'is' if len(numbers) == 1 else 'are'}"
