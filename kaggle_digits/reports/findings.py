"""The findings of a report: what to trust, what to check, and what to do next."""

from __future__ import annotations

from statistics import fmean
from typing import Any, Literal, NamedTuple, get_args

from kaggle_digits.evaluation.significance import score_deviation

Severity = Literal["problem", "warning", "ok"]

MANY_SUSPECTS = 200
"""More than one suspicious label in this many rows is a problem, fewer are a warning."""
STABLE = 2_000
"""If the last network changes fewer than one prediction in this many, more networks would change little."""
GUESSING = 0.1
"""The accuracy of a network that is not trained."""
USUAL_RISE = 0.005
"""The validation accuracy of a training of full length may rise by up to this in the last quarter of its epochs:
the learning rate falls, and only the last epoch is measured with test-time augmentation."""


class Finding(NamedTuple):
    """One statement of a report about a run."""

    severity: Severity
    title: str
    text: str


def make_findings(document: dict[str, Any], train: str, submit: str) -> list[dict[str, str]]:
    """Return the findings of a report: ``severity``, ``title`` and ``text`` of each, problems first.

    `train` is the command that trains the missing folds of the run, `submit` the one that submits it, or empty.
    """
    findings = [
        finding
        for check in (
            _fold_spread,
            _versions,
            _score,
            _class_shares,
            _confusions,
            _labels,
            _fit,
            _agreement,
        )
        if (finding := check(document)) is not None
    ]
    if (missing := _completeness(document, train)) is not None:
        findings.insert(0, missing)
    if (step := _next(document, submit)) is not None:
        findings.append(step)
    # A stable sort: within a severity, the order above stays.
    findings.sort(key=lambda finding: get_args(Severity).index(finding.severity))
    return [finding._asdict() for finding in findings]


def _completeness(document: dict[str, Any], train: str) -> Finding | None:
    missing = document["missing_folds"]
    if not missing:
        return None
    return Finding(
        "problem", "The run is not finished", f"{_folds(missing)} not trained yet. Continue with: {train}"
    )


def _versions(document: dict[str, Any]) -> Finding | None:
    """Report folds that were trained with different versions, as after an upgrade in the middle of a run."""
    by_versions: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for fold in document["folds"]:
        by_versions.setdefault(tuple(fold["versions"].items()), []).append(fold["fold"])
    if len(by_versions) < 2:
        return None
    same = set.intersection(*(set(versions) for versions in by_versions))
    named = "; ".join(
        f"{'fold' if len(folds) == 1 else 'folds'} {', '.join(map(str, folds))}: "
        + ", ".join(f"{name} {version}" for name, version in versions if (name, version) not in same)
        for versions, folds in by_versions.items()
    )
    return Finding(
        "warning",
        "Folds were trained with different versions",
        f"{named}. The ensemble is valid; to use the same versions for all folds, train a new run with --run.",
    )


def _fold_spread(document: dict[str, Any]) -> Finding | None:
    folds = document["folds"]
    if len(folds) < 2:
        return None
    outliers = [fold for fold in folds if fold["out_of_line"]]
    if not outliers:
        return Finding(
            "ok",
            "The folds agree",
            "No fold has a significantly higher error rate than the other folds (Fisher's exact test, corrected "
            "for the number of folds).",
        )
    named = "; ".join(f"fold {f['fold']}: {f['errors']} errors in {f['rows']:,} rows" for f in outliers)
    return Finding(
        "warning",
        f"{_folds([fold['fold'] for fold in outliers])} worse than the other{'s' * (len(folds) > 2)}",
        f"{named}. The error rate is significantly higher than that of the other folds. Check its learning "
        "curve and its errors, and train with another --seed to see if the cause is the rows or the training.",
    )


def _score(document: dict[str, Any]) -> Finding | None:
    board, test, total = document["leaderboard"], document["test"], document["out_of_fold"]
    if not total or not test:
        return None
    low, high = test["expected_from_out_of_fold"]["interval"]
    expected = f"{low:.5f} to {high:.5f}"
    networks_per_row = _networks_per_row(document)
    if not board or board["gap"] is None:
        estimate = test["expected_accuracy"]
        more = "" if estimate is None else f" The calibrated probabilities predict a score of {estimate:.5f}."
        return Finding(
            "warning",
            "Expected score",
            f"{expected}, from the out-of-fold accuracy (95 % interval). It is likely to be higher, because a "
            f"test row is predicted by {test['networks']} networks and an out-of-fold row by "
            f"{networks_per_row}.{more}",
        )
    score = f"The score is {board['score']:.5f}, {board['gap']:+.5f} compared with the out-of-fold accuracy"
    if board["within_noise"]:
        return Finding(
            "ok", "Leaderboard and folds agree", f"{score}. This is within the 95 % interval ({expected})."
        )
    if board["gap"] > 0:
        return Finding(
            "ok",
            "The leaderboard is above the folds",
            f"{score}. This is above the 95 % interval ({expected}), as expected: a test row is predicted by "
            f"{test['networks']} networks, an out-of-fold row by {networks_per_row}.",
        )
    return Finding(
        "problem",
        "The leaderboard is below the folds",
        f"{score}. This is below the 95 % interval ({expected}). Check for duplicates in different folds, for a "
        "change in the test rows, and for choices that were made with the out-of-fold rows.",
    )


