"""Errors name commands and options on the command line, and calls and arguments in Python."""

from __future__ import annotations

import ast
import pickle
import re
from pathlib import Path

import pytest

import kaggle_digits as kd
from kaggle_digits import Workspace
from kaggle_digits.calls import command, command_line, shown
from kaggle_digits.cli import cli

PACKAGE = Path(kd.__file__).parent


@pytest.mark.parametrize(
    ("line", "on_command_line", "in_python"),
    [
        ("download", "the command: download", "kd.download(workspace)"),
        ("download --force", "the command: download --force", "kd.download(workspace, force=True)"),
        ("runs", "the command: runs", "kd.summarise_runs(workspace)"),
        (
            "kaggle-digits --competition rehearsal --root 'my digits' train --preset fast --folds 4 "
            "--set learning_rate=0.1 --set 'widths=4 8' --run it",
            "kaggle-digits --competition rehearsal --root 'my digits' train --preset fast --folds 4 "
            "--set learning_rate=0.1 --set 'widths=4 8' --run it",
            "kd.train(workspace, preset='fast', folds=4, settings={'learning_rate': '0.1', 'widths': '4 8'}, "
            "run='it')",
        ),
        (
            """kaggle-digits --root 'Bob'"'"'s; digits' train --run "it's; --mine." """.strip(),
            """kaggle-digits --root 'Bob'"'"'s; digits' train --run "it's; --mine." """.strip(),
            """kd.train(workspace, run="it's; --mine.")""",
        ),
        (
            "kaggle-digits ensemble --run a --run b --name both",
            "kaggle-digits ensemble --run a --run b --name both",
            "kd.ensemble(workspace, runs=['a', 'b'], name='both')",
        ),
        ("--again", "--again", "again=True"),
        ("--yes", "--yes", "yes=True"),
        ("--workers", "--workers", "workers"),
        ("--workers 2", "--workers 2", "workers=2"),
        ("--on kaggle-cpu", "--on kaggle-cpu", "on='kaggle-cpu'"),
        ("--cancel", "--cancel", "kd.cancel_kernels(workspace, …)"),
    ],
)
def test_shown_is_a_command_or_a_call(line: str, on_command_line: str, in_python: str) -> None:
    sentence = f"Use {command(line)}."
    assert shown(sentence) == f"Use {in_python}."
    with command_line():
        assert shown(sentence) == f"Use {on_command_line}."
    assert shown(sentence) == f"Use {in_python}."


def test_shown_changes_only_what_is_marked() -> None:
    for text in (
        "scan--final.png is missing.",
        "Install it again: pip install --force-reinstall tensorflow.",
        "Check the name with: kaggle competitions list --search digit.",
        "It cannot run kaggle-digits train --run, it's a name.",
    ):
        assert shown(text) == text


def test_shown_says_run_it_again() -> None:
    sentence = "Run the same command again. Then run the same command again; finished folds are kept."
    assert shown(sentence) == "Run it again. Then run it again; finished folds are kept."
    with command_line():
        assert shown(sentence) == sentence


def test_package_marks_all_commands_in_its_sentences() -> None:
    """What is not marked belongs to the command line or the report, or is a command of the shell."""
    others = re.compile(
        r"dask (scheduler|worker)|pip install|kaggle competitions|\bcommand line\b|same command|train command"
    )
    found = []
    for path in PACKAGE.rglob("*.py"):
        if path.name in ("cli.py", "calls.py", "console.py", "findings.py"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "command":
                skipped |= {id(part) for part in ast.walk(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
                text = node.value
                if " " in text and re.search(r" --[a-z]|\bcommand\b", text) and not others.search(text):
                    found.append((path.name, text))
    assert found == []


def test_every_command_has_a_public_function() -> None:
    for name in cli.commands:
        function = re.fullmatch(r"kd\.(\w+)\(workspace\)", shown(command(name)))
        assert function, name
        assert function[1] in dir(kd)
        assert callable(getattr(kd, function[1]))


def test_errors_name_calls_in_python(tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path, "rehearsal")
    with pytest.raises(kd.KaggleDigitsError, match=r"Train one with kd\.train\(workspace\)\.") as raised:
        kd.predict(workspace, ["digit.png"])
    assert raised.value.remedy == "Train one with kd.train(workspace)."
    with pytest.raises(kd.KaggleDigitsError, match=r"kd\.download\(workspace\)"):
        kd.train(workspace)


def test_errors_from_another_process_name_commands_or_calls() -> None:
    sent = pickle.dumps(kd.KaggleDigitsError("It is wrong.", f"Use {command('--retrain')}."))
    assert pickle.loads(sent).remedy == "Use retrain=True."  # noqa: S301
    with command_line():
        assert pickle.loads(sent).remedy == "Use --retrain."  # noqa: S301


def test_public_functions_can_be_pickled() -> None:
    for name in dir(kd):
        public = getattr(kd, name)
        assert pickle.loads(pickle.dumps(public)) == public, name  # noqa: S301


def test_error_is_shown_without_a_traceback_in_a_notebook() -> None:
    error = kd.KaggleDigitsError("It is wrong.", "Fix it.")
    assert error._render_traceback_() == ["KaggleDigitsError: It is wrong.", "Fix it."]
