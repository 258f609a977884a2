"""From a raw map at the layer's size to the map people see: scaled to 0..1 at the network's size, then laid on the photo.

In: raw maps float32 [N, h, w], 0 or more (`deploykit.runtime.cam`). Out: maps float32 [N, H, W] from 0 to 1.

The scaling is pytorch-grad-cam's: per image x - min, then / max, bilinear to the network's size (half-pixel centres), cut below 0,
and once more x - min, / max. pytorch-grad-cam divides by max + 1e-7; here a maximum of 0 is treated by itself, so the greatest
value is exactly 1 and maps of gradients as small as 1e-12 come out at full strength. Where the raw maximum is 1e-6 or more, the two
differ by at most 2e-7.
"""

import math

import numpy as np
import numpy.typing as npt

from deploykit.errors import InputError
from deploykit.image import CropBox

Floats = npt.NDArray[np.float32]

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
    shifted = _shifted(cam.astype(np.float64))
    even = _peak(shifted) <= _EVEN * _peak(cam)
    resized = resample(_scaled(np.where(even, 0, shifted)), pixel_centres(cam.shape[1], height), pixel_centres(cam.shape[2], width))
    return _scaled(_shifted(np.maximum(resized, 0))).astype(np.float32)


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
    placed[np.ix_(seen_rows, seen_columns)] = resample(network_map[None], y, x)[0]
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


def resample(
    maps: npt.NDArray[np.floating], rows: npt.NDArray[np.float64], columns: npt.NDArray[np.float64]
) -> npt.NDArray[np.floating]:
    """Bilinear samples of maps [N, h, w] at ``rows`` x ``columns``, in pixels between centres; beyond an edge its value holds."""
    return _interpolate(_interpolate(maps, rows, axis=1), columns, axis=2)


def _interpolate(maps: npt.NDArray[np.floating], at: npt.NDArray[np.float64], axis: int) -> npt.NDArray[np.floating]:
    size = maps.shape[axis]
    at = np.clip(at, 0, size - 1)
    below = np.minimum(at.astype(np.intp), max(size - 2, 0))
    share = (at - below).astype(maps.dtype).reshape([-1 if i == axis else 1 for i in range(maps.ndim)])
    low, high = np.take(maps, below, axis), np.take(maps, np.minimum(below + 1, size - 1), axis)
    return np.asarray(low + (high - low) * share)


def _shifted(maps: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(maps - maps.min((1, 2), keepdims=True))


def _scaled(maps: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    peak = _peak(maps)
    return np.asarray(np.divide(maps, peak, out=np.zeros_like(maps), where=peak > 0))


def _peak(maps: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    return np.asarray(maps.max((1, 2), keepdims=True))
