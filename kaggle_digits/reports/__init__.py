"""Validation reports, of one run or of several side by side: as documents for programs and as pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaggle_digits.data.csv import load_data, load_train
from kaggle_digits.errors import UsageError
from kaggle_digits.files import write_bytes, write_json
from kaggle_digits.runs.directory import find_run
from kaggle_digits.runs.ensemble import check_members
from kaggle_digits.workspace import Workspace


@dataclass(frozen=True)
class Report:
    """A report that is written.

    Attributes
    ----------
    document : dict
        The content of the JSON file.
    json_file, page : pathlib.Path
        The document, and the same for people.
    """

    document: dict[str, Any]
    json_file: Path
    page: Path


def report(workspace: Workspace, run: str | None = None) -> Report:
    """Write the report of a run: ``report.json`` and ``index.html`` in its ``report/``.

    Parameters
    ----------
    workspace : Workspace
        The competition, and where its files are.
    run : str, optional
        The run's name; the latest run if not given. It need not be finished.

    Raises
    ------
    UsageError
        If there is no such run.
    DataError
        If an artefact of the run is missing or damaged; the error names it.
    """
    from kaggle_digits.reports.document import ARTICLE_ROW, make_document
    from kaggle_digits.reports.inside import look_inside
    from kaggle_digits.reports.page import render_page

    found, data = find_run(workspace, run), load_data(workspace.data)
    if found.has_ensemble():
        check_members(found)
    networks, images = found.networks(), data.test.images
    inside = look_inside(*networks[0], images[min(ARTICLE_ROW, len(images) - 1)]) if networks else None
    document = make_document(workspace, found, data, inside)
    page = render_page(document, data.train.images, images, inside)
    return _write(document, page, found.report_folder / "report.json", found.report_folder / "index.html")


def compare(workspace: Workspace, runs: Sequence[str]) -> Report:
    """Compare finished runs: ``comparison.json`` and ``comparison.html`` in the ``report/`` of the first.

    Parameters
    ----------
    workspace : Workspace
        The competition, and where its files are.
    runs : sequence of str
        The names of two or more.

    Raises
    ------
    UsageError
        If there are fewer than two different ones, or one of them does not exist.
    DataError
        If a run is not finished, was made from other data, or an artefact is missing or damaged.
    """
    from kaggle_digits.reports.comparison import make_comparison
    from kaggle_digits.reports.page import render_comparison

    found = [find_run(workspace, run) for run in dict.fromkeys(runs)]
    if len(found) < 2:
        raise UsageError("There is nothing to compare.", "Name two or more different runs; list them with: runs.")
    for run in found:
        run.require_ensemble()
    train_set = load_train(workspace.data)
    comparison = make_comparison(workspace, found, train_set)
    folder = found[0].report_folder
    page = render_comparison(comparison, train_set.images)
    return _write(comparison, page, folder / "comparison.json", folder / "comparison.html")


def _write(document: dict[str, Any], page: str, json_file: Path, page_file: Path) -> Report:
    write_json(json_file, document)
    write_bytes(page_file, page.encode())
    return Report(document, json_file, page_file)
