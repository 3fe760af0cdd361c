"""The number of operations in a training."""

from __future__ import annotations

import pytest

from kaggle_digits.training.compute import image_flops, training_flops
from kaggle_digits.training.presets import PRESETS, Preset, build_network, find_preset


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_training_flops_is_what_the_table_of_presets_says(preset: Preset) -> None:
    rows = 42_000 - 42_000 // preset.folds
    flops = preset.folds * training_flops(preset.settings, rows, build_network(preset.settings))
    assert preset.result.tflop == round(flops / 1e12, 1)


def test_training_flops_counts_all_steps_of_all_epochs() -> None:
    settings = find_preset("lenet").with_settings({"epochs": 3, "batch_size": 100}).settings
    # Multiplications and additions of one image, forward: two convolutions and three dense layers.
    forward = 2 * (784 * 25 * 36 + 100 * 25 * 36 * 36 + 900 * 128 + 128 * 64 + 64 * 10)
    # 3 epochs, 10 complete batches of 100
    assert training_flops(settings, 1_050, build_network(settings)) == 3 * 10 * 100 * 3 * forward


def test_training_flops_includes_hard_example_mining_and_muon() -> None:
    changes = {"epochs": 2, "batch_size": 50, "hard_rows": 0.25, "other_rows": 0.25, "widths": "2,4,8"}
    preset = find_preset("fast")
    adamw = preset.with_settings(changes | {"optimizer": "adamw"}).settings
    muon = preset.with_settings(changes | {"optimizer": "muon"}).settings
    one_epoch = preset.with_settings(changes | {"optimizer": "adamw", "epochs": 1}).settings
    network = build_network(muon)
    assert training_flops(adamw, 1_000, network) == 1.5 * training_flops(one_epoch, 1_000, network)
    # Five iterations with three matrix products each, for the matrices 18x2, 18x4, 36x4, 36x8 and 72x8.
    sides = [(18, 2), (18, 4), (36, 4), (36, 8), (72, 8)]
    update = sum(5 * (2 * n * n * m + 2 * n * n * n + 2 * n * n * m) for m, n in sides)
    assert training_flops(muon, 1_000, network) - training_flops(adamw, 1_000, network) == 30 * update


def test_image_flops_counts_nested_models_and_layers_with_several_outputs() -> None:
    from keras import Input, Model, Sequential, layers

    pixels = Input((28, 28, 1))
    base = Sequential([layers.Conv2D(3, 5, strides=2, padding="same"), layers.Conv2D(2, 3, padding="same")])
    sequence, *_ = layers.LSTM(4, return_sequences=True, return_state=True)(layers.Reshape((14, 28))(base(pixels)))
    network = Model(pixels, layers.Dense(10)(layers.Flatten()(sequence)))
    products = 14 * 14 * (25 * 3 + 9 * 3 * 2) + 14 * (28 + 4) * 4 * 4 + 14 * 4 * 10
    assert image_flops(network) == 3 * 2 * products
