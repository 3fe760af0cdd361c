"""Random deformation of digits, in one pass of bilinear sampling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from kaggle_digits.competition import SIDE

if TYPE_CHECKING:
    import tensorflow as tf

    from kaggle_digits.recipes import Settings

_BORDER = 2
"""Pixels of paper around an image, so that whoever samples outside of it finds paper."""


def augment(images: tf.Tensor, settings: Settings, seed: tf.Tensor) -> tf.Tensor:
    """Rotate, scale, shear and shift every image at random, by one composed affine transform.

    Parameters
    ----------
    images : Tensor of float32, shape (b, 28, 28, 1)
        Any grey values; paper is 0.
    settings : Settings
        ``rotation`` (degrees), ``scale``, ``shear`` (shares of 1) and ``shift`` (pixels): half-widths of
        uniform distributions.
    seed : Tensor of int32, shape (2,)
        Same seed, same deformation.

    Returns
    -------
    Tensor of float32, shape (b, 28, 28, 1)
        The deformed images.
    """
    import tensorflow as tf

    x, y = _grid()
    draws = tf.random.stateless_uniform((6, tf.shape(images)[0], 1), seed, -1.0, 1.0)
    angle = draws[0] * math.radians(settings.rotation)
    scale_x, scale_y = 1 + draws[1] * settings.scale, 1 + draws[2] * settings.scale
    shear = draws[3] * settings.shear
    cos, sin = tf.cos(angle), tf.sin(angle)
    source_x = scale_x * cos * x + scale_y * (shear * cos - sin) * y + draws[4] * settings.shift
    source_y = scale_x * sin * x + scale_y * (shear * sin + cos) * y + draws[5] * settings.shift
    return _sample(images, source_x, source_y)


def _grid() -> tuple[Any, Any]:
    """Return each pixel's coordinates from the centre of the image, float32 [1, 784] each."""
    centred = np.arange(SIDE, dtype=np.float32) - (SIDE - 1) / 2
    y, x = np.meshgrid(centred, centred, indexing="ij")
    return x.reshape(1, -1), y.reshape(1, -1)


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
