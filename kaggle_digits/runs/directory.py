"""The run directory: the only module that knows its file names."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kaggle_digits.arrays import Float32, UInt8
from kaggle_digits.errors import DataError, UsageError
from kaggle_digits.files import (
    read_json,
    read_npz,
    regular_file,
    replacing,
    sha256,
    write_bytes,
    write_errors,
    write_json,
)
from kaggle_digits.training.fold import FoldResult
from kaggle_digits.training.preprocessing import PREPROCESSINGS
from kaggle_digits.training.presets import PRESETS
from kaggle_digits.workspace import CLASSES, Workspace

if TYPE_CHECKING:
    import keras

UNFINISHED, FINISHED = "unfinished", "finished"
_FOLD_FILES = ("model.keras", "history.csv", "val_softmax.npy", "test_softmax.npy")
_EPOCH = (
    "epoch",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "seconds",
    "images_per_second",
)
_PACKAGES = ("kaggle-digits", "tensorflow", "keras", "numpy", "scikit-learn", "pandas")


@dataclass(frozen=True)
class Run:
    """A run: one recipe, one split, one seed; or the ensemble of several runs.

    Attributes
    ----------
    path : pathlib.Path
        Its directory. The name of the run is the directory's.
    """

    path: Path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def report_folder(self) -> Path:
        """Where the run's report goes."""
        return self.path / "report"

    @property
    def lock_file(self) -> Path:
        """What whoever changes the run holds."""
        return self.path / ".lock"

    @property
    def log_file(self) -> Path:
        """What the workers' libraries print."""
        return self.path / "workers.log"

    def info(self) -> dict[str, Any]:
        """Return ``run.json``.

        Raises
        ------
        DataError
            If it is missing or damaged.
        """
        path = self.path / "run.json"
        info = _with_current_settings(read_json(path))
        return _sound(path, info, _MeanInfo if "members" in info else _TrainedInfo)

    def create(self, spec: dict[str, Any], command: Sequence[str]) -> None:
        """Begin the run: write ``run.json``, with `spec`, versions and command, unfinished."""
        document = {
            "version": 1,
            "name": self.name,
            **spec,
            "status": UNFINISHED,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "updated": self._next_update(),
            "command": list(command),
            "versions": versions(),
            "machine": {
                "system": platform.platform(),
                "processor": platform.processor() or platform.machine(),
                "cores": os.cpu_count(),
            },
        }
        write_json(self.path / "run.json", document)

    def set_status(self, status: str, **facts: float) -> None:
        """Record how far the run is, and what else is known of it by now; this also makes it the latest."""
        info = self.info() | {"status": status, "updated": self._next_update()} | facts
        if status == UNFINISHED:
            info.pop("train_seconds", None)
        write_json(self.path / "run.json", info)

    def _next_update(self) -> str:
        """Return the time, or the moment after the last update of any run here, should the clock have gone back.

        So the order of the runs is that of the work on them, in spite of a clock that was once ahead.
        """
        now = datetime.now(UTC)
        for path in self.path.parent.glob("*/run.json"):
            with suppress(ValueError, TypeError):
                now = max(now, datetime.fromisoformat(_updated(path)) + timedelta(microseconds=1))
        return now.isoformat(timespec="microseconds")

    def command(self) -> str:
        """Return the command line that made the run, as it has to be now: its folders may have been moved."""
        info = self.info()
        words: list[str] = info["command"]
        verbs = [i for i, word in enumerate(words) if word in ("train", "ensemble")]
        return Workspace.at(self.path.parents[2], info["competition"]).command(*words[verbs[0] if verbs else 1 :])

    def sweep(self) -> None:
        """Remove what was being written when a process was killed."""
        for left_over in self.path.rglob(".*.tmp"):
            left_over.unlink(missing_ok=True)

    def folds(self, rows: int | None = None) -> UInt8:
        """Return the split, uint8 [n]: the fold that each row of ``train.csv`` validates.

        Raises
        ------
        DataError
            If it is missing or damaged, or has not `rows` rows, where that is given.
        """
        path = self.path / "folds.csv"
        count = self.info()["folds"]
        numbers, split = _numbers(path, ("row", "fold")).T
        if not np.array_equal(numbers, np.arange(len(numbers))):
            raise _damaged(path, "its rows are not numbered from 0")
        if set(split) != set(range(count)):
            raise _damaged(path, "its folds are not those of run.json")
        if rows not in (None, len(split)):
            raise _damaged(path, f"it has {len(split):,} rows, train.csv {rows:,}")
        folds: UInt8 = split.astype(np.uint8)
        return folds

    def has_folds(self) -> bool:
        """Tell whether the split is written."""
        return (self.path / "folds.csv").exists()

    def write_folds(self, folds: UInt8) -> None:
        """Write the split, once."""
        import pandas as pd

        table = pd.DataFrame({"row": np.arange(len(folds)), "fold": folds})
        with replacing(self.path / "folds.csv") as temporary:
            table.to_csv(temporary, index=False)

    def fold_folder(self, fold: int) -> Path:
        """Return the directory of a fold."""
        return self.path / f"fold-{fold}"

    def is_trained(self, fold: int) -> bool:
        """Tell whether a fold is finished. Its metrics are written last."""
        return (self.fold_folder(fold) / "metrics.json").exists()

    def is_begun(self, fold: int) -> bool:
        """Tell whether a fold has a state to go on from."""
        return FoldCheckpoint(self.fold_folder(fold)).exists()

    def check_fold(self, fold: int, test_rows: int | None = None) -> None:
        """Raise a `DataError` that names the first artefact of a finished fold that is missing or damaged."""
        self.model_file(fold)
        self.history(fold)
        self.val_softmax(fold)
        self.fold_test_softmax(fold, test_rows)

    def is_sound(self, fold: int, test_rows: int | None = None) -> bool:
        """Tell whether all artefacts of a finished fold are there and undamaged."""
        try:
            self.check_fold(fold, test_rows)
        except DataError:
            return False
        return True

    def fold_metrics(self, fold: int) -> dict[str, Any]:
        """Return a finished fold's ``metrics.json``; `DataError` if it is missing or damaged."""
        path = self.fold_folder(fold) / "metrics.json"
        return _sound(path, _renamed(read_json(path)), _FoldMetrics)

    def history(self, fold: int) -> list[dict[str, float]]:
        """Return a finished fold's epochs, as many as its metrics say; `DataError` if they are damaged."""
        path = self._checked(self.fold_folder(fold), "history.csv")
        epochs = self.fold_metrics(fold)["epochs"]
        numbers = _numbers(path, _EPOCH)
        if not np.isfinite(numbers).all():
            raise _damaged(path, "a number in it is not finite")
        if not epochs or not np.array_equal(numbers[:, 0], np.arange(1, epochs + 1)):
            raise _damaged(path, f"its epochs are not 1 to {epochs}")
        return [dict(zip(_EPOCH, row, strict=True)) for row in numbers.tolist()]

    def model_file(self, fold: int) -> Path:
        """Return the path of a finished fold's network."""
        return self._checked(self.fold_folder(fold), "model.keras")

    def val_softmax(self, fold: int) -> Float32:
        """Return a finished fold's softmaxes of its own rows, float32 [n_k, 10]: those that the split gives it."""
        return self._softmax(self.fold_folder(fold), "val_softmax.npy", int((self.folds() == fold).sum()))

    def fold_test_softmax(self, fold: int, rows: int | None = None) -> Float32:
        """Return a finished fold's softmaxes of the test rows, float32 [m, 10]; `rows` is m if known."""
        return self._softmax(self.fold_folder(fold), "test_softmax.npy", rows)

    def has_ensemble(self) -> bool:
        """Tell whether the ensemble is written. Its metrics are written last."""
        return (self.path / "ensemble" / "metrics.json").exists()

    def require_ensemble(self) -> None:
        """Raise a `DataError` that says how to finish the run if it is not ensembled."""
        if not self.has_ensemble():
            raise self.unfinished()

    def unfinished(self) -> DataError:
        """Return the error that says how to finish the run."""
        return DataError(f"The run {self.name} is not finished.", f"Finish it with: {self.command()}.")

    def has_sound_ensemble(self, train_rows: int | None = None, test_rows: int | None = None) -> bool:
        """Tell whether the ensemble is written and undamaged, and of so many rows."""
        try:
            self.ensemble_metrics()
            self.oof_softmax(train_rows)
            self.test_softmax(test_rows)
        except DataError:
            return False
        return True

    def write_ensemble(self, oof: Float32, test: Float32, metrics: dict[str, Any]) -> None:
        """Write the ensemble: out-of-fold softmaxes [n, 10], the test rows' [m, 10], and metrics."""
        folder = self.path / "ensemble"
        _write_whole(folder, {"oof_softmax.npy": _npy_bytes(oof), "test_softmax.npy": _npy_bytes(test)}, metrics)

    def ensemble_metrics(self) -> dict[str, Any]:
        """Return the ensemble's ``metrics.json``; `DataError` if it is missing or damaged."""
        path = self.path / "ensemble" / "metrics.json"
        return _sound(path, read_json(path), _EnsembleMetrics)

    def oof_softmax(self, rows: int | None = None) -> Float32:
        """Return the out-of-fold softmaxes of all training rows, float32 [n, 10]; `rows` is n if known."""
        return self._softmax(self.path / "ensemble", "oof_softmax.npy", rows)

    def test_softmax(self, rows: int | None = None) -> Float32:
        """Return the ensemble's softmaxes of the test rows, float32 [m, 10]; `rows` is m if known."""
        return self._softmax(self.path / "ensemble", "test_softmax.npy", rows)

    def _softmax(self, folder: Path, name: str, rows: int | None) -> Float32:
        path = self._checked(folder, name)
        try:
            # Mapped, so that a header that lies about the shape is found out before memory is asked for.
            mapped = np.lib.format.open_memmap(path, mode="r")
            if mapped.dtype != np.float32 or mapped.ndim != 2 or mapped.shape[1] != CLASSES:
                raise ValueError(f"it holds {mapped.dtype} {list(mapped.shape)}, not float32 [rows, {CLASSES}]")
            if rows not in (None, len(mapped)):
                raise ValueError(f"it has {len(mapped):,} rows, not {rows:,}")
            softmax: Float32 = np.array(mapped, np.float32, order="C")
        except Exception as error:  # NumPy raises all sorts of things at headers that were tampered with
            raise _damaged(path, error) from error
        if not ((softmax >= 0) & (softmax <= 1)).all():  # NaN is neither
            raise _damaged(path, "not all of its values are from 0 to 1")
        return softmax

    def _checked(self, folder: Path, name: str) -> Path:
        """Return the path of an artefact, once its SHA-256 is the one that the metrics beside it name."""
        path, metrics = folder / name, folder / "metrics.json"
        try:
            digest = sha256(regular_file(path, _RETRAIN))
        except (FileNotFoundError, NotADirectoryError):
            raise _missing(path) from None
        except OSError as error:
            raise _damaged(path, error.strerror) from error
        if _sound(metrics, read_json(metrics), _Artefacts)["files"].get(name) != digest:
            raise _damaged(path, "its SHA-256 is not the one in metrics.json")
        return path


