"""A page with all runs of a competition."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kaggle_digits.evaluation.significance import wilson_interval
from kaggle_digits.submissions.submit import submission_file
from kaggle_digits.workspace import Workspace


def overview_rows(workspace: Workspace, summary: Sequence[dict[str, Any]], page: Path) -> list[dict[str, Any]]:
    """Return the rows of `summarise_runs` with the interval of the accuracy and links, relative to the page.

    Parameters
    ----------
    workspace : Workspace
        The competition and its folders.
    summary : sequence of dict
        What `summarise_runs` returned.
    page : pathlib.Path
        The page that has the links.

    Returns
    -------
    list of dict
        The same with ``interval`` (None if there is no accuracy) and ``links`` (names and relative addresses of
        the files that exist).
    """
    rows = []
    for row in summary:
        files = {
            "report": workspace.runs / row["name"] / "report" / "index.html",
            "submission.csv": submission_file(workspace, row["name"]),
        }
        rows.append(
            row
            | {
                "interval": _interval(row),
                "links": {
                    name: quote(Path(os.path.relpath(path, page.parent)).as_posix())
                    for name, path in files.items()
                    if path.exists()
                },
            }
        )
    return rows


def _interval(row: dict[str, Any]) -> list[float] | None:
    if row["rows"] is None:
        return None
    return wilson_interval(row["rows"] - row["errors"], row["rows"])
