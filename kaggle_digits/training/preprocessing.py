"""Preprocessing of digits: normalise, widen, thicken or slant them before they are given to a network.

Networks with different preprocessings make different errors, so the mean of their predictions makes fewer, as
Ciresan, Meier and Schmidhuber (CVPR 2012) showed with digits normalised to different widths. The geometry is from
moment normalisation (Liu, Nakashima, Sako and Fujisawa, Pattern Recognition 37, 2004).
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from kaggle_digits.arrays import UInt8
from kaggle_digits.workspace import SIDE

_BATCH = 1_000
"""The number of images processed at once, which limits the memory of intermediate tensors."""
_FEW = 100
"""The number of images for which it is not worth the time to compile a preprocessing."""
_MIN_SCALE, _MAX_SCALE = 0.4, 1.4
"""Limits of the scale, in pixels of the original per pixel of the result, so that a 1 does not fill the image."""
_COLUMN = np.arange(SIDE, dtype=np.float64).reshape(1, 1, SIDE)
_ROW = _COLUMN.reshape(1, SIDE, 1)
_MIDDLE = (SIDE - 1) / 2


@dataclass(frozen=True)
class Preprocessing:
    """The parameters of a preprocessing. Each also moves the centre of mass to the middle of the image."""

    shear: float | None = None  # the slant after preprocessing, pixels to the right per pixel up; None keeps it
    width: float | None = None  # the target spread along x: standard deviation of the grey values, in pixels
    height: float | None = None  # the same along y; None keeps the spread of the digit
    evenness: float = 0.0  # the share of the difference to these targets that is removed by scaling
    bold: float = 0.0  # 0 keeps the strokes, 1 replaces each pixel by the darkest of its 3x3 neighbourhood


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
    """Preprocess images, uint8 [n, 28, 28], for training, prediction and reports; ink is 255."""
    if PREPROCESSINGS[name] is None:
        return images
    if len(images) <= _FEW:
        return np.asarray(preprocessed_tensor(images, name), np.uint8)
    batches = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
    return np.concatenate([_compiled(name)(batch) for batch in batches])


def preprocessed_tensor(images: Any, name: str) -> Any:
    """Preprocess a tensor, uint8 [b, 28, 28], by Keras operations: float64 [b, 28, 28], whole numbers."""
    from keras import ops

    # In float32, another order of the sums, as in another runtime, would change the rounding of a pixel in one of
    # 80 images, and with it the prediction.
    ink = ops.cast(images, "float64")
    preprocessing = PREPROCESSINGS[name]
    if preprocessing is None:
        return ink
    if preprocessing.bold:
        # In float32, for which every runtime has a pooling; whole numbers are exact in it.
        darkest = ops.max_pool(ops.cast(ops.expand_dims(images, -1), "float32"), 3, 1, "same")
        ink = ink + preprocessing.bold * (ops.cast(ops.squeeze(darkest, -1), "float64") - ink)
    total = ops.maximum(ops.sum(ink, (1, 2), keepdims=True), 1.0)  # an empty image must not divide by zero

    def mean(values: Any) -> Any:
        return ops.sum(ink * values, (1, 2), keepdims=True) / total

    # Here and below, numbers that differ from image to image have the shape (b, 1, 1).
    x, y = mean(_COLUMN), mean(_ROW)
    dx, dy = x - _COLUMN, y - _ROW
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
    # Scale, shear and centring are one step, so that an image is interpolated, and thus blurred, only once.
    down = y_scale * (_ROW - _MIDDLE)
    return ops.round(_bilinear(ink, x + x_scale * (_COLUMN - _MIDDLE) + shear * down, y + down))


def _bilinear(ink: Any, x: Any, y: Any) -> Any:
    """Return the grey values of images [b, 28, 28] at the points x [b, 28, 28], y [b, 28, 1]; 0 outside."""
    from keras import ops

    # Only basic operations, which every runtime has; `keras.ops.image.affine_transform` has no equivalent in ONNX.
    # All points of a row of the result are in the same row of the image, y, which is interpolated first: between
    # two rows, each with a weight that falls linearly to 0 at the distance 1.
    rows = ops.matmul(ops.maximum(1 - ops.abs(y - _COLUMN), 0.0), ink)
    # Two empty columns on each side, so that the points outside need no special case.
    rows = ops.pad(rows, ((0, 0), (0, 0), (2, 2)))
    x = ops.clip(x + 2, 0.0, SIDE + 2)
    left = ops.floor(x)
    column, right_share = ops.cast(left, "int32"), x - left
    left_ink, right_ink = ops.take_along_axis(rows, column, 2), ops.take_along_axis(rows, column + 1, 2)
    return left_ink + right_share * (right_ink - left_ink)


@cache
def _compiled(name: str) -> Any:
    """Return `preprocessed_tensor` for one preprocessing, compiled: four times as fast as single operations."""
    import tensorflow as tf

    signature = [tf.TensorSpec((None, SIDE, SIDE), tf.uint8)]

    @tf.function(input_signature=signature, autograph=False)  # type: ignore[untyped-decorator]
    def transform(images: Any) -> Any:
        return tf.cast(preprocessed_tensor(images, name), tf.uint8)

    return transform
