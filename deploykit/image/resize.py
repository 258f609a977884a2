"""Upright RGB photo in, the network's pixels out, and the box of the photo that they show.

The reference is torchvision's and timm's evaluation transform on Pillow images: ``Resize(resize_size)`` with Pillow's antialiased
filter, then ``CenterCrop``. Here the crop is folded into ``resize(box=...)``, so pixels that the crop drops are never computed.
Pillow takes the box in 32-bit floats, which moves a filter's centre by some 1e-5 pixel: against the two-step reference at most
1 grey level differs, in about one value of a thousand; where nothing is cropped the two are equal.
"""

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
    # round() takes a half to the even neighbour, as torchvision's CenterCrop does.
    x, y = round((wide - spec.width) / 2), round((high - spec.height) / 2)
    return CropBox(x * width / wide, y * height / high, (x + spec.width) * width / wide, (y + spec.height) * height / high)


def resize_and_crop(image: Image.Image, spec: ImageSpec) -> NDArray[np.uint8]:
    """Resize and crop an RGB picture to what the network sees.

    Args:
        image: upright 8-bit RGB, as ``decode`` returns it.

    Returns:
        uint8 [H, W, 3], RGB, C-contiguous, at the spec's height and width; at most 1 grey level from torchvision's result.

    Raises:
        ImageError: the picture is not RGB.
    """
    if image.mode != "RGB":
        raise ImageError(f"picture of mode {image.mode}, expected RGB", hint="pass it through deploykit.image.decode first")
    box = placement(*image.size, spec)
    return np.array(image.resize((spec.width, spec.height), _FILTERS[spec.interpolation], box=box))


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
