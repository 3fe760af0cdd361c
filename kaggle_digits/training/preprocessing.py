"""Forms: digits made even, wide, bold or slanting before a network sees them, so that networks err differently."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kaggle_digits.arrays import UInt8
from kaggle_digits.workspace import SIDE

if TYPE_CHECKING:
    import keras

_BATCH = 1_000
_LEAST, _MOST = 0.4, 1.4
"""Limits of the scale, in pixels of the original to one of the form: a 1 is not spread over the whole image."""


@dataclass(frozen=True)
class Form:
    """What is done to a digit; its centre of mass also comes to the middle of the image.

    The shear, the spreads and the centre are those of the ink's moments, as in moment normalisation (Liu,
    Nakashima, Sako and Fujisawa, Pattern Recognition 37, 2004). That networks which see digits in different forms
    make a better mean than networks which see the same: Ciresan, Meier and Schmidhuber (CVPR 2012), by widths.

    Attributes
    ----------
    shear : float or None
        The slant that each digit gets before it is scaled, in pixels to the right for a pixel up; None leaves it
        as it is.
    width, height : float or None
        The spread of the ink (standard deviation, in pixels) that each digit is brought nearer to.
    evenness : float
        How near: 0 not at all, 1 all the way.
    bold : float
        Share of the way to the darkest of each pixel's neighbours.
    """

    shear: float | None = None
    width: float | None = None
    height: float | None = None
    evenness: float = 0.0
    bold: float = 0.0


FORMS = {
    "plain": None,
    "even": Form(shear=0.0, width=3.6, height=5.2, evenness=0.6),
    "wide": Form(width=4.8, evenness=0.8),
    "bold": Form(bold=0.6),
    "backhand": Form(shear=-0.5),
}


def form_function(name: str) -> Callable[[UInt8], UInt8]:
    """Return the function that brings images into a form: uint8 [n, 28, 28] to the same."""
    import keras

    form = FORMS[name]
    if form is None:
        return lambda images: images
    pixels = keras.Input((SIDE, SIDE, 1))
    shaper = keras.Model(pixels, _shape(pixels, form))

    def bring(images: UInt8) -> UInt8:
        shaped = np.empty_like(images)
        for start in range(0, len(images), _BATCH):
            rows = slice(start, start + _BATCH)
            shaped[rows] = np.asarray(shaper(images[rows, ..., None].astype(np.float32)))[..., 0]
        return shaped

    return bring


def with_form(network: keras.Model, name: str) -> keras.Model:
    """Return a network that first brings images into a form: grey values, [b, 28, 28, 1], to logits, [b, 10]."""
    import keras

    form = FORMS[name]
    if form is None:
        return network
    pixels = keras.Input((SIDE, SIDE, 1))
    return keras.Model(pixels, network(_shape(pixels, form)))


def without_form(model: keras.Model, name: str) -> keras.Model:
    """Return the network inside of what `with_form` made: views of a digit are shifts of it in its form."""
    return model if FORMS[name] is None else model.layers[-1]


def _shape(pixels: Any, form: Form) -> Any:
    """Return grey values [b, 28, 28, 1] in a form, whole numbers again."""
    from keras import ops

    if form.bold:
        pixels = pixels + form.bold * (ops.max_pool(pixels, 3, 1, "same") - pixels)
    ink = ops.squeeze(pixels, -1)
    total = ops.maximum(ops.sum(ink, (1, 2)), 1.0)

    def mean(values: Any) -> Any:
        return ops.sum(ink * values, (1, 2)) / total

    column = ops.reshape(ops.arange(SIDE, dtype="float32"), (1, 1, SIDE))
    row = ops.reshape(ops.arange(SIDE, dtype="float32"), (1, SIDE, 1))
    x, y = mean(column), mean(row)
    dx, dy = column - ops.reshape(x, (-1, 1, 1)), row - ops.reshape(y, (-1, 1, 1))
    x_variance, y_variance, covariance = mean(dx * dx), ops.maximum(mean(dy * dy), 1.0), mean(dx * dy)

    shear = ops.zeros_like(x)
    if form.shear is not None:
        # Rows are counted downwards: a digit that leans to the right has a negative covariance.
        shear = ops.clip(covariance / y_variance, -0.8, 0.8) + form.shear
    sheared = ops.maximum(x_variance - 2 * shear * covariance + shear * shear * y_variance, 0.3)
    x_scale, y_scale = (
        ops.clip(ops.power(ops.sqrt(variance) / spread, form.evenness), _LEAST, _MOST)
        if spread
        else ops.ones_like(x)
        for variance, spread in ((sheared, form.width), (y_variance, form.height))
    )
    middle, zero = (SIDE - 1) / 2, ops.zeros_like(x)
    across = shear * y_scale
    to_source = (x_scale, across, x - middle * (x_scale + across), zero, y_scale, y - middle * y_scale, zero, zero)
    # Whole numbers, as the rows that a network is trained on are.
    return ops.round(ops.image.affine_transform(pixels, ops.stack(to_source, 1), interpolation="bilinear"))
