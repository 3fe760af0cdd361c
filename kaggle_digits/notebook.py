"""What notebooks show: progress in the output of a cell, and tables as DataFrames."""

from __future__ import annotations

import io
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live

from kaggle_digits.console import TrainingView
from kaggle_digits.training.observer import Observer
from kaggle_digits.workspace import Workspace

if TYPE_CHECKING:
    from pandas import DataFrame
else:
    DataFrame = Any  # `arguments.checked` evaluates annotations, and pandas is slow to import


def watching(observer: Observer | None) -> AbstractContextManager[Observer]:
    """Return the observer of a training; if there is none, in a notebook, one that shows the progress."""
    return NotebookView() if observer is None and in_notebook() else nullcontext(observer or Observer())


def printing() -> Observer:
    """Return an observer that prints notices in a notebook, and does nothing elsewhere."""
    return NotebookView() if in_notebook() else Observer()


class NotebookView(TrainingView):
    """Live progress of training in the output of a cell: one row per fold."""

    def notice(self, sentence: str) -> None:
        """Print a notice."""
        print(sentence)  # noqa: T201

    def _make_live(self) -> Live:
        return _CellLive(get_renderable=self._table, console=_html_console(), refresh_per_second=1)


class _CellLive(Live):
    """A live display in the output of a cell. Unlike rich's own, it needs no ipywidgets."""

    _output: Any = None

    def refresh(self) -> None:
        from IPython.display import HTML, display

        console = _html_console()
        console.print(self.get_renderable())
        # Without colours of text and background, so that they are those of the notebook.
        html = HTML(console.export_html(inline_styles=True, code_format="<pre>{code}</pre>"))  # type: ignore[no-untyped-call]
        if self._output is None:
            self._output = display(html, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._output.update(html)


def _html_console() -> Console:
    # Not for a terminal or Jupyter, where rich would redirect stdout, or show what is printed as one more output.
    plain: dict[str, Any] = {"force_terminal": False, "force_jupyter": False}
    return Console(file=io.StringIO(), record=True, width=80, color_system="truecolor", **plain)


def presets() -> DataFrame:
    """Return the presets: ``name, summary, folds, score, tflop, seconds``, the last for this machine."""
    import pandas as pd

    from kaggle_digits.execution.estimate import summarise_presets

    return pd.DataFrame(summarise_presets())


def summarise_runs(workspace: Workspace) -> DataFrame:
    """Return one row per run: see `kaggle_digits.runs.summary.summarise_runs`."""
    import pandas as pd

    from kaggle_digits.runs import summary

    return pd.DataFrame(summary.summarise_runs(workspace), columns=list(summary.COLUMNS))


def examine(workspace: Workspace) -> DataFrame:
    """Check that everything is ready for a competition; return ``name, state, words, remedy`` of each check."""
    import pandas as pd

    from kaggle_digits import doctor

    return pd.DataFrame([finding.as_check() for finding in doctor.examine(workspace)])


def in_notebook() -> bool:
    """Tell whether the code runs in a Jupyter kernel, as in Kaggle's editor and in Colab."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")
