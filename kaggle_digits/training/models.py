"""The networks, and their predictions."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kaggle_digits.arrays import Float32, UInt8
from kaggle_digits.workspace import CLASSES, SIDE

if TYPE_CHECKING:
    import keras

PREDICTION_BATCH = 500
"""Rows at a time: large enough for full speed, small enough that the activations stay in tens of megabytes."""

SURE = 0.9
"""A largest probability from which on test-time augmentation hardly ever changes an image's class."""

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


def lenet(widths: Sequence[int], dropout: float) -> keras.Model:
    """Build the LeNet-like network of the article this project started from.

    Zero-padding to 32x32, two 5x5 convolutions with ReLU, each followed by 2x2 average pooling, then two dense
    layers with dropout.

    Parameters
    ----------
    widths : sequence of int
        Feature maps of each convolution, then units of each hidden dense layer; the article has 36, 36, 128, 64.
    dropout : float
        Share of activations dropped after each hidden dense layer; the article has .3, and compares it with .5.

    Returns
    -------
    keras.Model
        Grey values 0 to 255, [b, 28, 28, 1], to logits, [b, 10].
    """
    from keras import layers

    pixels, x = _pixels()
    x = layers.ZeroPadding2D(2)(x)  # LeCun et al. (1998) give their LeNet-5 images of 32x32, too
    for maps in widths[:2]:
        x = layers.Conv2D(maps, 5, activation="relu")(x)
        x = layers.AveragePooling2D(2, padding="same")(x)
    x = layers.Flatten()(x)
    for units in widths[2:]:
        x = layers.Dense(units, activation="relu")(x)
        x = layers.Dropout(dropout)(x)
    return _classifier(pixels, x)


def residual_cnn(widths: Sequence[int], dropout: float) -> keras.Model:
    """Build a small residual network whose work is in large matrix products.

    The middle 24x24 pixels; the stem, a 4x4 convolution of stride 2 to maps of 12x12; the first stage, a 3x3
    convolution and a residual block; 2x2 max pooling; the second stage, a 3x3 convolution and two residual blocks
    on maps of 6x6; dropout and a dense layer on all of the 6x6 maps. Every convolution is followed by
    batch normalisation and ReLU, and a residual block adds one such 3x3 convolution to its input (He et al., CVPR
    2016).

    Parameters
    ----------
    widths : sequence of int
        Feature maps of the stem, the first and the second stage.
    dropout : float
        Share of the last activations dropped.

    Returns
    -------
    keras.Model
        Grey values 0 to 255, [b, 28, 28, 1], to logits, [b, 10].
    """
    from keras import layers

    def convolution(x: Any, maps: int, size: int = 3, stride: int = 1) -> Any:
        # No bias: batch normalisation subtracts the mean, and so would remove it again.
        x = layers.Conv2D(maps, size, stride, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
        # Momentum below Keras's .99: trainings are short, and the running means, which predictions use, have to
        # follow weights that still change in the last steps.
        x = layers.BatchNormalization(momentum=0.98, epsilon=1e-5)(x)
        return layers.ReLU()(x)

    def residual(x: Any, maps: int) -> Any:
        return layers.Add()([x, convolution(x, maps)])

    stem, first, second = widths
    pixels, x = _pixels()
    # MNIST's digits are 20x20 pixels, centred by mass: there is hardly any ink at the edge to look for.
    x = layers.Cropping2D(2)(x)
    # Stride 2 at once: convolutions of few maps on many pixels are slow for what they compute.
    x = convolution(x, stem, size=4, stride=2)
    x = residual(convolution(x, first), first)
    x = layers.MaxPooling2D()(x)
    x = residual(residual(convolution(x, second), second), second)
    # Not a mean over the map: in which corner a stroke lies tells digits apart.
    x = layers.Flatten()(x)
    x = layers.Dropout(dropout)(x)
    return _classifier(pixels, x)


def network_digest(model: keras.Model) -> str:
    """Return 12 hexadecimal digits that tell a network apart from others of another structure.

    Made of each layer's kind, weights' shapes, output shape and activation: the same with every version of Keras,
    whatever the values of the weights, rates and names are.
    """
    # No names of layers: they count up within a process, and would differ from fold to fold.
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


def softmax_function(model: keras.Model, tta: int = 1) -> Callable[[UInt8], Float32]:
    """Return the function from images to a network's class probabilities.

    Parameters
    ----------
    model : keras.Model
        From preprocessed grey values to logits, as the functions of this module build it.
    tta : int
        Test-time augmentation: 1 for none, or 5 for the mean softmax of an image and its four shifts by one
        pixel, wherever the network is not sure of the image alone.

    Returns
    -------
    callable
        From preprocessed grey values, uint8 [n, 28, 28], to a softmax a row, float32 [n, 10], in the same order.
    """
    import tensorflow as tf

    # AutoGraph would leave its source files behind when the process is killed, and there is nothing for it to do.
    @tf.function(reduce_retracing=True, autograph=False)  # type: ignore[untyped-decorator]
    def softmax(batch: Any) -> Any:
        return tf.nn.softmax(model(tf.cast(batch[..., None], tf.float32), training=False))

    def predict_once(images: UInt8) -> Float32:
        softmaxes = np.empty((len(images), CLASSES), np.float32)
        # The last batch may be smaller; `reduce_retracing` lets one trace serve all sizes.
        for start in range(0, len(images), PREDICTION_BATCH):
            rows = slice(start, start + PREDICTION_BATCH)
            softmaxes[rows] = softmax(images[rows]).numpy()
        return softmaxes

    def predict(images: UInt8) -> Float32:
        softmaxes = predict_once(images)
        # Only the few rows that the network is not sure of: the class of the others would hardly ever change, so
        # that this has nearly the full gain of test-time augmentation at a fraction of its time.
        unsure = softmaxes.max(1) < SURE
        if tta > 1 and unsure.any():
            padded = np.pad(images[unsure], ((0, 0), (1, 1), (1, 1)))
            shifted = [padded[:, y : y + SIDE, x : x + SIDE] for y, x in ((0, 1), (2, 1), (1, 0), (1, 2))]
            all_softmaxes = [softmaxes[unsure], *map(predict_once, shifted)]
            # Added up in float64, which leaves a rounding error of float32 only once.
            softmaxes[unsure] = np.mean(all_softmaxes, axis=0, dtype=np.float64)
        return softmaxes

    return predict


def _pixels() -> tuple[Any, Any]:
    import keras

    pixels = keras.Input((SIDE, SIDE, 1))
    # Inside the network, so that no caller can forget it.
    return pixels, keras.layers.Rescaling(1 / 255)(pixels)


def _classifier(pixels: Any, features: Any) -> keras.Model:
    import keras

    # Logits, not a softmax: a loss that is computed from logits does not overflow.
    return keras.Model(pixels, keras.layers.Dense(CLASSES)(features))
