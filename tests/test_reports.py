"""Reports and comparisons: JSON documents, HTML pages and terminal output."""

from __future__ import annotations

import copy
import hashlib
import html
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
from conftest import SMALL, Listener, full_disk
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_fscore_support

from kaggle_digits import Workspace, compare, ensemble, find_run, report, submit, temper, train
from kaggle_digits.console import duration, sparkline
from kaggle_digits.data.csv import load_train
from kaggle_digits.errors import DataError, UsageError, WriteError
from kaggle_digits.reports.document import _drift_p, _folds, _out_of_fold
from kaggle_digits.reports.findings import make_findings
from kaggle_digits.reports.network import inspect_network
from kaggle_digits.runs.schema import FoldMetrics
from kaggle_digits.submissions.submit import ledger_of

SECTIONS = (
    "Findings",
    "Folds",
    "Learning curves",
    "Errors",
    "Calibration",
    "Test rows",
    "Network",
    "Time and memory",
    "Run",
)


@pytest.fixture
def trained(trained_workspace: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the trained workspace, which a test can change."""
    shutil.copytree(trained_workspace.root, tmp_path / "copy")
    return Workspace.at(tmp_path / "copy", "rehearsal")


def test_report_has_the_errors_of_the_saved_predictions(trained_workspace: Workspace) -> None:
    document = report(trained_workspace).document
    run, labels = find_run(trained_workspace), load_train(trained_workspace.data).labels
    wrong = run.oof_softmax().argmax(1) != labels
    assert document["out_of_fold"]["errors"] == wrong.sum()
    assert document["out_of_fold"]["accuracy"] == pytest.approx(1 - wrong.mean())
    confusion = np.array(document["out_of_fold"]["confusion"])
    assert confusion.sum() == 4200
    assert confusion.sum() - confusion.trace() == wrong.sum()
    np.testing.assert_array_equal(confusion.sum(1), np.bincount(labels))
    assert [fold["errors"] for fold in document["folds"]] == [wrong[run.split() == k].sum() for k in range(2)]
    assert document["fold_accuracy"]["mean"] == pytest.approx(np.mean([f["accuracy"] for f in document["folds"]]))
    assert [len(fold["history"]) for fold in document["folds"]] == [2, 2]
    assert document["missing_folds"] == []
    assert document["leaderboard"] is None
    assert document["run"]["settings"]["epochs"] == 2


@pytest.fixture(scope="session")
def schema() -> dict[str, Any]:
    """The JSON schema of the report, from the package."""
    document: dict[str, Any] = json.loads(
        resources.files("kaggle_digits.reports").joinpath("report.schema.json").read_text()
    )
    jsonschema.Draft202012Validator.check_schema(document)
    return document


def test_report_follows_its_schema(trained: Workspace, schema: dict[str, Any]) -> None:
    submit(trained)
    jsonschema.validate(report(trained).document, schema)
    shutil.copytree(trained.runs / "first", trained.runs / "second")
    ensemble(trained, ["first", "second"], name="both")
    jsonschema.validate(report(trained, "both").document, schema)
    for fold in (0, 1):
        shutil.rmtree(find_run(trained, "second").fold_folder(fold))
        jsonschema.validate(report(trained, "second").document, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(report(trained, "first").document | {"folds": None}, schema)


def test_report_has_the_metrics_per_digit_and_the_confused_pairs(trained_workspace: Workspace) -> None:
    total = report(trained_workspace).document["out_of_fold"]
    labels, softmax = load_train(trained_workspace.data).labels, find_run(trained_workspace).oof_softmax()
    predicted = softmax.argmax(1)
    precision, recall, f1, rows = precision_recall_fscore_support(labels, predicted)
    for digit, found in enumerate(total["digits"]):
        expected = (precision[digit], recall[digit], f1[digit], rows[digit])
        assert (found["precision"], found["recall"], found["f1"], found["rows"]) == pytest.approx(expected)
        assert found["missed"] == ((labels == digit) & (predicted != digit)).sum()
    low, high = total["interval"]
    assert low < total["accuracy"] < high
    counts = [pair["rows"] for pair in total["confused_pairs"]]
    assert counts == sorted(counts, reverse=True)
    for pair in total["confused_pairs"]:
        assert pair["rows"] == ((labels == pair["label"]) & (predicted == pair["predicted"])).sum()
        assert len(pair["examples"]) == min(12, pair["rows"])
    for mistake in total["misclassified"] + total["suspects"]:
        assert labels[mistake["row"]] == mistake["label"] != mistake["predicted"] == predicted[mistake["row"]]


def test_report_writes_all_errors_as_csv(trained_workspace: Workspace) -> None:
    written = report(trained_workspace)
    table = pd.read_csv(written.page.with_name("errors.csv"))
    labels, softmax = load_train(trained_workspace.data).labels, find_run(trained_workspace).oof_softmax()
    predicted = softmax.argmax(1)
    assert list(table.columns) == ["row", "label", "predicted", "confidence"]
    np.testing.assert_array_equal(np.sort(table["row"]), np.flatnonzero(predicted != labels))
    np.testing.assert_array_equal(table["label"], labels[table["row"]])
    np.testing.assert_array_equal(table["predicted"], predicted[table["row"]])
    misclassified = pd.DataFrame(written.document["out_of_fold"]["misclassified"])
    np.testing.assert_allclose(table["confidence"], misclassified["confidence"], atol=1e-6)


def test_report_page_is_small(trained_workspace: Workspace) -> None:
    assert report(trained_workspace).page.stat().st_size < 500_000


def test_report_has_the_predictions_for_the_test_rows(trained_workspace: Workspace) -> None:
    test, run = report(trained_workspace).document["test"], find_run(trained_workspace)
    mean, votes = run.test_softmax(), np.stack([run.fold_test_softmax(k).argmax(1) for k in range(2)])
    assert test["networks"] == 2
    assert test["unanimous"] == pytest.approx((votes[0] == votes[1]).mean())
    assert test["by_networks"] == pytest.approx([(votes[0] == mean.argmax(1)).mean(), 1])
    assert test["class_shares"]["test"] == pytest.approx(np.bincount(mean.argmax(1), minlength=10) / 2800)
    assert test["expected_accuracy"] == pytest.approx(
        temper(mean, run.ensemble_metrics()["calibration"]["temperature"]).max(1).mean()
    )
    for row in test["disputed"]:
        assert sum(row["votes"].values()) == 2
        assert votes[0, row["row"]] != votes[1, row["row"]]
        assert row["id"] == row["row"] + 1
    assert [row["row"] for row in test["first_rows"]] == list(range(25))
    assert test["one_row"]["row"] == 1888
    assert np.argmax(test["one_row"]["probabilities"]) == test["one_row"]["predicted"] == mean[1888].argmax()


def test_report_has_the_layers_of_lenet(trained_workspace: Workspace) -> None:
    layers = {layer["name"].split("_")[0] + str(i): layer for i, layer in enumerate(layers_of(trained_workspace))}
    shapes = [(layer["kind"], layer["shape"], layer["receptive_field"]) for layer in layers.values()]
    assert shapes[2:7] == [
        ("ZeroPadding2D", [32, 32, 1], 1),
        ("Conv2D", [28, 28, 36], 5),
        ("AveragePooling2D", [14, 14, 36], 6),
        ("Conv2D", [10, 10, 36], 14),
        ("AveragePooling2D", [5, 5, 36], 16),
    ]
    assert shapes[-1] == ("Dense", [10], 28)
    # Computed by hand: 26 * 36, (900 + 1) * 36, 901 * 128, 129 * 64, 65 * 10.
    assert sum(layer["parameters"] for layer in layers.values()) == 936 + 32_436 + 115_328 + 8_256 + 650


def layers_of(workspace: Workspace) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = report(workspace).document["layers"]
    return layers


def test_layer_table_takes_the_larger_receptive_field_of_residual_branches() -> None:
    from kaggle_digits.reports.network import _layer_table
    from kaggle_digits.training.models import residual_cnn

    rows = _layer_table(residual_cnn((4, 8, 8), 0.1))
    # The network uses only the central 24x24 pixels.
    assert [row["receptive_field"] for row in rows if row["kind"] == "Add"] == [5, 14, 24]
    assert rows[-1]["receptive_field"] == 24
    assert [row["receptive_field"] for row in rows if row["kind"] == "MaxPooling2D"] == [6, 16]


@pytest.mark.usefixtures("train_in_process")
def test_inspect_network_shows_a_preprocessed_digit(trained: Workspace) -> None:
    from kaggle_digits.training.preprocessing import preprocess

    settings = {"epochs": "1", "batch_size": "200", "tta": "1"}
    run = train(trained, preset="default", folds=2, settings=settings, run="mixed")
    image = load_train(trained.data).images[0]
    details = inspect_network(run, 1, image)
    np.testing.assert_array_equal(details.image, preprocess(image[None], "wide-backhand")[0])
    assert details.filters.shape == (16, 3, 3)
    assert [maps.shape for _, maps in details.activations] == [(16, 24, 24), (96, 6, 6)]
    assert all(maps.min() >= 0 for _, maps in details.activations)
    document = report(trained, "mixed").document
    assert [fold["preprocessing"] for fold in document["folds"]] == ["plain", "wide-backhand"]


def test_report_names_a_network_that_cannot_be_loaded(trained: Workspace) -> None:
    folder = find_run(trained).path / "fold-0"
    (folder / "model.keras").write_bytes(b"not a network")
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["files"]["model.keras"] = hashlib.sha256(b"not a network").hexdigest()
    (folder / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(DataError, match=r"fold-0/model\.keras cannot be loaded"):
        report(trained)


def titles(document: dict[str, Any]) -> str:
    return "; ".join(finding["title"] for finding in document["findings"])


def test_make_findings_depends_on_the_document(trained: Workspace) -> None:
    document = report(trained).document
    assert "Not submitted yet" in titles(document)
    (text,) = [finding["text"] for finding in document["findings"] if finding["title"] == "Not submitted yet"]
    assert text == f"Submit it with: {trained.command('submit', '--run', 'first')}"
    severities = [finding["severity"] for finding in document["findings"]]
    assert severities == sorted(severities, key=["problem", "warning", "ok"].index)
    submit(trained)
    assert "Not submitted yet" not in titles(report(trained).document)

    changed = copy.deepcopy(document)
    changed["folds"][1]["out_of_line"] = True
    changed["test"]["class_shares"]["chi_squared_p"] = 1e-9
    changed["missing_folds"] = [3]
    changed["findings"] = make_findings(changed, "", "")
    assert {
        "The run is not finished",
        "Fold 1 is worse than the other",
        "The class distribution of the test set differs",
    } <= {finding["title"] for finding in changed["findings"]}
    assert "Fold 3 is not trained yet" in changed["findings"][0]["text"]


@pytest.mark.parametrize(
    ("epochs", "earlier", "last", "expected"),
    [
        # Measured on `rehearsal`: `fast` and `lenet` with 4 epochs, `fast` with 10 and 20, `lenet` with 20.
        (4, 0.9467, 0.9771, True),
        (4, 0.9007, 0.9207, True),
        (10, 0.9831, 0.9874, False),
        (20, 0.9860, 0.9895, False),
        (20, 0.9631, 0.9645, False),
        (1, 0.5, 0.9771, True),
        (4, 0.41, 0.418, False),  # may be chance
    ],
)
def test_make_findings_names_training_that_was_too_short(
    trained_workspace: Workspace, epochs: int, earlier: float, last: float, expected: bool
) -> None:
    document = report(trained_workspace).document
    accuracies = [earlier] * (epochs - max(1, epochs // 4)) + [last] * max(1, epochs // 4)
    for fold in document["folds"]:
        fold["history"] = [{"accuracy": 0.9, "val_accuracy": accuracy} for accuracy in accuracies]
    findings = {finding["title"]: finding["text"] for finding in make_findings(document, "", "")}
    assert ("The training was too short" in findings) == expected
    if expected:
        assert findings["The training was too short"].endswith(f"more epochs: --set epochs={2 * epochs}.")
        assert "The networks underfit" not in findings


@pytest.mark.parametrize(("errors", "found"), [(4, 4), (40, 0)])
def test_report_suspects_labels_only_if_the_networks_are_good(errors: int, found: int) -> None:
    labels = (np.arange(1000) % 10).astype(np.uint8)
    predicted = (labels + (np.arange(1000) < errors)) % 10
    softmax = np.full((1000, 10), 0.001, np.float32)
    softmax[np.arange(1000), predicted] = 0.991
    total = _out_of_fold(softmax, labels, (np.arange(1000) // 10 % 2).astype(np.uint8), np.ones(1000, bool))
    assert (total["errors"], len(total["suspects"])) == (errors, found)


@pytest.mark.parametrize(("errors", "worse"), [([87, 57, 66, 31], [0]), ([60, 62, 20, 58], []), ([33, 5], [0])])
def test_report_marks_only_worse_folds(errors: list[int], worse: list[int]) -> None:
    epoch = {"val_accuracy": 0.9, "images_per_second": 1.0}
    metrics = [FoldMetrics.model_construct(errors=number, rows=1050) for number in errors]
    run: Any = SimpleNamespace(
        trained_folds=lambda: [*range(len(errors))], fold_metrics=metrics.__getitem__, history=lambda fold: [epoch]
    )
    folds = _folds(run)
    assert [fold["fold"] for fold in folds if fold["out_of_line"]] == worse
    assert [fold["out_of_line_p"] < 0.05 for fold in folds].count(True) == 2 - (errors[1] == 62)


def test_drift_p_compares_each_network_with_itself() -> None:
    """One network takes most 3s for 5s, in all rows; that is not another distribution of the digits."""
    digits = np.arange(2000) % 10
    confused = np.where((digits == 3) & (np.arange(2000) % 100 != 3), 5, digits)

    def p_of(*votes: Any) -> float:
        validation = [np.eye(10)[predicted] for predicted in (digits, confused)]
        run: Any = SimpleNamespace(name="one", val_softmax=lambda fold: validation[fold])
        return _drift_p([(run, 0), (run, 1)], np.stack(votes))

    assert p_of(digits, confused) > 0.99
    assert p_of(confused, confused) < 1e-9


def test_report_does_not_suggest_to_submit_if_a_submission_is_pending(trained: Workspace) -> None:
    entry = submit(trained).entry
    ledger_of(trained).record(replace(entry, status="PENDING", score=None, rank=None))
    document = report(trained).document
    assert "Submitted, but not scored yet" in titles(document)
    assert "Not submitted yet" not in titles(document)
    assert document["leaderboard"] is None


def test_report_ignores_the_score_of_a_previous_submission_file(trained: Workspace) -> None:
    submit(trained)
    file = trained.submissions / "first" / "submission.csv"
    file.write_text(file.read_text().replace("\n1,", "\n1,9")[: len(file.read_text())])
    assert report(trained).document["leaderboard"] is None
    assert report(trained).document["submission"] is None


def test_report_fails_if_a_member_run_was_trained_again(trained: Workspace) -> None:
    shutil.copytree(trained.runs / "first", trained.runs / "second")
    ensemble(trained, ["first", "second"], name="both")
    report(trained, "both")
    metrics = find_run(trained, "second").path / "ensemble" / "metrics.json"
    document = json.loads(metrics.read_text())
    document["files"]["extra.npy"] = "0" * 64
    metrics.write_text(json.dumps(document))
    with pytest.raises(DataError, match="second has changed since the mean both was made"):
        report(trained, "both")


def test_report_does_not_calibrate_a_single_fold(trained: Workspace) -> None:
    shutil.rmtree(find_run(trained).fold_folder(1))
    written = report(trained)
    assert written.document["out_of_fold"]["calibration"] is None
    assert written.document["out_of_fold"]["suspects"] == []
    assert "Calibration</h2>" not in written.page.read_text()


@pytest.mark.parametrize(
    ("gap", "within_noise", "title"),
    [(0.001, True, "agree"), (0.02, False, "above the folds"), (-0.02, False, "below the folds")],
)
def test_make_findings_compares_the_score_with_the_folds(
    trained_workspace: Workspace, gap: float, within_noise: bool, title: str
) -> None:
    document = report(trained_workspace).document
    document["leaderboard"] = {"score": 0.9 + gap, "gap": gap, "within_noise": within_noise}
    assert title in "; ".join(finding["title"] for finding in make_findings(document, "", ""))


def test_report_writes_json_and_html(trained_workspace: Workspace) -> None:
    written = report(trained_workspace)
    assert json.loads(written.json_file.read_text()) == written.document
    assert written.page.name == "index.html"
    assert written.page.stat().st_size < 500_000


class Page(HTMLParser):
    """A parser that collects the addresses, tags, texts and alternative texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.alts: list[str | None] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        attributes = dict(attrs)
        self.sources += [attributes[name] or "" for name in ("src", "href") if name in attributes]
        if tag == "img":
            self.alts.append(attributes.get("alt"))
        if attributes.get("class") == "cut-out":
            self.alts.append(attributes.get("aria-label"))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_report_page_is_self_contained_and_has_all_sections(trained_workspace: Workspace) -> None:
    written = report(trained_workspace)
    page = Page(written.page.read_text())
    assert all(source.startswith(("data:", "#")) for source in page.sources)
    assert all(page.alts)
    text = " ".join(page.words)
    assert f"{written.document['out_of_fold']['accuracy']:.5f}" in text
    for words in (*SECTIONS, "lenet, 2 folds, seed 0"):
        assert words in text


def test_report_page_escapes_the_name_of_a_run(trained: Workspace) -> None:
    run = find_run(trained, "first")
    run.path.rename(run.path.with_name("<script>alert(1)<"))
    document = json.loads((trained.runs / "<script>alert(1)<" / "run.json").read_text())
    (trained.runs / "<script>alert(1)<" / "run.json").write_text(
        json.dumps(document | {"name": "<script>alert(1)<"})
    )
    page = Page(report(trained, "<script>alert(1)<").page.read_text())
    assert page.tags.count("script") == 6  # those of the template
    assert any("<script>alert(1)<" in word for word in page.words)


def test_report_of_an_unfinished_run_has_the_finished_folds(trained: Workspace) -> None:
    shutil.rmtree(find_run(trained).fold_folder(0))
    written = report(trained)
    assert written.document["missing_folds"] == [0]
    assert written.document["out_of_fold"]["rows"] == 2100
    assert "Fold 0 is not trained yet" in written.page.read_text()
    shutil.rmtree(find_run(trained).fold_folder(1))
    written = report(trained)
    assert written.document["out_of_fold"] is None
    assert "Folds 0, 1 are not trained yet" in written.page.read_text()


def test_report_of_a_run_without_finished_folds(workspace: Workspace) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            workspace,
            preset="lenet",
            folds=2,
            settings=SMALL,
            run="unfinished",
            observer=Listener(start=interrupt),
        )
    written = report(workspace, "unfinished")
    assert written.document["test"] is None
    assert written.document["missing_folds"] == [0, 1]


