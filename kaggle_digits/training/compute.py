"""The compute of a training, counted from the layers of the network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from kaggle_digits.training.presets import Settings
from kaggle_digits.training.schedule import plan_steps

if TYPE_CHECKING:
    import keras

NEWTON_SCHULZ_ITERATIONS = 5
"""How often the optimiser Muon improves the orthogonalisation of an update."""


def training_flops(settings: Settings, rows: int, network: keras.Model) -> int:
    """Return the floating-point operations of the training of a fold with `rows` training rows."""
    # Counted are the matrix products of layers and of Muon, where an addition and a multiplication are two
    # operations. All other operations are less than a hundredth of them.
    batch_size, steps = plan_steps(rows, settings)
    step = image_flops(network) * batch_size
    if settings.optimizer == "muon":
        for weight in filter(is_orthogonalised, network.trainable_variables):
            short, long = sorted((math.prod(weight.shape[:3]), weight.shape[3]))
            step += NEWTON_SCHULZ_ITERATIONS * (4 * short**2 * long + 2 * short**3)
    return sum(steps) * step


def image_flops(network: keras.Model) -> int:
    """Return the number of floating-point operations for one image in a forward and a backward pass."""
    # The backward pass has two matrix products for each one of the forward pass, for two gradients.
    return 3 * 2 * _products(network)


def _products(network: keras.Model) -> int:
    """Return the number of multiplications for one image in a forward pass."""
    products = 0
    for layer in network.layers:
        if getattr(layer, "outputs", None):  # a model as a layer of another one
            products += _products(layer)
            continue
        # A kernel is applied at each position of the output: (batch, height, width, maps), or (batch, units).
        kernels = [weight.shape for weight in layer.trainable_weights if len(weight.shape) > 1]
        positions = math.prod(first_output(layer).shape[1:-1])
        products += sum(positions * math.prod(shape) for shape in kernels)
    return products


def first_output(layer: Any) -> Any:
    """Return the symbolic output of a layer, or the first one, such as that of an LSTM with its state."""
    return layer.output[0] if isinstance(layer.output, list | tuple) else layer.output


def is_orthogonalised(variable: Any) -> bool:
    """Tell whether Muon orthogonalises the updates of a variable: those of the kernels of convolutions."""
    # Not of those for images with one channel: their matrices have few rows, whose scales differ for a reason; and
    # not of depthwise ones, whose maps have nothing to do with each other. The last layer is left to AdamW too, as
    # Jordan et al. recommend.
    return len(variable.shape) == 4 and min(variable.shape[2:]) > 1
