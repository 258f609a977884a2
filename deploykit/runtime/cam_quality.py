"""How well a map tells what a network looks at, measured by asking the network again about changed pictures.

In: a picture uint8 [H, W, 3], its map float32 [H, W] from 0 to 1 at the network's size, and ``predict``, which gives probabilities.
Out: per picture a `MapQuality`, over pictures a `Mean`.

Deletion and insertion are Petsiuk et al. 2018 (RISE, arXiv 1806.07421, section 4.2), average drop and increase in confidence
Chattopadhay et al. 2018 (arXiv 1710.11063, section 4), the pointing game Zhang et al. 2018 (arXiv 1608.00507, section 4).

Two baselines stand for "nothing is here". Deleted and masked pixels become the mean grey, which normalization makes zero: a blurred
object keeps its colours and outline and would still be recognized when all of it is deleted. Pixels are inserted into a blurred
copy, as in the paper: the edges of patches on a grey canvas are evidence of their own.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploykit.errors import InputError, SessionError, UsageError
from deploykit.image import CropBox
from deploykit.runtime.maps import pixel_centres, resample
from deploykit.spec import ImageSpec

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]
Order = npt.NDArray[np.intp]
Predict = Callable[[Pixels], Floats]
"""Pictures uint8 [n, H, W, 3] to probabilities [n, K]."""

BLUR = 1 / 20
"""Sigma of the insertion's blurred copy as a part of the picture's shorter side: 11 pixels of 224.

A cup that EfficientNet-Lite0 takes for espresso with 0.95 keeps 0.18 at a sigma of 5 pixels, and 0.005 at 11.
"""


@dataclass(frozen=True, eq=False)
class MapQuality:
    """One map of one picture, measured. Probabilities are those of the explained class.

    Args:
        deletion: float64 [steps + 1], with 0, 1 / steps, ..., 1 of the pixels deleted.
        insertion: float64 [steps + 1], with as much of them inserted.
        probability: of the whole picture, above 0.
        masked: of the picture masked with the map.
        is_hit: whether the map points into a box; None where no box is known.
    """

    deletion: Doubles
    insertion: Doubles
    probability: float
    masked: float
    is_hit: bool | None = None

    @property
    def difference(self) -> float:
        """Insertion minus deletion, as areas under their curves: -1 to 1, higher is better."""
        return area_under(self.insertion) - area_under(self.deletion)

    @property
    def values(self) -> dict[str, float | None]:
        """Every measure of the map by its name; ``pointing`` is None where no box is known."""
        return {
            "insertion": area_under(self.insertion),
            "deletion": area_under(self.deletion),
            "difference": self.difference,
            "drop": drop(self.probability, self.masked),
            "increase": float(self.masked > self.probability),
            "pointing": None if self.is_hit is None else float(self.is_hit),
        }


@dataclass(frozen=True)
class Mean:
    """A mean over pictures.

    Args:
        mean: sum(x) / n.
        standard_error: sqrt(sum((x - mean)^2) / (n - 1) / n); None for one picture, which says nothing about others.
        count: n.
    """

    mean: float
    standard_error: float | None
    count: int


def measure_map(
    predict: Predict, pixels: Pixels, network_map: Floats, class_index: int, grey: Pixels, steps: int = 20, batch: int = 8
) -> MapQuality:
    """Deletion, insertion and masking of one picture, 2 * steps + 3 pictures through the network.

    Args:
        pixels: uint8 [H, W, 3].
        network_map: [H, W], 0 to 1. A map of zeros deletes and inserts row by row from the top.
        class_index: the class that the map explains.
        grey: uint8 [3], what a removed pixel becomes (`mean_grey`).
        steps: 1 or more; into how many equal parts the pixels are divided.
        batch: how many pictures go through at once.

    Raises:
        UsageError: steps below 1.
        InputError: the map has another size than the picture.
        SessionError: the network answers with NaN.
    """
    if network_map.shape != pixels.shape[:2]:
        raise InputError(f"map has shape {list(network_map.shape)}, expected the picture's {list(pixels.shape[:2])}")
    order, counts = rank_pixels(network_map), pixel_counts(network_map.size, steps)
    removed = np.broadcast_to(grey, pixels.shape)
    changed = itertools.chain(
        exchange_pixels(pixels, removed, order, counts),
        exchange_pixels(blur(pixels), pixels, order, counts),
        [mask_picture(pixels, network_map, grey)],
    )
    found = _probabilities(predict, changed, class_index, batch)
    deletion, insertion = found[: steps + 1], found[steps + 1 : -1]
    return MapQuality(deletion, insertion, probability=float(deletion[0]), masked=float(found[-1]))


def rank_pixels(network_map: Floats) -> Order:
    """Flat indices of a map [H, W], greatest value first; equal values row by row from the top: intp [H * W]."""
    return np.argsort(-network_map.ravel(), kind="stable")


def pixel_counts(size: int, steps: int) -> list[int]:
    """How many of ``size`` pixels are exchanged after each step: round(size * k / steps) for k = 0 .. steps.

    Raises:
        UsageError: steps below 1.
    """
    if steps < 1:
        raise UsageError(f"steps is {steps}, expected 1 or more")
    return [round(size * k / steps) for k in range(steps + 1)]


def exchange_pixels(start: Pixels, end: Pixels, order: Order, counts: Iterable[int]) -> Iterator[Pixels]:
    """For each count the picture ``start`` [H, W, 3] whose first ``count`` pixels in order are those of ``end``."""
    target = end.reshape(-1, 3)
    for count in counts:
        picture = start.reshape(-1, 3).copy()
        picture[order[:count]] = target[order[:count]]
        yield picture.reshape(start.shape)


def area_under(curve: Doubles) -> float:
    """Area under a curve [steps + 1] over 0 .. 1 by the trapezoid: (sum(c) - (c_first + c_last) / 2) / steps."""
    return float((curve.sum() - (curve[0] + curve[-1]) / 2) / (len(curve) - 1))


def mean_grey(spec: ImageSpec) -> Pixels:
    """The grey level per channel that normalization makes zero, rounded: uint8 [3], RGB."""
    return np.asarray(np.rint(255 * np.array(spec.mean)), np.uint8)


def blur(pixels: Pixels, sigma: float | None = None) -> Pixels:
    """A Gaussian blur of a picture [H, W, 3], sigma in pixels (`BLUR` of the shorter side); beyond an edge its pixels go on."""
    sigma = sigma or BLUR * min(pixels.shape[:2])
    down, across = (_gaussian_rows(size, sigma) for size in pixels.shape[:2])
    planes = down @ pixels.transpose(2, 0, 1).astype(np.float64) @ across.T
    return np.asarray(np.rint(planes).astype(np.uint8).transpose(1, 2, 0))


def mask_picture(pixels: Pixels, network_map: Floats, grey: Pixels) -> Pixels:
    """grey + map * (picture - grey): what multiplies the normalized picture by the map, Chattopadhay's L o I. uint8 [H, W, 3]."""
    masked = grey + network_map[..., None] * (pixels.astype(np.float32) - grey)
    return np.asarray(np.rint(masked), np.uint8)


