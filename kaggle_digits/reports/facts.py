"""What a report says, as models: ``report.json`` and its schema, the page and the terminal show the same facts."""

from statistics import fmean
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from kaggle_digits.runs.schema import Document, FoldMetrics, FoldsInfo, MeanInfo

Severity = Literal["problem", "warning", "ok"]
Interval = Annotated[list[float], Field(description="The 95 % interval.")]


@dataclass(frozen=True)
class Finding:
    """A statement about a run, or about what a run needs; with a warning you can continue."""

    severity: Severity
    title: str
    text: str
    remedy: Annotated[str, Field(exclude=True)] = ""  # how to fix it, if the text does not say that

    def as_check(self) -> dict[str, str]:
        """Return it for the JSON of the command doctor."""
        return {"name": self.title, "state": self.severity, "words": self.text, "remedy": self.remedy}


class Facts(Document, extra="forbid"):
    """A part of a report."""


class FoldFacts(FoldMetrics):
    """A fold: its ``metrics.json``, its ``history.csv``, and a comparison with the other folds."""

    files: dict[str, str] = Field({}, exclude=True)
    fold: int
    interval: Interval
    out_of_line_p: float = Field(description="Fisher's exact test against all other folds, with a correction.")
    out_of_line: bool = Field(description="Whether the fold is worse than the others, with a p-value below 0.05.")
    images_per_second: float
    history: list[dict[str, float]] = Field(description="One entry per epoch.")


class Mistake(Facts):
    """A row with a label and another prediction, whose probability is calibrated."""

    row: int
    label: int
    predicted: int
    confidence: float


class ConfusedPair(Facts):
    """A label and a wrong prediction."""

    label: int
    predicted: int
    rows: int
    examples: list[Mistake]


class DigitMetrics(Facts):
    """The metrics of a digit; null where the denominator is 0."""

    digit: int
    rows: int
    missed: int
    precision: float | None
    recall: float | None
    f1: float | None


class Calibration(Facts):
    """Temperature scaling on out-of-fold rows, before and after; null if fewer than two folds are finished."""

    member_temperature: float = Field(description="For a single network.")
    temperature: float | None = Field(description="For the mean of the networks; null if there is no ensemble.")
    log_loss_before: float
    log_loss_after: float
    ece_before: float
    ece_after: float
    reliability_before: list[dict[str, int | float]] = Field(description="Of bins of the largest probability.")
    reliability_after: list[dict[str, int | float]]


class OutOfFold(Facts):
    """All training rows with an out-of-fold prediction: by a network that was not trained on them."""

    rows: int
    errors: int
    accuracy: float
    log_loss: float
    interval: Interval
    confusion: list[list[int]] = Field(description="Counts by label (row) and prediction (column).")
    digits: list[DigitMetrics]
    confused_pairs: list[ConfusedPair]
    misclassified: list[Mistake] = Field(description="Those with the lowest probability of the label first.")
    suspects: list[Mistake] = Field(description="Labels that may be wrong; none if the accuracy is below 0.98.")
    calibration: Calibration | None


class RowPrediction(Facts):
    """The prediction for a test row; `votes` are the numbers of networks that predict each digit."""

    row: int
    id: int
    predicted: int
    confidence: float
    votes: dict[str, int]
    probabilities: list[float] = Field([], description="Of the ten digits; only in `one_row`.")


class Expectation(Facts):
    """The score that is expected of a single network."""

    score: float
    interval: Interval


class ClassShares(Facts):
    """The shares of the digits; the test compares predictions for test rows with those for validation rows."""

    train: list[float]
    test: list[float]
    chi_squared_p: float


class TestFacts(Facts):
    """Predictions for the test rows, which have no labels."""

    rows: int
    networks: int
    temperature: float
    unanimous: float
    disputed: list[RowPrediction]
    by_networks: list[float] = Field(description="Agreement of the mean of the first 1, 2, … networks with all.")
    class_shares: ClassShares
    expected_accuracy: float | None = Field(description="The mean of the ensemble's calibrated probabilities.")
    first_rows: list[RowPrediction]
    one_row: RowPrediction
    expected_from_out_of_fold: Expectation


class Leaderboard(Facts):
    """The score of the submission; the gap is the score minus the out-of-fold accuracy."""

    time: str
    ref: str
    score: float
    cv: float | None
    gap: float | None
    rank: int | None
    gap_deviation: float | None = Field(None, description="Standard deviation of the gap by chance alone.")
    within_noise: bool | None = None


class Layer(Facts):
    """A layer of the first network; its receptive field is a square with this side in pixels, null if unknown."""

    name: str
    kind: str
    shape: list[int]
    parameters: int
    receptive_field: int | None


class ReportFacts(Facts):
    """The validation report of a run. Rows are numbered from 0, times are in seconds, memory is in bytes."""

    version: Literal[1]
    written: str
    run: FoldsInfo | MeanInfo = Field(description="The content of run.json.")
    missing_folds: list[int]
    folds: list[FoldFacts]
    fold_accuracy: dict[str, float | None] | None = Field(description="The mean and sd over folds.")
    out_of_fold: OutOfFold | None
    test: TestFacts | None
    members: list[dict[str, str | int]] | None = Field(description="Runs, and errors of the mean up to each.")
    submission: dict[str, str] | None = Field(description="Ref, time and status of the current submission file.")
    leaderboard: Leaderboard | None
    layers: list[Layer] | None
    findings: list[Finding]

    def networks_per_row(self) -> int:
        """Return the number of networks that predict an out-of-fold row: one per member run."""
        return len(self.members or [None])

    def mean_history(self) -> list[dict[str, float]]:
        """Return the history averaged over the folds: the epochs that all of them have."""
        by_epoch = zip(*(fold.history for fold in self.folds), strict=False)
        return [{name: fmean(row[name] for row in rows) for name in rows[0]} for rows in by_epoch]
