"""Presets and their settings."""

from __future__ import annotations

import pytest

from kaggle_digits.errors import UsageError
from kaggle_digits.training.presets import build_network, find_preset
from kaggle_digits.training.schedule import learning_rate_at


@pytest.mark.parametrize("preset", ["lenet", "fast", "default"])
def test_build_network_builds_the_network_of_each_preset(preset: str) -> None:
    recipe = find_preset(preset)
    assert recipe.name == preset
    model = build_network(recipe.settings)
    assert model.input_shape == (None, 28, 28, 1)
    assert model.output_shape == (None, 10)


def test_build_network_builds_the_lenet_of_the_article() -> None:
    recipe = find_preset("lenet")
    shapes = [layer.output.shape[1:] for layer in build_network(recipe.settings).layers]
    assert shapes[2:9] == [(32, 32, 1), (28, 28, 36), (14, 14, 36), (10, 10, 36), (5, 5, 36), (900,), (128,)]
    # 5*5*36 + 36, 5*5*36*36 + 36, 900*128 + 128, 128*64 + 64, 64*10 + 10
    assert build_network(recipe.settings).count_params() == 936 + 32436 + 115328 + 8256 + 650


def test_with_settings_changes_the_dropout_of_lenet() -> None:
    recipe = find_preset("lenet").with_settings({"dropout": "0.5"})
    rates = [layer.rate for layer in build_network(recipe.settings).layers if layer.name.startswith("dropout")]
    assert rates == [0.5, 0.5]


def test_with_settings_accepts_strings() -> None:
    settings = find_preset("lenet").with_settings({"epochs": "3", "learning_rate": "1e-2"}).settings
    assert (settings.epochs, settings.learning_rate, settings.batch_size) == (3, 0.01, 128)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("epoch", "3", r"no setting called 'epoch'\. Did you mean 'epochs'\? Choose one of:.* epochs, batch_size"),
        ("epochs", "0", "greater than or equal to 1"),
        ("epochs", "2.5", "valid integer"),
        ("epochs", "", "valid integer"),
        ("epochs", "1000000000000", "less than or equal to 100000"),
        ("batch_size", "-1", "greater than or equal to 1"),
        ("batch_size", "1000000000000", "less than or equal to 100000"),
        ("learning_rate", "nan", "finite|greater than"),
        ("learning_rate", "0", "greater than 0"),
        ("dropout", "1", "less than 1"),
        ("schedule", "cyclic", "'constant' or 'one-cycle'"),
        ("tta", "3", "1 or 5"),
        (
            "preprocessing",
            "plain,tilted",
            "plain, even, wide, bold, backhand, wide-backhand, italic; join several",
        ),
        ("preprocessing", "", "join several"),
        ("forms", "plain", "no setting called 'forms'.*preprocessing, tta"),
        ("network", "vgg", "Choose from: lenet, residual"),
        ("network", "lenet", "network lenet has 4 widths"),
        ("widths", "32,48", "network residual has 3 widths"),
        ("widths", "32,48,", "whole numbers from 1 to 4096"),
        ("widths", "32,48,0", "whole numbers from 1 to 4096"),
        ("widths", "32,48,1000000000000", "whole numbers from 1 to 4096"),
        ("other_rows", "1.0", "must be more than 0 and at most 1"),
    ],
)
def test_with_settings_explains_an_invalid_setting(key: str, value: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        find_preset("fast").with_settings({key: value})
    assert "Value error" not in str(raised.value)
    assert not str(raised.value).endswith("..")


def test_with_settings_accepts_tta_as_a_string() -> None:
    assert find_preset("fast").with_settings({"tta": "1"}).settings.tta == 1


def test_preprocessing_of_cycles_through_the_folds() -> None:
    settings = find_preset("fast").with_settings({"preprocessing": "even,bold"}).settings
    assert [settings.preprocessing_of(fold) for fold in range(5)] == ["even", "bold", "even", "bold", "even"]


def test_with_settings_changes_the_widths_of_the_network() -> None:
    recipe = find_preset("fast").with_settings({"widths": "4,8,16"})
    kernels = [
        layer.kernel.shape for layer in build_network(recipe.settings).layers if hasattr(layer, "kernel_size")
    ]
    assert [shape[-1] for shape in kernels] == [4, 4, 8, 8, 16, 16]


@pytest.mark.parametrize(("name", "suggestion"), [("slow", ""), ("defualt", r" Did you mean 'default'\?")])
def test_find_preset_lists_all_presets_for_an_unknown_name(name: str, suggestion: str) -> None:
    with pytest.raises(
        UsageError, match=f"no preset called '{name}'\\.{suggestion} Choose .* lenet, fast, default"
    ):
        find_preset(name)


def test_learning_rate_at_rises_and_falls_for_any_number_of_steps() -> None:
    settings = find_preset("fast").settings
    for steps in (10, 1000):
        rates = [learning_rate_at(step, steps, settings) for step in range(steps)]
        peak = rates.index(max(rates))
        assert abs(peak - settings.warm_up * steps) <= 1
        assert rates[: peak + 1] == sorted(rates[: peak + 1])
        assert rates[peak:] == sorted(rates[peak:], reverse=True)
        assert 0.9 * settings.learning_rate < max(rates) <= settings.learning_rate
        assert 0 < rates[-1] < 0.2 * settings.learning_rate


def test_learning_rate_at_is_constant_with_the_constant_schedule() -> None:
    settings = find_preset("lenet").settings
    assert {learning_rate_at(step, 10, settings) for step in range(10)} == {1e-3}
