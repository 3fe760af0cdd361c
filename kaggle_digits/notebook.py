"""What notebooks show: progress in the output of a cell, and tables as DataFrames."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType

from kaggle_digits.console import TrainingView
from kaggle_digits.training.observer import Observer

if TYPE_CHECKING:
    import pandas as pd

    from kaggle_digits.workspace import Workspace

WIDTH = 80
"""The width of the table of folds, in characters."""


@contextmanager
def watching(observer: Observer | None) -> Iterator[Observer]:
    """Yield the observer of a training; if there is none, in a notebook, one that shows the progress."""
    if observer is not None or not in_notebook():
        yield observer or Observer()
    else:
        with NotebookView() as view:
            yield view


def printing() -> Observer:
    """Return an observer that prints notices in a notebook, and does nothing elsewhere."""
    return _Notices() if in_notebook() else Observer()


class _Notices(Observer):
    def notice(self, sentence: str) -> None:
        print(sentence)  # noqa: T201


class NotebookView(TrainingView):
    """Live progress of training in the output of a cell: one row per fold."""

    def notice(self, sentence: str) -> None:
        """Print a notice."""
        _Notices().notice(sentence)

    def _display(self) -> _CellOutput:
        return _CellOutput(self._table)


class _CellOutput:
    """A table in the output of a cell, drawn again every second. Unlike rich's, it needs no ipywidgets."""

    def __init__(self, table: Callable[[], RenderableType]) -> None:
        self._table = table
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._refresh, daemon=True)
        self._handle: Any = None

    def start(self) -> None:
        from IPython.display import display

        self._handle = display(self._html(), display_id=True)  # type: ignore[no-untyped-call]
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        self._handle.update(self._html())

    def _refresh(self) -> None:
        while not self._stopped.wait(1.0):
            self._handle.update(self._html())

    def _html(self) -> Any:
        from IPython.display import HTML

        # With `force_jupyter`, which is the default in a notebook, rich would show it as one more output.
        console = Console(file=io.StringIO(), record=True, width=WIDTH, force_terminal=True, force_jupyter=False)
        console.print(self._table())
        # Without colours of text and background, so that they are those of the notebook.
        html = console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")
        return HTML(html)  # type: ignore[no-untyped-call]


def presets() -> pd.DataFrame:
    """Return the presets: ``name, summary, folds, score, tflop, seconds``, the last for this machine."""
    import pandas as pd

    from kaggle_digits.execution.machine import summarise_presets

    return pd.DataFrame(summarise_presets())


def summarise_runs(workspace: Workspace) -> pd.DataFrame:
    """Return one row per run: see `kaggle_digits.runs.summary.summarise_runs`."""
    import pandas as pd

    from kaggle_digits.runs import summary

    columns = ["name", "status", "trained", "folds", "rows", "errors", "accuracy", "score"]
    return pd.DataFrame(summary.summarise_runs(workspace), columns=columns)


def examine(workspace: Workspace) -> pd.DataFrame:
    """Check that everything is ready for a competition: ``name, state, words, remedy`` of each check.

    The state is ``ok``, ``warning`` or ``problem``; see `kaggle_digits.doctor.examine`.
    """
    import pandas as pd

    from kaggle_digits import doctor

    return pd.DataFrame([finding.as_check() for finding in doctor.examine(workspace)])


def in_notebook() -> bool:
    """Tell whether the code runs in a Jupyter kernel, as in Kaggle's editor and in Colab."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")
