"""Conversion of photographs and drawings of digits to MNIST's format."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from scipy import ndimage

from kaggle_digits.arrays import Float32, UInt8
from kaggle_digits.errors import DataError
from kaggle_digits.workspace import SIDE

Mask = npt.NDArray[np.bool_]

BOX = 20
"""The longer side of the bounding box of a digit in pixels, as in MNIST."""
MIN_STROKE = 2.0
"""Thinner strokes are widened to this many pixels. 87 % of MNIST's training rows have wider strokes."""
MIN_SIDE, MAX_SIDE = 256, 1024
"""The longer side of a picture is resized to this range: small ones get smooth edges, large ones save time."""
MIN_CONTRAST = 10.0
"""The minimum difference between ink and paper, in grey levels of 255."""
MAX_PARTS = 12
"""The maximum number of connected parts of a digit; more are noise or text."""
MIN_INK = 28.0
"""The minimum ink of a digit, in fully black pixels. 99.9 % of MNIST's digits have more."""


def read_picture(path: str | Path) -> UInt8:
    """Return the digit in a photograph or drawing as uint8 [28, 28], ink 255; `DataError` if there is none."""
    digit = find_digit(_read_grey(Path(path)))
    if digit is None:
        raise DataError(
            f"{path} shows no digit: no strokes were found on the background.",
            "Use a picture of one digit whose strokes are much darker or lighter than the background.",
        )
    return digit


def find_digit(grey: npt.NDArray[Any]) -> UInt8 | None:
    """Return the digit in grey values [h, w], 0 to 255, as uint8 [28, 28], ink 255; or None without a digit."""
    if (digit := _with_mnist_geometry(grey)) is not None:
        return digit
    longest = max(grey.shape)
    ink = _ink(_resize(grey.astype(np.float32), np.clip(longest, MIN_SIDE, MAX_SIDE) / longest))
    if ink is None:
        return None
    ink = _with_wider_strokes(ink)
    ink = np.asarray(np.clip(_resize(ink, BOX / max(ink.shape)), 0, 1), np.float32)
    return _centred(ink) if ink.sum() > MIN_INK else None


def count_shapes(image: UInt8) -> int:
    """Return how many separate shapes of similar size there are in an image [28, 28] whose ink is 255.

    A shape counts if it has at least a third of the area of the largest. 0.9 % of MNIST's digits have several
    (10,000 test rows of `rehearsal-full`), and 96 % of pictures of two digits with a gap of 4 pixels (100 pairs).
    """
    parts, _ = ndimage.label(image > 127, np.ones((3, 3)))
    areas = np.bincount(parts.ravel())[1:]
    return int((3 * areas >= areas.max(initial=1)).sum())


def _read_grey(path: Path) -> Float32:
    """Return the grey values of a picture, float32 [h, w], 0 to 255, rotated as its EXIF data say."""
    try:
        with warnings.catch_warnings():
            # Pillow's warnings do not help the user, except the one about files that need too much memory.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")) as image:
                return grey_values(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise DataError(f"{path} is missing.", "Use the path of an existing picture.") from None
    except Exception as error:  # Pillow's decoders raise many kinds of exceptions
        reason = getattr(error, "strerror", None) or str(error).rstrip(".") or type(error).__name__
        raise DataError(
            f"{path} cannot be read as a picture: {reason}.",
            "Save it again as a PNG or JPEG file, smaller if it is very large, and use that file.",
        ) from error


def grey_values(image: Image.Image) -> Float32:
    """Return the grey values of a picture of any mode, float32 [h, w], 0 to 255."""
    if image.mode.startswith(("I", "F")):
        # Integers of 16 or 32 bits, or floats: their range is not known. In float64, because float32 can overflow.
        values = np.asarray(image, np.float64)
        if not np.isfinite(values).all():
            raise ValueError("it has values that are not finite")
        return np.asarray((values - values.min()) * (255 / max(float(np.ptp(values)), 1e-6)), np.float32)
    if not image.has_transparency_data:
        return np.asarray(image.convert("L"), np.float32)
    values, alpha = np.moveaxis(np.asarray(image.convert("RGBA").convert("LA"), np.float32), 2, 0)
    alpha = alpha / 255
    # A white background behind transparent pixels, or a black one if the digit could not be seen on white.
    background = 255.0 if (alpha * (255 - values)).max() > 64 else 0.0
    return np.asarray(alpha * values + (1 - alpha) * background, np.float32)


def _with_mnist_geometry(grey: npt.NDArray[Any]) -> UInt8 | None:
    """Return the ink, uint8 [28, 28], of a picture whose digit has MNIST's size and place; of others None."""
    if grey.shape != (SIDE, SIDE):
        return None
    paper = np.median(grey)
    for ink in (grey - paper, paper - grey):
        if ink.min() == 0 and ink.max() > MIN_CONTRAST:
            y, x = np.nonzero(ink)
            box = max(np.ptp(y), np.ptp(x)) + 1
            if BOX - 1 <= box <= BOX and np.all(abs(np.array(ndimage.center_of_mass(ink)) - SIDE / 2) <= 0.51):
                # Pale ink is stretched. MNIST's own digits, whose maximum is 254 or 255, stay as they are.
                return np.asarray(np.round(ink * max(1, 250 / ink.max())), np.uint8)
    return None


def _resize(values: Float32, scale: float) -> Float32:
    """Return values [h, w] resized by a factor, to at least 1x1."""
    height, width = (max(1, round(side * scale)) for side in values.shape)
    # Of all filters in Pillow, bicubic gives the edges most similar to MNIST's.
    return np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC))


