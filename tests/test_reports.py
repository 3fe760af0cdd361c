"""Reports and comparisons: JSON documents, HTML pages and terminal output."""

from __future__ import annotations

import copy
import html
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import jsonschema
import numpy as np
import pandas as pd
import pytest
import write_schema
from conftest import full_disk
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_fscore_support

from kaggle_digits import Workspace, compare, ensemble, find_run, report, submit, temper
from kaggle_digits.arrays import UInt8
from kaggle_digits.console import duration, show_report, sparkline
from kaggle_digits.data.csv import load_train
from kaggle_digits.errors import DataError, UsageError, WriteError
from kaggle_digits.reports import Report
from kaggle_digits.reports.comparison import _verdict
from kaggle_digits.reports.content import _folds, class_drift_p, out_of_fold
from kaggle_digits.reports.facts import Finding, ReportFacts
from kaggle_digits.reports.figures import AccuracyAxis
from kaggle_digits.reports.findings import make_findings
from kaggle_digits.reports.network import NetworkDetails, inspect_network
from kaggle_digits.runs.schema import FoldMetrics
from kaggle_digits.submissions.submit import ledger_of
from kaggle_digits.training.batch_normalization import with_keras_layers
from kaggle_digits.training.models import tensorflow_keras
from kaggle_digits.training.preprocessing import preprocess
from kaggle_digits.training.presets import build_network, find_preset

SECTIONS = ("Findings", "Folds", "Learning curves", "Errors", "Calibration", "Test rows", "Network", "Time", "Run")


