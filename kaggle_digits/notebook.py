"""The public functions in notebooks, where a training shows its progress."""

from __future__ import annotations

import sys
from functools import wraps
from typing import TYPE_CHECKING, Any

from kaggle_digits import pipeline

if TYPE_CHECKING:
    from kaggle_digits.runs.directory import Run
    from kaggle_digits.workspace import Workspace


@wraps(pipeline.train)
def train(workspace: Workspace, **options: Any) -> Run:
    """Call `pipeline.train`; in a notebook, and without another observer, show its progress."""
    if options.get("observer") is not None or not in_notebook():
        return pipeline.train(workspace, **options)
    from kaggle_digits.console import TrainingView

    with TrainingView() as view:
        return pipeline.train(workspace, **options | {"observer": view})


def in_notebook() -> bool:
    """Tell whether the code runs in a Jupyter kernel, as in Kaggle's editor and in Colab."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")
