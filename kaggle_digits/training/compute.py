"""The compute of a training, counted from the layers of the network."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kaggle_digits.training.models import Kernel
from kaggle_digits.training.presets import Preset, Settings, kernels_of
from kaggle_digits.training.schedule import plan_steps

NEWTON_SCHULZ_ITERATIONS = 5
"""How often the optimiser Muon improves the orthogonalisation of an update."""


def training_flops(settings: Settings, rows: int, kernels: Sequence[Kernel] | None = None) -> int:
    """Return the floating-point operations of all steps of the training of a fold with `rows` training rows.

    Counted are the matrix products of the convolutions and dense layers, where an addition and a multiplication
    are two operations, and those of Muon. All other operations are less than a hundredth of them. `kernels` are
    those of another network than that of the settings, as of `kernels_of`.
    """
    kernels = kernels or kernels_of(settings)
    batch_size, steps = plan_steps(rows, settings)
    step = image_flops(kernels) * batch_size
    if settings.optimizer == "muon":
        step += sum(_newton_schulz_flops(shape) for _, shape in kernels)
    return sum(steps) * step


def image_flops(kernels: Sequence[Kernel]) -> int:
    """Return the number of floating-point operations for one image in a forward and a backward pass."""
    forward = sum(2 * positions * math.prod(shape) for positions, shape in kernels)
    # The backward pass has two matrix products for each one of the forward pass: one gives the gradient of the
    # kernel, the other that of the layer's input.
    return 3 * forward


def run_flops(preset: Preset, rows: int) -> int:
    """Return the floating-point operations of the training of all folds, for `rows` rows in train.csv."""
    # Folds differ by at most one row for each digit, which is at most one step.
    return preset.folds * training_flops(preset.settings, rows - rows // preset.folds)


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
