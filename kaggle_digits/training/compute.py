"""The compute of a training, counted from the layers of the network."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kaggle_digits.training.presets import Preset, Settings, build_network
from kaggle_digits.training.schedule import plan_steps

if TYPE_CHECKING:
    import keras

NEWTON_SCHULZ_ITERATIONS = 5
"""How often the optimiser Muon improves the orthogonalisation of an update."""


def training_flops(settings: Settings, rows: int, network: keras.Model) -> int:
    """Return the floating-point operations of all steps of the training of a fold with `rows` training rows.

    Counted are the matrix products of the convolutions and dense layers, where an addition and a multiplication
    are two operations, and those of Muon. All other operations are less than a hundredth of them.
    """
    batch_size, steps = plan_steps(rows, settings)
    step = image_flops(network) * batch_size
    if settings.optimizer == "muon":
        step += sum(_newton_schulz_flops(tuple(weight.shape)) for weight in network.trainable_variables)
    return sum(steps) * step


def image_flops(network: keras.Model) -> int:
    """Return the number of floating-point operations for one image in a forward and a backward pass."""
    # A kernel is applied at each position of the output: (batch, height, width, maps), or (batch, units).
    products: Iterator[int] = (
        math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
        for layer in network.layers
        if hasattr(layer, "kernel")
    )
    # The backward pass has two matrix products for each one of the forward pass: one gives the gradient of the
    # kernel, the other that of the layer's input.
    return 3 * 2 * sum(products)


def run_flops(preset: Preset, rows: int) -> int:
    """Return the floating-point operations of the training of all folds, for `rows` rows in train.csv."""
    # Folds differ by at most one row for each digit, which is at most one step.
    network = build_network(preset.settings)
    return preset.folds * training_flops(preset.settings, rows - rows // preset.folds, network)


def is_orthogonalised(shape: tuple[int, ...]) -> bool:
    """Tell whether Muon orthogonalises the updates of a variable of this shape.

    The kernels of convolutions, except those for images with one channel: their matrices have few rows, whose
    scales differ for a reason. The last layer is left to AdamW too, as Jordan et al. recommend.
    """
    return len(shape) == 4 and shape[2] > 1


def _newton_schulz_flops(shape: tuple[int, ...]) -> int:
    """Return the floating-point operations that one update of a variable of this shape takes in Muon."""
    if not is_orthogonalised(shape):
        return 0
    sides = math.prod(shape[:3]), shape[3]
    short, long = min(sides), max(sides)
    return NEWTON_SCHULZ_ITERATIONS * (4 * short**2 * long + 2 * short**3)
