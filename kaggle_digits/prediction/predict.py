"""Prediction of images with the ensemble of a run."""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kaggle_digits.arrays import Float32, UInt8
from kaggle_digits.errors import DataError, UsageError
from kaggle_digits.evaluation.calibration import temper
from kaggle_digits.evaluation.outliers import OutlierDistance
from kaggle_digits.prediction.pictures import count_shapes, read_picture
from kaggle_digits.runs.directory import Run, find_run
from kaggle_digits.runs.ensemble import check_ensemble
from kaggle_digits.training.models import SURE, softmax_functions, with_test_time_augmentation
from kaggle_digits.training.own_network import find_network
from kaggle_digits.training.preprocessing import preprocess
from kaggle_digits.workspace import SIDE, Workspace


@dataclass(frozen=True)
class Prediction:
    """The prediction of the ensemble of a run for a picture."""

    path: Path | None  # of the picture; None for an array
    image: UInt8  # the digit found in the picture, in MNIST's format, [28, 28]
    softmax: Float32  # the calibrated probabilities, [10]
    networks: Float32  # the uncalibrated softmaxes of all networks, [k, 10]
    distance: float  # to the digits of the training rows: see `OutlierDistance`, of which it is the mean

    @property
    def digit(self) -> int:
        """The most probable digit."""
        return int(self.softmax.argmax())

    @property
    def confidence(self) -> float:
        """The probability of the most probable digit."""
        return float(self.softmax.max())

    @property
    def agreement(self) -> float:
        """The share of the networks that predict the same digit as the ensemble."""
        return float((self.networks.argmax(1) == self.digit).mean())

    @property
    def is_unlike_digits(self) -> bool:
        """Whether the picture is probably no digit, but a letter, a symbol or something else."""
        return self.distance > 1

    @property
    def doubts(self) -> str:
        """What is doubtful about the prediction, in words; empty if nothing is."""
        doubts = {
            "probably not a digit": self.is_unlike_digits,
            "unsure": self.confidence < SURE,
            "the picture has more than one shape": count_shapes(self.image) > 1,
        }
        return ", ".join(words for words, is_so in doubts.items() if is_so)

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
        title = f"{html.escape(self.path.name) if self.path else 'image'}: <b>{self.digit}</b>{doubts}"
        return f'<p>{title}</p><div style="display: flex; gap: 1em">{picture}<table>{bars}</table></div>'

    def as_document(self) -> dict[str, Any]:
        """Return it for JSON: ``file, digit, confidence, unsure, not_a_digit, …, image``."""
        return {
            "file": str(self.path) if self.path else None,
            "digit": self.digit,
            "confidence": self.confidence,
            "unsure": self.confidence < SURE,
            "not_a_digit": self.is_unlike_digits,
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


def predict(
    workspace: Workspace,
    pictures: str | Path | np.ndarray[Any, Any] | Sequence[str | Path],
    run: str | Run | None = None,
    network: str | Callable[[], Any] | None = None,
) -> list[Prediction]:
    """Classify pictures with the ensemble of a run.

    Parameters
    ----------
    workspace : Workspace
        The competition and the folder of its runs.
    pictures : str, pathlib.Path, sequence of them, or numpy.ndarray
        Photographs or drawings, each of one digit, as image files; or digits in MNIST's format, such as rows of
        ``train.csv``: uint8 [28, 28] or [n, 28, 28], with ink as 255.
    run : str or Run, optional
        The run, or its name. Default: as in `find_run`.
    network : str or callable, optional
        As in `Recipe`, for a run whose network has layers of its own.

    Returns
    -------
    list of Prediction
        One prediction per picture, in the same order.

    Raises
    ------
    UsageError
        If there is no such run, an array has another shape or type, or `network` is needed.
    UnreadablePicturesError
        If pictures cannot be read or show no digit. It has the predictions for all others.
    DataError
        If the run is not finished, or a network is missing or damaged.

    Examples
    --------
    >>> from kaggle_digits.data.csv import load_test
    >>> (prediction,) = kd.predict(workspace, load_test(workspace.data).images[0])
    >>> prediction.digit in range(10)
    True
    """
    source = find_run(workspace, run)
    check_ensemble(source)
    digits: list[tuple[Path | None, UInt8]] = []
    failures: list[tuple[Path, DataError]] = []
    if isinstance(pictures, np.ndarray):
        if pictures.dtype != np.uint8 or pictures.shape[-2:] != (SIDE, SIDE) or pictures.ndim not in (2, 3):
            shape = f"{pictures.dtype} {list(pictures.shape)}"
            raise UsageError(f"These images are {shape}.", "Use uint8 [28, 28] or [n, 28, 28], with ink as 255.")
        digits.extend((None, image) for image in pictures.reshape(-1, SIDE, SIDE))
        pictures = []
    for path in map(Path, [pictures] if isinstance(pictures, str | Path) else pictures):
        try:
            digits.append((path, read_picture(path)))
        except DataError as error:
            failures.append((path, error))
    predictions = Classifier(source, network)(digits) if digits else []
    if failures:
        raise UnreadablePicturesError(predictions, failures)
    return predictions


class Classifier:
    """The ensemble of a finished run, whose networks are read once, for any number of predictions."""

    def __init__(self, source: Run, network: str | Callable[[], Any] | None = None) -> None:
        if network is not None:
            find_network(network)
        networks = source.weighted_networks()
        functions = softmax_functions((fold.model_file(), fold.read_network) for _, fold, _ in networks)
        self._networks = [
            (with_test_time_augmentation(function, run.info.settings.tta), fold.metrics().preprocessing)
            for function, (run, fold, _) in zip(functions, networks, strict=True)
        ]
        self._distances = [OutlierDistance(fold.softmax("val")) for _, fold, _ in networks]
        self._weights = [weight for _, _, weight in networks]
        self._temperature = source.ensemble_metrics().calibration.temperature

    def __call__(self, digits: Sequence[tuple[Path | None, UInt8]]) -> list[Prediction]:
        """Return the predictions for digits in MNIST's format, [28, 28], and the paths that they are from."""
        softmaxes = self.softmaxes(np.stack([image for _, image in digits]))
        mean = np.average(softmaxes.astype(np.float64), axis=0, weights=self._weights)
        calibrated = temper(mean.astype(np.float32), self._temperature)
        distances = [distance(softmax) for distance, softmax in zip(self._distances, softmaxes, strict=True)]
        return [
            Prediction(path, image, calibrated[n], softmaxes[:, n], float(distance))
            for n, ((path, image), distance) in enumerate(
                zip(digits, np.average(distances, axis=0, weights=self._weights), strict=True)
            )
        ]

    def softmaxes(self, images: UInt8) -> Float32:
        """Return the uncalibrated softmaxes of all networks, [k, n, 10], for digits [n, 28, 28]."""
        return np.stack([predict(preprocess(images, name)) for predict, name in self._networks])