def _class_shares(document: dict[str, Any]) -> Finding | None:
    test = document["test"]
    if not test:
        return None
    p = test["class_shares"]["chi_squared_p"]
    if p >= 0.01:
        return None
    return Finding(
        "warning",
        "The class distribution of the test set differs",
        "The networks predict other shares of the digits in the test set than in their validation rows "
        f"(chi-squared test, p = {p:.2g}).",
    )


def _confusions(document: dict[str, Any]) -> Finding | None:
    total = document["out_of_fold"]
    if not total or not total["confused_pairs"]:
        return None
    matrix = total["confusion"]
    both = {
        (i, j): matrix[i][j] + matrix[j][i]
        for i in range(len(matrix))
        for j in range(i)
        if matrix[i][j] + matrix[j][i]
    }
    (i, j), count = max(both.items(), key=lambda pair: pair[1])
    return Finding(
        "warning",
        f"{j} and {i} are confused most often",
        f"{count} of {total['errors']:,} errors. If you cannot tell them apart either, a larger network will not "
        "help.",
    )


def _labels(document: dict[str, Any]) -> Finding | None:
    total = document["out_of_fold"]
    if not total or not total["suspects"]:
        return None
    count = len(total["suspects"])
    many = count * MANY_SUSPECTS > total["rows"]
    return Finding(
        "problem" if many else "warning",
        f"{count} label{'s' if count > 1 else ''} may be wrong",
        f"{'They are' if count > 1 else 'It is'} among the {total['errors']:,} errors; better training cannot fix "
        "wrong labels. The HTML page shows the rows.",
    )


def _fit(document: dict[str, Any]) -> Finding | None:
    """Find out if the training was too short; else compare it with validation, to tell over- from underfitting."""
    folds, settings = document["folds"], document["run"].get("settings", {})
    if not folds:
        return None
    by_epoch = zip(*(fold["history"] for fold in folds), strict=False)
    curve = [GUESSING, *(fmean(epoch["val_accuracy"] for epoch in epochs) for epochs in by_epoch)]
    epochs, validation = len(curve) - 1, curve[-1]
    late = max(1, epochs // 4)
    rise, rows = validation - curve[-1 - late], sum(fold["rows"] for fold in folds)
    if rise > max(USUAL_RISE, 2 * score_deviation(validation, rows, rows)):
        return Finding(
            "problem",
            "The training was too short",
            f"From epoch {epochs - late} to {epochs}, the validation accuracy still rose by {rise:.4f}, to "
            f"{validation:.4f}. Train a new run with more epochs: --set epochs={2 * epochs}.",
        )
    # Augmentation and hard-example mining both lower the training accuracy, so that it says nothing here.
    altered = ("hard_rows", "rotation", "scale", "shear", "shift", "elastic")
    if validation == 1 or any(settings.get(name) for name in altered):
        return None
    training = fmean(fold["history"][-1]["accuracy"] for fold in folds)
    accuracies = f"Training accuracy {training:.4f}, validation accuracy {validation:.4f}"
    # Overfitting is called so if fitting the training rows explains 30 % of the validation errors.
    if training - validation > 0.3 * (1 - validation):
        return Finding(
            "warning",
            "The networks overfit",
            f"{accuracies}: more augmentation or dropout may help, more epochs will not. The presets fast "
            "and default use augmentation.",
        )
    return Finding("warning", "The networks underfit", f"{accuracies}: more epochs or a larger network may help.")


def _agreement(document: dict[str, Any]) -> Finding | None:
    test = document["test"]
    if not test or test["networks"] < 2:
        return None
    changed = round((1 - test["by_networks"][-2]) * test["rows"])
    stable = changed * STABLE < test["rows"]
    return Finding(
        "ok" if stable else "warning",
        f"The networks agree on {100 * test['unanimous']:.2f} % of the test rows",
        f"The last of the {test['networks']} networks changed {changed:,} of {test['rows']:,} predictions of the "
        f"ensemble: {'more networks would change little' if stable else 'more networks may help'}.",
    )


def _next(document: dict[str, Any], submit: str) -> Finding | None:
    submission = document["submission"]
    if submission is None:
        return Finding("problem", "Not submitted yet", f"Submit it with: {submit}") if submit else None
    if submission["status"] == "ERROR":
        return Finding(
            "problem", "The submission was scored as an error", "See the reason with the command: score"
        )
    if submission["status"] != "COMPLETE":
        return Finding("warning", "Submitted, but not scored yet", "Check again with the command: score")
    return None


def _networks_per_row(document: dict[str, Any]) -> int:
    """Return the number of networks that predict an out-of-fold row: one per member run."""
    return len(document["members"] or [None])


def _folds(numbers: list[int]) -> str:
    names = ", ".join(map(str, numbers))
    return f"Fold {names} is" if len(numbers) == 1 else f"Folds {names} are"