@dataclass(frozen=True)
class FoldCheckpoint:
    """The state of a fold while it trains, in ``fold-<k>/checkpoint/``.

    Attributes
    ----------
    folder : pathlib.Path
        The fold's directory.
    """

    folder: Path

    @property
    def _path(self) -> Path:
        return self.folder / "checkpoint" / "state.npz"

    def exists(self) -> bool:
        """Tell whether the fold was begun before and not finished."""
        return self._path.exists()

    def load(self) -> dict[str, Any] | None:
        """Return ``variables``, ``likelihood`` and ``history``; None if there is nothing whole to go on from."""
        arrays = read_npz(self._path) or {}
        try:
            return {
                "variables": [arrays[f"variable-{i}"] for i in range(len(arrays) - 2)],
                "likelihood": arrays["likelihood"],
                "history": json.loads(str(arrays["history"])),
            }
        except (KeyError, ValueError):
            return None

    def save(
        self, variables: list[npt.NDArray[Any]], likelihood: Float32, history: list[dict[str, float]]
    ) -> None:
        """Write the state of an epoch, in one file: whole or not at all."""
        arrays = {f"variable-{i}": value for i, value in enumerate(variables)}
        with replacing(self._path) as temporary, open(temporary, "wb") as stream:
            np.savez(
                stream, allow_pickle=False, likelihood=likelihood, history=np.array(json.dumps(history)), **arrays
            )

    def discard(self) -> None:
        """Forget the state."""
        shutil.rmtree(self._path.parent, ignore_errors=True)


