"""The arguments of the public functions."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

import kaggle_digits as kd
from kaggle_digits.arguments import checked


def test_functions_take_a_path_instead_of_a_workspace(tmp_path: Path) -> None:
    for folder in (tmp_path, str(tmp_path)):
        assert kd.list_runs(folder) == kd.list_runs(workspace=folder) == []
        with pytest.raises(
            kd.DataError, match=re.escape(f"{tmp_path}/data/digit-recognizer/train.csv is missing")
        ):
            kd.train(folder)


@pytest.mark.parametrize(
    ("call", "problem", "remedy"),
    [
        (
            lambda w: kd.train(w, folds="5"),
            "train does not accept '5' as folds: Input should be a valid integer.",
            "",
        ),
        (lambda w: kd.train(w, epochs=3), "train has no argument epochs.", "Use settings={'epochs': 3}."),
        (lambda w: kd.train(w, epoch=3), "train has no argument epoch.", ""),
        (
            lambda w: kd.train(w, "fast"),
            "train does not accept 'fast' as preset: Unexpected positional argument.",
            "",
        ),
        (lambda w: kd.train(), "train needs the argument workspace.", ""),
        (
            lambda w: kd.report(3),
            "report does not accept 3 as workspace: Input should be an instance of Workspace",
            "",
        ),
        (lambda w: kd.submit(w, run=3), "submit does not accept 3 as run", ""),
        (lambda w: kd.compare(w, "a", 3), "compare does not accept 3 as runs", ""),
        (lambda w: kd.predict(w, 3), "predict does not accept 3 as pictures", ""),
        (lambda w: kd.download(w, epochs=3), "download has no argument epochs.", ""),
    ],
)
def test_functions_explain_wrong_arguments(
    tmp_path: Path, call: Callable[[kd.Workspace], Any], problem: str, remedy: str
) -> None:
    with pytest.raises(kd.UsageError) as caught:
        call(kd.Workspace.at(tmp_path))
    assert caught.value.problem.startswith(problem)
    name = problem.split()[0]
    assert caught.value.remedy == (remedy or f"See help(kd.{name}).")


def test_checked_raises_the_errors_of_the_function_itself() -> None:
    class Model(BaseModel):
        number: int

    def function(workspace: kd.Workspace) -> None:
        Model.model_validate({"number": "x"})

    with pytest.raises(ValidationError, match="number"):
        checked(function)("folder")


def test_functions_show_their_signature_and_document_errors_that_can_be_imported() -> None:
    assert list(inspect.signature(kd.train).parameters)[:3] == ["workspace", "preset", "folds"]
    assert inspect.signature(kd.submit).parameters["timeout"].default == 600
    documents = [inspect.getdoc(getattr(kd, name)) or "" for name in kd.__all__]
    named = set(re.findall(r"\b[A-Z]\w+Error\b", " ".join(documents)))
    assert len(named) > 6
    assert named <= set(kd.__all__)


def test_functions_take_runs_instead_of_names(trained_workspace: kd.Workspace) -> None:
    run = kd.find_run(trained_workspace)
    assert kd.find_run(trained_workspace, run) == run
    assert kd.submit(trained_workspace, run=run, dry_run=True).entry.run == run.name
    for runs in ((run, run.name), ([run, run.name],)):
        with pytest.raises(kd.UsageError, match="There is nothing to compare"):  # it is the same run
            kd.compare(trained_workspace, *runs)
    assert repr(run) == f"FoldsRun(path={run.path!r})"
