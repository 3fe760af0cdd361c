"""The optimiser Muon."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.parametrize("shape", [(12, 5), (5, 12)])
def test_orthogonalise_keeps_singular_vectors_and_equalises_singular_values_but_zeros(
    shape: tuple[int, int],
) -> None:
    from kaggle_digits.training.muon import orthogonalise

    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    result = np.asarray(orthogonalise(matrix))
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    in_the_basis = left.T @ result @ right.T
    singular_values = np.diag(in_the_basis)
    np.testing.assert_allclose(in_the_basis, np.diag(singular_values), atol=1e-4)
    assert singular_values.min() > 0.6
    assert singular_values.max() < 1.3
    assert not np.asarray(orthogonalise(0 * matrix)).any()


def test_muon_updates_kernels_by_orthogonal_steps_and_the_rest_like_adamw() -> None:
    import keras

    from kaggle_digits.training.muon import Muon

    rng = np.random.default_rng(0)
    shapes = [(3, 3, 4, 6), (4, 4, 1, 6), (6, 10), (6,)]
    values = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    gradients = [rng.normal(size=shape).astype(np.float32) for shape in shapes]

    def step(kind: type[keras.optimizers.AdamW]) -> list[np.ndarray]:
        variables = [keras.Variable(value) for value in values]
        kind(0.01, 0.0).apply([keras.ops.convert_to_tensor(g) for g in gradients], variables)
        return [np.asarray(variable) - value for variable, value in zip(variables, values, strict=True)]

    by_muon, by_adamw = step(Muon), step(keras.optimizers.AdamW)
    for one, other in zip(by_muon[1:], by_adamw[1:], strict=True):
        np.testing.assert_array_equal(one, other)
    matrix = by_muon[0].reshape(-1, 6)
    # All singular values are about the same, and the root mean square is about .2 times the learning rate.
    singular_values = np.linalg.svd(matrix, compute_uv=False)
    assert singular_values.max() / singular_values.min() < 2
    assert np.sqrt((matrix**2).mean()) == pytest.approx(0.2 * 0.01, rel=0.2)
    assert (matrix * gradients[0].reshape(-1, 6)).sum() < 0