def tensorboard_callback(folder: Path) -> keras.callbacks.Callback:
    """Return Keras's own callback that writes a fold's events for TensorBoard, below its directory."""
    import keras

    events = folder / "tensorboard"
    if not FoldCheckpoint(folder).exists():
        shutil.rmtree(events, ignore_errors=True)  # a former training's
    return keras.callbacks.TensorBoard(events, write_graph=False)


def write_fold(folder: Path, result: FoldResult) -> None:
    """Write a trained fold into its directory. The metrics, with the versions it was trained with, go last.

    With them the fold is finished.
    """
    import pandas as pd

    contents = (
        result.model,
        pd.DataFrame(result.history).to_csv(index=False).encode(),
        _npy_bytes(result.val_softmax),
        _npy_bytes(result.test_softmax),
    )
    metrics = result.metrics | {"versions": versions()}
    _write_whole(folder, dict(zip(_FOLD_FILES, contents, strict=True)), metrics)
    FoldCheckpoint(folder).discard()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a run depends on, and a digest of our own source.

    The digest tells apart what has the same version number, such as two states of a checkout.
    """
    source = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        source.update(path.read_bytes())
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in _PACKAGES},
        "source of kaggle-digits": source.hexdigest()[:12],
    }


def different_versions(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """Say which of their versions are not ours; nothing of what one side has no word on."""
    differences = [name for name, version in theirs.items() if ours.get(name, version) != version]
    return ", ".join(f"{name} {theirs[name]} (now {ours[name]})" for name in differences)


def find_run(workspace: Workspace, name: str | None = None) -> Run:
    """Return a run of the workspace's competition by name, or else the latest finished one.

    That is the finished run which was last worked on by what ``run.json`` says; where none is finished, the last
    of all.

    Raises
    ------
    UsageError
        If there is no such run, or none at all.
    """
    if name is not None:
        run = named_run(workspace, name)
        if not (run.path / "run.json").exists():
            raise UsageError(
                f"There is no run called {name!r} of {workspace.competition.name}.",
                "List the runs there are with the command: runs.",
            )
        return run
    runs = list_runs(workspace)
    if not runs:
        raise _no_run(workspace)
    return next(filter(_is_finished, runs), runs[0])


def find_best_run(workspace: Workspace) -> Run:
    """Return the finished run with the best out-of-fold accuracy; of equal ones the latest.

    Raises
    ------
    UsageError
        If there is no run at all.
    DataError
        If none is finished.
    """
    runs = list_runs(workspace)
    if not runs:
        raise _no_run(workspace)
    accuracies: dict[Run, float] = {}
    for run in filter(_is_finished, runs):
        with suppress(DataError):  # what is damaged is named when it is asked for by name
            accuracies[run] = run.ensemble_metrics()["accuracy"]
    if not accuracies:
        raise runs[0].unfinished()
    return max(accuracies, key=lambda run: accuracies[run])  # the first of equal ones, which is the latest


def _is_finished(run: Run) -> bool:
    try:
        return run.has_ensemble() and run.info()["status"] == FINISHED
    except DataError:
        return False


def _no_run(workspace: Workspace) -> UsageError:
    return UsageError(f"There is no run of {workspace.competition.name} yet.", "Make one with the command: train.")


def trained_networks(workspace: Workspace, run: Run) -> list[tuple[Run, int]]:
    """Return the trained folds behind a run: its own, or those of its members where it is a mean of runs."""
    info = run.info()
    if "members" in info:
        return [
            pair for name in info["members"] for pair in trained_networks(workspace, find_run(workspace, name))
        ]
    return [(run, fold) for fold in range(info["folds"]) if run.is_trained(fold)]


def named_run(workspace: Workspace, name: str) -> Run:
    """Return the run called `name`, whether it exists or not.

    Raises
    ------
    UsageError
        If `name` cannot be the name of a folder.
    """
    if not name.isprintable() or name.startswith(".") or "/" in name or not 1 <= len(name.encode()) <= 200:
        raise UsageError(
            f"{name[:50]!r} cannot be the name of a run.",
            "Choose another, of at most 200 letters, without / and a leading dot, with --run or --name.",
        )
    return Run(workspace.runs / name)


def list_runs(workspace: Workspace) -> list[Run]:
    """Return the competition's runs, the one last worked on first."""
    files = sorted(
        workspace.runs.glob("*/run.json"), key=lambda path: (_updated(path), path.parent.name), reverse=True
    )
    return [Run(path.parent) for path in files]


