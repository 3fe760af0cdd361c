"""The examples in the docstrings of the public functions, run one after the other."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

import kaggle_digits as kd

FUNCTIONS = ("download", "train", "ensemble", "submit", "score", "report", "compare", "predict")


@pytest.mark.usefixtures("train_in_process")
def test_docstring_examples_give_the_documented_output(tmp_path: Path) -> None:
    names = {"folder": tmp_path}
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for function in FUNCTIONS:
        (examples,) = finder.find(getattr(kd, function), function, globs=names)
        assert examples.examples, f"{function} has no example"
        runner.run(examples, clear_globs=False)
        names = examples.globs  # the next examples use the variables of this one
    assert runner.summarize(verbose=False).failed == 0
