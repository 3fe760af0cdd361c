"""Batch normalisation: equal to that of Keras."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kaggle_digits.training.batch_normalization import BatchNormalization

MAPS = np.random.default_rng(0).normal(3, 2, (8, 6, 6, 5)).astype(np.float32)


def trained_once(kind: type[keras.layers.BatchNormalization]) -> tuple[Any, list[Any], list[Any]]:
    """Return the result of one training step, the gradients, and the moving statistics."""
    layer = kind(momentum=0.9, epsilon=1e-5)
    layer.build(MAPS.shape)
    layer.gamma.assign([1, 2, 3, 4, 5])
    layer.beta.assign([5, 4, 3, 2, 1])
    maps = tf.constant(MAPS)
    with tf.GradientTape() as tape:
        tape.watch(maps)
        result = layer(maps, training=True)
        loss = tf.reduce_sum(result**3)
    gradients = tape.gradient(loss, [maps, layer.gamma.value, layer.beta.value])
    return result.numpy(), [g.numpy() for g in gradients], [w.numpy() for w in layer.non_trainable_variables]


def test_BatchNormalization_trains_like_that_of_Keras() -> None:  # noqa: N802 (the name of the class)
    result, gradients, (mean, variance) = trained_once(BatchNormalization)
    wanted, wanted_gradients, (wanted_mean, wanted_variance) = trained_once(keras.layers.BatchNormalization)
    np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-4)
    for gradient, wanted_gradient in zip(gradients, wanted_gradients, strict=True):
        np.testing.assert_allclose(gradient, wanted_gradient, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(mean, wanted_mean, rtol=1e-5)
    # The moving variance is the unbiased one.
    rows = MAPS[..., 0].size
    np.testing.assert_allclose(variance - 0.9, (wanted_variance - 0.9) * rows / (rows - 1), rtol=1e-4)
