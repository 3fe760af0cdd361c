"""Errors of the public functions speak of calls and arguments, not of commands and options."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import kaggle_digits as kd
from kaggle_digits import Workspace
from kaggle_digits.calls import as_calls
from kaggle_digits.cli import cli

PACKAGE = Path(kd.__file__).parent


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Get it with the command: download.", "Get it with kd.download(workspace)."),
        ("List all runs with the command: runs.", "List all runs with kd.summarise_runs(workspace)."),
        (
            "Finish it with: kaggle-digits --competition rehearsal --root 'my digits' train --preset fast "
            "--folds 4 --set learning_rate=0.1 --set 'widths=4 8' --run it.",
            "Finish it with: kd.train(workspace, preset='fast', folds=4, "
            "settings={'learning_rate': '0.1', 'widths': '4 8'}, run='it').",
        ),
        (
            "Average it again with: kaggle-digits ensemble --run a --run b --name both.",
            "Average it again with: kd.ensemble(workspace, runs=['a', 'b'], name='both').",
        ),
        (
            "Check for it with: kaggle-digits score; the file is sent again only with --again.",
            "Check for it with: kd.score(workspace); the file is sent again only with again=True.",
        ),
        ("It cannot run kaggle-digits (no module), now.", "It cannot run kaggle-digits (no module), now."),
        ("Choose one of --run and --file.", "Choose one of run and file."),
        ("Train without GPUs: --on kaggle-cpu.", "Train without GPUs: on='kaggle-cpu'."),
        (
            "Run the same command again, or delete it with --cancel.",
            "Make the same call again, or delete it with kd.cancel_kernels.",
        ),
        ("Use the run's train command and --retrain.", "Use the run's train call and retrain=True."),
        ("Install it: pip install 'kaggle-digits[onnx]'.", "Install it: pip install 'kaggle-digits[onnx]'."),
    ],
)
def test_as_calls_replaces_commands_and_options(sentence: str, expected: str) -> None:
    assert as_calls(sentence) == expected
    assert as_calls(expected) == expected


def sentences() -> list[str]:
    """Return all texts of the package with a command or an option, except those of the command line itself."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        if path.name in ("cli.py", "calls.py", "console.py", "kernel.py"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
            elif (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and not {id(node)} & (docstrings | inside)
            ):
                text = node.value
            else:
                continue
            if " " in text and re.search(r"--[a-z]|\bcommand\b", text):
                found.append(text)
    return found


def test_as_calls_leaves_no_command_in_any_error_of_the_package() -> None:
    texts = sentences()
    assert len(texts) > 30
    # Commands of the shell, and words of the help, which are the same in Python.
    kept = re.compile(r"dask (scheduler|worker)|nvidia-smi|pip install|\bcommand line\b")
    left = [
        text for text in map(as_calls, texts) if re.search(r"--[a-z]|\bcommand\b", text) and not kept.search(text)
    ]
    assert left == []


def test_every_command_has_a_public_function() -> None:
    for name in cli.commands:
        call = as_calls(f"Use the command: {name}.")
        function = re.fullmatch(r"Use kd\.(\w+)\(workspace\)\.", call)
        assert function, call
        assert function[1] in dir(kd)
        assert callable(getattr(kd, function[1]))


def test_public_functions_raise_errors_that_name_calls(tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path, "rehearsal")
    with pytest.raises(kd.KaggleDigitsError, match=r"Train one with kd\.train\(workspace\)\.") as raised:
        kd.predict(workspace, ["digit.png"])
    assert raised.value.remedy == "Train one with kd.train(workspace)."
    with pytest.raises(kd.KaggleDigitsError, match=r"kd\.download\(workspace\)"):
        kd.train(workspace)


def test_public_functions_keep_their_names_and_documentation() -> None:
    from kaggle_digits.prediction.predict import predict

    assert (kd.predict.__name__, kd.predict.__doc__) == (predict.__name__, predict.__doc__)


def test_error_is_shown_without_a_traceback_in_a_notebook() -> None:
    error = kd.KaggleDigitsError("It is wrong.", "Fix it.")
    assert error._render_traceback_() == ["KaggleDigitsError: It is wrong.", "Fix it."]
