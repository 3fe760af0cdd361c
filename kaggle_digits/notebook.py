"""The public functions for notebooks: a training that shows its progress, and tables as DataFrames."""

from __future__ import annotations

import sys
from functools import wraps
from typing import TYPE_CHECKING, Any

from kaggle_digits import pipeline
from kaggle_digits.calls import as_calls

if TYPE_CHECKING:
    import pandas as pd

    from kaggle_digits.runs.directory import Run
    from kaggle_digits.workspace import Workspace


@wraps(pipeline.train)
def train(workspace: Workspace, **options: Any) -> Run:
    """Call `pipeline.train`; in a notebook, and without another observer, show its progress."""
    if options.get("observer") is not None or not in_notebook():
        return pipeline.train(workspace, **options)
    from kaggle_digits.console import TrainingView

    class View(TrainingView):
        def notice(self, sentence: str) -> None:
            super().notice(as_calls(sentence))

    with View() as view:
        return pipeline.train(workspace, **options | {"observer": view})


def presets() -> pd.DataFrame:
    """Return the presets: ``name, summary, folds, score, tflop, seconds``, the last for this machine."""
    import pandas as pd

    from kaggle_digits.execution.machine import summarise_presets

    return pd.DataFrame(summarise_presets())


def summarise_runs(workspace: Workspace) -> pd.DataFrame:
    """Return one row per run: see `kaggle_digits.runs.summary.summarise_runs`."""
    import pandas as pd

    from kaggle_digits.runs import summary

    return pd.DataFrame(summary.summarise_runs(workspace))


def examine(workspace: Workspace) -> pd.DataFrame:
    """Check that everything is ready for a competition: ``name, state, words, remedy`` of each check.

    The state is ``ok``, ``warning`` or ``problem``; see `kaggle_digits.doctor.examine`.
    """
    import pandas as pd

    from kaggle_digits import doctor

    checks = pd.DataFrame(doctor.examine(workspace))
    return checks.assign(remedy=checks.remedy.map(as_calls))


def in_notebook() -> bool:
    """Tell whether the code runs in a Jupyter kernel, as in Kaggle's editor and in Colab."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")