def test_report_has_the_score_and_the_gap(trained: Workspace) -> None:
    entry = submit(trained).entry
    written = report(trained)
    assert written.document["leaderboard"]["score"] == float(entry.score)
    assert written.document["leaderboard"]["gap"] == pytest.approx(float(entry.score) - float(entry.cv))
    assert f"{float(entry.score):.5f}" in written.page.read_text()


def test_report_of_an_ensemble_of_runs(trained: Workspace) -> None:
    shutil.copytree(trained.runs / "first", trained.runs / "second")
    ensemble(trained, ["first", "second"], name="both")
    document = report(trained, "both").document
    assert document["folds"] == []
    assert document["out_of_fold"]["rows"] == 4200
    assert document["test"]["networks"] == 4
    errors = find_run(trained, "first").ensemble_metrics()["errors"]
    assert document["members"] == [{"run": "first", "errors": errors}, {"run": "second", "errors": errors}]


@pytest.mark.usefixtures("train_in_process")
def test_compare_two_runs_by_row(trained: Workspace) -> None:
    train(trained, preset="lenet", folds=2, settings={"epochs": "1"}, seed=1, run="other")
    written = compare(trained, ["first", "other"])
    labels = load_train(trained.data).labels
    wrong = [find_run(trained, name).oof_softmax().argmax(1) != labels for name in ("first", "other")]
    (pair,) = written.document["pairs"]
    assert pair["only_first_wrong"] == (wrong[0] & ~wrong[1]).sum()
    assert pair["only_second_wrong"] == (wrong[1] & ~wrong[0]).sum()
    assert pair["both_wrong"] == (wrong[0] & wrong[1]).sum()
    assert (
        pair["mcnemar_p_holm"]
        == pair["mcnemar_p"]
        == pytest.approx(
            binomtest(pair["only_first_wrong"], pair["only_first_wrong"] + pair["only_second_wrong"]).pvalue
        )
    )
    assert pair["differ"] is (pair["mcnemar_p"] < 0.05)
    assert pair["differences"] == {"seed": [0, 1], "epochs": [2, 1]}
    for mistake in pair["second_mistakes"]:
        assert wrong[1][mistake["row"]]
        assert not wrong[0][mistake["row"]]
    assert [run["errors"] for run in written.document["runs"]] == [w.sum() for w in wrong]
    assert written.page == trained.root / "comparisons" / "rehearsal" / "first+other" / "index.html"
    better, worse = ("first", "other") if wrong[0].sum() < wrong[1].sum() else ("other", "first")
    difference = abs(int(wrong[0].sum()) - int(wrong[1].sum()))
    assert pair["verdict"].startswith(
        f"{better} makes {difference} fewer error{'s' * (difference > 1)} than {worse}, which "
    )
    assert pair["verdict"] in html.unescape(written.page.read_text())
    # A row has the same probability as in the report.
    known = {error["row"]: error for error in report(trained, "other").document["out_of_fold"]["misclassified"]}
    for mistake in pair["second_mistakes"]:
        if mistake["row"] in known:
            assert mistake["confidence"] == pytest.approx(known[mistake["row"]]["confidence"])
    page = Page(written.page.read_text())
    assert all(page.alts)
    assert len(page.alts) == len(pair["first_mistakes"]) + len(pair["second_mistakes"])


