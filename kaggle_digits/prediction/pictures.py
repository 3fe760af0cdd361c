"""Pictures of digits from anywhere, brought to the form of MNIST's."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kaggle_digits.arrays import Float32, UInt8
from kaggle_digits.errors import DataError
from kaggle_digits.files import regular_file
from kaggle_digits.workspace import SIDE

if TYPE_CHECKING:
    from PIL.Image import Image

Mask = npt.NDArray[np.bool_]

BOX = 20
"""Longer side of the box of a digit's ink, in pixels, as MNIST has it."""

THINNEST = 2.0
"""Width in pixels that strokes are brought to at least: of MNIST's training rows 87 in 100 have wider ones."""

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO")
_SHORTEST, _LONGEST = 256, 1024
"""Limits of a picture's longer side while it is looked at: small ones get smooth edges, large ones are quick."""

_FAINTEST = 10.0
"""Grey levels, of 255, by which ink differs from paper at least."""

_SAVE_IT = "Save the picture in a file, as PNG or JPEG, and give that."
_MOST_PARTS = 12
_LEAST_INK = 28.0
"""Of a digit in its box, in pixels of full ink: of MNIST's training rows 999 in 1,000 have more."""


def read_picture(path: str | Path) -> UInt8:
    """Return the digit in a picture as MNIST has it: its ink in a box of 20x20, its centre of mass in the middle.

    The picture may be a photograph or a drawing, of any size and mode, dark on light or light on dark. What stands
    out from the paper around it is the digit; specks, and what reaches in from the edge, are left out. Strokes
    that are thinner than MNIST's are made bolder.

    Parameters
    ----------
    path : str or pathlib.Path
        A file that Pillow can read: PNG, JPEG, WebP, GIF, BMP, TIFF and others.

    Returns
    -------
    ndarray of uint8, shape (28, 28)
        Grey values, 255 for ink and 0 for paper.

    Raises
    ------
    DataError
        If the file is missing, unreadable, no regular file, no picture, damaged or far too large, if its values
        are not finite, or if it shows nothing.
    """
    path = Path(path)
    digit = find_digit(_read_grey(path))
    if digit is None:
        raise DataError(
            f"{path} shows no digit: nothing stands out from its background.",
            "Give a picture of one digit in strokes much darker or lighter than what is behind them.",
        )
    return digit


def find_digit(grey: npt.NDArray[Any]) -> UInt8 | None:
    """Return the digit in a picture as MNIST has it, or None if nothing stands out.

    Parameters
    ----------
    grey : ndarray, shape (h, w)
        Grey values from 0 to 255, of any number type; which of ink and paper is dark is found out.

    Returns
    -------
    ndarray of uint8, shape (28, 28), or None
        Ink is 255.
    """
    if (digit := _as_it_is(grey)) is not None:
        return digit
    ink = _ink(_resized(grey.astype(np.float32)))
    if ink is None:
        return None
    ink = _scaled(_bolder(ink))
    return _centred(ink) if ink.sum() > _LEAST_INK else None


def _read_grey(path: Path) -> Float32:
    """Return a picture's grey values, float32 [h, w], 0 to 255, the right way up."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # What Pillow finds odd about a file is of no use to whoever gave it; its size may be a danger.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            remedy = f"Give the pictures in it, such as {path / '*.png'}." if path.is_dir() else _SAVE_IT
            with Image.open(regular_file(path, remedy), formats=_FORMATS) as image:
                grey = _grey(ImageOps.exif_transpose(image))
    except (DataError, MemoryError):
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path} is missing.", "Give the path of a picture that exists.") from None
    except PermissionError:
        raise DataError(f"{path} cannot be read: permission denied.", "Allow yourself to read the file.") from None
    except UnidentifiedImageError:
        raise DataError(
            f"{path} is not a picture of a known format.", "Save the picture as PNG or JPEG and give that."
        ) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DataError(
            f"{path} is far too large: more than {Image.MAX_IMAGE_PIXELS:,} pixels.",
            "Crop it to the digit, or make it smaller.",
        ) from None
    except Exception as error:  # Pillow's decoders raise all sorts of things at damaged files
        raise DataError(
            f"{path} is damaged or cut off: {str(error).rstrip('.') or type(error).__name__}.",
            "Copy it again from its source, or save it anew as PNG.",
        ) from error
    if not np.isfinite(grey).all():
        raise DataError(f"{path} has grey values that are not finite.", "Save it anew as PNG, and give that.")
    return grey


def _grey(image: Image) -> Float32:
    """Return grey values, float32 [h, w], 0 to 255, of a picture of any mode."""
    if image.mode.startswith(("I", "F")):
        # Whole numbers of 16 or 32 bits, or fractions: their range is whatever the picture's maker chose.
        # In float64, where no difference of two of them overflows.
        values = np.asarray(image, np.float64)
        return _float32((values - values.min()) * (255 / max(float(np.ptp(values)), 1e-6)))
    if not image.has_transparency_data:
        return np.asarray(image.convert("L"), np.float32)
    values, alpha = np.moveaxis(np.asarray(image.convert("RGBA").convert("LA"), np.float32), 2, 0)
    alpha = alpha / 255
    # On white, unless what there is to see could not be seen there.
    behind = 255.0 if (alpha * (255 - values)).max() > 64 else 0.0
    return _float32(alpha * values + (1 - alpha) * behind)


def _as_it_is(grey: npt.NDArray[Any]) -> UInt8 | None:
    """Return a picture that has MNIST's form already, without any loss; None for all others."""
    if grey.shape != (SIDE, SIDE):
        return None
    for ink in (grey, 255 - grey):
        if np.median(ink) == 0:
            y, x = np.nonzero(ink)
            box = max(np.ptp(y), np.ptp(x)) + 1 if len(y) else 0
            if BOX - 1 <= box <= BOX and all(abs(at - SIDE / 2) <= 0.51 for at in _centre(ink)):
                return ink.astype(np.uint8)
    return None


