"""Random augmentation of digits."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import small_digits

from kaggle_digits.training.augmentation import augment
from kaggle_digits.training.presets import find_preset

NO_AUGMENTATION = find_preset("lenet").settings
"""Settings without augmentation."""


def augmented(images: np.ndarray, seed: int = 0, **changes: float) -> np.ndarray:
    import tensorflow as tf

    settings = NO_AUGMENTATION.model_copy(update={k: v for k, v in changes.items() if k != "strength"})
    strength = tf.constant(changes.get("strength", 1.0), tf.float32)
    return augment(tf.constant(images, tf.float32), settings, strength, tf.constant([seed, 0])).numpy()


@pytest.fixture
def images() -> np.ndarray:
    return small_digits(40)[0][..., None].astype(np.float32)


def test_augment_without_settings_changes_nothing(images: np.ndarray) -> None:
    np.testing.assert_allclose(augmented(images), images, atol=1e-3)


def test_augment_gives_the_same_images_for_the_same_seed_only(images: np.ndarray) -> None:
    strong = {"rotation": 20, "scale": 0.2, "shear": 0.2, "shift": 3}
    np.testing.assert_array_equal(augmented(images, 1, **strong), augmented(images, 1, **strong))
    assert np.abs(augmented(images, 1, **strong) - augmented(images, 2, **strong)).mean() > 1


def test_augment_changes_each_image_differently() -> None:
    same = np.repeat(small_digits(1)[0], 20, axis=0)[..., None]
    assert len({image.tobytes() for image in augmented(same, shift=3)}) == 20


def test_augment_shifts_by_at_most_the_given_pixels_and_keeps_the_sum() -> None:
    dot = np.zeros((200, 28, 28, 1), np.float32)
    dot[:, 14, 14] = 255
    moved = augmented(dot, shift=3.0)[..., 0]
    total = moved.sum((1, 2))
    np.testing.assert_allclose(total, 255, rtol=1e-3)  # the bilinear weights have the sum 1
    rows = (moved.sum(2) * np.arange(28)).sum(1) / total - 14
    columns = (moved.sum(1) * np.arange(28)).sum(1) / total - 14
    for offsets in (rows, columns):
        assert np.abs(offsets).max() <= 3.01
        assert offsets.min() < -2
        assert offsets.max() > 2


def test_augment_reads_zeros_outside_of_an_image() -> None:
    frame = np.full((50, 28, 28, 1), 255, np.float32)
    moved = augmented(frame, shift=5.0)[..., 0]
    assert (moved.min((1, 2)) < 1).sum() > 45  # zeros were read from outside of the image
    assert moved.max() <= 255.01


def test_augment_rotates_about_the_centre() -> None:
    bar = np.zeros((100, 28, 28, 1), np.float32)
    bar[:, 4:24, 13:15] = 255
    turned = augmented(bar, rotation=30)[..., 0]
    y, x = np.mgrid[:28, :28] - 13.5
    slopes = []
    for image in turned:
        weights = image / image.sum()
        slopes.append(np.degrees(np.arctan2((weights * x * y).sum(), (weights * y * y).sum())))
    assert 20 < np.abs(slopes).max() <= 31
    np.testing.assert_allclose(turned[:, 13:15, 13:15].mean((1, 2)), 255, rtol=0.1)  # bilinear blur


def test_augment_is_scaled_by_strength() -> None:
    images = small_digits(40)[0][..., None].astype(np.float32)
    settings = {"rotation": 20, "scale": 0.2, "shear": 0.2, "shift": 3, "elastic": 1.0}
    np.testing.assert_allclose(augmented(images, strength=0.0, **settings), images, atol=1e-3)
    half = np.abs(augmented(images, strength=0.3, **settings) - images).mean()
    assert half < np.abs(augmented(images, strength=1.0, **settings) - images).mean()


def test_augment_elastic_is_smooth_and_has_the_given_standard_deviation() -> None:
    # Each grey value is the number of its column plus 100, so the results show from which columns they were read.
    ramp = np.tile(np.arange(28, dtype=np.float32), (5_000, 28, 1))[..., None]
    displacement = augmented(ramp + 100, elastic=1.0)[..., 0] - 100 - np.arange(28)
    middle = displacement[:, 5:23, 5:23]  # no zeros are read from outside of the image
    assert middle.std(0).mean() == pytest.approx(1, abs=0.05)
    # Neighbouring pixels have similar displacements.
    assert np.abs(np.diff(middle, axis=2)).mean() < 0.2


def test_augment_elastic_bends_straight_lines() -> None:
    rows = np.zeros((100, 28, 28, 1), np.float32)
    rows[:, 14] = 255
    bent = augmented(rows, elastic=1.0)[..., 0]
    heights = (bent * np.arange(28)[None, :, None]).sum(1)[:, 4:24] / bent.sum(1)[:, 4:24]
    columns = np.arange(20)
    residuals = [h - np.polyval(np.polyfit(columns, h, 1), columns) for h in heights]
    assert np.std(residuals) > 0.1