def drop(probability: float, masked: float) -> float:
    """The part of its probability that a class loses when the picture is masked: max(0, Y - O) / Y. 0 is best, 1 worst."""
    return max(0.0, probability - masked) / probability


def points_into(network_map: Floats, crop: CropBox, boxes: Sequence[CropBox]) -> bool:
    """Whether the map's maximum lies in a box: the centre of one of the pixels [H, W] that have it, mapped to the photo.

    A map of zeros points nowhere. Zhang et al. widen the boxes by 15 pixels; here they are as they were drawn.

    Args:
        crop: the part of the photo that the network saw; like the boxes in the photo's pixels.
    """
    if not network_map.any():
        return False
    height, width = network_map.shape
    rows, columns = np.nonzero(network_map == network_map.max())
    x = crop.left + (columns + 0.5) * (crop.right - crop.left) / width
    y = crop.top + (rows + 0.5) * (crop.bottom - crop.top) / height
    return any(bool(((x >= b.left) & (x <= b.right) & (y >= b.top) & (y <= b.bottom)).any()) for b in boxes)


def is_seen(box: CropBox, crop: CropBox) -> bool:
    """Whether a part of a box lies in the crop, so that a map can point into it."""
    return box.left < crop.right and box.right > crop.left and box.top < crop.bottom and box.bottom > crop.top


def random_map(height: int, width: int, seed: int, cells: int = 7) -> Floats:
    """A map that knows nothing: cells x cells random values, enlarged as a layer's map is. float32 [H, W], 0 to 1.

    Single random pixels would be no fair side: the noise itself upsets a network, whatever it hides. On the cup of `BLUR` their
    deletion has an area of 0.11, Grad-CAM's 0.22, that of 7 x 7 cells 0.41 (means of 4 orders).
    """
    values = np.random.default_rng(seed).random((1, cells, cells), np.float32)
    return np.asarray(resample(values, pixel_centres(cells, height), pixel_centres(cells, width))[0])


def centre_map(height: int, width: int) -> Floats:
    """A map that knows only that photographers put things in the middle: exp(-(y^2 + x^2) / 2), y and x in quarters of a side."""
    y, x = (np.square((np.arange(size) + 0.5 - size / 2) / (size / 4)) for size in (height, width))
    return np.asarray(np.exp(-(y[:, None] + x) / 2), np.float32)


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and standard error of one value per picture, one picture or more."""
    count = len(values)
    error = float(np.std(values, ddof=1) / math.sqrt(count)) if count > 1 else None
    return Mean(float(np.mean(values)), error, count)


def _probabilities(predict: Predict, pictures: Iterable[Pixels], class_index: int, batch: int) -> Doubles:
    """The class's probability of each picture, ``batch`` pictures at once: float64 [n]."""
    pictures = iter(pictures)
    found: list[Doubles] = []
    while part := list(itertools.islice(pictures, batch)):
        found.append(predict(np.stack(part))[:, class_index].astype(np.float64))
    result = np.concatenate(found)
    if not np.isfinite(result).all():
        raise SessionError("the predict graph gives NaN or infinite logits for changed pictures", hint="try --precision fp32")
    return result


def _gaussian_rows(size: int, sigma: float) -> Doubles:
    """A Gaussian around each of ``size`` pixels as shares of them, rows of sum 1: [size, size]."""
    reach = math.ceil(3 * sigma)
    offsets = np.arange(-reach, reach + 1)
    shares = np.exp(-np.square(offsets / sigma) / 2)
    weights = np.zeros((size, size))
    for offset, share in zip(offsets, shares / shares.sum(), strict=True):
        weights[np.arange(size), np.clip(np.arange(size) + offset, 0, size - 1)] += share
    return weights
