"""Pydantic models of a run's JSON files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from kaggle_digits.errors import DataError
from kaggle_digits.files import read_json
from kaggle_digits.training.preprocessing import PREPROCESSINGS

Status = Literal["unfinished", "finished"]
UNFINISHED: Status = "unfinished"
FINISHED: Status = "finished"

RETRAIN = "Create it again with the run's train command and --retrain."
"""How to fix an artefact of a fold or of an ensemble."""

# No run has larger counts, and the run time of exact tests grows with them.
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Amount = Annotated[float, Field(ge=0)]


class Document(BaseModel):
    """A JSON object with at least these fields; other fields are kept."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True, extra="allow", populate_by_name=True)

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def as_json(self) -> dict[str, Any]:
        """Return the object that was read."""
        return self.model_dump(by_alias=True, exclude_unset=True)


DocumentT = TypeVar("DocumentT", bound=Document)


class DataHashes(Document):
    """The SHA-256 of the data files of a run."""

    train: str = Field(alias="train.csv")
    test: str = Field(alias="test.csv")

    def differences(self, hashes: Mapping[str, str]) -> list[str]:
        """Return the names of the files that have another SHA-256 in `hashes`."""
        return [name for name, known in self.as_json().items() if hashes.get(name, known) != known]


class Machine(Document):
    """The machine on which a run was started."""

    system: str
    cores: int | None


class RunInfo(Document):
    """``run.json``: the fields that both kinds of runs have."""

    name: str
    competition: str
    status: Status
    created: str  # in ISO 8601 and UTC, as `updated`
    updated: str
    command: list[str]  # that made it
    data: DataHashes
    machine: Machine
    versions: dict[str, str]  # of packages, when it was started; each fold has its own
    train_seconds: Amount | None = None  # elapsed time of the training, if it was not interrupted


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


class MeanInfo(RunInfo):
    """``run.json`` of a mean of other runs, its `members`."""

    members: list[str] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _without_a_recipe(cls, document: dict[str, Any]) -> dict[str, Any]:
        if {"preset", "folds", "seed", "settings"} & document.keys():
            raise ValueError("a mean of runs must not have a preset, folds, a seed or settings")
        return document


class Artefacts(Document):
    """The part of ``metrics.json`` with the names and SHA-256 of the files in the same folder."""

    files: dict[str, str]


class Metrics(Artefacts):
    """Metrics of predictions on labelled rows."""

    rows: Count
    errors: Count
    accuracy: float = Field(ge=0, le=1)
    log_loss: float

    @model_validator(mode="after")
    def _no_more_errors_than_rows(self) -> Metrics:
        if self.errors > self.rows:
            raise ValueError("there are more errors than rows")
        return self


class FoldMetrics(Metrics):
    """``metrics.json`` of a finished fold."""

    preprocessing: str = Field(pattern=f"^({'|'.join(PREPROCESSINGS)})$")
    epochs: Count
    seconds: Amount
    training_seconds: Amount
    test_seconds: Amount
    data_seconds: Amount
    peak_memory: Amount
    tflop: Amount
    network: str
    where: str
    device: str
    versions: dict[str, str]


class KernelRecord(Document):
    """``kernel.json`` of a run: a kernel at Kaggle that trains folds of it."""

    slug: str = Field(pattern=r"^kaggle-digits-[0-9a-f]{12}$")
    address: str  # of its page at Kaggle
    # When it was sent. Not strict, because JSON has no times.
    created: Annotated[AwareDatetime, Field(strict=False)]
    confirmed: bool  # whether Kaggle has confirmed that it got the kernel
    gpu: bool
    retrain: bool  # whether it trains folds that were finished before
    folds: list[Annotated[tuple[int, int], Field(strict=False)]]
    runs: list[Annotated[str, Field(pattern=r"^[^/.][^/]*$")]]


class Calibration(Document):
    """The temperature of an ensemble, and its log loss on out-of-fold rows."""

    temperature: float = Field(gt=0)
    log_loss_after: float


class EnsembleMetrics(Metrics):
    """``metrics.json`` of an ensemble, measured on out-of-fold rows."""

    calibration: Calibration
    folds: list[dict[str, Any]] | None = None  # one row per fold
    runs: dict[str, dict[str, str]] = {}  # for a mean of runs: the SHA-256 of each member's files


def read_document(path: Path, kind: type[DocumentT], remedy: str) -> DocumentT:
    """Read and validate a JSON file; `DataError` with `remedy` if it is missing or its content is not valid."""
    return validated(path, read_json(path), kind, remedy)


def validated(path: Path, document: dict[str, Any], kind: type[DocumentT], remedy: str) -> DocumentT:
    """Validate the content of a JSON file; raise a `DataError` with `remedy` if it is not valid."""
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in first["loc"])
        why = f"{where}{first['msg'].removeprefix('Value error, ')}"
        raise damaged(path, why, remedy) from error


def missing(path: Path) -> DataError:
    """Return the error for a missing artefact."""
    return DataError(f"{path} is missing.", RETRAIN)


def damaged(path: Path, why: object, remedy: str = RETRAIN) -> DataError:
    """Return the error for a damaged artefact; `why` may be an exception."""
    # Messages of libraries may have several lines or be empty.
    words = " ".join(str(why).split()).rstrip(".") or type(why).__name__
    return DataError(f"{path} is damaged: {words}.", remedy)