@pytest.fixture
def trained(trained_workspace: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the trained workspace, which a test can change."""
    shutil.copytree(trained_workspace.root, tmp_path / "copy")
    return Workspace.at(tmp_path / "copy", "rehearsal")


@pytest.fixture(scope="session")
def written(trained_workspace: Workspace) -> Report:
    """The report of the trained run."""
    return report(trained_workspace)


@pytest.fixture
def document(written: Report) -> dict[str, Any]:
    """Its content, which a test can change."""
    return copy.deepcopy(written.document)


def test_report_has_the_errors_of_the_saved_predictions(trained_workspace: Workspace, written: Report) -> None:
    document = written.document
    assert json.loads(written.json_file.read_text()) == document
    run, labels = find_run(trained_workspace), load_train(trained_workspace.data).labels
    wrong = run.oof_softmax().argmax(1) != labels
    assert document["out_of_fold"]["errors"] == wrong.sum()
    assert document["out_of_fold"]["accuracy"] == pytest.approx(1 - wrong.mean())
    confusion = np.array(document["out_of_fold"]["confusion"])
    assert (confusion.sum(), confusion.sum() - confusion.trace()) == (4200, wrong.sum())
    np.testing.assert_array_equal(confusion.sum(1), np.bincount(labels))
    assert [fold["errors"] for fold in document["folds"]] == [wrong[run.split() == k].sum() for k in range(2)]
    assert document["fold_accuracy"]["mean"] == pytest.approx(np.mean([f["accuracy"] for f in document["folds"]]))
    assert [len(fold["history"]) for fold in document["folds"]] == [2, 2]
    assert (document["missing_folds"], document["leaderboard"]) == ([], None)
    assert document["run"]["settings"]["epochs"] == 2
    calibration, known = document["out_of_fold"]["calibration"], run.ensemble_metrics()["calibration"]
    names = ("temperature", "member_temperature", "log_loss_before", "log_loss_after", "ece_before", "ece_after")
    assert {name: calibration[name] for name in names} == {name: known[name] for name in names}


def test_schema_of_report_is_up_to_date() -> None:
    assert write_schema.PATH.read_text(encoding="utf-8") == write_schema.schema(), "run scripts/write_schema.py"


def test_report_follows_its_schema(trained: Workspace) -> None:
    schema = json.loads(write_schema.PATH.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    entry = submit(trained).entry
    written = report(trained)
    jsonschema.validate(written.document, schema)
    board = written.document["leaderboard"]
    assert (board["score"], board["gap"]) == (entry.score, pytest.approx(float(entry.score) - float(entry.cv)))
    page, calibration = words_of(written.page), written.document["out_of_fold"]["calibration"]
    rank = f"rank {entry.rank} among local baselines"
    assert f"{entry.score:.5f} leaderboard score, {rank}, {entry.gap:+.5f} compared" in page
    own, of_mean = (calibration[name] for name in ("member_temperature", "temperature"))
    assert f"temperature of one network, as out-of-fold rows are predicted, is {own:.3f}." in page
    assert f"of the mean of all networks, whose temperature is {of_mean:.3f}, predict" in page
    shutil.copytree(trained.runs / "first", trained.runs / "second")
    ensemble(trained, ["first", "second"], name="both")
    written = report(trained, "both")
    document = written.document
    jsonschema.validate(document, schema)
    assert "The temperature of the mean of 2 networks, one of each run, as " in words_of(written.page)
    assert (document["folds"], document["out_of_fold"]["rows"], document["test"]["networks"]) == ([], 4200, 4)
    errors = find_run(trained, "first").ensemble_metrics()["errors"]
    assert document["members"] == [{"run": "first", "errors": errors}, {"run": "second", "errors": errors}]
    for wrong in ({"folds": None}, {"more": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document | wrong, schema)
    # The submission is that of the present file.
    ledger_of(trained).record(replace(entry, status="PENDING", score=None, rank=None))
    document = report(trained, "first").document
    assert (document["leaderboard"], document["submission"]["status"]) == (None, "PENDING")
    with open(trained.submissions / "first" / "submission.csv", "a") as file:
        file.write("\n")
    assert report(trained, "first").document["submission"] is None


def test_report_has_the_metrics_per_digit_and_the_confused_pairs(
    trained_workspace: Workspace, written: Report
) -> None:
    total = written.document["out_of_fold"]
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
    off_diagonal = np.array(total["confusion"]) * (1 - np.eye(10, dtype=int))
    assert counts == np.sort(off_diagonal, axis=None)[::-1][:6].tolist()
    for pair in total["confused_pairs"]:
        assert pair["rows"] == off_diagonal[pair["label"], pair["predicted"]]
        assert len(pair["examples"]) == min(12, pair["rows"])
        assert {(m["label"], m["predicted"]) for m in pair["examples"]} == {(pair["label"], pair["predicted"])}
    for mistake in total["misclassified"] + total["suspects"]:
        assert labels[mistake["row"]] == mistake["label"] != mistake["predicted"] == predicted[mistake["row"]]
    table = pd.read_csv(written.page.with_name("errors.csv"))
    np.testing.assert_array_equal(np.sort(table["row"]), np.flatnonzero(predicted != labels))
    misclassified = pd.DataFrame(total["misclassified"])
    pd.testing.assert_frame_equal(table, misclassified, check_exact=False, atol=1e-6)


def test_report_has_the_predictions_for_the_test_rows(trained_workspace: Workspace, written: Report) -> None:
    test, run = written.document["test"], find_run(trained_workspace)
    mean, votes = run.test_softmax(), np.stack([run.fold(k).softmax("test").argmax(1) for k in range(2)])
    assert test["networks"] == 2
    assert test["unanimous"] == pytest.approx((votes[0] == votes[1]).mean())
    assert test["by_networks"] == pytest.approx([(votes[0] == mean.argmax(1)).mean(), 1])
    assert test["class_shares"]["test"] == pytest.approx(np.bincount(mean.argmax(1), minlength=10) / 2800)
    assert test["expected_accuracy"] == pytest.approx(temper(mean, test["temperature"]).max(1).mean())
    assert test["disputed"]
    for row in test["disputed"]:
        assert sum(row["votes"].values()) == 2
        assert votes[0, row["row"]] != votes[1, row["row"]]
        assert row["id"] == row["row"] + 1
    assert [row["row"] for row in test["first_rows"]] == list(range(25))
    assert test["one_row"]["row"] == 1888
    assert np.argmax(test["one_row"]["probabilities"]) == test["one_row"]["predicted"] == mean[1888].argmax()


def test_report_has_the_layers_of_lenet(written: Report) -> None:
    layers = written.document["layers"]
    shapes = [(layer["kind"], layer["shape"], layer["receptive_field"]) for layer in layers]
    assert shapes[2:5] == [
        ("ZeroPadding2D", [32, 32, 1], 1),
        ("Conv2D", [28, 28, 36], 5),
        ("AveragePooling2D", [14, 14, 36], 6),
    ]
    assert shapes[-1] == ("Dense", [10], 28)
    # Computed by hand: 26 * 36, (900 + 1) * 36, 901 * 128, 129 * 64, 65 * 10.
    assert sum(layer["parameters"] for layer in layers) == 936 + 32_436 + 115_328 + 8_256 + 650


def inspect(network: Any, image: UInt8) -> NetworkDetails:
    """Inspect a network as that of a fold with the preprocessing wide-backhand."""
    metrics = SimpleNamespace(preprocessing="wide-backhand")
    fold: Any = SimpleNamespace(read_network=lambda: with_keras_layers(network), metrics=lambda: metrics)
    return inspect_network(fold, image)


def test_inspect_network_shows_a_preprocessed_digit(trained_workspace: Workspace) -> None:
    settings = find_preset("fast").with_settings({"widths": "16,32,96"}).settings
    image = load_train(trained_workspace.data).images[0]
    details = inspect(build_network(settings), image)
    np.testing.assert_array_equal(details.image, preprocess(image[None], "wide-backhand")[0])
    assert details.filters.shape == (16, 3, 3)
    assert [maps.shape for maps in details.activations.values()] == [(16, 24, 24), (96, 6, 6)]
    assert all(maps.min() >= 0 for maps in details.activations.values())
    # The network uses only the central 24x24 pixels, and of residual branches, the larger receptive field counts.
    fields = [(layer.kind, layer.receptive_field) for layer in details.layers]
    assert [field for kind, field in fields if kind == "Add"] == [5, 14, 24]
    assert fields[-1] == ("Dense", 24)
    keras = tensorflow_keras()
    pixels = keras.Input((28, 28, 1))
    details = inspect(keras.Model(pixels, keras.layers.Dense(10)(keras.layers.Flatten()(pixels))), image)
    assert (details.filters, details.activations) == (None, {})


def test_inspect_network_has_receptive_fields_where_they_exist() -> None:
    from keras import Input, Model, Sequential, layers, ops

    pixels = x = Input((28, 28, 1))
    x = layers.Conv2D(2, 3, dilation_rate=2)(layers.Rescaling(1 / 255)(x))  # 5 pixels
    x = layers.MaxPooling2D()(x)  # 6, every second one
    x = ops.relu(x + layers.DepthwiseConv2D(3, padding="same")(x)) * 2  # 10
    x = layers.LeakyReLU()(layers.Cropping2D(3)(x))  # of 12x12 values, 6x6 are left: 5 * 2 + 10 pixels
    known = layers.Dense(4)(layers.Flatten()(x))
    unknown = (
        layers.GRU(4)(layers.Reshape((6, 12))(x)),
        layers.Flatten()(layers.Conv2DTranspose(2, 3, strides=2)(x)),
        layers.Flatten()(layers.UpSampling2D()(x)),
        layers.Flatten()(Sequential([layers.Conv2D(2, 3)])(x)),
        layers.Flatten()(layers.Conv2D(2, (3, 1))(x)),
        layers.LSTM(4, return_state=True)(ops.mean(x, 1))[0],
    )
    model = Model(pixels, layers.Dense(10)(layers.Concatenate()([known, *unknown])))
    details = inspect(model, np.zeros((28, 28), np.uint8))
    fields = [(layer.kind, layer.receptive_field) for layer in details.layers if layer.receptive_field]
    assert fields == [
        *(("InputLayer", 1), ("Rescaling", 1), ("Conv2D", 5), ("MaxPooling2D", 6), ("DepthwiseConv2D", 10)),
        *(("Cropping2D", 10), ("LeakyReLU", 10), ("Flatten", 20), ("Dense", 20)),
    ]
    unknown_kinds = {layer.kind for layer in details.layers if layer.receptive_field is None}
    assert unknown_kinds >= {"Reshape", "Conv2DTranspose", "UpSampling2D", "Sequential", "Conv2D", "GRU", "LSTM"}
    assert [layer.name for layer in details.layers] == [layer.name for layer in model.layers]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("runs/rehearsal/first/fold-1/val_softmax.npy", r"fold-1/val_softmax\.npy is damaged"),
        ("data/rehearsal/train.csv", r"another train\.csv"),
    ],
)
def test_report_names_what_is_damaged(trained: Workspace, file: str, message: str) -> None:
    path = trained.root / file
    path.write_bytes(path.read_bytes() + b"1" + b",0" * 784)
    with pytest.raises(DataError, match=message):
        report(trained)


def test_report_fails_if_a_member_run_was_trained_again(trained: Workspace) -> None:
    shutil.copytree(trained.runs / "first", trained.runs / "second")
    ensemble(trained, ["first", "second"], name="both")
    metrics = trained.runs / "second" / "ensemble" / "metrics.json"
    metrics.write_text(metrics.read_text().replace('"files": {', '"files": {"extra.npy": "0",'))
    with pytest.raises(DataError, match="second has changed since the mean both was made"):
        report(trained, "both")


# Findings


def findings(document: dict[str, Any]) -> dict[str, Finding]:
    """Return the findings for a changed document, by title."""
    report = ReportFacts.model_validate(document)
    return {finding.title: finding for finding in make_findings(report, "train it")}


@pytest.fixture
def good(document: dict[str, Any]) -> dict[str, Any]:
    """The content of the report of a run with which nothing is wrong, as of `fast`."""
    document["run"]["settings"]["rotation"] = 7.0
    for fold in document["folds"]:
        fold["history"] = [{"accuracy": 0.99, "val_accuracy": 0.99}] * 4
    return document


def test_make_findings_finds_nothing_that_is_usual(good: dict[str, Any]) -> None:
    good["out_of_fold"]["suspects"] = good["out_of_fold"]["misclassified"][:21]
    assert findings(good) == {}
    good["out_of_fold"]["suspects"] *= 2
    assert list(findings(good)) == ["42 labels may be wrong"]


def test_make_findings_depends_on_the_facts(good: dict[str, Any]) -> None:
    good["folds"][1]["out_of_line"] = True
    good["folds"][1]["versions"]["keras"] = "9.9"
    good["test"]["class_shares"]["chi_squared_p"] = 1e-9
    good["missing_folds"] = [3]
    found = findings(good)
    assert found["The run is not finished"].text == "Fold 3 is not trained yet. Continue with: train it"
    assert "fold 1: keras 9.9" in found["Folds were trained with different versions"].text
    assert next(iter(found)) == "The run is not finished"  # problems first
    assert {"Fold 1 is worse than the other", "The class distribution of the test set differs"} <= found.keys()
    assert len(found) == 4


@pytest.mark.parametrize(
    ("epochs", "earlier", "last", "expected"),
    [
        # Measured on `rehearsal`: `fast` with 4 and 10 epochs.
        (4, 0.9467, 0.9771, True),
        (10, 0.9831, 0.9874, False),
        (1, 0.5, 0.9771, True),
        (4, 0.41, 0.418, False),  # may be chance
    ],
)
def test_make_findings_names_training_that_was_too_short(
    document: dict[str, Any], epochs: int, earlier: float, last: float, expected: bool
) -> None:
    accuracies = [earlier] * (epochs - max(1, epochs // 4)) + [last] * max(1, epochs // 4)
    for fold in document["folds"]:
        fold["history"] = [{"accuracy": 0.9, "val_accuracy": accuracy} for accuracy in accuracies]
    found = findings(document)
    assert ("The training was too short" in found) == expected
    if expected:
        assert found["The training was too short"].text.endswith(f"more epochs: --set epochs={2 * epochs}.")
    assert ("The networks overfit" in found or "The networks underfit" in found) != expected


@pytest.mark.parametrize(
    ("gap", "status", "title"),
    [
        (0.02, "COMPLETE", None),  # as usual
        (-0.001, "COMPLETE", None),
        (-0.02, "COMPLETE", "The leaderboard is below the folds"),
        (None, "PENDING", "Submitted, but not scored yet"),
        (None, "ERROR", "The submission was scored as an error"),
    ],
)
def test_make_findings_depends_on_the_submission(
    good: dict[str, Any], gap: float | None, status: str, title: str | None
) -> None:
    good["submission"] = {"ref": "1", "time": "", "status": status}
    if gap is not None:
        known = {"time": "", "ref": "1", "cv": 0.9, "rank": None, "gap_deviation": 0.005}
        good["leaderboard"] = known | {"score": 0.9 + gap, "gap": gap, "within_noise": abs(gap) < 0.01}
    assert list(findings(good)) == [title] * (title is not None)


@pytest.mark.parametrize(("errors", "found"), [(4, 4), (40, 0)])
def test_out_of_fold_suspects_labels_only_if_the_networks_are_good(errors: int, found: int) -> None:
    labels = (np.arange(1000) % 10).astype(np.uint8)
    predicted = (labels + (np.arange(1000) < errors)) % 10
    softmax = np.full((1000, 10), 0.001, np.float32)
    softmax[np.arange(1000), predicted] = 0.991
    total = out_of_fold(np.arange(1000), labels, (np.arange(1000) // 10 % 2).astype(np.uint8), softmax, None)
    assert (total.errors, len(total.suspects)) == (errors, found)


@pytest.mark.parametrize(("errors", "worse"), [([87, 57, 66, 31], [0]), ([60, 62, 20, 58], []), ([33, 5], [0])])
def test_report_marks_only_worse_folds(errors: list[int], worse: list[int]) -> None:
    epoch = {"val_accuracy": 0.9, "images_per_second": 1.0}
    metrics = [FoldMetrics.model_construct(errors=number, rows=1050) for number in errors]
    trained = {n: SimpleNamespace(metrics=lambda m=m: m, history=lambda: [epoch]) for n, m in enumerate(metrics)}
    run: Any = SimpleNamespace(trained_folds=lambda: trained)
    folds = _folds(run)
    assert [fold["fold"] for fold in folds if fold["out_of_line"]] == worse
    assert [fold["out_of_line_p"] < 0.05 for fold in folds].count(True) == 2 - (errors[1] == 62)


def test_class_drift_p_compares_each_network_with_itself() -> None:
    """One network takes most 3s for 5s, in all rows; that is not another distribution of the digits."""
    digits = np.arange(2000) % 10
    confused = np.where((digits == 3) & (np.arange(2000) % 100 != 3), 5, digits)

    def p_of(*votes: Any) -> float:
        validation = [np.eye(10)[predicted] for predicted in (digits, confused)]
        folds: Any = [SimpleNamespace(path=Path("one/fold"), softmax=lambda _, v=v: v) for v in validation]
        return class_drift_p(folds, np.stack(votes))

    assert p_of(digits, confused) > 0.99
    assert p_of(confused, confused) < 1e-9


# Pages and the terminal


def words_of(page: Path) -> str:
    """Return the text of a page, without tags, in one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page.read_text())).split())


