"""What a report comes to: a few sentences on what to believe, where to look, and what to do next."""

from __future__ import annotations

from typing import Any, Literal, get_args

Kind = Literal["act", "look", "good"]

MANY_SUSPECTS = 200
"""Beyond one suspicious row in so many, labels are worth a look."""


def find_what_matters(document: dict[str, Any], train: str, submit: str) -> list[dict[str, str]]:
    """Return a document's findings: ``kind`` (act, look or good, in this order), ``title`` and ``text``.

    `train` is the command that trains what is missing of the run, `submit` the one that submits it, or empty if it
    is not finished.
    """
    findings = [
        finding
        for examine in (_fold_spread, _versions, _score, _drift, _confusions, _labels, _fit, _networks)
        if (finding := examine(document)) is not None
    ]
    if (missing := _completeness(document, train)) is not None:
        findings.insert(0, missing)
    if (step := _next(document, submit)) is not None:
        findings.append(step)
    findings.sort(key=lambda finding: get_args(Kind).index(finding[0]))
    return [{"kind": kind, "title": title, "text": text} for kind, title, text in findings]


Finding = tuple[Kind, str, str] | None


def _completeness(document: dict[str, Any], train: str) -> Finding:
    missing = document["missing_folds"]
    if not missing:
        return None
    return "act", "Unfinished", f"{_folds(missing)} not trained yet. Go on with: {train}"


def _versions(document: dict[str, Any]) -> Finding:
    """Folds that were trained with different versions, as after an upgrade half-way."""
    by_versions: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for fold in document["folds"]:
        if versions := fold["versions"]:
            by_versions.setdefault(tuple(versions.items()), []).append(fold["fold"])
    if len(by_versions) < 2:
        return None
    same = set.intersection(*(set(versions) for versions in by_versions))
    named = "; ".join(
        f"{'fold' if len(folds) == 1 else 'folds'} {', '.join(map(str, folds))}: "
        + ", ".join(f"{name} {version}" for name, version in versions if (name, version) not in same)
        for versions, folds in by_versions.items()
    )
    return (
        "look",
        "Folds were trained with different versions",
        f"{named}. Their means count all the same; train again under another name to have one version throughout.",
    )


def _fold_spread(document: dict[str, Any]) -> Finding:
    folds = document["folds"]
    if len(folds) < 2:
        return None
    odd = [fold for fold in folds if fold["out_of_line"]]
    if not odd:
        return (
            "good",
            "The folds agree",
            "No fold's errors are further from the others' than chance explains (Fisher's exact test, corrected "
            "for the number of folds).",
        )
    named = "; ".join(f"fold {f['fold']}: {f['errors']} errors in {f['rows']:,} rows" for f in odd)
    title = "A fold is out of line" if len(odd) == 1 else f"{len(odd)} folds are out of line"
    return (
        "look",
        "The two folds differ" if len(folds) == 2 else title,
        f"{named}. That is further from the others than chance explains: look at its learning curve and its "
        "mistakes, and train with another --seed to see whether it is the rows or the training.",
    )


def _score(document: dict[str, Any]) -> Finding:
    board, test, total = document["leaderboard"], document["test"], document["out_of_fold"]
    if not total or not test:
        return None
    low, high = test["expected_from_out_of_fold"]["interval"]
    expected = f"{low:.5f} to {high:.5f}"
    if not board or board["gap"] is None:
        by_confidence = test["expected_accuracy"]
        more = "" if by_confidence is None else f" By the ensemble's own probabilities it is {by_confidence:.5f}."
        return (
            "look",
            "What the leaderboard will say",
            f"With as many networks as an out-of-fold row has, {_networks_of_a_row(document)}, it would be within "
            f"{expected} (95 %, if all test rows are scored); a test row has {test['networks']}.{more}",
        )
    words = f"The score is {board['score']:.5f}, {board['gap']:+.5f} against out-of-fold"
    if board["within_noise"]:
        return "good", "Leaderboard and folds agree", f"{words}: within chance ({expected})."
    if board["gap"] > 0:
        return (
            "good",
            "The leaderboard is above the folds",
            f"{words}: more than chance ({expected}), as a mean of {test['networks']} networks should be against "
            f"{_networks_of_a_row(document)} behind an out-of-fold row.",
        )
    return (
        "act",
        "The leaderboard is below the folds",
        f"{words}: more than chance ({expected}). Look for duplicates between folds, a change in the test rows, "
        "or a choice that was made by looking at out-of-fold rows.",
    )


