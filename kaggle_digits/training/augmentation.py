"""Random augmentation of digits, in one pass of bilinear interpolation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from kaggle_digits.workspace import SIDE

if TYPE_CHECKING:
    import tensorflow as tf

    from kaggle_digits.training.presets import Settings

_GRID = 5
"""The number of control points of the elastic displacement along each axis, which are 13.5 pixels apart."""
_BORDER = 2
"""The width of the zero padding around an image, in pixels. Points further outside are clipped to the padding."""


def augment(images: tf.Tensor, settings: Settings, seed: tf.Tensor) -> tf.Tensor:
    """Deform each image at random, float32 [b, 28, 28, 1]; seed: int32 [2]."""
    import tensorflow as tf

    # The coordinates of each pixel relative to the centre, so that rotation and scaling do not move the digit.
    y, x = np.indices((SIDE, SIDE), np.float32).reshape(2, 1, -1) - np.float32((SIDE - 1) / 2)
    count = tf.shape(images)[0]
    # Stateless: random numbers depend only on the seed, so a resumed training draws the same numbers.
    draws = tf.random.stateless_uniform((6, count, 1), seed, -1.0, 1.0)
    angle = draws[0] * math.radians(settings.rotation)
    # The exponential makes growing and shrinking by the same factor equally likely.
    scale_x, scale_y = tf.exp(draws[1] * settings.scale), tf.exp(draws[2] * settings.scale)
    shear = draws[3] * settings.shear
    cos, sin = tf.cos(angle), tf.sin(angle)
    # Rotation, shear and scale are multiplied into one matrix, so that the image is interpolated only once: each
    # interpolation blurs it and takes time. The matrix maps a pixel of the result to a point of the original.
    source_x = scale_x * cos * x + scale_y * (shear * cos - sin) * y + draws[4] * settings.shift
    source_y = scale_x * sin * x + scale_y * (shear * sin + cos) * y + draws[5] * settings.shift
    if settings.elastic:
        # Cubic B-spline surfaces with normally distributed weights at the control points of a coarse grid, as in
        # Rueckert et al. (IEEE TMI 18, 1999). They have the effect of the elastic distortion of Simard, Steinkraus
        # and Platt (ICDAR 2003), who filter white noise for each image, but cost only one matrix product.
        surfaces = _spline_surfaces()
        weights = tf.random.stateless_normal((2, count, len(surfaces)), seed + 1)
        displacement = settings.elastic * tf.matmul(weights, surfaces)
        source_x, source_y = source_x + displacement[0], source_y + displacement[1]
    return _sample(images, source_x, source_y)


def _spline_surfaces() -> Any:
    """Return a cubic B-spline surface for each control point of the grid, float32 [25, 784]."""
    knots = np.arange(_GRID)
    # The image lies between the second and the second-to-last control point, so that every pixel is within the
    # support of splines on both sides.
    distance = np.abs(np.linspace(1, _GRID - 2, SIDE)[:, None] - knots)
    # The two cubic pieces of the uniform B-spline, as functions of the distance to its centre.
    inner, outer = 2 / 3 - distance**2 + distance**3 / 2, (2 - distance) ** 3 / 6
    spline = np.where(distance < 1, inner, np.where(distance < 2, outer, 0))
    # Weights with a standard deviation of 1 give displacements with one of 1, on average over pixels.
    surfaces = np.einsum("yi,xj->ijyx", spline, spline).reshape(_GRID**2, -1)
    return (surfaces / np.sqrt((surfaces**2).sum(0)).mean()).astype(np.float32)


def _sample(images: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Sample images at the points (x, y), float32 [b, 784], by bilinear interpolation."""
    import tensorflow as tf

    side = SIDE + 2 * _BORDER
    padded = tf.pad(images[..., 0], [[0, 0], [_BORDER, _BORDER], [_BORDER, _BORDER]])
    pixels = tf.reshape(padded, [-1])
    to_corner = (SIDE - 1) / 2 + _BORDER
    # At most the second-to-last pixel, because the interpolation also reads the next pixel.
    x = tf.clip_by_value(x + to_corner, 0.0, side - 2.0)
    y = tf.clip_by_value(y + to_corner, 0.0, side - 2.0)
    left, top = tf.floor(x), tf.floor(y)
    right_share, bottom_share = x - left, y - top
    # The images are flattened into one vector, so that a single index addresses a pixel of any image.
    image = tf.range(tf.shape(images)[0])[:, None] * (side * side)
    at = image + tf.cast(top * side + left, tf.int32)
    upper = _between(tf.gather(pixels, at), tf.gather(pixels, at + 1), right_share)
    lower = _between(tf.gather(pixels, at + side), tf.gather(pixels, at + side + 1), right_share)
    return tf.reshape(_between(upper, lower, bottom_share), tf.shape(images))


def _between(a: tf.Tensor, b: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """Return the linear interpolation from `a` (share 0) to `b` (share 1)."""
    return a + share * (b - a)
