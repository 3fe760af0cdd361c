"""The figures of the report: plots as SVG in the colours of the page, digits and feature maps as PNG."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kaggle_digits.arrays import Float32, UInt8
from kaggle_digits.workspace import SIDE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _ACCENT, _SECOND = "#010203", "#010204", "#010205"
"""Placeholder colours, replaced by CSS variables of the page when the SVG is written."""
LONGEST_LABEL = 40
"""Maximum number of characters of a run's name in a chart."""
DIGIT_COLUMNS, DIGIT_PIXELS = 32, 84
"""The number of digits in a row of a sheet of digits, and the width of each on the page in pixels."""
SHEET_COLUMNS, TILE = 16, 56
"""The number of maps in a row of a sheet, and the approximate width of each in pixels."""


def digit_png(image: UInt8) -> str:
    """Return an image, uint8 [28, 28], as the data URL of a PNG, dark on white."""
    return _png(255 - image)


class DigitSheet:
    """Digits in one picture, of which the page shows parts: half the bytes of a picture per digit."""

    def __init__(self, images: UInt8, rows: Iterable[int]) -> None:
        self._numbers = {row: number for number, row in enumerate(dict.fromkeys(rows))}
        digits = images[list(self._numbers)]
        digits = np.pad(digits, ((0, -len(digits) % DIGIT_COLUMNS), (0, 0), (0, 0)))
        sheet = digits.reshape(-1, DIGIT_COLUMNS, SIDE, SIDE).swapaxes(1, 2).reshape(-1, DIGIT_COLUMNS * SIDE)
        self.url = _png(255 - sheet) if len(sheet) else ""
        self.width = DIGIT_COLUMNS * DIGIT_PIXELS

    def position(self, row: int) -> str:
        """Return the CSS ``background-position`` at which the sheet shows an image."""
        y, x = divmod(self._numbers[row], DIGIT_COLUMNS)
        return f"{-x * DIGIT_PIXELS}px {-y * DIGIT_PIXELS}px"


