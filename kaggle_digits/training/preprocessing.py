"""Preprocessing of digits: normalised, widened, thickened or slanted before a network sees them.

Folds whose networks see different preprocessings make different errors, so that their mean makes fewer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kaggle_digits.arrays import UInt8
from kaggle_digits.workspace import SIDE

_BATCH = 1_000
"""Images at a time, so that the intermediate float32 tensors stay small."""
_MIN_SCALE, _MAX_SCALE = 0.4, 1.4
"""Limits of the scale, in pixels of the original to one of the result: a 1 is not spread over the whole image."""


@dataclass(frozen=True)
class Preprocessing:
    """What is done to a digit; its centre of mass is also moved to the middle of the image.

    The shear, the spreads and the centre are computed from the moments of the grey values, as in moment
    normalisation (Liu, Nakashima, Sako and Fujisawa, Pattern Recognition 37, 2004). That networks with different
    preprocessings make a better ensemble than networks with the same one: Ciresan, Meier and Schmidhuber
    (CVPR 2012), who normalised digits to different widths.

    Attributes
    ----------
    shear : float or None
        The slant that each digit gets before it is scaled, in pixels to the right for a pixel up; None leaves it
        as it is.
    width, height : float or None
        The target of the digit's spread (standard deviation of its grey values, in pixels) along each axis; None
        leaves it as it is.
    evenness : float
        How near to these targets each digit is scaled: 0 not at all, 1 all the way.
    bold : float
        How much strokes are thickened: the share of the way from each pixel to the darkest of its neighbours.
    """

    shear: float | None = None
    width: float | None = None
    height: float | None = None
    evenness: float = 0.0
    bold: float = 0.0


PREPROCESSINGS = {
    "plain": None,
    "even": Preprocessing(shear=0.0, width=3.6, height=5.2, evenness=0.6),
    "wide": Preprocessing(width=4.8, evenness=0.8),
    "bold": Preprocessing(bold=0.6),
    "backhand": Preprocessing(shear=-0.5),
}
"""All preprocessings by name; ``plain`` changes nothing."""


def preprocess(images: UInt8, name: str) -> UInt8:
    """Preprocess images: the one function for this, in training, in prediction and in reports.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, 28, 28)
        Grey values; ink is 255.
    name : str
        One of `PREPROCESSINGS`.

    Returns
    -------
    ndarray of uint8, shape (n, 28, 28)
        The preprocessed images; ``plain`` returns `images` themselves.
    """
    preprocessing = PREPROCESSINGS[name]
    if preprocessing is None:
        return images
    from keras import ops

    preprocessed = np.empty_like(images)
    for start in range(0, len(images), _BATCH):
        rows = slice(start, start + _BATCH)
        grey = ops.convert_to_tensor(images[rows, ..., None].astype(np.float32))
        preprocessed[rows] = np.asarray(_transform(grey, preprocessing))[..., 0]
    return preprocessed


def _transform(pixels: Any, preprocessing: Preprocessing) -> Any:
    """Return preprocessed grey values, float32 [b, 28, 28, 1], rounded to whole numbers."""
    from keras import ops

    if preprocessing.bold:
        # The largest value of each 3x3 neighbourhood: ink is bright in these images.
        pixels = pixels + preprocessing.bold * (ops.max_pool(pixels, 3, 1, "same") - pixels)
    ink = ops.squeeze(pixels, -1)
    total = ops.maximum(ops.sum(ink, (1, 2)), 1.0)  # an empty image must not divide by zero

    def mean(values: Any) -> Any:
        return ops.sum(ink * values, (1, 2)) / total

    column = ops.reshape(ops.arange(SIDE, dtype="float32"), (1, 1, SIDE))
    row = ops.reshape(ops.arange(SIDE, dtype="float32"), (1, SIDE, 1))
    x, y = mean(column), mean(row)
    dx, dy = column - ops.reshape(x, (-1, 1, 1)), row - ops.reshape(y, (-1, 1, 1))
    x_variance, y_variance, covariance = mean(dx * dx), ops.maximum(mean(dy * dy), 1.0), mean(dx * dy)

    shear = ops.zeros_like(x)
    if preprocessing.shear is not None:
        # Rows are counted downwards: a digit that leans to the right has a negative covariance.
        # The limit keeps flat strokes, whose slant means nothing, from being pulled apart.
        shear = ops.clip(covariance / y_variance, -0.8, 0.8) + preprocessing.shear
    # The variance along x after the shear, by which the width is scaled; the lower limit is for thin strokes.
    sheared = ops.maximum(x_variance - 2 * shear * covariance + shear * shear * y_variance, 0.3)
    x_scale, y_scale = (
        ops.clip(ops.power(ops.sqrt(variance) / spread, preprocessing.evenness), _MIN_SCALE, _MAX_SCALE)
        if spread
        else ops.ones_like(x)
        for variance, spread in ((sheared, preprocessing.width), (y_variance, preprocessing.height))
    )
    middle, zero = (SIDE - 1) / 2, ops.zeros_like(x)
    across = shear * y_scale
    # Scale, shear and centring are one matrix, so that an image is interpolated, and blurred, only once.
    # It maps each point of the result to a point of the original, as `affine_transform` wants it.
    to_source = (x_scale, across, x - middle * (x_scale + across), zero, y_scale, y - middle * y_scale, zero, zero)
    # Rounded, for preprocessed images are kept as uint8: a quarter of the memory of float32.
    return ops.round(ops.image.affine_transform(pixels, ops.stack(to_source, 1), interpolation="bilinear"))
