"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
from typing import Any


def render_page(document: dict[str, Any]) -> str:
    """Return the HTML page of a report's document; every text in it is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("kaggle_digits.reports", "templates"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["percent"] = lambda share, digits=2: f"{100 * share:.{digits}f} %"
    environment.filters["count"] = lambda number: f"{number:,}"
    return environment.get_template("page.html.j2").render(
        report=document,
        curves=_learning_curves(document["folds"]) if document["folds"] else None,
        most_confused=_most_confused(document["out_of_fold"]),
    )


def _most_confused(out_of_fold: dict[str, Any] | None) -> int:
    """Return the largest count off the confusion matrix's diagonal, at least 1."""
    rows = out_of_fold["confusion"] if out_of_fold else []
    return max((n for i, row in enumerate(rows) for j, n in enumerate(row) if i != j), default=0) or 1


def _learning_curves(folds: list[dict[str, Any]]) -> str:
    """Draw the folds' loss and accuracy by epoch, as the URL of an SVG picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for number, fold in enumerate(folds):
            epochs = [row["epoch"] for row in fold["history"]]
            for prefix, style in (("", ":"), ("val_", "-")):
                values = [row[prefix + name] for row in fold["history"]]
                label = f"fold {fold['fold']}" if prefix else None
                axes.plot(epochs, values, style, color=f"C{number % 10}", label=label, linewidth=1.4)
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if name == "loss":
            axes.set_yscale("log")
    figure.axes[1].legend(frameon=False, fontsize="small", loc="lower right")
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode()
