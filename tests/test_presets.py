"""Presets and their settings."""

from __future__ import annotations

import pytest

from kaggle_digits.errors import UsageError
from kaggle_digits.training.presets import build_network, find_preset
from kaggle_digits.training.schedule import learning_rate_at


def test_build_network_builds_the_lenet_of_the_article() -> None:
    model = build_network(find_preset("lenet").settings)
    shapes = [layer.output.shape[1:] for layer in model.layers]
    assert (shapes[0], shapes[-1]) == ((28, 28, 1), (10,))
    assert shapes[2:9] == [(32, 32, 1), (28, 28, 36), (14, 14, 36), (10, 10, 36), (5, 5, 36), (900,), (128,)]
    # 5*5*36 + 36, 5*5*36*36 + 36, 900*128 + 128, 128*64 + 64, 64*10 + 10
    assert model.count_params() == 936 + 32436 + 115328 + 8256 + 650


def test_with_settings_accepts_strings() -> None:
    changes = {"epochs": "3", "learning_rate": "1e-2", "tta": "5", "dropout": "0.5", "widths": "4,6,8,10"}
    settings = find_preset("lenet").with_settings(changes).settings
    assert (settings.epochs, settings.learning_rate, settings.tta, settings.batch_size) == (3, 0.01, 5, 128)
    layers = build_network(settings).layers
    assert [layer.rate for layer in layers if layer.name.startswith("dropout")] == [0.5, 0.5]
    assert [layer.kernel.shape[-1] for layer in layers if hasattr(layer, "kernel")] == [4, 6, 8, 10, 10]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("epoch", "3", r"no setting called 'epoch'\. Did you mean 'epochs'\? Choose one of:.* epochs, batch_size"),
        ("epochs", "0", "greater than or equal to 1"),
        ("epochs", "2.5", "valid integer"),
        ("batch_size", "1000000000000", "less than or equal to 100000"),
        ("learning_rate", "nan", "finite|greater than"),
        ("dropout", "1", "less than 1"),
        ("schedule", "cyclic", "'constant' or 'one-cycle'"),
        ("tta", "3", "1 or 5"),
        ("preprocessing", "plain,tilted", "from: plain, even, .*, italic; join several by commas"),
        ("preprocessing", "", "join several"),
        ("network", "vgg", "'lenet' or 'residual'"),
        ("network", "lenet", "network lenet has 4 widths"),
        ("widths", "32,48", "network residual has 3 widths"),
        ("widths", "32,48,", "whole numbers from 1 to 9999"),
        ("widths", "32,48,0", "whole numbers from 1 to 9999"),
        ("other_rows", "1.0", "must be more than 0 and at most 1"),
    ],
)
def test_with_settings_explains_an_invalid_setting(key: str, value: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        find_preset("fast").with_settings({key: value})
    assert "Value error" not in str(raised.value)
    assert not str(raised.value).endswith("..")


def test_preprocessing_of_cycles_through_the_folds() -> None:
    settings = find_preset("fast").with_settings({"preprocessing": "even,bold"}).settings
    assert [settings.preprocessing_of(fold) for fold in range(5)] == ["even", "bold", "even", "bold", "even"]


def test_find_preset_lists_all_presets_for_an_unknown_name() -> None:
    wanted = r"no preset called 'defualt'\. Did you mean 'default'\? Choose .* lenet, fast, default"
    with pytest.raises(UsageError, match=wanted):
        find_preset("defualt")


def test_learning_rate_at_rises_and_falls_unless_it_is_constant() -> None:
    settings = find_preset("fast").settings
    for steps in (10, 1000):
        rates = [learning_rate_at(step, steps, settings) for step in range(steps)]
        peak = rates.index(max(rates))
        assert abs(peak - settings.warm_up * steps) <= 1
        assert rates[: peak + 1] == sorted(rates[: peak + 1])
        assert rates[peak:] == sorted(rates[peak:], reverse=True)
        assert 0.9 * settings.learning_rate < max(rates) <= settings.learning_rate
        assert 0 < rates[-1] < 0.2 * settings.learning_rate
    constant = settings.model_copy(update={"schedule": "constant"})
    assert {learning_rate_at(step, 10, constant) for step in range(10)} == {settings.learning_rate}
