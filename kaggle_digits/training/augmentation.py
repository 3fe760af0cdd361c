"""Random deformation of digits, in one pass of bilinear sampling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from kaggle_digits.workspace import SIDE

if TYPE_CHECKING:
    import tensorflow as tf

    from kaggle_digits.training.presets import Settings

_GRID = 5
"""Knots of the elastic displacement along each axis."""
_BORDER = 2
"""Pixels of paper around an image, so that whoever samples outside of it finds paper."""


def augment(images: tf.Tensor, settings: Settings, strength: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Rotate, scale, shear, shift and bend every image at random.

    One affine transform and one smooth displacement, composed, so that an image is sampled once. The displacement
    is a cubic B-spline surface with normal weights on a coarse grid: Simard, Steinkraus and Platt's elastic
    deformation (ICDAR 2003) at the price of one matrix product.

    Parameters
    ----------
    images : Tensor of float32, shape (b, 28, 28, 1)
        Any grey values; paper is 0.
    settings : Settings
        ``rotation`` (degrees), ``scale``, ``shear`` (shares of 1) and ``shift`` (pixels): half-widths of
        uniform distributions; ``elastic`` (pixels): standard deviation of the displacement.
    strength : Tensor of float32, shape ()
        Multiplies all of them.
    seed : Tensor of int32, shape (2,)
        Same seed, same deformation.

    Returns
    -------
    Tensor of float32, shape (b, 28, 28, 1)
        The deformed images.
    """
    import tensorflow as tf

    x, y = _grid()
    count = tf.shape(images)[0]
    draws = strength * tf.random.stateless_uniform((6, count, 1), seed, -1.0, 1.0)
    angle = draws[0] * math.radians(settings.rotation)
    scale_x, scale_y = tf.exp(draws[1] * settings.scale), tf.exp(draws[2] * settings.scale)
    shear = draws[3] * settings.shear
    cos, sin = tf.cos(angle), tf.sin(angle)
    source_x = scale_x * cos * x + scale_y * (shear * cos - sin) * y + draws[4] * settings.shift
    source_y = scale_x * sin * x + scale_y * (shear * sin + cos) * y + draws[5] * settings.shift
    if settings.elastic:
        surfaces = _spline_surfaces()
        weights = tf.random.stateless_normal((2, count, len(surfaces)), seed + 1)
        bend = strength * settings.elastic * tf.matmul(weights, surfaces)
        source_x, source_y = source_x + bend[0], source_y + bend[1]
    return _sample(images, source_x, source_y)


def _grid() -> tuple[Any, Any]:
    """Return each pixel's coordinates from the centre of the image, float32 [1, 784] each."""
    centred = np.arange(SIDE, dtype=np.float32) - (SIDE - 1) / 2
    y, x = np.meshgrid(centred, centred, indexing="ij")
    return x.reshape(1, -1), y.reshape(1, -1)


def _spline_surfaces() -> Any:
    """Return a cubic B-spline surface for each knot of the grid, float32 [25, 784].

    Scaled so that weights with a standard deviation of 1 give displacements with one of 1, on average over pixels.
    """
    knots = np.arange(_GRID)
    distance = np.abs(np.linspace(1, _GRID - 2, SIDE)[:, None] - knots)
    inner, outer = 2 / 3 - distance**2 + distance**3 / 2, (2 - distance) ** 3 / 6
    spline = np.where(distance < 1, inner, np.where(distance < 2, outer, 0))
    surfaces = np.einsum("yi,xj->ijyx", spline, spline).reshape(_GRID**2, -1)
    return (surfaces / np.sqrt((surfaces**2).sum(0)).mean()).astype(np.float32)


def _sample(images: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Read images at the points (x, y), float32 [b, 784], between pixels by bilinear interpolation."""
    import tensorflow as tf

    side = SIDE + 2 * _BORDER
    padded = tf.pad(images[..., 0], [[0, 0], [_BORDER, _BORDER], [_BORDER, _BORDER]])
    pixels = tf.reshape(padded, [-1])
    to_corner = (SIDE - 1) / 2 + _BORDER
    x = tf.clip_by_value(x + to_corner, 0.0, side - 2.0)
    y = tf.clip_by_value(y + to_corner, 0.0, side - 2.0)
    left, top = tf.floor(x), tf.floor(y)
    right_share, bottom_share = x - left, y - top
    image = tf.range(tf.shape(images)[0])[:, None] * (side * side)
    at = image + tf.cast(top * side + left, tf.int32)
    upper = _between(tf.gather(pixels, at), tf.gather(pixels, at + 1), right_share)
    lower = _between(tf.gather(pixels, at + side), tf.gather(pixels, at + side + 1), right_share)
    return tf.reshape(_between(upper, lower, bottom_share), tf.shape(images))


def _between(a: tf.Tensor, b: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    return a + share * (b - a)