def alternatives(page: Path) -> list[str]:
    """Return the alternative texts of all pictures of a page."""
    pictures = re.findall(r"<img [^>]*>", page.read_text())
    return [re.search(r' alt="([^"]+)"', picture)[1] for picture in pictures]  # type: ignore[index]


def test_report_page_is_self_contained_and_has_all_sections(written: Report) -> None:
    text = written.page.read_text()
    assert (written.page.name, len(text) < 500_000) == ("index.html", True)
    assert all(source.startswith("data:") for source in re.findall(r' src="([^"]*)"', text))
    assert text.count('<table class="matrix">') == 1
    assert len(alternatives(written.page)) > 25
    assert f"{written.document['out_of_fold']['accuracy']:.5f}" in text
    for words in (*SECTIONS, "lenet, 2 folds, seed 0"):
        assert words in text


def test_report_page_escapes_the_name_of_a_run(trained: Workspace) -> None:
    name = "<script>alert(1)<"
    path = (trained.runs / "first").rename(trained.runs / name) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"name": name}))
    text = report(trained, name).page.read_text()
    assert "<h1>&lt;script&gt;alert(1)&lt;</h1>" in text
    assert name not in text


def test_pages_link_to_each_other(trained: Workspace) -> None:
    mean = "a#?&+%41"  # a name that must be quoted
    shutil.rmtree(trained.runs / "first" / "report", ignore_errors=True)
    shutil.copytree(trained.runs / "first", trained.runs / "second")
    ensemble(trained, ["first", "second"], name=mean)
    (trained.comparisons / "old").mkdir(parents=True)
    (trained.comparisons / "old" / "comparison.json").write_text("damaged")
    report(trained, "first")
    comparison = compare(trained, ["first", mean]).page
    written, overview_page = report(trained, mean).page, trained.runs / "index.html"
    first = trained.runs / "first" / "report" / "index.html"
    submissions = {trained.submissions / name / "submission.csv" for name in ("first", mean)}
    expected = {
        written: {overview_page, comparison, first},
        comparison: {overview_page, first},  # the report of the mean was written later
        overview_page: {comparison, first, written, *submissions},
    }
    for page, targets in expected.items():
        links = re.findall(r'<a href="([^"#][^"]*)"', page.read_text())
        assert {(page.parent / unquote(html.unescape(link))).resolve() for link in links} == targets
    report(trained, "second")
    assert '<a href="second/report/index.html">second</a>' in overview_page.read_text()


