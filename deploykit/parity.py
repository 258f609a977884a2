"""Are two stages of the chain the same function? Pictures to ask with, the comparison, and its record.

In: logits of a reference and of a candidate for the same pictures. Out: a `ParityRecord`, or a `ParityError` with the figures.
numpy and Pillow only, so a machine that merely answers can check itself against the golden vectors.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from deploykit.errors import ParityError, SessionError
from deploykit.spec import Precision

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating[Any]]

PICTURES = 5
BATCH_SIZES = (1, 2, 5, 8)
"""One row; the smallest real batch; one that divides nothing; one past the number of pictures, so that rows repeat."""

TOLERANCES = {
    # Two float32 implementations add the same products in another order: 1e-7 per sum, 1e-6 to 1e-5 through a hundred layers.
    Precision.FP32: 1e-4,
    # A float16 has 11 significant bits (5e-4); rounding errors of a hundred layers add up like a random walk.
    Precision.FP16: 2e-2,
    # Every activation is rounded to one of 255 values. Agreement on real images is the measure; this only catches a broken graph,
    # where nothing says what was measured when it was made (`deploykit.cli.recorded`).
    Precision.INT8: 5e-1,
}

MAP_TOLERANCES = {
    # In ReLU nets two float32 implementations take opposite sides of a few kinks, which moves single gradients by percents at early
    # layers and the map by 1e-3 at most (measured on ResNet-50 and GoogLeNet against float64).
    Precision.FP32: 5e-3,
    # The activations carry 5e-4 of relative rounding each; the backward part is float32.
    Precision.FP16: 5e-2,
    # As for the logits: this only catches a broken graph.
    Precision.INT8: 5e-1,
}
"""Largest difference of two Grad-CAM maps, each scaled to a maximum of 1, of the median picture."""

WORST_MAP_TOLERANCES = {
    # One of the few kinks may be the one that matters to a picture: in VGG's hidden layers, each unit of 4,096 carries a percent of
    # the gradient (measured: 1.3e-2 on one picture of five). A gradient that is wrong is wrong on all of them.
    Precision.FP32: 5e-2,
    Precision.FP16: 2e-1,
    # Untrained nets give flat maps, whose maximum jumps (measured: 0.6 on one of five, on random EfficientNets).
    Precision.INT8: 9e-1,
}
"""The same of the worst picture."""


@dataclass(frozen=True)
class ParityRecord:
    """What was compared and how far apart it was.

    Args:
        reference, candidate: what gave the logits, with versions, such as ``torch 2.14.1 (eager, float32)``.
        pictures: how many different pictures.
        batch_sizes: the batch sizes at which the candidate answered.
        max_difference: largest absolute difference of a logit.
        relative_difference: the same divided by the largest absolute logit of the reference.
        tolerance: the largest relative difference that passes.
        top1_agreement: share of rows whose highest logit has the same index, 0 to 1.
        noise: root mean square of the difference, over that of the reference. One value among thousands moves the largest
            difference, and hardly this.
        noise_tolerance: the largest noise that passes; None holds it to nothing.
    """

    reference: str
    candidate: str
    pictures: int
    batch_sizes: tuple[int, ...]
    max_difference: float
    relative_difference: float
    tolerance: float
    top1_agreement: float
    noise: float
    noise_tolerance: float | None = None

    @property
    def is_equal(self) -> bool:
        """Whether what was compared stays within its tolerances. NaN never does."""
        is_quiet = self.noise_tolerance is None or self.noise <= self.noise_tolerance
        return self.relative_difference <= self.tolerance and is_quiet

    def to_json(self) -> dict[str, Any]:
        """The record as it stands in a manifest."""
        return asdict(self) | {"batch_sizes": list(self.batch_sizes)}


def sample_pictures(count: int, height: int, width: int, seed: int = 0) -> Pixels:
    """Pictures with the statistics of photos: coloured 1/f noise, lit from one side, with hard-edged shapes over it.

    White noise would not do: it excites only the stem, every picture looks the same to the last layers, and a graph that is wrong
    in the middle passes.

    Returns:
        uint8 [count, height, width, 3], RGB; the same for the same arguments and versions of numpy and Pillow.
    """
    random = np.random.default_rng(seed)
    pictures = np.empty((count, height, width, 3), np.uint8)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    for picture in pictures:
        light = random.uniform(60, 190, 3) + random.uniform(-60, 60, 3) * (x * random.uniform(-1, 1) + y)[..., None]
        for octave in range(1, 7):
            grain = random.uniform(-1, 1, (2**octave + 1, 2**octave + 1, 3)) * 90 / octave
            light += np.stack([_enlarge(grain[..., c], height, width) for c in range(3)], axis=-1)
        for _ in range(4):
            (cy, cx), (ry, rx) = random.uniform(-0.8, 0.8, 2), random.uniform(0.1, 0.6, 2)
            inside = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
            light[inside] = 0.4 * light[inside] + 0.6 * random.uniform(0, 255, 3)
        picture[...] = np.clip(light, 0, 255)
    return pictures


def _enlarge(grain: npt.NDArray[np.float64], height: int, width: int) -> npt.NDArray[np.float32]:
    return np.asarray(Image.fromarray(grain.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC))


def compare_at_batch_sizes(
    answer: Callable[[Pixels], Floats],
    pixels: Pixels,
    reference: Floats,
    precision: Precision,
    *,
    reference_name: str,
    candidate_name: str,
    batch_sizes: tuple[int, ...] = BATCH_SIZES,
    on_batch: Callable[[], None] | None = None,
) -> ParityRecord:
    """Ask a candidate for every picture at several batch sizes, and compare each row with the reference.

    Args:
        answer: the candidate: uint8 [n, H, W, 3] to logits [n, K] or [n, K, h, w].
        pixels, reference: the pictures, and the reference's logits for each of them.
        on_batch: called after each batch.

    Raises:
        ParityError: the candidate fails at a batch size that was promised; see also `compare_logits`.
    """
    asked, answered = [], []
    for size in batch_sizes:
        for rows in batches_of(len(pixels), size):
            try:
                answered.append(answer(pixels[rows]))
            except SessionError as error:
                raise ParityError(f"{candidate_name} fails at batch {size}: {error}", hint=error.hint) from error
            asked.append(rows)
            if on_batch:
                on_batch()
    return compare_logits(
        reference[np.concatenate(asked)],
        np.concatenate(answered),
        precision,
        pictures=len(pixels),
        reference_name=reference_name,
        candidate_name=candidate_name,
        batch_sizes=batch_sizes,
    )


def batches_of(count: int, size: int) -> list[npt.NDArray[np.intp]]:
    """Row numbers in batches of ``size``, starting again at the first row where the last batch would be short."""
    return [np.arange(start, start + size) % count for start in range(0, count, size)]


def compare_logits(
    reference: Floats,
    candidate: Floats,
    precision: Precision,
    *,
    pictures: int,
    reference_name: str,
    candidate_name: str,
    batch_sizes: tuple[int, ...],
) -> ParityRecord:
    """Compare two sets of logits, [rows, K] or [rows, K, h, w], of the same pictures in the same order.

    The difference is judged relative to the largest logit, because an absolute bar passes anything where logits are small, as an
    untrained network's are.

    Raises:
        ParityError: the shapes differ, the reference holds NaN or infinity, or it answers every picture alike, so that a
            comparison would prove nothing.
    """
    if reference.shape != candidate.shape:
        raise ParityError(f"{candidate_name} gives logits of shape {candidate.shape}, {reference_name} gives {reference.shape}")
    if not np.isfinite(reference).all():
        raise ParityError(f"{reference_name} gives NaN or infinite logits", hint="look for a diverged checkpoint")
    scale = float(np.abs(reference).max())
    if pictures > 1 and float(np.ptp(reference, axis=0).max()) <= 10 * np.finfo(np.float32).eps * scale:
        raise ParityError(
            f"{reference_name} gives the same logits for {pictures} different pictures, so a comparison proves nothing",
            hint="look for dead layers, or an output that does not depend on the image",
        )
    apart = reference - candidate
    difference = float(np.abs(apart).max())
    return ParityRecord(
        reference=reference_name,
        candidate=candidate_name,
        pictures=pictures,
        batch_sizes=batch_sizes,
        max_difference=difference,
        relative_difference=difference / scale,
        tolerance=TOLERANCES[precision],
        top1_agreement=float((reference.argmax(1) == candidate.argmax(1)).mean()),
        noise=_root_mean_square(apart) / (_root_mean_square(reference) or 1.0),
    )


def _root_mean_square(values: Floats) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


@dataclass(frozen=True)
class MapRecord:
    """How far two sets of Grad-CAM maps are apart, each map scaled to a maximum of 1.

    Args:
        typical, worst: the largest difference within a map, of the median picture and of the worst.
        tolerance, worst_tolerance: what passes.
    """

    typical: float
    worst: float
    tolerance: float
    worst_tolerance: float

    @property
    def is_equal(self) -> bool:
        """Whether both differences stay within their tolerances. NaN never does."""
        return self.typical <= self.tolerance and self.worst <= self.worst_tolerance

    def __str__(self) -> str:
        return f"{self.typical:.1e} (worst picture {self.worst:.1e}; {self.tolerance:.0e} and {self.worst_tolerance:.0e} allowed)"

    def to_json(self) -> dict[str, float]:
        """The record as it stands in a manifest."""
        return {
            "map_difference": self.typical,
            "worst_map_difference": self.worst,
            "map_tolerance": self.tolerance,
            "worst_map_tolerance": self.worst_tolerance,
        }


def compare_maps(reference: Floats, candidate: Floats, precision: Precision) -> MapRecord:
    """Compare two sets of Grad-CAM maps [N, h, w] of the same pictures in the same order, each map divided by its own maximum.

    Raises:
        ParityError: the shapes differ.
    """
    if reference.shape != candidate.shape:
        raise ParityError(f"the maps have shape {candidate.shape}, expected {reference.shape}")
    differences = np.abs(_scaled(candidate) - _scaled(reference)).max((1, 2))
    return MapRecord(
        float(np.median(differences)), float(differences.max()), MAP_TOLERANCES[precision], WORST_MAP_TOLERANCES[precision]
    )


def _scaled(cam: Floats) -> Floats:
    """Each map divided by its maximum; a map of zeros stays."""
    peak = cam.max((1, 2), keepdims=True)
    return np.asarray(np.divide(cam, peak, out=np.zeros_like(cam), where=peak > 0))
