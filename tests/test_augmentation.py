"""Random augmentation of digits."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import small_digits

from kaggle_digits.training.augmentation import augment
from kaggle_digits.training.presets import find_preset

NO_AUGMENTATION = find_preset("lenet").settings
"""Settings without augmentation."""
STRONG = {"rotation": 20, "scale": 0.2, "shear": 0.2, "shift": 3, "elastic": 1.0}


def augmented(images: np.ndarray, seed: int = 0, **changes: float) -> np.ndarray:
    import tensorflow as tf

    settings = NO_AUGMENTATION.model_copy(update=changes)
    return augment(tf.constant(images, tf.float32), settings, tf.constant([seed, 0])).numpy()


def test_augment_gives_the_same_images_for_the_same_seed_only() -> None:
    same = np.repeat(small_digits(1)[0], 20, axis=0)[..., None].astype(np.float32)
    first = augmented(same, 1, **STRONG)
    np.testing.assert_array_equal(first, augmented(same, 1, **STRONG))
    assert np.abs(first - augmented(same, 2, **STRONG)).mean() > 1
    assert len({image.tobytes() for image in first}) == 20


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


def test_augment_changes_nothing_without_settings() -> None:
    images = small_digits(40)[0][..., None].astype(np.float32)
    np.testing.assert_allclose(augmented(images), images, atol=1e-3)


def test_augment_elastic_bends_smoothly_and_has_the_given_standard_deviation() -> None:
    # Each grey value is the number of its column plus 100, so the results show from which columns they were read.
    ramp = np.tile(np.arange(28, dtype=np.float32), (5_000, 28, 1))[..., None]
    displacement = augmented(ramp + 100, elastic=1.0)[..., 0] - 100 - np.arange(28)
    middle = displacement[:, 5:23, 5:23]  # no zeros are read from outside of the image
    assert middle.std(0).mean() == pytest.approx(1, abs=0.05)
    # Lines bend, and neighbouring pixels have similar displacements.
    assert np.ptp(middle, axis=1).mean() > 0.5
    assert np.abs(np.diff(middle, axis=2)).mean() < 0.2