@pytest.mark.parametrize(
    "accuracies",
    [[0.9931, 0.9966], [0.9901, 0.9975], [0.9944, 0.9951], [0.1, 0.9999], [0.85, 1], [0.99991, 1], [0, 1]],
)
def test_accuracy_axis_has_round_ticks_and_a_place_for_every_accuracy(accuracies: list[float]) -> None:
    axis = AccuracyAxis(accuracies)
    places = [float(axis.place(value).removesuffix("%")) for value in [*accuracies, *axis.ticks()]]
    assert 0 < min(places) <= max(places) < 100
    assert places[0] <= places[1]
    ticks = sorted(places[2:])
    assert 2 <= len(ticks) <= 7
    assert all(after - before > 10 for before, after in pairwise(ticks))
    assert all(len(f"{tick:.5g}") <= 7 for tick in axis.ticks())


def test_accuracy_axis_is_logarithmic_in_the_error_rate() -> None:
    axis = AccuracyAxis([0.9, 0.999])
    first, second, third = (float(axis.place(value).removesuffix("%")) for value in (0.9, 0.99, 0.999))
    assert second - first == pytest.approx(third - second, abs=0.02)


def test_show_report_has_the_numbers_and_findings(document: dict[str, Any], capsys: pytest.CaptureFixture) -> None:
    document["findings"] = []
    show_report(document, "the page")
    shown, total = capsys.readouterr().out, document["out_of_fold"]
    assert f"Out-of-fold: accuracy {total['accuracy']:.5f} (95 % interval" in shown
    expected = f"{document['test']['expected_accuracy']:.5f}"
    assert f"\nExpected score: {expected}, from the calibrated probabilities; not submitted yet\n" in shown
    assert "Nothing stands out." in shown
    assert shown.endswith("Page: the page\n")
    board = {"time": "", "ref": "1", "score": 0.9925, "cv": 0.98667, "gap": 0.00583, "rank": 1}
    finding = {"severity": "problem", "title": "The run is not finished", "text": "Train it."}
    show_report(document | {"leaderboard": board, "findings": [finding]}, "the page")
    shown = capsys.readouterr().out
    assert "\nScore 0.99250 (CV 0.98667, +0.00583), rank 1 among local baselines\n" in shown
    assert re.search(r"^problem +The run is not finished\. Train it\.$", shown, re.MULTILINE)


