"""The arguments of the public functions: a path instead of a workspace, and errors for wrong types."""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from pydantic import ValidationError, validate_call

from kaggle_digits.errors import UsageError
from kaggle_digits.workspace import Workspace


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of a workspace that also takes a path, and raises a `UsageError` for wrong arguments."""
    validated = validate_call(config={"strict": True, "arbitrary_types_allowed": True})(function)

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        if args:
            args = (_workspace(args[0]), *args[1:])
        elif "workspace" in options:
            options["workspace"] = _workspace(options["workspace"])
        try:
            return validated(*args, **options)
        except ValidationError as error:
            if error.title != function.__name__:  # not of the arguments
                raise
            raise _usage_error(function, error.errors()[0]) from None

    return call


def _workspace(argument: Any) -> Any:
    return Workspace.at(argument) if isinstance(argument, str | Path) else argument


def _usage_error(function: Callable[..., Any], error: Any) -> UsageError:
    """Return the error for the first problem that Pydantic has found."""
    from kaggle_digits.training.presets import Settings

    name, names = error["loc"][0], list(inspect.signature(function).parameters)
    if error["type"] == "unexpected_keyword_argument":
        remedy = f"See help(kd.{function.__name__})."
        if "settings" in names and name in Settings.model_fields:
            remedy = f"Use settings={{{name!r}: {error['input']!r}}}."
        return UsageError(f"{function.__name__} has no argument {name}.", remedy)
    if error["type"].startswith("missing"):
        return UsageError(f"{function.__name__} needs the argument {name}.", f"See help(kd.{function.__name__}).")
    if isinstance(name, int):  # the place of an argument without a name
        name = names[min(name, len(names) - 1)]
    problem = f"{function.__name__} does not accept {error['input']!r:.60} as {name}"
    return UsageError(f"{problem}: {error['msg']}.", f"See help(kd.{function.__name__}).")
