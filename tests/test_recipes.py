"""Presets and their settings."""

from __future__ import annotations

import pytest

from kaggle_digits.errors import UsageError
from kaggle_digits.training.fold import learning_rate_at
from kaggle_digits.training.presets import find_preset


@pytest.mark.parametrize("preset", ["lenet", "fast", "default", "best"])
def test_a_preset_builds_its_network(preset: str) -> None:
    recipe = find_preset(preset)
    assert recipe.name == preset
    model = recipe.network(recipe.settings)
    assert model.input_shape == (None, 28, 28, 1)
    assert model.output_shape == (None, 10)


def test_the_article_s_network() -> None:
    recipe = find_preset("lenet")
    shapes = [layer.output.shape[1:] for layer in recipe.network(recipe.settings).layers]
    assert shapes[2:9] == [(32, 32, 1), (28, 28, 36), (14, 14, 36), (10, 10, 36), (5, 5, 36), (900,), (128,)]
    # 5*5*36 + 36, 5*5*36*36 + 36, 900*128 + 128, 128*64 + 64, 64*10 + 10
    assert recipe.network(recipe.settings).count_params() == 936 + 32436 + 115328 + 8256 + 650


def test_dropout_is_a_setting_of_the_article_s_recipe() -> None:
    recipe = find_preset("lenet").with_settings({"dropout": "0.5"})
    rates = [layer.rate for layer in recipe.network(recipe.settings).layers if layer.name.startswith("dropout")]
    assert rates == [0.5, 0.5]


def test_settings_are_changed_by_what_people_type() -> None:
    settings = find_preset("lenet").with_settings({"epochs": "3", "learning_rate": "1e-2"}).settings
    assert (settings.epochs, settings.learning_rate, settings.batch_size) == (3, 0.01, 128)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("epoch", "3", "no setting called 'epoch'.*epochs, batch_size"),
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
        ("views", "3", "1 or 5"),
        ("forms", "plain,tilted", "plain, even, wide, bold, backhand; join several"),
        ("forms", "", "join several"),
        ("other_rows", "1.0", "together are more than 0 and at most 1"),
    ],
)
def test_a_bad_setting_gets_its_sentence(key: str, value: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        find_preset("fast").with_settings({key: value})
    assert "Value error" not in str(raised.value)
    assert not str(raised.value).endswith("..")


def test_views_are_a_setting() -> None:
    assert find_preset("fast").with_settings({"views": "1"}).settings.views == 1


def test_folds_take_turns_at_the_forms() -> None:
    settings = find_preset("fast").with_settings({"forms": "even,bold"}).settings
    assert [settings.form_of(fold) for fold in range(5)] == ["even", "bold", "even", "bold", "even"]


def test_an_unknown_preset() -> None:
    with pytest.raises(UsageError, match=r"no preset called 'slow'.*lenet, fast, default, best"):
        find_preset("slow")


def test_one_cycle_rises_and_falls_with_any_number_of_steps() -> None:
    settings = find_preset("fast").settings
    for steps in (10, 1000):
        rates = [learning_rate_at(step, steps, settings) for step in range(steps)]
        peak = rates.index(max(rates))
        assert abs(peak - settings.warm_up * steps) <= 1
        assert rates[: peak + 1] == sorted(rates[: peak + 1])
        assert rates[peak:] == sorted(rates[peak:], reverse=True)
        assert 0.9 * settings.learning_rate < max(rates) <= settings.learning_rate
        assert 0 < rates[-1] < 0.2 * settings.learning_rate


def test_a_constant_rate_is_constant() -> None:
    settings = find_preset("lenet").settings
    assert {learning_rate_at(step, 10, settings) for step in range(10)} == {1e-3}