def test_report_of_an_unfinished_run_has_the_finished_folds(trained: Workspace) -> None:
    shutil.rmtree(find_run(trained).fold(0).path)
    written = report(trained)
    document = written.document
    assert (document["missing_folds"], document["out_of_fold"]["rows"]) == ([0], 2100)
    assert "Fold 0 is not trained yet" in written.page.read_text()
    # A single fold cannot be calibrated.
    assert (document["out_of_fold"]["calibration"], document["out_of_fold"]["suspects"]) == (None, [])
    assert "Calibration</h2>" not in written.page.read_text()
    for name in ("fold-1", "ensemble"):
        shutil.rmtree(trained.runs / "first" / name)
    (trained.runs / "first" / "folds.csv").unlink()
    written = report(trained)
    assert (written.document["out_of_fold"], written.document["test"]) == (None, None)
    assert "Folds 0, 1 are not trained yet" in written.page.read_text()


# Comparisons


def test_compare_two_runs_by_row(small_runs: Workspace, tmp_path: Path) -> None:
    workspace = Workspace.at(shutil.copytree(small_runs.root, tmp_path / "copy"))
    written = compare(workspace, ["one", "two"])
    labels = load_train(workspace.data).labels
    wrong = [find_run(workspace, name).oof_softmax().argmax(1) != labels for name in ("one", "two")]
    (pair,) = written.document["pairs"]
    only_first, only_second = (int((a & ~b).sum()) for a, b in (wrong, wrong[::-1]))
    assert (pair["only_first_wrong"], pair["only_second_wrong"]) == (only_first, only_second)
    assert pair["both_wrong"] == (wrong[0] & wrong[1]).sum()
    p = binomtest(only_first, only_first + only_second).pvalue
    assert pair["mcnemar_p_holm"] == pair["mcnemar_p"] == pytest.approx(p)
    assert pair["differ"] == (p < 0.05)
    assert pair["differences"] == {"seed": [0, 1]}
    assert all(wrong[1][m["row"]] and not wrong[0][m["row"]] for m in pair["second_mistakes"])
    assert [run["errors"] for run in written.document["runs"]] == [w.sum() for w in wrong]
    assert written.page == workspace.root / "comparisons" / "digit-recognizer" / "one+two" / "index.html"
    better, worse = ("one", "two") if only_first < only_second else ("two", "one")
    fewer = abs(only_first - only_second)
    assert pair["verdict"].startswith(
        f"{better} makes {fewer} fewer error{'s' * (fewer > 1)} than {worse}, which "
    )
    assert pair["verdict"] in html.unescape(written.page.read_text())
    # A row has the same probability as in the report.
    known = {error["row"]: error for error in report(workspace, "two").document["out_of_fold"]["misclassified"]}
    assert all(known[mistake["row"]] == mistake for mistake in pair["second_mistakes"])
    assert len(alternatives(written.page)) == len(pair["first_mistakes"]) + len(pair["second_mistakes"])