def test_compare_shortens_the_name_of_its_folder(trained: Workspace) -> None:
    names = ["first", "x" * 198, "y" * 198]
    for name in names[1:]:
        shutil.copytree(trained.runs / "first", trained.runs / name)
    first, second = (compare(trained, some).page.parent.name for some in (names, [*names[:2], "first"]))
    assert first.startswith("first+2 more ")
    assert first != second


def test_compare_corrects_for_three_runs(trained: Workspace) -> None:
    for name in ("second", "third"):
        shutil.copytree(trained.runs / "first", trained.runs / name)
    pairs = compare(trained, ["first", "second", "third"]).document["pairs"]
    assert [(pair["first"], pair["second"]) for pair in pairs] == [
        ("first", "second"),
        ("first", "third"),
        ("second", "third"),
    ]
    assert all(pair["mcnemar_p_holm"] == 1 and not pair["differ"] for pair in pairs)
    assert pairs[1]["verdict"] == "first and third make the same number of errors."


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "nothing to compare"),
        (["first", "first"], "nothing to compare"),
        (["first", "missing"], "no run called"),
    ],
)
def test_compare_rejects_invalid_names_of_runs(
    trained_workspace: Workspace, names: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        compare(trained_workspace, names)


def test_compare_fails_for_an_unfinished_run(trained: Workspace) -> None:
    shutil.copytree(trained.runs / "first", trained.runs / "second")
    (find_run(trained, "second").path / "ensemble" / "metrics.json").unlink()
    with pytest.raises(DataError, match="second is not finished"):
        compare(trained, ["first", "second"])


def test_report_names_a_damaged_file(trained: Workspace) -> None:
    path = find_run(trained).path / "fold-1" / "val_softmax.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"fold-1/val_softmax\.npy is damaged"):
        report(trained)


def test_report_fails_if_the_data_have_changed(trained: Workspace) -> None:
    with open(trained.data / "train.csv", "a") as stream:
        stream.write("1" + ",0" * 784 + "\n")
    with pytest.raises(DataError, match=r"another train\.csv"):
        report(trained)


def test_sparkline_shows_at_most_16_values_and_the_last_one() -> None:
    assert sparkline([0, 0.5, 1]) == "▁▅█"
    assert sparkline([3.0]) == "▁"
    # Every third of 45 values is shown, and always the last one.
    assert sparkline([float(i % 3 == 2) for i in range(45)]) == "▁" * 15
    assert sparkline([float(i) for i in range(45)]) == "▁▁▂▃▃▃▄▅▅▅▆▇▇▇█"
    assert len(sparkline([float(i) for i in range(48)])) == 16
    assert len(sparkline([float(i) for i in range(49)])) == 13


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (61.4, "1:01"), (3599, "59:59"), (3600, "1:00:00"), (3725, "1:02:05")]
)
def test_duration_formats_seconds(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.slow
def test_report_compare_and_ensemble_recover_from_a_failed_write(trained: Workspace) -> None:
    """The failure raises `WriteError` and leaves all later files unchanged. The next call writes all files."""
    shutil.copytree(trained.runs / "first", trained.runs / "second")
    reports = ["errors.csv", "report.json", "index.html"], ["comparison.json", "index.html"]
    ensembles = ["oof_softmax.npy", "test_softmax.npy", "metrics.json", "submission.csv", "run.json"]
    calls: list[tuple[Callable[[], object], list[str]]] = [
        (lambda: report(trained, "first"), reports[0]),
        (lambda: compare(trained, ["first", "second"]), reports[1]),
        (lambda: ensemble(trained, ["first"]), ensembles),
        (lambda: ensemble(trained, ["first", "second"], name="both"), ensembles),
    ]
    for call, names in calls:
        call()
        for after, name in enumerate(names):
            before = contents(trained)
            with full_disk(after) as failed, pytest.raises(WriteError, match="No space left on device"):
                call()
            assert failed == [name]
            remaining = contents(trained)
            # An ensemble's metrics.json marks it as complete, so it is deleted before other files are written.
            assert before.keys() - remaining.keys() <= {path for path in before if path.endswith("/metrics.json")}
            untouched = [path for path in remaining if Path(path).name in names[after:]]
            assert untouched
            assert all(remaining[path] == before[path] for path in untouched)
            call()
            assert {path: without_times(content) for path, content in contents(trained).items()} == {
                path: without_times(content) for path, content in before.items()
            }


def contents(workspace: Workspace) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in workspace.root.rglob("*") if p.is_file() and p.parent.name != "cache"}


def without_times(content: bytes) -> bytes:
    return re.sub(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?", b"time", content)
