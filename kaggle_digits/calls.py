"""Commands in the sentences of errors: commands and options on the command line, calls and arguments in Python."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager

_BEGIN, _END = "\ue000", "\ue001"  # characters for private use, which names and paths do not contain
_MARKED = re.compile(f"{_BEGIN}(.*?){_END}", re.DOTALL)

_FUNCTIONS = {"doctor": "examine", "runs": "summarise_runs"}
"""The commands whose public function has another name."""
_FLAGS = {
    "--again": "again=True",
    "--cancel": "kd.cancel_kernels(workspace, …)",
    "--dry-run": "dry_run=True",
    "--force": "force=True",
    "--no-wait": "wait=False",
    "--retrain": "retrain=True",
    "--tensorboard": "tensorboard=True",
    "--yes": "yes=True",
}
"""The options without a value, and what they are in Python."""
_PARAMETERS = {"--from": "source", "--root": "kd.Workspace.at", "--set": "settings"}
"""The options with a value whose parameter has another name."""
_NUMBERS = ("--folds", "--seed", "--seeds", "--workers")

_PHRASES = {"un the same command": "un it", "he same command": "he same call", "train command": "train call"}
"""Words about commands, and what they are in Python; without the first letter, which can be a capital."""

_for_command_line = False


@contextmanager
def command_line() -> Iterator[None]:
    """Let `shown` return commands instead of calls: for `kaggle_digits.cli`."""
    global _for_command_line
    before, _for_command_line = _for_command_line, True
    try:
        yield
    finally:
        _for_command_line = before


def command(line: str) -> str:
    """Mark a command, with or without ``kaggle-digits``, or an option, such as ``--workers 2``, in a sentence.

    `shown` replaces it by what the reader of the sentence can use.
    """
    return f"{_BEGIN}{line}{_END}"


def shown(sentence: str) -> str:
    """Return a sentence as it is shown: with commands on the command line, and with calls in Python.

    Examples
    --------
    >>> shown(f"Download it again with {command('download --force')}.")
    'Download it again with kd.download(workspace, force=True).'
    """
    if _for_command_line:
        return _MARKED.sub(lambda found: _as_command(found[1]), sentence)
    for words, in_python in _PHRASES.items():
        sentence = sentence.replace(words, in_python)
    return _MARKED.sub(lambda found: _as_call(shlex.split(found[1])), sentence)


def _as_command(line: str) -> str:
    return line if line.startswith(("kaggle-digits ", "--")) else f"the command: {line}"


def _as_call(words: list[str]) -> str:
    """Return the call, or the argument, that does the same as the words of a command, or of an option."""
    name = ""
    positional: list[str] = []
    options: dict[str, list[str]] = {}
    words = words[::-1]
    while words:
        word = words.pop()
        if word in _FLAGS:
            options[word] = []
        elif word.startswith("--"):
            options.setdefault(word, []).extend([words.pop()] if words else [])
        elif name:
            positional.append(word)
        elif word != "kaggle-digits":
            name = word
    if not name:
        return ", ".join(_argument(option, values) for option, values in options.items())
    for option in ("--competition", "--root"):  # the workspace has them
        options.pop(option, None)
    arguments = [repr(word) for word in positional]
    if name == "ensemble" and "--run" in options:
        arguments.append(f"runs={options.pop('--run')}")
    arguments += [_argument(option, values) for option, values in options.items()]
    return f"kd.{_FUNCTIONS.get(name, name)}({', '.join(['workspace', *arguments])})"


def _argument(option: str, values: list[str]) -> str:
    if option in _FLAGS:
        return _FLAGS[option]
    parameter = _PARAMETERS.get(option, option[2:].replace("-", "_"))
    if not values:
        return parameter
    if option == "--set":
        return f"settings={dict(value.split('=', 1) for value in values)}"
    return f"{parameter}={values[-1] if option in _NUMBERS else repr(values[-1])}"
