"""From a raw map at the layer's size to the map people see: scaled to 0..1 at the network's size, then laid on the photo.

In: raw maps float32 [N, h, w], 0 or more (`deploykit.runtime.cam`). Out: maps float32 [N, H, W] from 0 to 1.

The scaling is pytorch-grad-cam's: per image x - min, then / max, bilinear to the network's size (half-pixel centres), and once more
x - min, / max. pytorch-grad-cam divides by max + 1e-7; here a maximum of 0 is treated by itself, so the greatest value is exactly 1
and maps of gradients as small as 1e-12 come out at full strength. Where the raw maximum is 1e-6 or more, the two differ by at most
3e-7, a few roundings.
"""

import math
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from deploykit.errors import InputError
from deploykit.image import CropBox

Floats = npt.NDArray[np.float32]
FloatT = TypeVar("FloatT", np.float32, np.float64)

_EVEN = 1e-6
"""A raw map that varies by less than this part of its maximum is even: eight roundings of float32, not evidence for a place."""


def normalize_map(cam: Floats, height: int, width: int) -> Floats:
    """Scale raw maps [N, h, w] to float32 [N, height, width], each by its own least and greatest value; never over the batch.

    A map of zeros stays zeros. An even map (one value everywhere, as a layer of 1 x 1 has) becomes zeros too, as in
    pytorch-grad-cam: it favours no place. Any other has least value 0 and greatest value 1.

    Raises:
        InputError: another rank, NaN or infinity, or values below 0.
    """
    if cam.ndim != 3 or cam.size == 0:
        raise InputError(f"cam has shape {list(cam.shape)}, expected [N, h, w]")
    if not np.isfinite(cam).all():
        raise InputError("cam holds NaN or infinity, which no scale makes a map of")
    if cam.min() < 0:
        raise InputError(f"cam has values down to {cam.min():.3g}, expected 0 or more", hint="apply max(0, cam) first")
    high = cam.max((1, 2))
    small = _scaled(cam.astype(np.float64)).astype(np.float32)
    small[high - cam.min((1, 2)) <= _EVEN * high] = 0
    return _scaled(resample(small, pixel_centres(cam.shape[1], height), pixel_centres(cam.shape[2], width)))


def has_evidence(cam: Floats) -> npt.NDArray[np.bool_]:
    """Which of the raw maps [N, h, w] say anything for their class: bool [N]. False where a map is zero everywhere."""
    return np.asarray(cam.max((1, 2)) > 0)


def place_map(network_map: Floats, box: CropBox, photo_size: tuple[int, int]) -> Floats:
    """Lay a map at the network's size on the photo that the network's picture was cut from.

    Args:
        network_map: [H, W].
        box: what the network saw of the photo (`deploykit.image.placement`).
        photo_size: width and height of the photo, upright, in pixels.

    Returns:
        float32 [photo height, photo width], bilinear; 0 where the network saw nothing, judged by a pixel's centre.
    """
    wide, high = photo_size
    columns, rows = np.arange(wide) + 0.5, np.arange(high) + 0.5
    seen_columns, seen_rows = (columns > box.left) & (columns < box.right), (rows > box.top) & (rows < box.bottom)
    height, width = network_map.shape
    x = (columns[seen_columns] - box.left) * width / (box.right - box.left) - 0.5
    y = (rows[seen_rows] - box.top) * height / (box.bottom - box.top) - 0.5
    placed = np.zeros((high, wide), np.float32)
    # A mean of ones may round to a bit more than 1.
    placed[np.ix_(seen_rows, seen_columns)] = np.clip(resample(network_map[None], y, x)[0], 0, 1)
    return placed


def scale_box(box: CropBox, photo_size: tuple[int, int], drawn_size: tuple[int, int]) -> CropBox:
    """The box on the same photo at another size, such as a thumbnail.

    Raises:
        InputError: the two sizes differ in shape by more than rounding to whole pixels explains.
    """
    (wide, high), (drawn_wide, drawn_high) = photo_size, drawn_size
    if min(drawn_size) < 1 or not math.isclose(drawn_wide * high, drawn_high * wide, abs_tol=max(wide, high)):
        raise InputError(
            f"a picture of {drawn_wide} x {drawn_high} is not the explained photo of {wide} x {high} at another size",
            hint="give the upright photo as deploykit.image.decode returns it, not cropped",
        )
    x, y = drawn_wide / wide, drawn_high / high
    return CropBox(box.left * x, box.top * y, box.right * x, box.bottom * y)


def pixel_centres(size: int, resized: int) -> npt.NDArray[np.float64]:
    """Where the centres of ``resized`` pixels lie on ``size`` pixels, counted between centres: align_corners=False."""
    return (np.arange(resized) + 0.5) * size / resized - 0.5


def resample(maps: Floats, rows: npt.NDArray[np.float64], columns: npt.NDArray[np.float64]) -> Floats:
    """Bilinear samples of maps [N, h, w] at ``rows`` x ``columns``, in pixels between centres; beyond an edge its value holds."""
    # Two small matrix products: ten maps of 7 x 7 to 224 x 224 take 0.3 ms, where picking each sample's neighbours took 10.
    height, width = maps.shape[1:]
    return np.asarray(_weights(rows, height) @ maps @ _weights(columns, width).T)


def _weights(at: npt.NDArray[np.float64], size: int) -> Floats:
    """Each sample's shares of the ``size`` pixels: [samples, size], two beside each other in every row, of sum 1."""
    at = np.clip(at, 0, size - 1)
    below = np.minimum(at.astype(np.intp), max(size - 2, 0))
    shares = np.zeros((len(at), size), np.float32)
    samples = np.arange(len(at))
    shares[samples, below] = 1 - (at - below)
    if size > 1:
        shares[samples, below + 1] = at - below
    return shares


def _scaled(maps: npt.NDArray[FloatT]) -> npt.NDArray[FloatT]:
    """Each map minus its least value, divided by what is then its greatest; a map of one value becomes zeros."""
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    scaled = maps - low
    np.divide(scaled, high - low, out=scaled, where=high > low)
    return np.asarray(scaled)