def _updated(path: Path) -> str:
    """Return when a run was last worked on, by its ``run.json``: a file's own time changes with every copy."""
    try:
        info = read_json(path)
    except DataError:
        return ""
    # Older versions noted only when it was begun.
    return str(info.get("updated") or info.get("created") or "")


def _write_whole(folder: Path, contents: dict[str, bytes], metrics: dict[str, Any]) -> None:
    # Old files may lie here: they count until the first new one is written, the new ones from the last one on.
    with write_errors(folder):
        (folder / "metrics.json").unlink(missing_ok=True)
    for name, content in contents.items():
        write_bytes(folder / name, content)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    write_json(folder / "metrics.json", metrics | {"files": hashes})


class _Shape(BaseModel):
    """What a JSON file holds at least, for the rest of the program to work with it."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


# Larger counts are none of ours, and would keep exact tests busy for ever.
_Count = Annotated[int, Field(ge=0, le=1_000_000)]
_Amount = Annotated[float, Field(ge=0)]


class _Data(_Shape):
    train: str = Field(alias="train.csv")
    test: str = Field(alias="test.csv")


class _Machine(_Shape):
    system: str
    cores: int | None


class _Info(_Shape):
    name: str
    competition: str
    status: Literal["unfinished", "finished"]
    created: str
    updated: str = ""
    command: list[str]
    data: _Data
    machine: _Machine
    versions: dict[str, str]
    train_seconds: _Amount = 0.0


class _Settings(_Shape):
    tta: Literal[1, 5]
    hard_rows: float


class _TrainedInfo(_Info):
    preset: str
    folds: int = Field(ge=2, le=255)
    seed: int
    settings: _Settings


class _MeanInfo(_Info):
    members: list[str] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _no_recipe(cls, document: dict[str, Any]) -> dict[str, Any]:
        if {"preset", "folds", "seed", "settings"} & document.keys():
            raise ValueError("an ensemble of runs has no recipe of its own")
        return document


class _Artefacts(_Shape):
    files: dict[str, str]


class _Metrics(_Artefacts):
    rows: _Count
    errors: _Count
    accuracy: float = Field(ge=0, le=1)
    log_loss: float

    @model_validator(mode="after")
    def _no_more_errors_than_rows(self) -> _Metrics:
        if self.errors > self.rows:
            raise ValueError("it has more errors than rows")
        return self


class _FoldMetrics(_Metrics):
    preprocessing: str = Field(pattern=f"^({'|'.join(PREPROCESSINGS)})$")
    epochs: _Count
    seconds: _Amount
    training_seconds: _Amount
    test_seconds: _Amount
    network: str | None = None
    versions: dict[str, str] = {}
    data_seconds: _Amount | None = None
    peak_memory: _Amount | None = None


class _Calibration(_Shape):
    temperature: float = Field(gt=0)
    log_loss_after: float


class _EnsembleMetrics(_Metrics):
    calibration: _Calibration
    runs: dict[str, dict[str, str]] = {}


_OLD_NAMES = {"forms": "preprocessing", "form": "preprocessing", "views": "tta"}
"""Names of settings and metrics in files of older versions, and what they are called now."""


def _renamed(document: dict[str, Any]) -> dict[str, Any]:
    return {_OLD_NAMES.get(key, key): value for key, value in document.items()}


def _with_current_settings(info: dict[str, Any]) -> dict[str, Any]:
    """Return what a ``run.json`` of an older version says in the settings of this one.

    Older versions had other names for two settings, and took network and widths from the preset.
    """
    settings, preset, command = info.get("settings"), info.get("preset"), info.get("command")
    if isinstance(settings, dict):
        settings = _renamed(settings)
        if isinstance(preset, str) and preset in PRESETS:
            settings = PRESETS[preset].settings.model_dump(include={"network", "widths"}) | settings
        info = info | {"settings": settings}
    if isinstance(command, list) and all(isinstance(word, str) for word in command):
        pairs = zip(["", *command], command, strict=False)
        info = info | {"command": [_renamed_change(word) if last == "--set" else word for last, word in pairs]}
    return info


def _renamed_change(word: str) -> str:
    key, equals, value = word.partition("=")
    return f"{_OLD_NAMES.get(key, key)}{equals}{value}"


def _sound(path: Path, document: dict[str, Any], shape: type[_Shape]) -> dict[str, Any]:
    """Return what was read from a JSON file as it is, once it has what it should."""
    try:
        shape.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in first["loc"])
        why = f"{where}{first['msg'].removeprefix('Value error, ')}"
        raise _damaged(path, why, "Remove it and run the command that makes it again.") from error
    return document


def _numbers(path: Path, columns: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return columns of a CSV file, float64 [rows, columns]; raise a `DataError` where they are not numbers."""
    try:
        with open(regular_file(path, _RETRAIN), encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = next(reader, [])
            if absent := [name for name in columns if name not in header]:
                raise ValueError(f"it has no column {absent[0]!r}")
            places = [header.index(name) for name in columns]
            cells = [[row[place] for place in places] for row in reader if row]
        return np.array(cells, np.float64).reshape(-1, len(columns))
    except FileNotFoundError:
        raise _missing(path) from None
    except IndexError as error:
        raise _damaged(path, "a row in it is too short") from error
    except (ValueError, OSError, csv.Error) as error:
        raise _damaged(path, error) from error


def _npy_bytes(array: npt.NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


_RETRAIN = "Make it again with the run's train command and --retrain."


def _missing(path: Path) -> DataError:
    return DataError(f"{path} is missing.", _RETRAIN)


def _damaged(path: Path, why: object, remedy: str = _RETRAIN) -> DataError:
    # Words of libraries may have several lines, or none.
    words = " ".join(str(why).split()).rstrip(".") or type(why).__name__
    return DataError(f"{path} is damaged: {words}.", remedy)