def _ink(grey: Float32) -> Float32 | None:
    """Return the ink of the digit, float32 [h, w], 0 to 1, cropped to its bounding box; None if there is no digit.

    Ink is what differs from the paper within a window. The largest window (half the picture) is tried first, then
    smaller ones, because something at the edge of the picture, such as a shadow, can hide the digit in a large
    one. A digit that does not touch the edge is accepted from the largest window at once, and from a smaller one
    if the next smaller window confirms it.
    """
    grey = ndimage.gaussian_filter(grey, 1)
    # The noise of the paper: the lower quartile of the local differences, because at least a quarter of the pixels
    # is paper. .32 is the lower quartile of the absolute values of a standard normal distribution.
    blurred = ndimage.uniform_filter(grey, max(grey.shape) // SIDE)
    noise = float(np.quantile(abs(grey - blurred), 0.25)) / 0.32
    found = 0
    first: Float32 | None = None
    previous: tuple[Float32, Mask] | None = None
    for part in (2, 4, 8, 16, 32):
        ink = _ink_in_window(grey, max(grey.shape) // part | 1, noise)
        mask = _without_specks(ink > 0.5)
        if not mask.any():
            continue
        found += 1
        complete = not _edge(mask).any()
        if first is None:
            if complete:
                return _cropped(ink, mask)
            # Something touches the edge. In a smaller window, it counts as paper.
            first = ink
        # In a window that is too small, the inside of strokes counts as paper, too, and the next smaller window
        # finds a different shape. So the previous shape is right only if this one is nearly the same.
        elif previous is not None and (mask & previous[1]).sum() > 0.7 * (mask | previous[1]).sum():
            return _cropped(*previous)
        previous = (ink, mask) if complete else None
    # Uneven light changes slowly and disappears in small windows. So if only one or two windows found something,
    # it was light and not ink.
    if first is None or found < 3:
        return None
    mask = _without_specks(first > 0.5, and_edge=True)
    return _cropped(first, mask) if mask.any() else None


def _ink_in_window(grey: Float32, window: int, noise: float) -> Float32:
    """Return how much each pixel of a picture [h, w] differs from the paper around it: 0 for paper, 1 for ink.

    An area that contains a square with the side `window`, in pixels, is paper, whatever its brightness; anything
    narrower can be ink. It has to differ by more than the standard deviation of the paper's grey values, `noise`.
    """
    highest, lowest = ndimage.maximum_filter(grey, window), ndimage.minimum_filter(grey, window)
    contrast = highest - lowest
    near = contrast >= contrast.max() / 2
    # Is ink dark or light? Most pixels near ink are paper, so the majority decides. If it is close (a digit that
    # fills the picture), the edge of the picture decides, where most pixels are paper, too.
    light = grey - lowest > contrast / 2
    share = light[near].mean()
    edge = _edge(near)
    if abs(share - 0.5) < 0.15 and edge.mean() > 0.5:
        share = _edge(light)[edge].mean()
    # Morphological closing (opening) removes everything dark (light) that is smaller than the window and leaves
    # the paper; the difference to it is ink.
    if share > 0.5:
        ink = ndimage.minimum_filter(highest, window) - grey
    else:
        ink = grey - ndimage.maximum_filter(lowest, window)

    # Paper has low values, but not exactly 0. Its mean is the lower quartile plus .67 standard deviations of the
    # noise, as in a normal distribution. Subtract it.
    ink -= np.quantile(ink, 0.25) + 0.67 * noise
    strongest = float(ink.max())
    if strongest <= max(6 * noise, MIN_CONTRAST):
        return np.zeros_like(grey)
    ink[ink <= max(6 * noise, 0.15 * strongest)] = 0
    return np.asarray(np.minimum(ink / np.quantile(ink[ink > 0], 0.75), 1), np.float32)


def _without_specks(mask: Mask, and_edge: bool = False) -> Mask:
    """Return the mask [h, w] of the digit: all pixels within the bounding box of the large parts.

    A part is large if it has more than 8 % of the area of the largest part. With `and_edge`, parts along the edge
    of the picture are ignored, unless there are no others. If there are more than `MAX_PARTS` large parts, the
    mask is empty, because noise or text has so many parts, but not a digit.
    """
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    if not count:
        return mask
    boxes = ndimage.find_objects(parts)
    areas = np.bincount(parts.ravel())[1:]
    if and_edge:
        edge = _edge(parts)
        # A part that covers less than an eighth of the edge may be a stroke that touches it.
        small = np.bincount(edge, minlength=count + 1)[1:] <= len(edge) / 8
        lengths = np.array([max(side.stop - side.start for side in box) for box in boxes])
        if (lengths[small] > max(mask.shape) / 20).any():
            areas = areas * small
    large = [box for box, area in zip(boxes, areas, strict=True) if area > 0.08 * areas.max()]
    if len(large) > MAX_PARTS:
        return np.zeros_like(mask)
    sides = zip(*large, strict=True)  # the rows of all boxes, and their columns
    inside = tuple(slice(min(s.start for s in side), max(s.stop for s in side)) for side in sides)
    kept = np.zeros_like(mask)
    kept[inside] = mask[inside]
    return kept


def _cropped(ink: Float32, mask: Mask) -> Float32:
    """Return the ink [h, w] that is connected to a mask [h, w], cropped to the bounding box of the mask."""
    # Grey values are kept, because in a blurred picture they have more information than black and white.
    ink = ink * ndimage.binary_propagation(mask, mask=ink > 0)
    rows, columns = (np.nonzero(mask.any(axis))[0] for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _edge(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the values at the edge of an array [h, w], as a vector."""
    return np.concatenate([values[0], values[-1], values[1:-1, 0], values[1:-1, -1]])


def _with_wider_strokes(ink: Float32) -> Float32:
    """Return ink [h, w] whose strokes will be at least `MIN_STROKE` wide after scaling to a box of 20 pixels."""
    # The width of the strokes: twice the median distance to the background along their centre lines, which are the
    # local maxima of the distance.
    inside = ndimage.distance_transform_edt(np.pad(ink > 0.5, 1))
    ridge = (inside > 0) & (inside == ndimage.maximum_filter(inside, 3))
    width, box = 2 * float(np.median(inside[ridge])), max(ink.shape)
    # Widening by d pixels on each side also enlarges the box by 2 d. So after scaling to BOX, the width is
    # BOX * (width + 2 d) / (box + 2 d); this is MIN_STROKE for the following d.
    widening = (MIN_STROKE * box - BOX * width) / (2 * (BOX - MIN_STROKE))
    if widening <= 0:
        return ink
    margin = int(np.ceil(widening))
    padded = np.pad(ink, margin)
    distance = ndimage.distance_transform_edt(padded <= 0.5)
    return np.asarray(np.maximum(padded, np.clip(widening + 0.5 - distance, 0, 1)), np.float32)


def _centred(ink: Float32) -> UInt8:
    """Return ink of at most 20x20 pixels as an image [28, 28], with the centre of mass in the middle (±.5 px)."""
    image = np.zeros((SIDE, SIDE), np.uint8)
    centre = np.array(ndimage.center_of_mass(ink.astype(np.float64)))
    top, left = np.clip(np.round(SIDE / 2 - centre).astype(int), 0, SIDE - np.array(ink.shape))
    image[top : top + ink.shape[0], left : left + ink.shape[1]] = np.round(255 * ink)
    return image
