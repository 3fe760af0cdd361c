"""Reports, comparisons and the list of runs as self-contained HTML pages."""

import shlex
from collections import defaultdict
from collections.abc import Callable
from importlib import resources
from typing import Any

from kaggle_digits.arrays import UInt8
from kaggle_digits.reports import figures
from kaggle_digits.reports.content import EXAMPLES
from kaggle_digits.reports.facts import ReportFacts
from kaggle_digits.reports.network import NetworkDetails

WORST = 60
"""How many of the worst errors the page shows."""


def render_report(
    report: ReportFacts, train_images: UInt8, test_images: UInt8, details: NetworkDetails | None, **values: Any
) -> str:
    """Return the HTML page of a report; the images are uint8 [n, 28, 28] and [m, 28, 28]."""
    cells: dict[str, list[tuple[int, float, str]]] = defaultdict(list)
    for mistake in report.out_of_fold.misclassified if report.out_of_fold else []:
        cell = cells[f"{mistake.label},{mistake.predicted}"]
        if len(cell) < EXAMPLES:
            picture = figures.digit_url(train_images[mistake.row])
            cell.append((mistake.row, round(mistake.confidence, 4), picture))
    return render(
        "report.html.j2",
        report=report,
        details=details,
        train_images=train_images,
        test_images=test_images,
        cells=cells,
        worst=WORST,
        errors_csv=errors_csv(report),
        **values,
    )


def errors_csv(report: ReportFacts) -> str:
    """Return the misclassified rows of a report as CSV: ``row,label,predicted,confidence``."""
    mistakes = report.out_of_fold.misclassified if report.out_of_fold else []
    lines = [f"{m.row},{m.label},{m.predicted},{m.confidence:.6f}" for m in mistakes]
    return "\n".join(["row,label,predicted,confidence", *lines, ""])


def render(template: str, **values: Any) -> str:
    """Return the page of a template, which can call `figures`."""
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
        "count": lambda number: f"{number:,}",
        "seconds": lambda number: "–" if number is None else f"{number:,.1f}",
        # Only for figures and for the chart library uPlot, which are parts of this package and need no escaping.
        "svg": Markup,
        "uplot": lambda name: resources.files(__package__).joinpath("uplot", name).read_text("utf-8"),
        "command": shlex.join,
    }
    environment.filters.update(filters)
    return environment.get_template(template).render(figures=figures, **values)
