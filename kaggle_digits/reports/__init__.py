"""Validation reports of a run and comparisons of runs, as JSON documents and as HTML pages."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kaggle_digits.data.csv import load_data, load_train
from kaggle_digits.errors import UsageError
from kaggle_digits.files import write_bytes, write_json
from kaggle_digits.runs.directory import find_run
from kaggle_digits.runs.ensemble import check_members
from kaggle_digits.runs.summary import summarise_runs
from kaggle_digits.workspace import Workspace

LONGEST_NAME = 200
"""Maximum length of the name of a comparison's folder in bytes; file systems allow 255."""


@dataclass(frozen=True)
class Report:
    """A report that has been written.

    Attributes
    ----------
    document : dict
        The content of the JSON file.
    json_file, page : pathlib.Path
        The JSON file and the HTML page.
    """

    document: dict[str, Any]
    json_file: Path
    page: Path

    def _repr_html_(self) -> str:
        """Return the page, for a notebook: in a frame, so that its styles do not change the notebook."""
        page = html.escape(self.page.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" width="100%" height="700" style="border: 0"></iframe>'


def report(workspace: Workspace, run: str | None = None) -> Report:
    """Write the report of a run: ``report.json``, ``index.html`` and ``errors.csv`` in its folder ``report/``.

    ``errors.csv`` has the misclassified training rows: ``row,label,predicted,confidence``, the worst first.

    Parameters
    ----------
    workspace : Workspace
        The competition and the folder of its files.
    run : str, optional
        The name of the run, which can be unfinished. Default: as in `find_run`.

    Raises
    ------
    UsageError
        If there is no run with this name.
    DataError
        If a file of the run is missing or damaged; the error names the file.

    Examples
    --------
    >>> written = kd.report(workspace, run.name)
    >>> written.document["out_of_fold"]["rows"], written.page.name
    (4200, 'index.html')
    """
    from kaggle_digits.reports.document import ARTICLE_ROW, make_document
    from kaggle_digits.reports.network import inspect_network
    from kaggle_digits.reports.page import errors_csv, render_page

    found, data = find_run(workspace, run), load_data(workspace.data)
    if found.has_ensemble():
        check_members(found)
    networks, images = found.networks(), data.test.images
    details = inspect_network(*networks[0], images[min(ARTICLE_ROW, len(images) - 1)]) if networks else None
    document = make_document(workspace, found, data, details)
    page = render_page(document, data.train.images, images, details)
    misclassified = document["out_of_fold"]["misclassified"] if document["out_of_fold"] else []
    write_bytes(found.report_folder / "errors.csv", errors_csv(misclassified).encode())
    return _write(document, page, found.report_folder / "report.json", found.report_folder / "index.html")


def compare(workspace: Workspace, runs: Sequence[str]) -> Report:
    """Compare finished runs: write ``comparison.json`` and ``index.html`` into a folder of their own.

    It is ``comparisons/<competition>/<names of the runs>/``.

    Parameters
    ----------
    workspace : Workspace
        The competition and the folder of its files.
    runs : sequence of str
        The names of two or more runs.

    Raises
    ------
    UsageError
        If there are fewer than two different runs, or one of them does not exist.
    DataError
        If a run is not finished or was trained on other data, or one of its files is missing or damaged.

    Examples
    --------
    >>> other = kd.train(workspace, preset="lenet", folds=2, seed=1, settings={"epochs": 1})
    >>> comparison = kd.compare(workspace, [run.name, other.name])
    >>> comparison.document["pairs"][0]["second"]
    'lenet-k2-s1-epochs=1'
    """
    from kaggle_digits.reports.comparison import make_comparison
    from kaggle_digits.reports.page import render_comparison

    found = [find_run(workspace, run) for run in dict.fromkeys(runs)]
    if len(found) < 2:
        raise UsageError(
            "There is nothing to compare.", "Give two or more different runs; list them with the command: runs."
        )
    for run in found:
        run.require_ensemble()
    train_set = load_train(workspace.data)
    comparison = make_comparison(workspace, found, train_set)
    name = "+".join(run.name for run in found)
    if len(name.encode()) > LONGEST_NAME:
        name = f"{found[0].name[:100]}+{len(found) - 1} more {hashlib.sha256(name.encode()).hexdigest()[:8]}"
    folder = workspace.comparisons / name
    page = render_comparison(comparison, train_set.images)
    return _write(comparison, page, folder / "comparison.json", folder / "index.html")


def overview(workspace: Workspace) -> Path:
    """Write a page with all runs of the competition, ``runs/<competition>/index.html``, and return its path.

    Parameters
    ----------
    workspace : Workspace
        The competition and the folder of its runs.

    Raises
    ------
    WriteError
        If the page cannot be written.

    Examples
    --------
    >>> kd.overview(workspace).name
    'index.html'
    """
    from kaggle_digits.reports.all_runs import overview_rows
    from kaggle_digits.reports.page import render_overview

    page = workspace.runs / "index.html"
    written = datetime.now(UTC).isoformat(timespec="seconds")
    rows = overview_rows(workspace, summarise_runs(workspace), page)
    write_bytes(page, render_overview(workspace.competition.name, written, rows).encode())
    return page


def _write(document: dict[str, Any], page: str, json_file: Path, page_file: Path) -> Report:
    write_json(json_file, document)
    write_bytes(page_file, page.encode())
    return Report(document, json_file, page_file)
