"""The figures of the pages: plots as SVG in the colours of the page, digits and feature maps as WebP."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec

import numpy as np
import numpy.typing as npt

from kaggle_digits.arrays import Float32, UInt8

if TYPE_CHECKING:
    from matplotlib.axes import Axes

P = ParamSpec("P")
_INK, _ACCENT, _SECOND = "#010203", "#010204", "#010205"
"""Placeholder colours, the first also in ``report.mplstyle``, replaced by those of the page."""
SHEET_COLUMNS, TILE = 16, 56
"""The number of maps in a row of a sheet, and the approximate width of each in pixels."""
LEAST_ERROR = 1e-5
"""The lowest error rate on an `AccuracyAxis`, because 0 has no logarithm: that of one error in 100,000 rows."""


class AccuracyAxis:
    """An axis from the lowest to the highest accuracy, logarithmic in the error rate, like the learning curves."""

    def __init__(self, accuracies: Sequence[float]) -> None:
        errors = [max(1 - accuracy, LEAST_ERROR) for accuracy in accuracies]
        self._low, self._high = min(errors), max(errors)

    def place(self, accuracy: float) -> str:
        """Return where an accuracy is, in percent of the width, with room for labels at both ends."""
        ratio = self._high / max(1 - accuracy, LEAST_ERROR)
        return f"{6 + 88 * math.log(ratio) / math.log(self._high / self._low):.2f}%"

    def ticks(self) -> list[float]:
        """Return about five round accuracies."""
        from matplotlib.ticker import MaxNLocator

        if self._high < 3 * self._low:
            rounds = [list(MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(self._low, self._high))]
        else:
            digits = ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))
            rounds = [[digit * 10.0**power for power in range(-5, 1) for digit in some] for some in digits]
        inside = [[1 - error for error in errors if self._low <= error <= self._high] for errors in rounds]
        return min(inside, key=lambda ticks: abs(len(ticks) - 5))


def digit_url(image: UInt8) -> str:
    """Return an image, uint8 [28, 28], as the data URL of a picture, dark on white."""
    return _data_url(255 - image)


def map_sheet(maps: Float32) -> str:
    """Return maps, float32 [k, height, width], in one picture as a data URL, each scaled to its own range."""
    scale, columns = max(2, TILE // maps.shape[1]), min(SHEET_COLUMNS, len(maps))
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    grey = (255 * (maps - low) / np.maximum(high - low, 1e-9)).astype(np.uint8)
    grey = grey.repeat(scale, 1).repeat(scale, 2)
    # A white margin on the right and at the bottom of each map, and white maps at the end of the last row.
    grey = np.pad(grey, ((0, -len(grey) % columns), (0, 2), (0, 2)), constant_values=255)
    rows = grey.reshape(-1, columns, *grey.shape[1:]).swapaxes(1, 2)
    return _data_url(rows.reshape(-1, columns * grey.shape[2])[:-2, :-2])


def _svg(draw: Callable[Concatenate[Axes, P], None]) -> Callable[P, str]:
    """Turn a function that draws on axes into one that returns the plot as an SVG element."""

    @wraps(draw)
    def plot(*arguments: P.args, **options: P.kwargs) -> str:
        import matplotlib as mpl
        from matplotlib.figure import Figure

        with mpl.rc_context(fname=Path(__file__).with_name("report.mplstyle")):
            figure, stream = Figure(figsize=(4.6, 3.1), layout="constrained"), io.StringIO()
            draw(figure.subplots(), *arguments, **options)
            figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        svg = stream.getvalue()
        # The SVG is inlined in a page with several others: it takes size, font and text colour from the page, and
        # has no ids, which would clash.
        svg = svg[svg.index("<svg") :]
        for color, name in ((_INK, "currentColor"), (_ACCENT, "var(--accent)"), (_SECOND, "var(--warning)")):
            svg = svg.replace(color, name)
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
        svg = re.sub(r'<g id="[^"]*"', "<g", svg)
        return re.sub(r'^<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg)

    return plot


@_svg
def reliability_diagram(axes: Axes, before: Sequence[dict[str, float]], after: Sequence[dict[str, float]]) -> None:
    """Draw accuracy against confidence, before and after temperature scaling."""
    axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle="--")
    for bins, color, label in ((before, _SECOND, "uncalibrated"), (after, _ACCENT, "calibrated")):
        confidence, accuracy = [b["confidence"] for b in bins], [b["accuracy"] for b in bins]
        axes.plot(confidence, accuracy, color=color, linewidth=1, alpha=0.6, label=label)
        # Larger dots for bins with more rows, whose accuracy is more reliable.
        axes.scatter(confidence, accuracy, [4 + 10 * np.log10(b["rows"]) for b in bins], color=color)
    axes.set(xlabel="largest probability", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.legend(frameon=False, fontsize="small", loc="lower right")


@_svg
def bars(axes: Axes, series: dict[str, Sequence[float]], label: str) -> None:
    """Draw one or two series of a value for each digit."""
    width = 0.76 / len(series)
    for number, (name, values) in enumerate(series.items()):
        places = np.arange(len(values)) + (number + 0.5) * width - 0.38
        axes.bar(places, values, width, color=(_ACCENT, _SECOND)[number], label=name)
    axes.set(xticks=range(len(values)), xlabel="digit", ylabel=label)
    if len(series) > 1:
        axes.margins(y=0.25)  # room for the legend
        axes.legend(frameon=False, fontsize="small", ncols=2, loc="upper center")


@_svg
def by_number(axes: Axes, values: Sequence[float], label: str) -> None:
    """Draw a value against the number of networks or runs in the mean."""
    axes.plot(range(1, len(values) + 1), values, "o-", color=_ACCENT)
    axes.set(xlabel="number in the mean", ylabel=label)
    axes.locator_params("x", integer=True)
    axes.ticklabel_format(useOffset=False)


def _data_url(grey: npt.NDArray[np.uint8]) -> str:
    from PIL import Image

    stream = io.BytesIO()
    # A third smaller than PNG.
    Image.fromarray(grey).save(stream, format="WEBP", lossless=True, quality=100)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
