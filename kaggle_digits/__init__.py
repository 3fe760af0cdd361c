"""Kaggle Digit Recognizer from the download to the score: the public API."""

from importlib import import_module
from inspect import isfunction, signature
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kaggle_digits.data.download import download as download
    from kaggle_digits.errors import CredentialsError as CredentialsError
    from kaggle_digits.errors import DataError as DataError
    from kaggle_digits.errors import KaggleDigitsError as KaggleDigitsError
    from kaggle_digits.errors import NetworkError as NetworkError
    from kaggle_digits.errors import RefusedError as RefusedError
    from kaggle_digits.errors import ScoringError as ScoringError
    from kaggle_digits.errors import UsageError as UsageError
    from kaggle_digits.errors import WriteError as WriteError
    from kaggle_digits.evaluation.calibration import temper as temper
    from kaggle_digits.notebook import examine as examine
    from kaggle_digits.notebook import presets as presets
    from kaggle_digits.notebook import summarise_runs as summarise_runs
    from kaggle_digits.pipeline import cancel_kernels as cancel_kernels
    from kaggle_digits.pipeline import ensemble as ensemble
    from kaggle_digits.pipeline import preview_kernel as preview_kernel
    from kaggle_digits.pipeline import score as score
    from kaggle_digits.pipeline import submit as submit
    from kaggle_digits.pipeline import train as train
    from kaggle_digits.prediction.draw import draw as draw
    from kaggle_digits.prediction.export import export as export
    from kaggle_digits.prediction.predict import UnreadablePicturesError as UnreadablePicturesError
    from kaggle_digits.prediction.predict import predict as predict
    from kaggle_digits.reports import compare as compare
    from kaggle_digits.reports import overview as overview
    from kaggle_digits.reports import report as report
    from kaggle_digits.runs.directory import find_run as find_run
    from kaggle_digits.runs.directory import list_runs as list_runs
    from kaggle_digits.training.observer import Observer as Observer
    from kaggle_digits.training.recipe import Recipe as Recipe
    from kaggle_digits.workspace import Workspace as Workspace

__version__ = "0.1.0"

_NAMES = {
    "data.download": ["download"],
    "errors": [
        *("CredentialsError", "DataError", "KaggleDigitsError", "NetworkError", "RefusedError", "ScoringError"),
        *("UsageError", "WriteError"),
    ],
    "evaluation.calibration": ["temper"],
    "notebook": ["examine", "presets", "summarise_runs"],
    "pipeline": ["cancel_kernels", "ensemble", "preview_kernel", "score", "submit", "train"],
    "prediction.draw": ["draw"],
    "prediction.export": ["export"],
    "prediction.predict": ["UnreadablePicturesError", "predict"],
    "reports": ["compare", "overview", "report"],
    "runs.directory": ["find_run", "list_runs"],
    "training.observer": ["Observer"],
    "training.recipe": ["Recipe"],
    "workspace": ["Workspace"],
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = list(_MODULES)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    # Import on first use, so that `kaggle-digits --help` starts fast, without importing numpy and pandas.
    if name in _MODULES:
        value = getattr(import_module(f"kaggle_digits.{_MODULES[name]}"), name)
        if isfunction(value) and "workspace" in signature(value).parameters:
            from kaggle_digits.arguments import checked

            value = checked(value)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
