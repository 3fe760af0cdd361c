"""Reports and comparisons as self-contained HTML pages."""

from __future__ import annotations

import base64
import shlex
from collections import defaultdict
from collections.abc import Callable
from importlib import resources
from typing import Any

import numpy as np

from kaggle_digits.arrays import UInt8
from kaggle_digits.reports import figures
from kaggle_digits.reports.document import SHOWN
from kaggle_digits.reports.network import NetworkDetails

MAPS_SHOWN = 64
CELL_EXAMPLES = 12
"""How many digits a click on a cell of the confusion matrix shows at most."""


def render_page(
    document: dict[str, Any], train_images: UInt8, test_images: UInt8, details: NetworkDetails | None
) -> str:
    """Return the HTML page of a report.

    Parameters
    ----------
    document : dict
        What `make_document` returned; all its texts are escaped.
    train_images, test_images : ndarray of uint8, shapes (n, 28, 28) and (m, 28, 28)
        The images of the training rows and of the test rows.
    details : NetworkDetails or None
        Filters and activations of the network.
    """
    folds, total, test, members = (document[name] for name in ("folds", "out_of_fold", "test", "members"))
    plots: dict[str, Any] = {}
    if folds:
        plots["intervals"] = figures.fold_intervals(folds, document["fold_accuracy"]["mean"])
        plots["curves"] = figures.learning_curves(folds)
    sheet = figures.DigitSheet(train_images, [])
    if total:
        cells = _digits_of_cells(total["misclassified"])
        listed = total["misclassified"][:SHOWN] + total["suspects"]
        listed += [mistake for pair in total["confused_pairs"] for mistake in pair["examples"]]
        rows = [mistake["row"] for mistake in sum(cells.values(), listed)]
        sheet = figures.DigitSheet(train_images, rows)
        plots["cells"] = {
            cell: [(m["row"], round(m["confidence"], 4), sheet.position(m["row"])) for m in inside]
            for cell, inside in cells.items()
        }
    if total and total["calibration"]:
        plots["reliability"] = figures.reliability_diagram(total["calibration"])
    if test:
        shares = test["class_shares"]
        plots["class_shares"] = figures.class_shares(shares["train"], shares["test"])
        plots["one_row"] = figures.probability_bars(test["one_row"]["probabilities"])
        if test["networks"] > 1:
            plots["by_networks"] = figures.by_number(test["by_networks"], "share of test rows")
    if members:
        plots["by_members"] = figures.by_number([member["errors"] for member in members], "errors")
    if details:
        plots["filters"] = figures.map_sheet(details.filters)
        plots["input"] = figures.digit_png(details.image)
        plots["activations"] = [
            (name, len(maps), figures.map_sheet(maps[:MAPS_SHOWN])) for name, maps in details.activations
        ]
    return _render(
        "report.html.j2",
        report=document,
        plots=plots,
        epochs=_mean_epochs(folds) if folds else [],
        most_confused=_most_confused(total),
        sheet=sheet,
        test_digit=lambda row: figures.digit_png(test_images[row]),
        shown_maps=MAPS_SHOWN,
        shown_errors=SHOWN,
        errors_csv=errors_csv(total["misclassified"]) if total else "",
        chart_script=_asset("uPlot.iife.min.js"),
        chart_style=_asset("uPlot.min.css"),
    )


def render_comparison(comparison: dict[str, Any], train_images: UInt8) -> str:
    """Return the HTML page of a comparison made by `make_comparison`; the images are uint8 [n, 28, 28]."""
    mistakes = [m for pair in comparison["pairs"] for m in pair["first_mistakes"] + pair["second_mistakes"]]
    return _render(
        "comparison.html.j2",
        comparison=comparison,
        chart=figures.run_intervals(comparison["runs"]),
        sheet=figures.DigitSheet(train_images, [mistake["row"] for mistake in mistakes]),
    )


def render_overview(competition: str, written: str, runs: list[dict[str, Any]]) -> str:
    """Return the HTML page of all runs; `runs` are the rows of `overview_rows`."""
    measured = [run for run in runs if run["interval"]]
    chart = figures.run_intervals(measured) if measured else None
    return _render("overview.html.j2", competition=competition, written=written, runs=runs, chart=chart)


def _render(template: str, **values: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("kaggle_digits.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., Any]] = {
        # As Kaggle writes scores.
        "score": lambda share: "–" if share is None else f"{share:.5f}",
        "percent": lambda share, digits=2: "–" if share is None else f"{100 * share:.{digits}f} %",
        "csv_url": lambda text: "data:text/csv;base64," + base64.b64encode(text.encode()).decode(),
        "count": lambda number: f"{number:,}",
        "seconds": lambda number: f"{number:,.1f}",
        "megabytes": lambda number: f"{number / 1e6:,.0f}",
        "duration": _duration,
        # Only for figures generated by this package, so that escaping is not needed.
        "svg": Markup,  # also for the chart library
        "command": shlex.join,
    }
    environment.filters.update(filters)
    return environment.get_template(template).render(**values)


def errors_csv(misclassified: list[dict[str, Any]]) -> str:
    """Return the misclassified rows of a report as CSV: ``row,label,predicted,confidence``."""
    lines = [f"{m['row']},{m['label']},{m['predicted']},{m['confidence']:.6f}" for m in misclassified]
    return "\n".join(["row,label,predicted,confidence", *lines, ""])


def _digits_of_cells(misclassified: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the errors that the page shows for each cell of the confusion matrix; ``"7,2"`` has 7s read as 2."""
    cells: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for mistake in misclassified:
        cell = cells[f"{mistake['label']},{mistake['predicted']}"]
        if len(cell) < CELL_EXAMPLES:
            cell.append(mistake)
    return cells


def _asset(name: str) -> str:
    """Return a file of the chart library uPlot, which is part of the page."""
    return resources.files("kaggle_digits.reports").joinpath("uplot", name).read_text(encoding="utf-8")


def _mean_epochs(folds: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Return the history averaged over all folds, one entry per epoch."""
    names = folds[0]["history"][0].keys()
    # Only the epochs that all folds have: folds can have been trained for different numbers of epochs.
    by_epoch = zip(*(fold["history"] for fold in folds), strict=False)
    return [{name: float(np.mean([row[name] for row in rows])) for name in names} for rows in by_epoch]


def _most_confused(out_of_fold: dict[str, Any] | None) -> int:
    """Return the largest count off the diagonal of the confusion matrix, at least 1."""
    rows = out_of_fold["confusion"] if out_of_fold else []
    return max((n for i, row in enumerate(rows) for j, n in enumerate(row) if i != j), default=0) or 1


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