def test_compare_shortens_the_name_of_its_folder(trained: Workspace) -> None:
    names = ["first", "x" * 198, "y" * 198]
    for name in names[1:]:
        shutil.copytree(trained.runs / "first", trained.runs / name)
    first, second = (compare(trained, some).page.parent.name for some in (names, [*names[:2], "first"]))
    assert first.startswith("first+2 more ")
    assert first != second


def test_compare_corrects_for_three_runs(trained: Workspace) -> None:
    shutil.copytree(trained.runs / "first", trained.runs / "second")
    ensemble(trained, ["first", "second"], name="both")
    pairs = compare(trained, ["first", "second", "both"]).document["pairs"]
    names = [f"{pair['first']} {pair['second']}" for pair in pairs]
    assert names == ["first second", "first both", "second both"]
    assert all(pair["mcnemar_p_holm"] == 1 and not pair["differ"] for pair in pairs)
    assert pairs[1]["verdict"] == "first and both make the same number of errors."
    assert pairs[1]["differences"]["members"] == [None, ["first", "second"]]


@pytest.mark.parametrize("removed", ["ensemble", "fold-0"])
def test_compare_rejects_invalid_and_unfinished_runs(trained: Workspace, removed: str) -> None:
    shutil.copytree(trained.runs / "first", trained.runs / "second")
    shutil.rmtree(trained.runs / "second" / removed)
    for name, kind, message in (
        ("first", UsageError, "nothing to compare"),
        ("missing", UsageError, "no run called"),
        ("second", DataError, "second is not finished"),
    ):
        with pytest.raises(kind, match=message):
            compare(trained, ["first", name])