def map_sheet(maps: Float32) -> str:
    """Return maps, float32 [k, height, width], in one PNG as a data URL, each scaled to its own range."""
    columns, scale = min(SHEET_COLUMNS, len(maps)), max(2, TILE // maps.shape[1])
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    grey = (255 * (maps - low) / np.maximum(high - low, 1e-9)).astype(np.uint8)
    grey = grey.repeat(scale, 1).repeat(scale, 2)
    grey = np.pad(grey, ((0, -len(grey) % columns), (0, 2), (0, 2)), constant_values=255)
    count, height, width = grey.shape
    sheet = grey.reshape(count // columns, columns, height, width).swapaxes(1, 2)
    return _png(sheet.reshape(-1, columns * width)[:-2, :-2])


def learning_curves(folds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the learning curves of folds, for the script of the page.

    ``epochs`` are the numbers from 1 to the most epochs of a fold, ``folds`` their numbers; ``accuracy``,
    ``val_accuracy``, ``loss`` and ``val_loss`` are lists of values per fold.
    """
    epochs = range(1, max(len(fold["history"]) for fold in folds) + 1)
    names = ("accuracy", "val_accuracy", "loss", "val_loss")
    return {
        "epochs": list(epochs),
        "folds": [fold["fold"] for fold in folds],
        # Five digits are more than can be seen, and make the page smaller.
        **{name: [[float(f"{row[name]:.5g}") for row in fold["history"]] for fold in folds] for name in names},
    }


def fold_intervals(folds: Sequence[dict[str, Any]], mean: float) -> str:
    """Return the SVG of the folds' accuracies with their 95 % intervals."""
    labels = [f"fold {fold['fold']}" for fold in folds]
    return _intervals(folds, labels, [_SECOND if fold["out_of_line"] else _ACCENT for fold in folds], mean)


def run_intervals(runs: Sequence[dict[str, Any]]) -> str:
    """Return the SVG of the out-of-fold accuracies of runs with their 95 % intervals, and of their scores."""
    labels = [
        run["name"] if len(run["name"]) <= LONGEST_LABEL else run["name"][:LONGEST_LABEL] + "…" for run in runs
    ]
    return _intervals(runs, labels, [_ACCENT] * len(runs))


def _intervals(
    rows: Sequence[dict[str, Any]], labels: Sequence[str], colors: Sequence[str], mean: float | None = None
) -> str:
    def onto(axes: Axes) -> None:
        for place, (row, color) in enumerate(zip(rows, colors, strict=True)):
            low, high = row["interval"]
            axes.plot([low, high], [place, place], color=color, linewidth=2, alpha=0.5, solid_capstyle="round")
            axes.plot(row["accuracy"], place, "o", color=color, markersize=5)
            if row.get("score") is not None:
                axes.plot(row["score"], place, "D", color=_SECOND, markersize=5)
        if mean is not None:
            axes.axvline(mean, color=_INK, linewidth=0.8, linestyle="--")
        # The names of runs may contain $, which would start a formula.
        axes.set_yticks(range(len(rows)), [label.replace("$", r"\$") for label in labels])
        axes.set(xlabel="accuracy", ylim=(len(rows) - 0.5, -0.5))

    return _plot(onto, height=max(1.5, 0.2 * len(rows) + 0.7), width=10)


def reliability_diagram(calibration: dict[str, Any]) -> str:
    """Return the SVG of accuracy against confidence, before and after temperature scaling."""

    def onto(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle="--")
        for name, color, label in (("before", _SECOND, "uncalibrated"), ("after", _ACCENT, "calibrated")):
            bins = calibration[f"reliability_{name}"]
            confidence, accuracy = [b["confidence"] for b in bins], [b["accuracy"] for b in bins]
            axes.plot(confidence, accuracy, color=color, linewidth=1, alpha=0.6, label=label)
            # Larger dots for bins with more rows, whose accuracy is more reliable.
            axes.scatter(confidence, accuracy, [4 + 10 * np.log10(b["rows"]) for b in bins], color=color)
        axes.set(xlabel="largest probability", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
        axes.legend(frameon=False, fontsize="small", loc="lower right")

    return _plot(onto)


def class_shares(train: Sequence[float], test: Sequence[float]) -> str:
    """Return the SVG of the class distribution of the training labels and of the test predictions."""

    def onto(axes: Axes) -> None:
        places = np.arange(len(train))
        axes.bar(places - 0.2, np.multiply(train, 100), 0.38, color=_ACCENT, label="training rows")
        axes.bar(places + 0.2, np.multiply(test, 100), 0.38, color=_SECOND, label="test rows, predicted")
        axes.set(xticks=places, xlabel="digit", ylabel="share in %")
        axes.set_ylim(top=1.25 * 100 * max(*train, *test))
        axes.legend(frameon=False, fontsize="small", ncols=2, loc="upper center")

    return _plot(onto)


def by_number(values: Sequence[float], label: str) -> str:
    """Return the SVG of a value against the number of networks or runs in the mean."""

    def onto(axes: Axes) -> None:
        axes.plot(range(1, len(values) + 1), values, "o-", color=_ACCENT)
        axes.set(xlabel="number in the mean", ylabel=label)
        _whole_numbers(axes)
        axes.ticklabel_format(useOffset=False)

    return _plot(onto)


def probability_bars(probabilities: Sequence[float]) -> str:
    """Return the SVG of ten probabilities."""

    def onto(axes: Axes) -> None:
        axes.bar(range(len(probabilities)), probabilities, color=_ACCENT)
        axes.set(xticks=range(len(probabilities)), xlabel="digit", ylabel="probability", ylim=(0, 1.02))

    return _plot(onto, height=2.2)


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _plot(onto: Callable[[Axes], None], width: float = 4.6, height: float = 3.1) -> str:
    """Return a plot as an SVG element."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "kaggle-digits",
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.grid": True,
        "grid.alpha": 0.2,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "lines.markersize": 3.5,
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), _INK
        ),
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        onto(figure.subplots())
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    # The SVG is inlined in a page with several others: it takes size, font and text colour from the page, and has
    # no ids, which would clash.
    svg = svg[svg.index("<svg") :]
    for color, name in ((_INK, "currentColor"), (_ACCENT, "var(--accent)"), (_SECOND, "var(--warning)")):
        svg = svg.replace(color, name)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    return re.sub(r'^<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg)


def _png(grey: npt.NDArray[np.uint8]) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
