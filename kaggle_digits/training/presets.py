"""The settings of a training, and the presets: tested combinations of settings with the score they reached."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, field_validator, model_validator

from kaggle_digits.errors import UsageError, unknown_name
from kaggle_digits.training.models import NETWORKS, tensorflow_keras
from kaggle_digits.training.own_network import OwnNetwork
from kaggle_digits.training.preprocessing import PREPROCESSINGS
from kaggle_digits.workspace import CLASSES, SIDE

if TYPE_CHECKING:
    import keras

Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class Settings(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """How a network is built and trained: what ``--set`` changes. The command `presets` shows the docstrings."""

    network: Literal[*NETWORKS]  # type: ignore[valid-type]
    """The architecture: lenet, that of the article, or residual, a small residual network."""
    widths: str
    """The number of feature maps or units of the layers, joined by commas, such as 48,64,128: four for lenet (two
    convolutions, two dense layers), three for residual (its three stages)."""
    # The upper limits turn a typing error into an error message, before the memory is full.
    epochs: int = Field(ge=1, le=100_000)
    """The number of epochs; after the first, hard-example mining makes an epoch shorter."""
    batch_size: int = Field(ge=1, le=100_000)
    """The number of rows in a batch."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """The optimiser: adamw, or muon, which is AdamW with orthogonalised updates of the kernels."""
    learning_rate: float = Field(gt=0, allow_inf_nan=False)
    """The highest learning rate of the optimiser."""
    schedule: Literal["constant", "one-cycle"] = "one-cycle"
    """Whether the learning rate stays the same, or rises linearly during the warm-up and then falls linearly to
    zero."""
    warm_up: Share = 0.2
    """The share of all steps in which the schedule one-cycle raises the learning rate."""
    beta_2: Share = 0.999
    """AdamW's decay rate of the running mean of squared gradients."""
    weight_decay: Share = 0.0
    """The weight decay; with 0, AdamW is Adam."""
    label_smoothing: Share = 0.0
    """The share of each target's probability that is spread evenly over all classes."""
    dropout: Share = 0.0
    """The dropout rate of the dropout layers."""
    rotation: float = Field(default=0.0, ge=0, le=180)
    """Augmentation: the largest random rotation to each side, in degrees."""
    scale: Share = 0.0
    """Augmentation: the largest random scaling of each axis, as a share of its length."""
    shear: Share = 0.0
    """Augmentation: the largest random shear to each side, in pixels to the side for a pixel up."""
    shift: float = Field(default=0.0, ge=0, le=28)
    """Augmentation: the largest random shift along each axis, in pixels."""
    elastic: float = Field(default=0.0, ge=0, le=28)
    """Augmentation: the standard deviation of the random elastic displacement, in pixels."""
    hard_rows: Share = 0.0
    """Hard-example mining: the share of the training rows that each epoch after the first takes from those whose
    label had the lowest probability when the network was last trained on them."""
    other_rows: float = Field(default=1.0, ge=0, le=1)
    """Hard-example mining: the share of the training rows that each epoch after the first takes at random from
    the rest."""
    preprocessing: str = "plain"
    """The preprocessings, joined by commas: the first fold gets the first, the second fold the second, and so on,
    from the start again when all are used. There are plain, even, wide, bold, backhand, wide-backhand and
    italic."""
    # A Literal of numbers does not accept numbers given as text, as `--set` does.
    tta: Annotated[Literal[1, 5], BeforeValidator(lambda value: int(value) if value in ("1", "5") else value)] = 1
    """The number of predictions per image for test-time augmentation: with 5, the prediction for an image with a
    largest probability below .9 is the mean over the image and its four shifts by one pixel."""

    @field_validator("widths")
    @classmethod
    def _are_widths(cls, value: str) -> str:
        if not re.fullmatch("[1-9][0-9]{0,3}(,[1-9][0-9]{0,3})*", value):
            raise ValueError("Give whole numbers from 1 to 9999, joined by commas")
        return value

    @field_validator("preprocessing")
    @classmethod
    def _are_preprocessings(cls, value: str) -> str:
        if not set(value.split(",")) <= PREPROCESSINGS.keys():
            raise ValueError(f"Choose from: {', '.join(PREPROCESSINGS)}; join several by commas")
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> Settings:
        if not 0 < self.hard_rows + self.other_rows <= 1:
            raise ValueError("The sum of hard_rows and other_rows must be more than 0 and at most 1")
        wanted = NETWORKS[self.network].widths
        if len(self.layer_widths) != wanted:
            raise ValueError(f"The network {self.network} has {wanted} widths, joined by commas")
        return self

    def preprocessing_of(self, fold: int) -> str:
        """Return the name of a fold's preprocessing."""
        names = self.preprocessing.split(",")
        return names[fold % len(names)]

    @property
    def layer_widths(self) -> list[int]:
        """The widths as numbers."""
        return [int(width) for width in self.widths.split(",")]

    @property
    def augments(self) -> bool:
        """Whether there is any augmentation."""
        return any((self.rotation, self.scale, self.shear, self.shift, self.elastic))


def describe_settings() -> list[dict[str, Any]]:
    """Return the settings in the order of `Settings`: ``name``, ``text`` and, by preset, ``values``."""
    return [
        {
            "name": name,
            "text": " ".join((field.description or "").split()),
            "values": {preset.name: getattr(preset.settings, name) for preset in PRESETS.values()},
        }
        for name, field in Settings.model_fields.items()
    ]


