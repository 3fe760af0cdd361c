"""Reports and comparisons as HTML files that need nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import numpy as np

from kaggle_digits.arrays import UInt8
from kaggle_digits.reports import figures
from kaggle_digits.reports.inside import Inside

MAPS_SHOWN = 64


def render_page(document: dict[str, Any], train_images: UInt8, test_images: UInt8, inside: Inside | None) -> str:
    """Return the HTML page of a report.

    Parameters
    ----------
    document : dict
        What `make_document` returned; every text in it is escaped.
    train_images, test_images : ndarray of uint8, shapes (n, 28, 28) and (m, 28, 28)
        The rows that the document speaks of.
    inside : Inside or None
        Pictures of the network.
    """
    folds, total, test, members = (document[name] for name in ("folds", "out_of_fold", "test", "members"))
    plots: dict[str, Any] = {}
    if folds:
        plots["intervals"] = figures.fold_intervals(folds, document["fold_accuracy"]["mean"])
        plots["curves"] = figures.learning_curves(folds)
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
    if inside:
        plots["filters"] = figures.map_sheet(inside.filters)
        plots["seen"] = figures.digit_png(inside.image)
        plots["activations"] = [
            (name, len(maps), figures.map_sheet(maps[:MAPS_SHOWN])) for name, maps in inside.activations
        ]
    return _render(
        "report.html.j2",
        report=document,
        plots=plots,
        epochs=_mean_epochs(folds) if folds else [],
        most_confused=_most_confused(total),
        train_digit=lambda row: figures.digit_png(train_images[row]),
        test_digit=lambda row: figures.digit_png(test_images[row]),
        shown_maps=MAPS_SHOWN,
    )


def render_comparison(comparison: dict[str, Any], train_images: UInt8) -> str:
    """Return the HTML page of what `make_comparison` returned; the images are uint8 [n, 28, 28]."""
    return _render(
        "comparison.html.j2", comparison=comparison, train_digit=lambda row: figures.digit_png(train_images[row])
    )


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
        "percent": lambda share, digits=2: "–" if share is None else f"{100 * share:.{digits}f} %",
        "count": lambda number: f"{number:,}",
        "seconds": lambda number: "–" if number is None else f"{number:,.1f}",
        "megabytes": lambda number: "–" if number is None else f"{number / 1e6:,.0f}",
        "duration": _duration,
        # Our own figures, not anybody's text.
        "svg": Markup,
        "command": shlex.join,
    }
    environment.filters.update(filters)
    return environment.get_template(template).render(**values)


def _mean_epochs(folds: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Return the mean of all folds, an epoch each."""
    names = folds[0]["history"][0].keys()
    # As far as all have come: folds may have been trained with other numbers of epochs.
    by_epoch = zip(*(fold["history"] for fold in folds), strict=False)
    return [{name: float(np.mean([row[name] for row in rows])) for name in names} for rows in by_epoch]


def _most_confused(out_of_fold: dict[str, Any] | None) -> int:
    """Return the largest count off the confusion matrix's diagonal, at least 1."""
    rows = out_of_fold["confusion"] if out_of_fold else []
    return max((n for i, row in enumerate(rows) for j, n in enumerate(row) if i != j), default=0) or 1


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
