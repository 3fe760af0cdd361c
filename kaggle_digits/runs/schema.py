"""Pydantic models of a run's JSON files."""

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kaggle_digits.files import read_errors, read_json
from kaggle_digits.training.preprocessing import PREPROCESSINGS

Status = Literal["unfinished", "finished"]

CREATE_AGAIN = (
    "Create it again: --retrain of the run's train command does it for a fold, ensemble for an ensemble."
)
"""How to fix any file of a run, except ``run.json``."""


class Document(BaseModel):
    """A JSON object with at least these fields; other fields are kept."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True, extra="allow")

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def as_json(self) -> dict[str, Any]:
        """Return the object that was read."""
        return self.model_dump(exclude_unset=True)


DocumentT = TypeVar("DocumentT", bound=Document)


class RunInfo(Document):
    """``run.json``: the fields that both kinds of runs have and that are read later."""

    competition: str
    status: Status
    updated: str  # in ISO 8601 and UTC
    command: list[str]  # that made it
    data: dict[Literal["train.csv", "test.csv"], str] = Field(min_length=2)  # the SHA-256 of both files
    train_seconds: float | None = None  # elapsed time of the training, if it was not interrupted


class RunSettings(Document):
    """The settings of a run; only the fields that are read later are listed."""

    tta: Literal[1, 5]
    hard_rows: float


class FoldsInfo(RunInfo):
    """``run.json`` of a run of folds: one preset, one split, one seed."""

    preset: str
    folds: int = Field(ge=2, le=255)
    seed: int
    settings: RunSettings
    network: str | None = None  # the function of the user that builds it
    network_sha256: str | None = None  # of its source


class MeanInfo(RunInfo):
    """``run.json`` of a mean of other runs, its `members`."""

    members: list[str] = Field(min_length=1)


class Metrics(Document):
    """``metrics.json`` of a fold or an ensemble: metrics of predictions on labelled rows."""

    files: dict[str, str]  # the names and SHA-256 of the files in the same folder
    rows: int
    errors: int
    accuracy: float = Field(ge=0, le=1)
    log_loss: float


class FoldMetrics(Metrics):
    """``metrics.json`` of a finished fold; of the fields, only those that are read later are listed."""

    preprocessing: str = Field(pattern=f"^({'|'.join(PREPROCESSINGS)})$")
    epochs: int
    seconds: float
    versions: dict[str, str]
    network_sha256: str | None = None  # of the source of the user's network


class Calibration(Document):
    """The temperature of an ensemble, and its log loss on out-of-fold rows."""

    temperature: float = Field(gt=0)
    log_loss_after: float


class EnsembleMetrics(Metrics):
    """``metrics.json`` of an ensemble, measured on out-of-fold rows."""

    calibration: Calibration
    folds: list[dict[str, Any]] | None = None  # one row per fold
    runs: dict[str, dict[str, str]] = {}  # for a mean of runs: the SHA-256 of each member's files


def read_document(path: Path, kind: type[DocumentT], remedy: str = CREATE_AGAIN) -> DocumentT:
    """Read and validate a JSON file; `DataError` with `remedy` if it is missing or its content is not valid."""
    with read_errors(path, remedy):
        try:
            return kind.model_validate(read_json(path, remedy))
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
