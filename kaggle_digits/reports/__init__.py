"""The fold-level validation report of a run: as a document for programs, as a page, in the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaggle_digits.files import Workspace, write_bytes, write_json
from kaggle_digits.runs import find_run


@dataclass(frozen=True)
class Report:
    """A report that is written.

    Attributes
    ----------
    document : dict
        The content of ``report.json``.
    json_file, page : pathlib.Path
        ``report.json`` and ``index.html``.
    """

    document: dict[str, Any]
    json_file: Path
    page: Path


def report(workspace: Workspace, run: str | None = None) -> Report:
    """Write the report of a run, into its ``report/``.

    Parameters
    ----------
    workspace : Workspace
        The competition, and where its files are.
    run : str, optional
        The run's name; the latest run if not given.

    Raises
    ------
    UsageError
        If there is no such run.
    DataError
        If an artefact of the run is missing or damaged; the error names it.
    """
    from kaggle_digits.reports.document import make_document
    from kaggle_digits.reports.page import render_page

    found = find_run(workspace, run)
    document = make_document(workspace, found)
    json_file, page = found.report_folder / "report.json", found.report_folder / "index.html"
    write_json(json_file, document)
    write_bytes(page, render_page(document).encode())
    return Report(document, json_file, page)
