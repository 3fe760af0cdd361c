"""The report: as a document, as a page, in the terminal."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from kaggle_digits import Workspace, ensemble, find_run, report, submit
from kaggle_digits.console import duration, sparkline
from kaggle_digits.data import load_train
from kaggle_digits.errors import DataError


@pytest.fixture
def trained(rehearsed: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the rehearsed workspace, to be changed."""
    shutil.copytree(rehearsed.root, tmp_path / "copy")
    return Workspace.at(tmp_path / "copy", "rehearsal")


def test_the_document_says_what_the_arrays_say(rehearsed: Workspace) -> None:
    document = report(rehearsed).document
    run, labels = find_run(rehearsed), load_train(rehearsed.data).labels
    wrong = run.oof_softmax().argmax(1) != labels
    assert document["out_of_fold"]["errors"] == wrong.sum()
    assert document["out_of_fold"]["accuracy"] == pytest.approx(1 - wrong.mean())
    confusion = np.array(document["out_of_fold"]["confusion"])
    assert confusion.sum() == 4200
    assert confusion.sum() - confusion.trace() == wrong.sum()
    np.testing.assert_array_equal(confusion.sum(1), np.bincount(labels))
    assert [fold["errors"] for fold in document["folds"]] == [wrong[run.folds() == k].sum() for k in range(2)]
    assert document["fold_accuracy"]["mean"] == pytest.approx(np.mean([f["accuracy"] for f in document["folds"]]))
    assert [len(fold["history"]) for fold in document["folds"]] == [2, 2]
    assert document["missing_folds"] == []
    assert document["leaderboard"] is None
    assert document["run"]["settings"]["epochs"] == 2


def test_files_are_written(rehearsed: Workspace) -> None:
    written = report(rehearsed)
    assert json.loads(written.json_file.read_text()) == written.document
    assert written.page.name == "index.html"
    assert written.page.stat().st_size < 500_000


class Page(HTMLParser):
    """Collects what a page loads, its tags and its text."""

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

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_needs_nothing_else_and_says_it_all(rehearsed: Workspace) -> None:
    written = report(rehearsed)
    page = Page(written.page.read_text())
    assert all(source.startswith("data:") for source in page.sources)
    assert all(page.alts)
    text = " ".join(page.words)
    assert f"{100 * written.document['out_of_fold']['accuracy']:.2f} %" in text
    for words in ("Folds", "Learning curves", "Confusion matrix", "What was run", "lenet, 2 folds, seed 0"):
        assert words in text


def test_a_run_named_like_a_script_is_harmless(trained: Workspace) -> None:
    run = find_run(trained, "first")
    run.path.rename(run.path.with_name("<script>alert(1)<"))
    document = json.loads((trained.runs / "<script>alert(1)<" / "run.json").read_text())
    (trained.runs / "<script>alert(1)<" / "run.json").write_text(
        json.dumps(document | {"name": "<script>alert(1)<"})
    )
    page = Page(report(trained, "<script>alert(1)<").page.read_text())
    assert "script" not in page.tags
    assert any("<script>alert(1)<" in word for word in page.words)


def test_an_unfinished_run_shows_what_there_is(trained: Workspace) -> None:
    find_run(trained).discard_fold(0)
    written = report(trained)
    assert written.document["missing_folds"] == [0]
    assert written.document["out_of_fold"]["rows"] == 2100
    assert "fold 0 of 2 is not trained yet" in written.page.read_text()
    find_run(trained).discard_fold(1)
    assert report(trained).document["out_of_fold"] is None


def test_a_score_is_shown_against_out_of_fold(trained: Workspace) -> None:
    entry = submit(trained).entry
    written = report(trained)
    assert written.document["leaderboard"]["score"] == float(entry.score)
    assert written.document["leaderboard"]["gap"] == pytest.approx(float(entry.score) - float(entry.cv))
    assert f"{float(entry.score):.5f}" in written.page.read_text()


def test_an_ensemble_of_runs_has_a_report(trained: Workspace) -> None:
    shutil.copytree(trained.runs / "first", trained.runs / "second")
    ensemble(trained, ["first", "second"], name="both")
    document = report(trained, "both").document
    assert document["folds"] == []
    assert document["out_of_fold"]["rows"] == 4200


def test_a_damaged_artefact_is_named(trained: Workspace) -> None:
    path = find_run(trained).path / "fold-1" / "val_softmax.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"fold-1/val_softmax\.npy is damaged"):
        report(trained)


def test_other_data_are_noticed(trained: Workspace) -> None:
    with open(trained.data / "train.csv", "a") as stream:
        stream.write("1" + ",0" * 784 + "\n")
    with pytest.raises(DataError, match=r"another train\.csv"):
        report(trained)


def test_sparklines() -> None:
    assert sparkline([0, 0.5, 1]) == "▁▅█"
    assert sparkline([3.0]) == "▁"
    assert len(sparkline([float(i) for i in range(45)])) <= 20


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61.4, "1:01"), (3599, "59:59"), (3600, "1:00 h")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
