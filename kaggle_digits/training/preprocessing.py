"""Preprocessing of digits: normalise, widen, thicken or slant them before they are given to a network.

Networks with different preprocessings make different errors, so the mean of their predictions makes fewer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kaggle_digits.arrays import UInt8
from kaggle_digits.workspace import SIDE

_BATCH = 1_000
"""The number of images processed at once; limits the memory of the intermediate float32 tensors."""
_MIN_SCALE, _MAX_SCALE = 0.4, 1.4
"""Limits of the scale, in pixels of the original per pixel of the result, so that a 1 is not widened to the
complete image."""


@dataclass(frozen=True)
class Preprocessing:
    """The parameters of a preprocessing. Each also moves the centre of mass to the middle of the image.

    Shear, spread and centre are computed from the moments of the grey values, as in moment normalisation (Liu,
    Nakashima, Sako and Fujisawa, Pattern Recognition 37, 2004). Ciresan, Meier and Schmidhuber (CVPR 2012) showed,
    with digits normalised to different widths, that networks with different preprocessings make a better ensemble.

    Attributes
    ----------
    shear : float or None
        The slant of each digit after preprocessing, before scaling: pixels to the right per pixel up; None keeps
        the slant of the digit.
    width, height : float or None
        The target spread of each digit along an axis (standard deviation of its grey values, in pixels); None
        keeps the spread of the digit.
    evenness : float
        How much of the difference to these targets is removed by scaling: 0 nothing, 1 all of it.
    bold : float
        How much strokes are thickened: 0 not at all, 1 replaces each pixel by the darkest pixel of its 3x3
        neighbourhood.
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
    "wide-backhand": Preprocessing(shear=-0.5, width=4.8, evenness=0.8),
    "italic": Preprocessing(shear=0.45),
}
"""All preprocessings by name; ``plain`` changes nothing."""


def preprocess(images: UInt8, name: str) -> UInt8:
    """Preprocess images. Training, prediction and reports all use this function.

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
        # The darkest pixel is the largest value, because ink is 255 in these images.
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
        # Rows are counted downwards, so a digit that leans to the right has a negative covariance. The limit
        # protects flat digits, whose slant is not well defined, from extreme shears.
        shear = ops.clip(covariance / y_variance, -0.8, 0.8) + preprocessing.shear
    # The variance along x after the shear, from which the width is scaled. The lower limit prevents division by
    # (nearly) zero for thin vertical strokes.
    sheared = ops.maximum(x_variance - 2 * shear * covariance + shear * shear * y_variance, 0.3)
    x_scale, y_scale = (
        ops.clip(ops.power(ops.sqrt(variance) / spread, preprocessing.evenness), _MIN_SCALE, _MAX_SCALE)
        if spread
        else ops.ones_like(x)
        for variance, spread in ((sheared, preprocessing.width), (y_variance, preprocessing.height))
    )
    middle, zero = (SIDE - 1) / 2, ops.zeros_like(x)
    across = shear * y_scale
    # Scale, shear and centring are one matrix, so that an image is interpolated, and thus blurred, only once.
    # `affine_transform` expects the matrix that maps points of the result to points of the original.
    to_source = (x_scale, across, x - middle * (x_scale + across), zero, y_scale, y - middle * y_scale, zero, zero)
    # Rounded, because preprocessed images are stored as uint8, which needs a quarter of the memory of float32.
    return ops.round(ops.image.affine_transform(pixels, ops.stack(to_source, 1), interpolation="bilinear"))