def _resized(grey: Float32) -> Float32:
    """Return a picture in a size that is good to work in."""
    longest = max(grey.shape)
    return _resize(grey, np.clip(longest, _SHORTEST, _LONGEST) / longest)


def _resize(values: Float32, scale: float) -> Float32:
    """Return values [h, w] in another size, at least 1x1, smoothly."""
    from PIL import Image

    if scale == 1:
        return values
    height, width = (max(1, round(side * scale)) for side in values.shape)
    # Of Pillow's filters it gives edges the greys that are most like MNIST's.
    return np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC))


def _ink(grey: Float32) -> Float32 | None:
    """Return a digit's ink, float32 [h, w], 0 to 1, cut out at its box; None if there is none."""
    from scipy import ndimage

    grey = ndimage.gaussian_filter(grey, 1)
    # Of what differs from pixel to pixel, where there is no ink; .32 is a normal distribution's lower quartile.
    blurred = ndimage.uniform_filter(grey, max(grey.shape) // SIDE)
    noise = float(np.quantile(abs(grey - blurred), 0.25)) / 0.32
    found = 0
    first: Float32 | None = None
    before: tuple[Float32, Mask] | None = None
    for part in (2, 4, 8, 16, 32):
        ink = _standing_out(grey, max(grey.shape) // part | 1, noise)
        mask = _without_specks(ink > 0.5)
        if not mask.any():
            continue
        found += 1
        whole = not _edge(mask).any()
        if first is None:
            if whole:
                return _cut_out(ink, mask)
            # Something reaches in from the edge, such as a shadow or a table. A smaller window takes it for paper.
            first = ink
        # Strokes, too, if it is too small: then one that is smaller still finds something else.
        elif before is not None and (mask & before[1]).sum() > 0.7 * (mask | before[1]).sum():
            return _cut_out(*before)
        before = (ink, mask) if whole else None
    # Of light alone, which changes slowly, nothing is left in small windows.
    if first is None or found < 3:
        return None
    mask = _without_specks(first > 0.5, and_edge=True)
    return _cut_out(first, mask) if mask.any() else None


def _standing_out(grey: Float32, window: int, noise: float) -> Float32:
    """Return how far pixels stand out from the paper around them: 0 not at all, 1 as ink does.

    Parameters
    ----------
    grey : ndarray of float32, shape (h, w)
        Grey values from 0 to 255.
    window : int
        Side of a square, in pixels, that no stroke fills. What fills it is paper, in whatever light.
    noise : float
        Standard deviation of paper's grey values.

    Returns
    -------
    ndarray of float32, shape (h, w)
        0 everywhere if nothing stands out from the noise.
    """
    from scipy import ndimage

    highest, lowest = ndimage.maximum_filter(grey, window), ndimage.minimum_filter(grey, window)
    contrast = highest - lowest
    near = contrast >= contrast.max() / 2
    # Most of what is around ink is paper; where the digit fills the picture, most of the picture's edge is.
    light = grey - lowest > contrast / 2
    share = light[near].mean()
    edge = _edge(near)
    if abs(share - 0.5) < 0.15 and edge.mean() > 0.5:
        share = _edge(light)[edge].mean()
    if share > 0.5:
        ink = ndimage.minimum_filter(highest, window) - grey
    else:
        ink = grey - ndimage.maximum_filter(lowest, window)

    # Paper is at the low end, a little above zero: it is noise's lower quartile that is .67 below the middle.
    ink -= np.quantile(ink, 0.25) + 0.67 * noise
    floor = max(6 * noise, _FAINTEST, 0.15 * float(ink.max()))
    ink[ink <= floor] = 0
    if ink.any():
        ink = np.minimum(ink / np.quantile(ink[ink > 0], 0.75), 1)
    return _float32(ink)


def _without_specks(mask: Mask, and_edge: bool = False) -> Mask:
    """Return which pixels [h, w] are of the digit: parts of about one size, and what lies between them.

    With `and_edge`, parts that lie along the edge are left out too, if any others are left. Nothing is left of a
    mask of more parts than a digit has: that is noise, or a text.
    """
    from scipy import ndimage

    parts, count = ndimage.label(mask, np.ones((3, 3)))
    if not count:
        return mask
    boxes = ndimage.find_objects(parts)
    areas = np.bincount(parts.ravel())[1:]
    if and_edge:
        edge = _edge(parts)
        inside = np.bincount(edge, minlength=count + 1)[1:] <= len(edge) / 8
        lengths = np.array([max(side.stop - side.start for side in box) for box in boxes])
        if (lengths[inside] > max(mask.shape) / 20).any():
            areas = areas * inside
    large = [box for box, area in zip(boxes, areas, strict=True) if area > 0.08 * areas.max()]
    if len(large) > _MOST_PARTS:
        return np.zeros_like(mask)
    rows, columns = (
        slice(min(box[axis].start for box in large), max(box[axis].stop for box in large)) for axis in (0, 1)
    )
    kept = np.zeros_like(mask)
    kept[rows, columns] = mask[rows, columns]
    return kept


def _cut_out(ink: Float32, mask: Mask) -> Float32:
    """Return the ink [h, w] that hangs together with a mask [h, w], cut out at the mask's box."""
    from scipy import ndimage

    # Greys stay, for they tell more than black and white where a picture is blurred.
    ink = ink * ndimage.binary_propagation(mask, mask=ink > 0)
    rows, columns = (np.nonzero(mask.any(axis))[0] for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _edge(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the outermost values of an array [h, w], as one row."""
    return np.concatenate([values[0], values[-1], values[1:-1, 0], values[1:-1, -1]])


def _bolder(ink: Float32) -> Float32:
    """Return ink [h, w], with its strokes as wide as MNIST's thinnest, in a box of 20, if they are thinner."""
    from scipy import ndimage

    inside = ndimage.distance_transform_edt(np.pad(ink > 0.5, 1))
    ridge = (inside > 0) & (inside == ndimage.maximum_filter(inside, 3))
    width, box = 2 * float(np.median(inside[ridge])), max(ink.shape)
    # The box grows with the strokes, and is scaled to 20 then.
    more = (THINNEST * box - BOX * width) / (2 * (BOX - THINNEST))
    if more <= 0:
        return ink
    margin = int(np.ceil(more))
    padded = np.pad(ink, margin)
    distance = ndimage.distance_transform_edt(padded <= 0.5)
    return _float32(np.maximum(padded, np.clip(more + 0.5 - distance, 0, 1)))


def _scaled(ink: Float32) -> Float32:
    """Return ink [h, w] in a box whose longer side is 20 pixels, the aspect kept."""
    return _float32(np.clip(_resize(ink, BOX / max(ink.shape)), 0, 1))


def _centred(ink: Float32) -> UInt8:
    """Return ink in a box of at most 20x20 as an image [28, 28], its centre of mass within half a pixel of 14."""
    image = np.zeros((SIDE, SIDE), np.uint8)
    top, left = (
        int(np.clip(round(SIDE / 2 - centre), 0, SIDE - side))
        for centre, side in zip(_centre(ink), ink.shape, strict=True)
    )
    image[top : top + ink.shape[0], left : left + ink.shape[1]] = np.round(255 * ink)
    return image


def _centre(ink: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the row and the column of the centre of mass of ink [h, w]."""
    total = ink.sum(dtype=np.float64)
    row, column = (
        float((ink.sum(1 - axis, dtype=np.float64) * np.arange(side)).sum() / total)
        for axis, side in enumerate(ink.shape)
    )
    return row, column


def _float32(values: npt.NDArray[Any]) -> Float32:
    return values.astype(np.float32, copy=False)
