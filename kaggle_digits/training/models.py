"""The networks, and what a network says of images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from kaggle_digits.arrays import Float32, UInt8
from kaggle_digits.workspace import CLASSES, SIDE

if TYPE_CHECKING:
    import keras

PREDICTION_BATCH = 500
"""Rows at a time: large enough for full speed, small enough that the activations stay in tens of megabytes."""

SURE = 0.9
"""A largest probability from which on further views of an image hardly ever change its class."""


KERAS_ENVIRONMENT = {"KERAS_BACKEND": "tensorflow", "KERAS_HOME": os.devnull}
"""Lets Keras work as our networks need it: on TensorFlow, and without the person's ``keras.json``, whose data
format and number type every layer would get. Below the null device is no such file, and none can be written."""


def tensorflow_keras() -> Any:
    """Return Keras, which reads its settings as it is imported, as our networks need it."""
    before = {name: os.environ.get(name) for name in KERAS_ENVIRONMENT}
    os.environ |= KERAS_ENVIRONMENT
    try:
        import keras
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return keras


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


def residual_cnn(stem: int, first: int, second: int, dropout: float) -> keras.Model:
    """Build a small residual network whose work is in large matrix products.

    The middle 24x24 pixels; a 4x4 convolution of stride 2 to `stem` maps of 12x12; a 3x3 convolution to `first`
    maps and a residual block; 2x2 max pooling; a 3x3 convolution to `second` maps of 6x6 and two residual blocks;
    dropout and a dense layer on all of the 6x6 maps. Every convolution is followed by batch normalisation and
    ReLU, and a residual block adds one such 3x3 convolution to its input.

    Parameters
    ----------
    stem, first, second : int
        Numbers of maps.
    dropout : float
        Share of the last activations dropped.

    Returns
    -------
    keras.Model
        Grey values 0 to 255, [b, 28, 28, 1], to logits, [b, 10].
    """
    from keras import layers

    def convolution(x: Any, maps: int, size: int = 3, stride: int = 1) -> Any:
        x = layers.Conv2D(maps, size, stride, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
        x = layers.BatchNormalization(momentum=0.98, epsilon=1e-5)(x)
        return layers.ReLU()(x)

    def residual(x: Any, maps: int) -> Any:
        return layers.Add()([x, convolution(x, maps)])

    pixels, x = _pixels()
    x = layers.Cropping2D(2)(x)
    x = convolution(x, stem, size=4, stride=2)
    x = residual(convolution(x, first), first)
    x = layers.MaxPooling2D()(x)
    x = residual(residual(convolution(x, second), second), second)
    x = layers.Flatten()(x)
    x = layers.Dropout(dropout)(x)
    return _classifier(pixels, x)


def network_digest(model: keras.Model) -> str:
    """Return 12 hexadecimal digits that tell a network apart from others of another structure.

    Made of each layer's kind, weights' shapes, output shape and activation: the same with every version of Keras,
    whatever the values of the weights, rates and names are.
    """
    layers = [
        (
            type(layer).__name__,
            [tuple(weight.shape) for weight in layer.weights],
            tuple(layer.output.shape),
            getattr(getattr(layer, "activation", None), "__name__", None),
        )
        for layer in model.layers
    ]
    return hashlib.sha256(repr(layers).encode()).hexdigest()[:12]


def softmax_function(model: keras.Model, views: int = 1) -> Callable[[UInt8], Float32]:
    """Return the function from images to a network's class probabilities.

    Parameters
    ----------
    model : keras.Model
        From grey values to logits, as the functions of this module build it.
    views : int
        1, or 5 to show the network an image that it is not sure of shifted by a pixel to each side too, and to
        take the mean of the five softmaxes.

    Returns
    -------
    callable
        From grey values, uint8 [n, 28, 28], to a softmax a row, float32 [n, 10], in the same order.
    """
    import tensorflow as tf

    # AutoGraph would leave its source files behind when the process is killed, and there is nothing for it to do.
    @tf.function(reduce_retracing=True, autograph=False)  # type: ignore[untyped-decorator]
    def softmax(batch: Any) -> Any:
        return tf.nn.softmax(model(tf.cast(batch[..., None], tf.float32), training=False))

    def predict_once(images: UInt8) -> Float32:
        softmaxes = np.empty((len(images), CLASSES), np.float32)
        for start in range(0, len(images), PREDICTION_BATCH):
            rows = slice(start, start + PREDICTION_BATCH)
            softmaxes[rows] = softmax(images[rows]).numpy()
        return softmaxes

    def predict(images: UInt8) -> Float32:
        softmaxes = predict_once(images)
        unsure = softmaxes.max(1) < SURE
        if views > 1 and unsure.any():
            padded = np.pad(images[unsure], ((0, 0), (1, 1), (1, 1)))
            shifted = [padded[:, y : y + SIDE, x : x + SIDE] for y, x in ((0, 1), (2, 1), (1, 0), (1, 2))]
            seen = [softmaxes[unsure], *map(predict_once, shifted)]
            softmaxes[unsure] = np.mean(seen, axis=0, dtype=np.float64)
        return softmaxes

    return predict


def _pixels() -> tuple[Any, Any]:
    import keras

    pixels = keras.Input((SIDE, SIDE, 1))
    return pixels, keras.layers.Rescaling(1 / 255)(pixels)


def _classifier(pixels: Any, features: Any) -> keras.Model:
    import keras

    return keras.Model(pixels, keras.layers.Dense(CLASSES)(features))