def build_network(settings: Settings, own: OwnNetwork | None = None) -> keras.Model:
    """Build an untrained network: preprocessed grey values, 0 to 255, [b, 28, 28, 1], to logits, [b, 10]."""
    if own is not None:
        return own.build()
    keras = tensorflow_keras()
    pixels = keras.Input((SIDE, SIDE, 1))
    # Rescaling is part of the network, so that callers cannot forget it.
    scaled = keras.layers.Rescaling(1 / 255)(pixels)
    hidden = NETWORKS[settings.network].hidden(scaled, settings.layer_widths, settings.dropout)
    # Logits instead of a softmax: computing the loss from logits is numerically stable.
    return keras.Model(pixels, keras.layers.Dense(CLASSES)(hidden))


@dataclass(frozen=True)
class Result:
    """The result of a preset on MNIST, split into 42,000 training rows and 28,000 test rows as in the competition.

    One run per split with seed 0 and TensorFlow 2.21, by ``scripts/score_presets.py --mnist-dir DIR --root DIR
    --preset NAME``; `fast` and `default` on 2 Intel Sapphire Rapids cores, `lenet` on 2 AMD EPYC cores, whose
    matrix products are about 1.7 times as fast. Neither training nor the choice of settings used the test rows.
    """

    out_of_fold: float  # accuracy on the training rows of the first split
    scores: tuple[float, ...]  # accuracy on the test rows of each split; the first is that of `rehearsal-full`
    tflop: float  # of the training on one split, as counted by `training_flops`
    seconds: int  # elapsed time of the training on one split; of `fast` and `default`, the fastest of the three

    @property
    def score(self) -> float:
        """The mean score over the splits."""
        return round(sum(self.scores) / len(self.scores), 5)


@dataclass(frozen=True)
class Preset:
    """A tested combination of settings, with its result, and its default number of folds."""

    name: str
    summary: str
    folds: int
    settings: Settings
    result: Result

    def with_settings(self, changes: Mapping[str, object]) -> Preset:
        """Return the preset with some settings changed; a value can be given as text, as on the command line."""
        try:
            settings = Settings.model_validate({**self.settings.model_dump(), **changes})
        except ValidationError as error:
            first = error.errors()[0]
            remedy = f"{first['msg'].removeprefix('Value error, ').rstrip('.')}."
            if not first["loc"]:
                raise UsageError("These settings cannot be combined.", remedy) from None
            key = str(first["loc"][0])
            if first["type"] == "extra_forbidden":
                raise unknown_name("setting", key, Settings.model_fields) from None
            raise UsageError(f"The setting {key} cannot be {changes[key]!r}.", remedy) from None
        return replace(self, settings=settings)


_COMMON: dict[str, Any] = {
    "network": "residual",
    "optimizer": "muon",
    "batch_size": 128,
    "warm_up": 0.15,
    # The default of .999 averages over about 1,000 steps: too long for a training of a few thousand.
    "beta_2": 0.99,
    "weight_decay": 0.01,
    "label_smoothing": 0.05,
    "dropout": 0.2,
    "rotation": 7,
    "scale": 0.07,
    "shear": 0.09,
    "shift": 1.2,
    "elastic": 0.36,
    # Networks with different preprocessings make different errors, so that their mean makes fewer.
    "preprocessing": "plain,even,wide,wide-backhand",
    "tta": 5,
}
"""The common settings of `fast` and `default`. Their effect was measured: see docs/recipes.md."""

PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="lenet",
            summary="the article's network, repaired",
            folds=5,
            settings=Settings(
                network="lenet",
                widths="36,36,128,64",
                epochs=20,
                batch_size=128,
                learning_rate=1e-3,
                schedule="constant",
                dropout=0.3,
            ),
            # The network of the article "CNN卷积神经网络实现手写数字识别(基于tensorflow)", which reports .9912 for
            # one network. The time was measured while other programs were running.
            result=Result(out_of_fold=0.99052, scores=(0.99275,), tflop=81.9, seconds=705),
        ),
        Preset(
            name="fast",
            summary="a small residual network, for a quick result",
            folds=4,
            settings=Settings(
                # Multiples of 16, the number of values that an AVX-512 instruction processes.
                widths="16,16,32",
                epochs=9,
                learning_rate=18e-3,  # a short training has few steps, so they are larger
                hard_rows=0.2,
                other_rows=0.175,
                **_COMMON,
            ),
            result=Result(out_of_fold=0.9951, scores=(0.997107, 0.996429, 0.99675), tflop=7.8, seconds=112),
        ),
        Preset(
            name="default",
            summary="a larger network, trained for longer",
            folds=4,
            settings=Settings(
                widths="16,32,64",
                epochs=13,
                learning_rate=8e-3,
                hard_rows=0.25,
                other_rows=0.25,
                **_COMMON,
            ),
            result=Result(out_of_fold=0.99595, scores=(0.997536, 0.996536, 0.997286), tflop=29.2, seconds=260),
        ),
    )
}
"""All presets by name."""


def find_preset(name: str) -> Preset:
    """Return the preset called `name`; `UsageError` if there is none."""
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return PRESETS[name]
