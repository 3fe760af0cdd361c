"""Prediction of images with the ensemble of a run."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kaggle_digits.arrays import Float32, UInt8
from kaggle_digits.errors import DataError
from kaggle_digits.evaluation.calibration import temper
from kaggle_digits.prediction.pictures import count_shapes, read_picture
from kaggle_digits.runs.directory import Run, find_run
from kaggle_digits.runs.ensemble import check_ensemble
from kaggle_digits.training.models import SURE, softmax_functions, with_test_time_augmentation
from kaggle_digits.training.preprocessing import preprocess
from kaggle_digits.workspace import Workspace


@dataclass(frozen=True)
class Prediction:
    """The prediction of the ensemble of a run for a picture."""

    path: Path
    image: UInt8  # the digit found in the picture, in MNIST's format, [28, 28]
    softmax: Float32  # the calibrated probabilities, [10]
    agreement: float  # the share of the networks that predict the same digit as the ensemble

    @property
    def digit(self) -> int:
        """The most probable digit."""
        return int(self.softmax.argmax())

    @property
    def confidence(self) -> float:
        """The probability of the most probable digit."""
        return float(self.softmax.max())

    @property
    def doubts(self) -> str:
        """What is doubtful about the prediction, in words; empty if nothing is."""
        is_unsure, has_parts = self.confidence < SURE, count_shapes(self.image) > 1
        doubts = ["unsure"] * is_unsure + ["the picture has more than one shape"] * has_parts
        return ", ".join(doubts)

    def _repr_html_(self) -> str:
        """Return the digit and the probabilities, for a notebook."""
        from kaggle_digits.reports.figures import digit_url

        bars = "".join(
            f'<tr><td>{digit}</td><td style="text-align: left"><div style="width: {200 * probability:.0f}px; '
            f'height: .8em; background: #2563eb"></div></td><td>{probability:.4f}</td></tr>'
            for digit, probability in enumerate(self.softmax.tolist())
        )
        picture = f'<img src="{digit_url(self.image)}" width="112" style="image-rendering: pixelated">'
        doubts = f" ({self.doubts})" if self.doubts else ""
        title = f"{html.escape(self.path.name)}: <b>{self.digit}</b>{doubts}"
        return f'<p>{title}</p><div style="display: flex; gap: 1em">{picture}<table>{bars}</table></div>'

    def as_document(self) -> dict[str, Any]:
        """Return it for JSON: ``file, digit, confidence, unsure, shapes, agreement, probabilities, image``."""
        return {
            "file": str(self.path),
            "digit": self.digit,
            "confidence": self.confidence,
            "unsure": self.confidence < SURE,
            "shapes": count_shapes(self.image),
            "agreement": self.agreement,
            "probabilities": self.softmax.tolist(),
            "image": self.image.tolist(),
        }


class UnreadablePicturesError(DataError):
    """Some pictures cannot be read or show no digit; the others were classified.

    Attributes
    ----------
    predictions : list of Prediction
        The predictions for the other pictures.
    failures : list of tuple of pathlib.Path and DataError
        The pictures that cannot be classified, and why.
    """

    def __init__(self, predictions: list[Prediction], failures: list[tuple[Path, DataError]]) -> None:
        self.predictions, self.failures = predictions, failures
        remedies = dict.fromkeys(why.remedy for _, why in failures)
        super().__init__(" ".join(why.problem for _, why in failures), " ".join(remedies))


def predict(workspace: Workspace, pictures: Sequence[str | Path], run: str | None = None) -> list[Prediction]:
    """Classify pictures with the ensemble of a run.

    Parameters
    ----------
    workspace : Workspace
        The competition and the folder of its runs.
    pictures : sequence of str or pathlib.Path
        Photographs or drawings, each of one digit, as image files.
    run : str, optional
        The name of the run. Default: as in `find_run`.

    Returns
    -------
    list of Prediction
        One prediction per picture, in the same order.

    Raises
    ------
    UsageError
        If there is no such run.
    UnreadablePicturesError
        If pictures cannot be read or show no digit. It has the predictions for all others.
    DataError
        If the run is not finished, or a network is missing or damaged.

    Examples
    --------
    >>> from PIL import Image
    >>> from kaggle_digits.data.csv import load_test
    >>> Image.fromarray(load_test(workspace.data).images[0]).save(folder / "digit.png")
    >>> (prediction,) = kd.predict(workspace, [folder / "digit.png"])
    >>> prediction.digit in range(10)
    True
    """
    source = find_run(workspace, run)
    check_ensemble(source)
    digits: list[tuple[Path, UInt8]] = []
    failures: list[tuple[Path, DataError]] = []
    for path in map(Path, pictures):
        try:
            digits.append((path, read_picture(path)))
        except DataError as error:
            failures.append((path, error))
    predictions = _classify(source, digits) if digits else []
    if failures:
        raise UnreadablePicturesError(predictions, failures)
    return predictions


def _classify(source: Run, digits: Sequence[tuple[Path, UInt8]]) -> list[Prediction]:
    """Return the predictions of a run's ensemble for digits in MNIST's format."""
    softmaxes = ensemble_softmax(source, np.stack([image for _, image in digits]))
    weights = [weight for _, _, weight in source.weighted_networks()]
    mean = np.average(softmaxes.astype(np.float64), axis=0, weights=weights)
    calibrated = temper(mean.astype(np.float32), source.ensemble_metrics().calibration.temperature)
    agreement = (softmaxes.argmax(2) == calibrated.argmax(1)).mean(0)
    return [
        Prediction(path, image, softmax, float(share))
        for (path, image), softmax, share in zip(digits, calibrated, agreement, strict=True)
    ]


def ensemble_softmax(source: Run, images: UInt8) -> Float32:
    """Return the uncalibrated softmaxes [networks, n, 10] of a finished run for digits [n, 28, 28]."""
    softmaxes, networks = [], source.weighted_networks()
    functions = softmax_functions((fold.model_file(), fold.read_network) for _, fold, _ in networks)
    for (run, fold, _), predict_once in zip(networks, functions, strict=True):
        predict = with_test_time_augmentation(predict_once, run.info.settings.tta)
        softmaxes.append(predict(preprocess(images, fold.metrics().preprocessing)))
    return np.stack(softmaxes)
