"""Recipes: a network and the settings it is trained with, under the name of a preset."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kaggle_digits.errors import UsageError

if TYPE_CHECKING:
    import keras

Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class Settings(BaseModel):
    """How a network is trained. Every preset has all of these, and ``--set`` changes them.

    Attributes
    ----------
    epochs : int
        Passes over the training rows.
    batch_size : int
        Rows a step.
    learning_rate : float
        The optimiser's, at its peak.
    schedule : {"constant", "one-cycle"}
        Whether the learning rate stays, or rises linearly over the first `warm_up` of all steps and falls
        linearly to zero after that. It scales with the number of epochs.
    warm_up : float
        Share of the steps.
    weight_decay : float
        AdamW's; 0 makes it Adam.
    label_smoothing : float
        Share of each target spread over all classes.
    dropout : float
        Share of activations dropped where the network has dropout.
    rotation : float
        Half-width of the random rotation, in degrees.
    scale, shear : float
        Half-widths of the random scaling of each axis and of the shear, as shares.
    shift : float
        Half-width of the random shift along each axis, in pixels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0, allow_inf_nan=False)
    schedule: Literal["constant", "one-cycle"] = "one-cycle"
    warm_up: Share = 0.2
    weight_decay: Share = 0.0
    label_smoothing: Share = 0.0
    dropout: Share = 0.0
    rotation: float = Field(default=0.0, ge=0, le=180)
    scale: Share = 0.0
    shear: Share = 0.0
    shift: float = Field(default=0.0, ge=0, le=28)

    @property
    def augments(self) -> bool:
        """Whether images are deformed at all."""
        return any((self.rotation, self.scale, self.shear, self.shift))


@dataclass(frozen=True)
class Recipe:
    """A preset.

    Attributes
    ----------
    name : str
        The preset's name.
    folds : int
        K, unless the person says otherwise.
    settings : Settings
        How it is trained.
    network : callable
        Builds the untrained network, from grey values to logits, given the settings.
    """

    name: str
    folds: int
    settings: Settings
    network: Callable[[Settings], keras.Model]

    def with_settings(self, changes: Mapping[str, object]) -> Recipe:
        """Return the recipe with some settings changed.

        Parameters
        ----------
        changes : mapping of str to object
            Setting to its new value, which may be text as typed by a person.

        Raises
        ------
        UsageError
            If there is no such setting or the value does not suit it.
        """
        try:
            settings = Settings.model_validate({**self.settings.model_dump(), **changes})
        except ValidationError as error:
            first = error.errors()[0]
            key = str(first["loc"][0])
            if first["type"] == "extra_forbidden":
                raise UsageError(
                    f"There is no setting called {key!r}.",
                    f"Choose from: {', '.join(Settings.model_fields)}.",
                ) from None
            raise UsageError(
                f"The setting {key} cannot be {changes[key]!r}.", f"{first['msg'].rstrip('.')}."
            ) from None
        return replace(self, settings=settings)


def find_recipe(preset: str) -> Recipe:
    """Return the recipe of a preset.

    Raises
    ------
    UsageError
        If there is no preset of this name.
    """
    recipes = presets()
    if preset not in recipes:
        raise UsageError(f"There is no preset called {preset!r}.", f"Choose one of: {', '.join(recipes)}.")
    return recipes[preset]


def presets() -> dict[str, Recipe]:
    """Return all presets by name."""
    from kaggle_digits.recipes import fast, lenet

    return {"lenet": lenet.RECIPE, "fast": fast.RECIPE, "default": replace(fast.RECIPE, name="default")}
