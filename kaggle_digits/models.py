"""The networks, and what a network says of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from kaggle_digits.arrays import Float32, UInt8
from kaggle_digits.competition import CLASSES, SIDE

if TYPE_CHECKING:
    import keras

PREDICTION_BATCH = 500
"""Rows at a time: large enough for full speed, small enough that the activations stay in tens of megabytes."""


def lenet(dropout: float) -> keras.Model:
    """Build the LeNet-like network of the article this project started from.

    Zero-padding to 32x32, two 5x5 convolutions of 36 channels with ReLU, each followed by 2x2 average pooling,
    then dense layers of 128 and 64 with dropout.

    Parameters
    ----------
    dropout : float
        Share of activations dropped after each hidden dense layer; the article has .3, and compares it with .5.

    Returns
    -------
    keras.Model
        Grey values 0 to 255, [b, 28, 28, 1], to logits, [b, 10].
    """
    from keras import layers

    pixels, x = _pixels()
    x = layers.ZeroPadding2D(2)(x)
    for _ in range(2):
        x = layers.Conv2D(36, 5, activation="relu")(x)
        x = layers.AveragePooling2D(2, padding="same")(x)
    x = layers.Flatten()(x)
    for units in (128, 64):
        x = layers.Dense(units, activation="relu")(x)
        x = layers.Dropout(dropout)(x)
    return _classifier(pixels, x)


def strided_cnn(channels: tuple[int, ...], dropout: float) -> keras.Model:
    """Build a network of valid convolutions that shrink 28x28 to 2x2 without pooling.

    A 5x5 convolution of stride 2, then 3x3 ones, each with batch normalisation and ReLU: few operations a row,
    and large matrix products in each.

    Parameters
    ----------
    channels : tuple of int
        Of the six convolutions.
    dropout : float
        Share of the last activations dropped.

    Returns
    -------
    keras.Model
        Grey values 0 to 255, [b, 28, 28, 1], to logits, [b, 10].
    """
    from keras import layers

    pixels, x = _pixels()
    for i, width in enumerate(channels):
        size, stride = (5, 2) if i == 0 else (3, 1)
        x = layers.Conv2D(width, size, strides=stride, use_bias=False, kernel_initializer="he_normal")(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
    x = layers.Flatten()(x)
    x = layers.Dropout(dropout)(x)
    return _classifier(pixels, x)


def softmax_function(model: keras.Model) -> Callable[[UInt8], Float32]:
    """Return the function from images to a network's class probabilities.

    Parameters
    ----------
    model : keras.Model
        From grey values to logits, as the functions of this module build it.

    Returns
    -------
    callable
        From grey values, uint8 [n, 28, 28], to a softmax a row, float32 [n, 10], in the same order.
    """
    import tensorflow as tf

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def softmax(batch: Any) -> Any:
        return tf.nn.softmax(model(tf.cast(batch[..., None], tf.float32), training=False))

    def predict(images: UInt8) -> Float32:
        softmaxes = np.empty((len(images), CLASSES), np.float32)
        for start in range(0, len(images), PREDICTION_BATCH):
            rows = slice(start, start + PREDICTION_BATCH)
            softmaxes[rows] = softmax(images[rows]).numpy()
        return softmaxes

    return predict


def _pixels() -> tuple[Any, Any]:
    import keras

    pixels = keras.Input((SIDE, SIDE, 1))
    return pixels, keras.layers.Rescaling(1 / 255)(pixels)


def _classifier(pixels: Any, features: Any) -> keras.Model:
    import keras

    return keras.Model(pixels, keras.layers.Dense(CLASSES)(features))
