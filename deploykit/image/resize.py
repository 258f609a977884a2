"""Upright RGB photo in, the network's pixels out, and the box of the photo that they show.

The reference is torchvision's and timm's evaluation transform on Pillow images: ``Resize(resize_size)`` with Pillow's antialiased
filter, then ``CenterCrop``. Here the crop is folded into ``resize(box=...)``, so most of what it drops is never computed.

Pillow takes the box in 32-bit floats. Where its edges are such numbers the result equals the reference; elsewhere a filter's centre
moves by some 1e-5 pixel, and of a photo's values about one in a few thousand comes out 1 level off (noise: 2, in one
picture of a thousand). ``_exact_span`` widens the box to edges that are exact where that is cheap, as it is on the shorter side
of every common spec.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploykit.errors import ImageError, InputError
from deploykit.spec import ImageSpec

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class CropBox(NamedTuple):
    """The part of the upright photo that the network sees, in the photo's pixels; the origin is the top left corner."""

    left: float
    top: float
    right: float
    bottom: float


def resized_size(width: int, height: int, spec: ImageSpec) -> tuple[int, int]:
    """Width and height of the whole photo after the spec's resize, before the crop.

    The longer side is rounded down, as in torchvision.
    """
    if spec.resize_size is None:
        return spec.width, spec.height
    if width <= height:
        return spec.resize_size, spec.resize_size * height // width
    return spec.resize_size * width // height, spec.resize_size


def placement(width: int, height: int, spec: ImageSpec) -> CropBox:
    """Where the network's picture lies on an upright photo of ``width`` x ``height`` pixels.

    The inverse of the preprocessing: pixel (x, y) of the network's picture shows the photo around
    ``left + (x + 0.5) * (right - left) / spec.width``, and alike downwards. An overlay of a heat map is placed with it.
    """
    wide, high = resized_size(width, height, spec)
    x, y = _crop_corner((wide, high), spec)
    return _on_photo((x, x + spec.width), (y, y + spec.height), (width, height), (wide, high))


def resize_and_crop(image: Image.Image, spec: ImageSpec) -> NDArray[np.uint8]:
    """Resize and crop an RGB picture to what the network sees.

    Args:
        image: upright 8-bit RGB, as ``decode`` returns it.

    Returns:
        uint8 [H, W, 3], RGB, C-contiguous, at the spec's height and width; on photos at most 1 grey level
            from torchvision's result, most often equal to it.

    Raises:
        ImageError: the picture is not RGB.
    """
    if image.mode != "RGB":
        raise ImageError(f"picture of mode {image.mode}, expected RGB", hint="pass it through deploykit.image.decode first")
    resample = _FILTERS[spec.interpolation]
    resized = resized_size(*image.size, spec)
    x, y = _crop_corner(resized, spec)
    if resized == image.size:  # nothing to resize: Pillow would copy the whole picture once more
        return np.array(np.asarray(image)[y : y + spec.height, x : x + spec.width], order="C")
    columns = _exact_span(image.width, resized[0], x, spec.width)
    rows = _exact_span(image.height, resized[1], y, spec.height)
    window = (columns[1] - columns[0], rows[1] - rows[0])
    box = _on_photo(columns, rows, image.size, resized)
    is_reference_vertical = _is_vertical_first(image.size, resized)
    if is_reference_vertical == _is_vertical_first(image.size, window):
        result = image.resize(window, resample, box=box)
    elif is_reference_vertical:  # the photo shrinks, so the whole of it resized is no larger than itself
        columns, rows = (0, resized[0]), (0, resized[1])
        result = image.resize(resized, resample)
    else:
        result = _resize_horizontal_first(image, window, resample, box)
    top, left = y - rows[0], x - columns[0]
    return np.array(np.asarray(result)[top : top + spec.height, left : left + spec.width], order="C")


def graph_pixels(photo: Image.Image, spec: ImageSpec, input_kind: str) -> NDArray[np.uint8]:
    """What a graph is given of an upright RGB photo, uint8 [H, W, 3]: what ``resize_and_crop`` makes of it; under ``photo`` all of
    its pixels, since such a graph resizes it itself."""
    return np.asarray(photo) if input_kind == "photo" else resize_and_crop(photo, spec)


