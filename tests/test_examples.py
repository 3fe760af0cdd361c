"""The examples in the docstrings of the verbs, run one after the other as a person would."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

import kaggle_digits as kd

VERBS = ("download", "train", "ensemble", "submit", "score", "report", "compare", "predict")


@pytest.mark.usefixtures("train_in_process")
def test_examples_of_the_verbs_give_what_they_say(tmp_path: Path) -> None:
    names = {"folder": tmp_path}
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for verb in VERBS:
        (examples,) = finder.find(getattr(kd, verb), verb, globs=names)
        assert examples.examples, f"{verb} has no example"
        runner.run(examples, clear_globs=False)
        names = examples.globs  # what one example defines, the next ones use
    assert runner.summarize(verbose=False).failed == 0
