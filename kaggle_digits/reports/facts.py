"""What a report says, as models: ``report.json`` and its schema, the page and the terminal show the same facts."""

from __future__ import annotations

from statistics import fmean
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from kaggle_digits.runs.schema import Document, FoldMetrics, FoldsInfo, MeanInfo

Severity = Literal["problem", "warning", "ok"]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Digit = Annotated[int, Field(ge=0, le=9)]
Interval = Annotated[list[Share], Field(min_length=2, max_length=2, description="The 95 % interval.")]


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
    """A part of a report; fields that have a default are not in the JSON if they are not known."""


class FoldFacts(FoldMetrics):
    """A fold: its ``metrics.json``, its ``history.csv``, and a comparison with the other folds."""

    files: dict[str, str] = Field({}, exclude=True)
    fold: Count
    interval: Interval
    out_of_line_p: Share = Field(description="Fisher's exact test against all other folds, with a correction.")
    out_of_line: bool = Field(description="Whether the fold is worse than the others, with a p-value below 0.05.")
    images_per_second: float
    history: list[dict[str, float]] = Field(description="One entry per epoch.")


class Mistake(Facts):
    """A row with a label and another prediction, whose probability is calibrated."""

    row: Count
    label: Digit
    predicted: Digit
    confidence: Share


class ConfusedPair(Facts):
    """A label and a wrong prediction."""

    label: Digit
    predicted: Digit
    rows: Count
    examples: list[Mistake]


class DigitMetrics(Facts):
    """The metrics of a digit; null where the denominator is 0."""

    digit: Digit
    rows: Count
    missed: Count
    precision: Share | None
    recall: Share | None
    f1: Share | None


class Bin(Facts):
    """Rows with a similar largest probability, its mean, and their accuracy."""

    rows: Count
    confidence: Share
    accuracy: Share


class Calibration(Facts):
    """Temperature scaling on out-of-fold rows, before and after; null if fewer than two folds are finished."""

    member_temperature: float = Field(description="For a single network.")
    temperature: float | None = Field(description="For the mean of the networks; null if there is no ensemble.")
    log_loss_before: float
    log_loss_after: float
    ece_before: Share
    ece_after: Share
    reliability_before: list[Bin]
    reliability_after: list[Bin]


class OutOfFold(Facts):
    """All training rows with an out-of-fold prediction: by a network that was not trained on them."""

    rows: Count
    errors: Count
    accuracy: Share
    log_loss: float
    interval: Interval
    confusion: list[list[Count]] = Field(description="Counts by label (row) and prediction (column).")
    digits: list[DigitMetrics]
    confused_pairs: list[ConfusedPair]
    misclassified: list[Mistake] = Field(description="Those with the lowest probability of the label first.")
    suspects: list[Mistake] = Field(description="Labels that may be wrong; none if the accuracy is below 0.98.")
    calibration: Calibration | None


class RowPrediction(Facts):
    """The prediction for a test row; `votes` are the numbers of networks that predict each digit."""

    row: Count
    id: int
    predicted: Digit
    confidence: Share
    votes: dict[str, Count]
    probabilities: list[Share] = Field([])


class Expectation(Facts):
    """The score that is expected of a single network."""

    score: Share
    interval: Interval


class ClassShares(Facts):
    """The shares of the digits; the test compares predictions for test rows with those for validation rows."""

    train: list[Share]
    test: list[Share]
    chi_squared_p: Share


class TestFacts(Facts):
    """Predictions for the test rows, which have no labels."""

    rows: Count
    networks: Count
    temperature: float
    unanimous: Share
    disputed: list[RowPrediction]
    by_networks: list[Share] = Field(description="Agreement of the mean of the first 1, 2, … networks with all.")
    class_shares: ClassShares
    expected_accuracy: Share | None = Field(description="The mean of the ensemble's calibrated probabilities.")
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
    """A layer of the first network; its receptive field is a square with this side, in pixels."""

    name: str
    kind: str
    shape: list[Count]
    parameters: Count
    receptive_field: Count


class ReportFacts(Facts):
    """The validation report of a run. Rows are numbered from 0, times are in seconds, memory is in bytes."""

    version: Literal[1]
    written: str
    run: FoldsInfo | MeanInfo = Field(description="The content of run.json.")
    missing_folds: list[Count]
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