def _crop_corner(resized: tuple[int, int], spec: ImageSpec) -> tuple[int, int]:
    # round() takes a half to the even neighbour, as torchvision's CenterCrop does.
    return round((resized[0] - spec.width) / 2), round((resized[1] - spec.height) / 2)


def _on_photo(columns: tuple[int, int], rows: tuple[int, int], size: tuple[int, int], resized: tuple[int, int]) -> CropBox:
    """The part of a photo of ``size`` that these columns and rows of it, once ``resized``, show."""
    (width, height), (wide, high) = size, resized
    return CropBox(columns[0] * width / wide, rows[0] * height / high, columns[1] * width / wide, rows[1] * height / high)


def _exact_span(size: int, resized: int, start: int, length: int) -> tuple[int, int]:
    """The columns (or rows) to compute: those of the crop, widened to edges that are exact on the photo where that is cheap.

    Up to 15 % more are computed, or four times as many for a photo that is enlarged: it is small, and its scale is more often a
    ratio of small whole numbers, which puts many values on the border between two levels.

    An edge at ``k`` lies at ``k * size / resized`` on the photo. A 32-bit float holds that exactly when the denominator is a power
    of two and 24 bits are enough: when ``k`` is a multiple of the odd part of resized / gcd(size, resized).
    """
    step = resized // math.gcd(size, resized)
    step //= step & -step
    first, last = start // step * step, -(-(start + length) // step) * step
    limit = (4 if resized > size else 1.15) * length
    return (first, last) if last - first <= limit else (start, start + length)


def _is_vertical_first(size: tuple[int, int], target: tuple[int, int]) -> bool:
    """Whether Pillow 13 runs the vertical pass before the horizontal one (older ones never do): ImagingResampleInner in Resample.c.

    Pillow decides by the size it is asked for, which is another one when the crop is folded in. Between the passes values are
    rounded and clipped to 0..255, so the other order differs by up to 8 levels where bicubic overshoots.
    """
    drop = size[1] - target[1]
    return drop > 0 and drop > 2 * (size[0] - target[0])


def _resize_horizontal_first(image: Image.Image, window: tuple[int, int], resample: Image.Resampling, box: CropBox) -> Image.Image:
    """``image.resize(window, resample, box)`` with the horizontal pass first, over no more rows than the vertical pass reads."""
    reach = 2 * max(1.0, (box.bottom - box.top) / window[1]) + 1  # bicubic spans 2 pixels of the coarser side, bilinear 1
    first, last = max(0, int(box.top - reach)), min(image.height, math.ceil(box.bottom + reach))
    rows = image.crop((0, first, image.width, last))
    rows = rows.resize((window[0], rows.height), resample, box=(box.left, 0, box.right, rows.height))
    return rows.resize(window, resample, box=(0, box.top - first, window[0], box.bottom - first))


def normalize(pixels: NDArray[np.uint8], spec: ImageSpec) -> NDArray[np.float32]:
    """Make the input of a graph exported with ``--input float``; graphs with the pixel input hold this arithmetic themselves.

    Computes (pixel / 255 - mean) / std as one multiplication and one addition in float32, within 1e-6 of the full scale.

    Args:
        pixels: uint8 [N, H, W, 3], RGB.

    Returns:
        float32 [N, 3, H, W], C-contiguous, channels in the spec's colour order.

    Raises:
        InputError: another dtype or shape. Normalizing twice is caught here, since the result is no longer uint8.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        raise InputError(
            f"pixels are {pixels.dtype} {list(pixels.shape)}, expected uint8 [N, H, W, 3]",
            hint="normalize takes grey levels from 0 to 255, once",
        )
    count, height, width, _ = pixels.shape
    result = np.empty((count, 3, height, width), np.float32)
    for channel, source in enumerate((0, 1, 2) if spec.colour_order == "rgb" else (2, 1, 0)):
        plane = result[:, channel]
        np.multiply(pixels[..., source], np.float32(1 / (255 * spec.std[source])), out=plane, dtype=np.float32)
        plane += np.float32(-spec.mean[source] / spec.std[source])
    return result
