"""The optimiser Muon for the kernels of convolutions, with AdamW for all other weights."""

from typing import Any

import keras
from keras import ops

from kaggle_digits.training.compute import NEWTON_SCHULZ_ITERATIONS, is_orthogonalised

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""The coefficients of the Newton-Schulz iteration, from Jordan et al. (2024)."""
ADAM_RMS = 0.2
"""The root mean square of an update of AdamW is about this multiple of the learning rate (Liu et al.,
arXiv:2502.16982). Those of Muon are scaled to it, so that both use the same learning rate."""
MOMENTUM = 0.95


class Muon(keras.optimizers.AdamW):  # type: ignore[misc]
    """AdamW, except that the momentum of each kernel of a convolution is orthogonalised before it is applied."""

    # The momentum of a kernel, as a matrix of one column per output channel, usually has a few large singular
    # values, so that an update changes a few directions only. Muon replaces all singular values by about 1 (Jordan
    # et al., 2024, https://kellerjordan.github.io/posts/muon/), and the network learns more from each step.
    # Keras has an optimiser with this name, but it leaves the kernels of convolutions to AdamW.

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable."""
        if not is_orthogonalised(variable):
            super().update_step(gradient, variable, learning_rate)
            return
        momentum = self._momentums[self._get_variable_index(variable)]
        self.assign(momentum, MOMENTUM * momentum + gradient)
        # Nesterov's momentum: the direction that the momentum will have after one more such gradient.
        direction = ops.reshape(MOMENTUM * momentum + gradient, (-1, variable.shape[-1]))
        # A matrix with orthogonal columns or rows has a root mean square of 1 / sqrt(its longer side).
        size = ADAM_RMS * max(direction.shape) ** 0.5
        update = size * ops.reshape(orthogonalise(direction), variable.shape)
        self.assign_sub(variable, learning_rate * update)


def orthogonalise(matrix: Any) -> Any:
    """Return `matrix` [m, n] with its singular values, except zeros, replaced by about 0.7 to 1.2."""
    # Newton-Schulz iterations apply a polynomial to the singular values, with matrix products only. They are much
    # faster than a singular value decomposition, and singular values of exactly 1 would not be better.
    a, b, c = COEFFICIENTS
    # The products of the iteration are as large as the number of rows squared, so the shorter side goes first.
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = ops.transpose(matrix) if is_tall else matrix
    # The polynomial needs singular values of at most 1. The Frobenius norm is at least the largest of them.
    x = x / (ops.norm(x) + 1e-7)
    for _ in range(NEWTON_SCHULZ_ITERATIONS):
        gram = x @ ops.transpose(x)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return ops.transpose(x) if is_tall else x
