"""Validation reports of a run, comparisons of runs and a list of all runs, as JSON and as HTML pages."""

import hashlib
import html
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kaggle_digits.data.csv import load_data, load_train
from kaggle_digits.errors import DataError, UsageError
from kaggle_digits.evaluation.significance import wilson_interval
from kaggle_digits.files import read_json, sha256, write_bytes, write_json
from kaggle_digits.runs.directory import Run, find_run, run_names
from kaggle_digits.runs.ensemble import check_ensemble
from kaggle_digits.runs.summary import summarise_runs
from kaggle_digits.submissions.submit import submission_file
from kaggle_digits.training.own_network import NETWORK_FILE, find_network
from kaggle_digits.workspace import Workspace


@dataclass(frozen=True)
class Report:
    """A report or a comparison that has been written."""

    document: dict[str, Any] = field(repr=False)  # the content of the JSON file
    json_file: Path
    page: Path  # in HTML

    def _repr_html_(self) -> str:
        """Return the page, for a notebook: in a frame, so that its styles do not change the notebook."""
        page = html.escape(self.page.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" width="100%" height="700" style="border: 0"></iframe>'


def report(
    workspace: Workspace, run: str | Run | None = None, network: str | Callable[[], Any] | None = None
) -> Report:
    """Write the report of a run: ``report.json``, ``index.html`` and ``errors.csv`` in its folder ``report/``.

    ``errors.csv`` has the misclassified training rows: ``row,label,predicted,confidence``, the worst first. The
    page with all runs is written again, as by `overview`.

    Parameters
    ----------
    workspace : Workspace
        The competition and the folder of its files.
    run : str or Run, optional
        The run, or its name; it can be unfinished. Default: as in `find_run`.
    network : str or callable, optional
        As in `Recipe`, for a run whose network has layers of its own.

    Raises
    ------
    UsageError, DataError
        If there is no run with this name, or one of its files is missing or damaged.

    Examples
    --------
    >>> written = kd.report(workspace, run.name)
    >>> written.document["out_of_fold"]["rows"], written.page.name
    (4200, 'index.html')
    """
    from kaggle_digits.reports.content import ARTICLE_ROW, make_report
    from kaggle_digits.reports.network import inspect_network
    from kaggle_digits.reports.page import errors_csv, render_report

    if network is not None:
        find_network(network)
    found, data = find_run(workspace, run), load_data(workspace.data)
    if found.ensemble.is_finished:
        check_ensemble(found)
    networks, images = found.networks(), data.test.images
    details = inspect_network(networks[0], images[min(ARTICLE_ROW, len(images) - 1)]) if networks else None
    facts = make_report(workspace, found, data, details.layers if details else None)
    folder = found.path / "report"
    own = found.path / NETWORK_FILE
    is_known = own.exists() and sha256(own) == found.info.as_json().get("network_sha256")
    values = {"source": own.read_text(encoding="utf-8") if is_known else ""}
    values |= {"among": workspace.competition.among} | _links(workspace, folder, found.name)
    page = render_report(facts, data.train.images, images, details, **values)
    write_bytes(folder / "errors.csv", errors_csv(facts).encode())
    return _write(workspace, folder, "report.json", facts.as_json(), page)


def compare(workspace: Workspace, *runs: str | Run | Sequence[str | Run]) -> Report:
    """Compare two or more finished runs: write ``comparison.json`` and a page to ``comparisons/``; see `report`.

    Parameters
    ----------
    workspace : Workspace
        The competition and the folder of its files.
    *runs : str or Run, or a sequence of them
        The runs, or their names.

    Raises
    ------
    UsageError, DataError
        If there are fewer than two different runs, or one does not exist, is not finished, is damaged, or was
        trained on other data.

    Examples
    --------
    >>> other = kd.train(workspace, preset="lenet", folds=2, seed=1, settings={"epochs": 1})
    >>> comparison = kd.compare(workspace, run, other)
    >>> comparison.document["pairs"][0]["second"]
    'lenet-k2-s1-epochs=1'
    """
    from kaggle_digits.reports.comparison import make_comparison
    from kaggle_digits.reports.page import render

    flat = [run for each in runs for run in ([each] if isinstance(each, str | Run) else each)]
    found = list(dict.fromkeys(find_run(workspace, run) for run in flat))
    if len(found) < 2:
        remedy = "Give two or more different runs; list them with the command: runs."
        raise UsageError("There is nothing to compare.", remedy)
    train_set = load_train(workspace.data)
    comparison = make_comparison(workspace, found, train_set)
    name = "+".join(run.name for run in found)
    if len(name.encode()) > 200:  # file systems allow 255
        name = f"{found[0].name[:100]}+{len(found) - 1} more {hashlib.sha256(name.encode()).hexdigest()[:8]}"
    folder = workspace.comparisons / name
    values = {"comparison": comparison, "images": train_set.images}
    page = render("comparison.html.j2", **values, **_links(workspace, folder))
    return _write(workspace, folder, "comparison.json", comparison, page)


def overview(workspace: Workspace) -> Path:
    """Write a page with all runs of the competition, ``runs/<competition>/index.html``, and return its path.

    Parameters
    ----------
    workspace : Workspace
        The competition and the folder of its runs.

    Examples
    --------
    >>> kd.overview(workspace).name
    'index.html'
    """
    from kaggle_digits.reports.page import render

    runs, folder = summarise_runs(workspace), workspace.runs
    for run in runs:
        rows = run["rows"]
        run["interval"] = None if rows is None else wilson_interval(rows - run["errors"], rows)
    names = {"competition": workspace.competition.name, "written": datetime.now(UTC).isoformat(timespec="seconds")}
    page = render("overview.html.j2", runs=runs, **names, **_links(workspace, folder))
    write_bytes(folder / "index.html", page.encode())
    return folder / "index.html"


def _links(workspace: Workspace, folder: Path, run: str = "") -> dict[str, Any]:
    """Return the links of a page in `folder` to files that exist, by their names; comparisons only of `run`."""
    names, comparisons = run_names(workspace), {}
    for file in sorted(workspace.comparisons.glob("*/comparison.json")):
        with suppress(DataError):  # it is damaged
            compared = [row["name"] for row in read_json(file)["runs"]]
            if run in ("", *compared):
                comparisons[" · ".join(compared)] = file.with_name("index.html")
    paths = {
        "reports": {name: workspace.runs / name / "report" / "index.html" for name in names},
        "submissions": {name: submission_file(workspace, name) for name in names},
        "comparisons": comparisons,
    }
    links = {
        kind: {name: quote(os.path.relpath(path, folder)) for name, path in some.items() if path.exists()}
        for kind, some in paths.items()
    }
    return links | {"overview": quote(os.path.relpath(workspace.runs / "index.html", folder))}


def _write(workspace: Workspace, folder: Path, name: str, document: dict[str, Any], page: str) -> Report:
    """Write a report or a comparison, and the page with all runs, to which it has a link."""
    write_json(folder / name, document)
    write_bytes(folder / "index.html", page.encode())
    overview(workspace)
    return Report(document, folder / name, folder / "index.html")