def test_verdict_rounds_very_small_p_values() -> None:
    pair = {"first": "one", "second": "two", "only_first_wrong": 500, "only_second_wrong": 1, "differ": True}
    assert "(p < 0.0001): two is better" in _verdict(pair | {"mcnemar_p_holm": 9.77e-100})


def test_sparkline_shows_at_most_16_values_and_the_last_one() -> None:
    assert sparkline([0, 0.5, 1]) == "▁▅█"
    assert sparkline([3.0]) == "▁"
    # Every third of 45 values is shown, and always the last one.
    assert sparkline([float(i) for i in range(45)]) == "▁▁▂▃▃▃▄▅▅▅▆▇▇▇█"
    assert len(sparkline([float(i) for i in range(49)])) == 13


@pytest.mark.parametrize(("seconds", "text"), [(61.4, "1:01"), (3599, "59:59"), (3600, "1:00:00")])
def test_duration_formats_seconds(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.slow
def test_report_compare_and_ensemble_recover_from_a_failed_write(trained: Workspace) -> None:
    """The failure raises `WriteError` and leaves all later files unchanged. The next call writes all files."""
    shutil.copytree(trained.runs / "first", trained.runs / "second")
    ensembled = ["oof_softmax.npy", "test_softmax.npy", "metrics.json", "submission.csv", "run.json"]
    calls: list[tuple[Callable[[], object], list[str]]] = [
        (lambda: report(trained, "first"), ["errors.csv", "report.json", *["index.html"] * 2]),
        (lambda: compare(trained, ["first", "second"]), ["comparison.json", *["index.html"] * 2]),
        (lambda: ensemble(trained, ["first"]), ensembled),
        (lambda: ensemble(trained, ["first", "second"], name="both"), ensembled),
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
            assert {path.name for path in before.keys() - remaining.keys()} <= {"metrics.json"}
            assert all(remaining[path] == before[path] for path in remaining if path.name in names[after:])
            call()
            assert contents(trained) == before


def contents(workspace: Workspace) -> dict[Path, bytes]:
    """Return the content of all files, without times."""
    files = [path for path in workspace.root.rglob("*") if path.is_file() and path.parent.name != "cache"]
    time = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?"
    return {path: re.sub(time, b"time", path.read_bytes()) for path in files}
