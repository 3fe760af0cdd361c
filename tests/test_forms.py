"""Forms: what is done to digits before a network sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kaggle_digits.arrays import UInt8
from kaggle_digits.training.models import lenet
from kaggle_digits.training.preprocessing import FORMS, form_function, with_form


@pytest.fixture(scope="module")
def digits() -> UInt8:
    """Slanting strokes: from one that leans to the right to one that leans to the left, thin and thick."""
    y, x = np.mgrid[:28, :28].astype(np.float32)
    strokes = [
        200 * ((abs(x - 12 + lean * (y - 13)) < thick) & (abs(y - 13) < 9))
        for lean in (-0.4, 0, 0.4)
        for thick in (2, 3)
    ]
    return np.array(strokes).astype(np.uint8)


def moments(images: UInt8) -> dict[str, np.ndarray]:
    ink = images / images.sum((1, 2), keepdims=True, dtype=np.float64)
    axis = np.arange(28) - 13.5
    x, y = (ink.sum(1) * axis).sum(1), (ink.sum(2) * axis).sum(1)
    dx, dy = axis[None, None, :] - x[:, None, None], axis[None, :, None] - y[:, None, None]
    x_variance, y_variance, both = ((ink * v).sum((1, 2)) for v in (dx * dx, dy * dy, dx * dy))
    return {"x": x, "y": y, "width": x_variance**0.5, "height": y_variance**0.5, "shear": -both / y_variance}


def test_plain_changes_nothing(digits: UInt8) -> None:
    assert form_function("plain")(digits) is digits


@pytest.mark.parametrize("name", [name for name in FORMS if name != "plain"])
def test_the_centre_of_mass_comes_to_the_middle(digits: UInt8, name: str) -> None:
    found = moments(form_function(name)(digits))
    np.testing.assert_allclose(found["x"], 0, atol=0.1)
    np.testing.assert_allclose(found["y"], 0, atol=0.1)


def test_even_is_upright_and_of_one_size(digits: UInt8) -> None:
    before, after = moments(digits), moments(form_function("even")(digits))
    np.testing.assert_allclose(after["shear"], 0, atol=0.03)
    assert np.ptp(before["shear"]) > 0.7
    assert np.ptp(np.log(after["width"])) < 0.6 * np.ptp(np.log(before["width"]))


def test_backhand_leans_to_the_left(digits: UInt8) -> None:
    np.testing.assert_allclose(moments(form_function("backhand")(digits))["shear"], -0.5, atol=0.03)


def test_wide_is_wider_and_slants_as_before(digits: UInt8) -> None:
    before, after = moments(digits), moments(form_function("wide")(digits))
    assert (after["width"] > 1.15 * before["width"]).all()
    np.testing.assert_allclose(after["height"], before["height"], rtol=0.02)
    np.testing.assert_array_equal(np.sign(after["shear"].round(2)), np.sign(before["shear"].round(2)))


def test_bold_has_more_ink_but_is_no_darker(digits: UInt8) -> None:
    bold = form_function("bold")(digits)
    assert (bold.sum((1, 2)) > 1.15 * digits.sum((1, 2))).all()
    pale = digits // 2  # or else it could not be darker in eight bits
    assert (form_function("bold")(pale).max((1, 2)) <= pale.max((1, 2))).all()


@pytest.mark.parametrize("name", FORMS)
def test_an_empty_image_stays_empty(name: str) -> None:
    assert not form_function(name)(np.zeros((2, 28, 28), np.uint8)).any()


@pytest.mark.parametrize("name", FORMS)
def test_the_network_that_is_saved_brings_images_into_its_form(digits: UInt8, name: str, tmp_path: Path) -> None:
    import keras

    network = lenet(0.3)
    with_form(network, name).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    brought = form_function(name)(digits)[..., None].astype(np.float32)
    np.testing.assert_allclose(
        loaded(digits[..., None].astype(np.float32)), network(brought), rtol=1e-4, atol=1e-4
    )
