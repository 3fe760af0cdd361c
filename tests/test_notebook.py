"""What notebooks show."""

from __future__ import annotations

import html
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import SMALL

import kaggle_digits as kd
from kaggle_digits.arrays import UInt8
from kaggle_digits.hosts import Standing, Submission
from kaggle_digits.notebook import NotebookView, in_notebook, watching
from kaggle_digits.prediction.predict import Prediction
from kaggle_digits.reports import Report
from kaggle_digits.reports.facts import Finding
from kaggle_digits.submissions.ledger import Entry
from kaggle_digits.submissions.submit import ScoreBoard
from kaggle_digits.training.fold import FoldTask
from kaggle_digits.training.presets import PRESETS, find_preset


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the code seem to run in a Jupyter kernel."""
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(kernel=object()))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was shown in the output of a cell, each time."""
    shown: list[str] = []
    handle = SimpleNamespace(update=lambda output: shown.append(output.data))
    monkeypatch.setattr("IPython.display.display", lambda output, display_id: shown.append(output.data) or handle)
    return shown


def test_notebook_view_draws_the_table_again_until_the_end(drawn: list[str]) -> None:
    task = FoldTask(find_preset("lenet").settings, 0, 3, np.zeros(0, np.uint8))
    with NotebookView() as view:
        view.start("it", [task], [task])
        deadline = time.monotonic() + 20
        while len(drawn) < 2 and time.monotonic() < deadline:  # without any event, because the clock runs
            time.sleep(0.1)
        assert len(drawn) >= 2
        view.finished(task)
    assert all(html.startswith("<pre>") for html in drawn)
    assert "waiting" in drawn[0]
    assert "done" in drawn[-1]
    assert "Training it" in drawn[-1]


@pytest.mark.usefixtures("notebook")
def test_submit_prints_in_a_notebook_which_run_it_takes(
    trained_workspace: kd.Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    kd.submit(trained_workspace, dry_run=True)
    assert "The run is first (CV 0." in capsys.readouterr().out


@pytest.mark.usefixtures("notebook", "train_in_process")
def test_train_shows_progress_in_a_notebook(
    workspace: kd.Workspace, drawn: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kd.train(workspace, preset="lenet", folds=2, settings=SMALL)
    assert drawn[-1].count("done") == 2
    observer = kd.Observer()
    with watching(observer) as watched:
        assert watched is observer
    monkeypatch.setattr("IPython.get_ipython", SimpleNamespace)  # IPython in a terminal
    assert not in_notebook()


def test_report_and_prediction_are_shown_in_a_notebook(tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    page.write_text('<html title="a & b"></html>')
    report = Report({"long": "document"}, tmp_path / "report.json", page)
    assert "long" not in repr(report)
    assert str(page) in repr(report)
    frame = report._repr_html_()
    assert html.unescape(frame.split('<iframe srcdoc="')[1].split('" width')[0]) == page.read_text()
    softmax = np.linspace(0, 0.2, 10, dtype=np.float32)
    image: UInt8 = np.zeros((28, 28), np.uint8)
    shown = Prediction(Path("<seven>.png"), image, softmax, softmax[None], 0.5)._repr_html_()
    assert "&lt;seven&gt;.png: <b>9</b>" in shown
    assert '<img src="data:image/webp;base64,' in shown
    assert shown.count("<tr>") == 10


def test_score_board_and_run_are_tables(trained_workspace: kd.Workspace) -> None:
    submission = Submission("7", "2026-01-01", "", "COMPLETE", 0.9, "")
    entry = Entry("2026-01-01", "first", "0" * 64, "7", "COMPLETE", 0.9, 0.8)
    board = ScoreBoard([(submission, entry), (submission, replace(entry, run="", cv=None))], Standing(3, 1200))
    table = board.to_frame()
    assert table[["run", "score"]].to_numpy().tolist() == [["first", 0.9], ["", 0.9]]
    assert table["gap"][0] == pytest.approx(0.1)
    assert "Rank 3 of 1,200" in board._repr_html_()
    lines = repr(board).splitlines()
    assert lines[1].split() == ["2026-01-01", "7", "first", "COMPLETE", "0.90000", "0.80000", "0.10000"]
    assert lines[-1] == "Rank 3 of 1,200"
    run = kd.find_run(trained_workspace)
    table = run.to_frame()
    assert table["fold"].tolist() == [0, 1]
    assert int(table["errors"].sum()) == run.ensemble_metrics().errors
    assert f"{run.ensemble_metrics().accuracy:.5f}" in run._repr_html_()


def test_public_names_are_completed_before_they_are_imported() -> None:
    script = "import sys, kaggle_digits as kd; print(*dir(kd), *(m for m in sys.modules if m == 'numpy'))"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert {"train", "submit", "Workspace", "__version__"} <= set(shown.split())
    assert "numpy" not in shown.split()


@pytest.mark.slow
def test_digit_recognizer_notebook_runs(tmp_path: Path) -> None:
    import nbformat
    from run_notebook import NOTEBOOK, run

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for old, new in (('PRESET = "fast"', 'PRESET = "lenet"'), ('"epochs": 12', '"epochs": 1')):
        (cell,) = (cell for cell in notebook.cells if old in cell.source)  # so that it takes only seconds
        cell.source = cell.source.replace(old, new)
    (cell,) = (cell for cell in notebook.cells if "kd.train(workspace, preset=PRESET" in cell.source)
    cell.source = cell.source.replace("preset=PRESET", "preset=PRESET, folds=2")
    run(notebook, tmp_path)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"] == []
    html = " ".join(output.data.get("text/html", "") for output in outputs if "data" in output)
    assert html.count("Training lenet-k2-s0") == 1  # one table, which was drawn again
    assert "<iframe srcdoc=" in html
    assert "Rank " in html
    submission = pd.read_csv(tmp_path / "submission.csv")
    assert list(submission.columns) == ["ImageId", "Label"]
    assert len(submission) == 2800


def test_digit_recognizer_notebook_has_no_errors_and_takes_mounted_data(
    tmp_path: Path, workspace: kd.Workspace
) -> None:
    from run_notebook import NOTEBOOK

    assert NOTEBOOK.stat().st_size < 100_000  # outputs are small
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(output["output_type"] != "error" for cell in cells for output in cell["outputs"])
    sources = ["".join(cell["source"]) for cell in cells]
    (setup,) = (source for source in sources if "COMPETITION = os" in source)
    (download,) = (source for source in sources if "kd.download(" in source)
    shutil.copytree(workspace.data, tmp_path / "input" / "competitions" / "digit-recognizer")
    (tmp_path / "working").mkdir()
    script = f"{setup}\n{download}".replace("/kaggle", str(tmp_path)).replace("kd.presets()", "")
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.stdout == "100 training rows, 30 test rows in digit-recognizer\n", ran.stderr
    assert (tmp_path / "working" / "digits" / "data" / "digit-recognizer" / "train.csv").is_file()


def test_examine_presets_and_summarise_runs_are_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = kd.Workspace.at(tmp_path, "rehearsal")
    monkeypatch.setattr("kaggle_digits.execution.estimate.measure_speeds", lambda: dict.fromkeys(PRESETS, 1e3))
    finding = Finding("problem", "Data", "They are missing.", "Download them.")
    monkeypatch.setattr("kaggle_digits.doctor.examine", lambda workspace: [finding])
    assert kd.examine(workspace).to_dict("records") == [finding.as_check()]
    assert kd.summarise_runs(workspace).columns.tolist()[:2] == ["name", "status"]
    assert kd.presets()["name"].tolist() == list(PRESETS)
