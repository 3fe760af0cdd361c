"""The public functions as Python programs call them: their errors speak of calls instead of commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from kaggle_digits.errors import KaggleDigitsError

Function = TypeVar("Function", bound=Callable[..., Any])

_COMMANDS = "compare|doctor|download|ensemble|export|predict|presets|report|runs|score|submit|train"
_OTHER_NAMES = {"doctor": "examine", "runs": "summarise_runs"}
"""The commands whose public function has another name."""
_ARGUMENTS = {
    "--again": "again=True",
    "--cancel": "kd.cancel_kernels",
    "--dry-run": "dry_run=True",
    "--force": "force=True",
    "--from": "source",
    "--no-wait": "wait=False",
    "--retrain": "retrain=True",
    "--set": "settings",
    "--tensorboard": "tensorboard=True",
}
"""What an option is in Python, if it is not the parameter with the option's name."""

# A command line in a sentence ends before a full stop or semicolon that ends the sentence or a part of it.
_WORD = r"(?:'[^']*'|[^\s;]+?)"
_COMMAND_LINE = re.compile(
    rf"kaggle-digits((?: --(?:competition|root) {_WORD})* (?:{_COMMANDS})(?: {_WORD})*)(?=[.;]?(?: |$))"
)
_COMMAND = re.compile(rf"the command: ((?:{_COMMANDS})(?: --[a-z-]+)*)")
_OPTION = re.compile(r"--on (\S+?)(?=[.,;]?(?: |$))|--[a-z][a-z-]*")


def with_calls(function: Function) -> Function:
    """Return a function whose errors name calls and arguments, where those of `function` name commands."""

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except KaggleDigitsError as error:
            error.problem, error.remedy = as_calls(error.problem), as_calls(error.remedy)
            error.args = (f"{error.problem} {error.remedy}",)
            raise

    return call  # type: ignore[return-value]


def as_calls(sentence: str) -> str:
    """Return a sentence in which commands and options are replaced by calls and arguments.

    Examples
    --------
    >>> as_calls("Download it again with the command: download --force.")
    'Download it again with kd.download(workspace, force=True).'
    """
    sentence = _COMMAND_LINE.sub(lambda found: _call(shlex.split(found[1])), sentence)
    sentence = _COMMAND.sub(lambda found: _call(found[1].split()), sentence)
    sentence = _OPTION.sub(lambda found: f"on={found[1]!r}" if found[1] else _argument(found[0]), sentence)
    sentence = re.sub(
        r"([Rr])un the same command", lambda found: f"{'M' if found[1] == 'R' else 'm'}ake the same call", sentence
    )
    return re.sub(r"\b([Ss]ame|train) command\b", r"\1 call", sentence)


def _call(words: list[str]) -> str:
    """Return the call that does the same as the words of a command."""
    options: dict[str, list[str]] = {}
    positional: list[str] = []
    name = ""
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            has_value = _argument(word) == word[2:].replace("-", "_") or word in ("--set", "--from")
            options.setdefault(word, []).extend([words.pop(0)] if has_value else [])
        elif not name:
            name = word
        else:
            positional.append(word)
    options.pop("--competition", None)
    options.pop("--root", None)
    arguments = ["workspace", *map(repr, positional)]
    for option, values in options.items():
        if option == "--set":
            arguments.append(f"settings={dict(value.split('=', 1) for value in values)}")
        elif name == "ensemble" and option == "--run":
            arguments.append(f"runs={values}")
        elif values:
            is_number = option in ("--folds", "--seed", "--seeds", "--workers")
            arguments.append(f"{_argument(option)}={values[-1] if is_number else repr(values[-1])}")
        else:
            arguments.append(_argument(option))
    return f"kd.{_OTHER_NAMES.get(name, name)}({', '.join(arguments)})"


def _argument(option: str) -> str:
    return _ARGUMENTS.get(option, option[2:].replace("-", "_"))
