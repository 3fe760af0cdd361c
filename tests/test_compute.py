"""The number of operations in a training."""

from __future__ import annotations

import math

import pytest

from kaggle_digits.training.compute import training_flops
from kaggle_digits.training.presets import PRESETS, build_network, find_preset, kernels_of


@pytest.mark.parametrize("preset", PRESETS)
def test_kernels_of_matches_the_layers(preset: str) -> None:
    settings = find_preset(preset).settings
    layers = [layer for layer in build_network(settings).layers if hasattr(layer, "kernel")]
    # The output of a convolution has the shape (batch, height, width, maps).
    found = [(math.prod(layer.output.shape[1:-1]), tuple(layer.kernel.shape)) for layer in layers]
    assert kernels_of(settings) == found


def test_training_flops_counts_all_steps_of_all_epochs() -> None:
    settings = find_preset("lenet").with_settings({"epochs": 3, "batch_size": 100}).settings
    # Multiplications and additions of one image, forward: two convolutions and three dense layers.
    forward = 2 * (784 * 25 * 36 + 100 * 25 * 36 * 36 + 900 * 128 + 128 * 64 + 64 * 10)
    assert training_flops(settings, 1_050) == 3 * 10 * 100 * 3 * forward  # 3 epochs, 10 complete batches of 100


def test_training_flops_includes_hard_example_mining_and_muon() -> None:
    changes = {"epochs": 2, "batch_size": 50, "hard_rows": 0.25, "other_rows": 0.25, "widths": "2,4,8"}
    preset = find_preset("fast")
    adamw = preset.with_settings(changes | {"optimizer": "adamw"}).settings
    muon = preset.with_settings(changes | {"optimizer": "muon"}).settings
    one_epoch = preset.with_settings(changes | {"optimizer": "adamw", "epochs": 1}).settings
    assert training_flops(adamw, 1_000) == 1.5 * training_flops(one_epoch, 1_000)
    # Five iterations with three matrix products each, for the matrices 18x2, 18x4, 36x4, 36x8 and 72x8.
    sides = [(18, 2), (18, 4), (36, 4), (36, 8), (72, 8)]
    update = sum(5 * (2 * n * n * m + 2 * n * n * n + 2 * n * n * m) for m, n in sides)
    assert training_flops(muon, 1_000) - training_flops(adamw, 1_000) == 30 * update
