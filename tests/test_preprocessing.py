"""Preprocessing of digits."""

from __future__ import annotations

import numpy as np
import pytest

from kaggle_digits.arrays import UInt8
from kaggle_digits.training.preprocessing import PREPROCESSINGS, preprocess


@pytest.fixture(scope="module")
def digits() -> UInt8:
    """Strokes that slant to the right, are upright, or slant to the left, each thin and thick."""
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


@pytest.mark.parametrize("name", [name for name in PREPROCESSINGS if name != "plain"])
def test_preprocess_moves_the_centre_of_mass_to_the_middle(digits: UInt8, name: str) -> None:
    found = moments(preprocess(digits, name))
    np.testing.assert_allclose(found["x"], 0, atol=0.1)
    np.testing.assert_allclose(found["y"], 0, atol=0.1)


@pytest.mark.parametrize(("name", "shear"), [("even", 0.0), ("backhand", -0.5), ("italic", 0.45)])
def test_preprocess_slants_all_digits_alike(digits: UInt8, name: str, shear: float) -> None:
    np.testing.assert_allclose(moments(preprocess(digits, name))["shear"], shear, atol=0.03)


def test_preprocess_even_equalises_widths(digits: UInt8) -> None:
    before, after = moments(digits)["width"], moments(preprocess(digits, "even"))["width"]
    assert np.ptp(np.log(after)) < 0.6 * np.ptp(np.log(before))


def test_preprocess_wide_widens_and_keeps_the_slant(digits: UInt8) -> None:
    before, after = moments(digits), moments(preprocess(digits, "wide"))
    assert (after["width"] > 1.15 * before["width"]).all()
    np.testing.assert_allclose(after["height"], before["height"], rtol=0.02)
    np.testing.assert_array_equal(np.sign(after["shear"].round(2)), np.sign(before["shear"].round(2)))


def test_preprocess_bold_has_more_ink_but_is_no_darker(digits: UInt8) -> None:
    bold = preprocess(digits, "bold")
    assert (bold.sum((1, 2)) > 1.15 * digits.sum((1, 2))).all()
    pale = digits // 2  # so that brighter pixels would not be clipped at 255
    assert (preprocess(pale, "bold").max((1, 2)) <= pale.max((1, 2))).all()


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_preprocess_leaves_an_empty_image_empty(name: str) -> None:
    assert not preprocess(np.zeros((2, 28, 28), np.uint8), name).any()