def _drift(document: dict[str, Any]) -> Finding:
    test = document["test"]
    if not test:
        return None
    p = test["class_shares"]["chi_squared_p"]
    if p >= 0.01:
        return None
    return (
        "look",
        "The test set has other shares of digits",
        f"They differ from the training set's, as predicted, by more than chance (p = {p:.2g}, chi-squared).",
    )


def _confusions(document: dict[str, Any]) -> Finding:
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
    return (
        "look",
        f"{j} and {i} are confused most",
        f"{count} of {total['errors']:,} errors. If they look alike to you too, a larger network will not help.",
    )


def _labels(document: dict[str, Any]) -> Finding:
    total = document["out_of_fold"]
    if not total or not total["suspects"]:
        return None
    count = len(total["suspects"])
    many = count * MANY_SUSPECTS > total["rows"]
    return (
        "act" if many else "look",
        f"{count} label{'s look' if count > 1 else ' looks'} wrong",
        f"{'They are' if count > 1 else 'It is'} among the {total['errors']:,} errors; no training mends them. "
        "The report shows them by row.",
    )


def _fit(document: dict[str, Any]) -> Finding:
    """Training against validation accuracy, where an epoch is a fair sample of the rows."""
    folds, settings = document["folds"], document["run"].get("settings", {})
    altered = ("hard_rows", "rotation", "scale", "shear", "shift", "elastic")
    if not folds or any(settings.get(name) for name in altered):
        return None
    last = [fold["history"][-1] for fold in folds]
    seen = sum(epoch["accuracy"] for epoch in last) / len(last)
    unseen = sum(epoch["val_accuracy"] for epoch in last) / len(last)
    if unseen == 1:
        return None
    if seen - unseen > 0.3 * (1 - unseen):
        return (
            "look",
            "The networks know their own rows better",
            f"{seen:.4f} on the rows they train on, {unseen:.4f} on others: more augmentation or dropout may "
            "help, more epochs will not. The presets fast, default and best augment.",
        )
    return (
        "look",
        "There is room to learn",
        f"{seen:.4f} on the rows they train on, {unseen:.4f} on others: more epochs or a larger network may help.",
    )


def _networks(document: dict[str, Any]) -> Finding:
    test = document["test"]
    if not test or test["networks"] < 2:
        return None
    changed = round((1 - test["by_networks"][-2]) * test["rows"])
    return (
        "good" if changed * 2_000 < test["rows"] else "look",
        f"The networks are of one mind on {100 * test['unanimous']:.2f} % of the test rows",
        f"The last of {test['networks']} changed {changed:,} of {test['rows']:,} predictions"
        + (": more of the same would change little." if changed * 2_000 < test["rows"] else ": more may help."),
    )


def _next(document: dict[str, Any], submit: str) -> Finding:
    submission = document["submission"]
    if submission is None:
        return ("act", "Not submitted yet", f"Send it with: {submit}") if submit else None
    if submission["status"] == "ERROR":
        return "act", "The submission was scored as an error", "See why with the command: score"
    if submission["status"] != "COMPLETE":
        return "look", "Submitted, and not scored yet", "Look again with the command: score"
    return None


def _networks_of_a_row(document: dict[str, Any]) -> int:
    """Return how many networks predict an out-of-fold row: one a run."""
    return len(document["members"] or [None])


def _folds(numbers: list[int]) -> str:
    names = ", ".join(map(str, numbers))
    return f"Fold {names} is" if len(numbers) == 1 else f"Folds {names} are"
