"""What ``deploykit evaluate-cam`` compares, measured picture by picture and ranked.

In: a bundle's classifier and explainer, and pictures. Out: a `Picture` per picture, a `Ranked` per side, best first.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from deploykit.cli import console
from deploykit.errors import ImageError
from deploykit.image import CropBox, decode, placement, resize_and_crop
from deploykit.runtime.cam_quality import (
    Doubles,
    Floats,
    MapQuality,
    Mean,
    Pixels,
    centre_map,
    is_seen,
    mean_grey,
    mean_of,
    measure_map,
    points_into,
    random_map,
)
from deploykit.runtime.classifier import Classifier, Prediction, softmax
from deploykit.runtime.explain_graphs import check_request, takes_layer
from deploykit.runtime.explainer import Explainer

_RANDOM_MAPS = 4
"""Per picture. One alone is luck: on two photos it had 0.27 in deletion, where sets of four had 0.37 and 0.40."""

BASELINES = ("random", "centre")
"""Maps that know nothing of the network: random blobs, and the middle of the picture."""


@dataclass(frozen=True)
class Side:
    """A method at a layer, or a baseline; ``layer`` is None for what looks at none."""

    method: str
    layer: str | None = None

    @property
    def is_baseline(self) -> bool:
        """Whether it knows nothing of the network."""
        return self.method in BASELINES


@dataclass(frozen=True, eq=False)
class Measured:
    """One side on one picture; of the random side the means over its maps.

    Args:
        values: by measure, see `MapQuality.values`.
        deletion, insertion: curves float64 [steps + 1].
    """

    values: Mapping[str, float | None]
    deletion: Doubles
    insertion: Doubles


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture that was measured.

    Args:
        path: as it was found.
        explained: its likeliest class.
        found: what was measured, by side.
        empty: sides whose map is zero everywhere.
    """

    path: Path
    explained: Prediction
    found: Mapping[Side, Measured]
    empty: tuple[Side, ...]


@dataclass(frozen=True, eq=False)
class Ranked:
    """One side over all pictures.

    Args:
        means: by measure, and ``gain``: by how much the difference exceeds that of the random side on the same picture. Between
            pictures the measures vary more than between methods, and the gain's standard error is free of that. ``pointing`` is
            None where no picture has a box.
        deletion, insertion: mean curves float64 [steps + 1].
        empty: of how many pictures the map is zero everywhere.
    """

    side: Side
    means: Mapping[str, Mean | None]
    deletion: Doubles
    insertion: Doubles
    empty: int


@dataclass(frozen=True)
class Measurement:
    """How pictures are measured.

    Args:
        steps, batch: see `deploykit.runtime.cam_quality.measure_map`.
        advance: called after each side of a picture.
    """

    classifier: Classifier
    explainer: Explainer
    steps: int
    batch: int
    advance: Callable[..., None]

    def try_picture(self, path: Path, seed: int, sides: Sequence[Side], boxes: Sequence[CropBox] | None) -> Picture | ImageError:
        """`measure_picture`, or the error that says why the picture cannot be used."""
        try:
            return self.measure_picture(path, seed, sides, boxes)
        except ImageError as error:
            return error

    def measure_picture(self, path: Path, seed: int, sides: Sequence[Side], boxes: Sequence[CropBox] | None) -> Picture:
        """Measure every side on one picture, for the class that is its likeliest.

        Args:
            seed: of the random side.
            boxes: in the photo's pixels; None where none are known. One outside of what the network sees is named and left out.

        Raises:
            ImageError: the picture cannot be used.
        """
        spec = self.classifier.manifest.image
        photo = decode(path, self.explainer.limits, spec)
        pixels, crop = resize_and_crop(photo, spec), placement(*photo.size, spec)
        seen = None if boxes is None else _seen(path, crop, boxes)
        explained = self.classifier.rank(self.classifier.logits(pixels[None]), top=1)[0][0]
        found: dict[Side, Measured] = {}
        empty: list[Side] = []
        for side in sides:
            maps = self._maps(side, photo, explained.class_index, seed)
            found[side] = _average([self._measure_map(pixels, one, explained.class_index, crop, seen) for one in maps])
            if not any(one.any() for one in maps):
                empty.append(side)
            self.advance()
        return Picture(path, explained, found, tuple(empty))

    def _maps(self, side: Side, photo: Image.Image, class_index: int, seed: int) -> list[Floats]:
        """The maps of a side at the network's size: one, or the random side's several."""
        spec = self.classifier.manifest.image
        if side.method == "random":
            return [random_map(spec.height, spec.width, seed * _RANDOM_MAPS + number) for number in range(_RANDOM_MAPS)]
        if side.method == "centre":
            return [centre_map(spec.height, spec.width)]
        return [found.map for found in self.explainer.explain([photo], class_index, side.method, side.layer, top=1)]

    def _measure_map(
        self, pixels: Pixels, network_map: Floats, class_index: int, crop: CropBox, boxes: Sequence[CropBox] | None
    ) -> MapQuality:
        grey = mean_grey(self.classifier.manifest.image)
        quality = measure_map(self._probabilities, pixels, network_map, class_index, grey, self.steps, self.batch)
        return replace(quality, is_hit=points_into(network_map, crop, boxes)) if boxes else quality

    def _probabilities(self, pixels: Pixels) -> Floats:
        return softmax(self.classifier.logits(pixels))


def choose_sides(explainer: Explainer, methods: Sequence[str], layers: Sequence[str]) -> list[Side]:
    """Every method at every layer (none: the bundle's first), methods at the input once, and the baselines.

    Raises:
        UsageError: a layer that the bundle does not explain, or layers where no method takes one.
    """
    if layers and not any(map(takes_layer, methods)):
        check_request(methods[0], layers[0])
    sides: dict[Side, None] = {}
    for method in methods:
        for layer in layers or (None,):
            at = explainer.graphs.layer_name(method, layer) if takes_layer(method) else None
            sides[Side(method, at)] = None
    return [*sides, *map(Side, BASELINES)]


def rank_sides(sides: Sequence[Side], pictures: Sequence[Picture]) -> list[Ranked]:
    """Means over one picture or more, the side with the greatest mean of insertion minus deletion first."""
    return sorted((_summarize(side, pictures) for side in sides), key=_difference, reverse=True)


def _summarize(side: Side, pictures: Sequence[Picture]) -> Ranked:
    measured = [picture.found[side] for picture in pictures]
    columns = {name: _known(one.values[name] for one in measured) for name in measured[0].values}
    random = _known(picture.found[Side("random")].values["difference"] for picture in pictures)
    columns["gain"] = [own - other for own, other in zip(columns["difference"], random, strict=True)]
    return Ranked(
        side,
        {name: mean_of(column) if column else None for name, column in columns.items()},
        np.mean([one.deletion for one in measured], axis=0),
        np.mean([one.insertion for one in measured], axis=0),
        sum(side in picture.empty for picture in pictures),
    )


def _average(qualities: Sequence[MapQuality]) -> Measured:
    """The means over the maps of one side on one picture."""
    rows = [quality.values for quality in qualities]
    columns = {name: _known(row[name] for row in rows) for name in rows[0]}
    return Measured(
        {name: sum(column) / len(column) if column else None for name, column in columns.items()},
        np.mean([quality.deletion for quality in qualities], axis=0),
        np.mean([quality.insertion for quality in qualities], axis=0),
    )


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _difference(ranked: Ranked) -> float:
    mean = ranked.means["difference"]
    return mean.mean if mean else 0.0


def _seen(path: Path, crop: CropBox, boxes: Sequence[CropBox]) -> list[CropBox]:
    """The boxes that the network sees a part of; the others are named."""
    seen = [box for box in boxes if is_seen(box, crop)]
    for box in boxes:
        if box not in seen:
            edges = ", ".join(f"{edge:g}" for edge in box)
            around = ", ".join(f"{edge:.0f}" for edge in crop)
            console.warn(f"{path}: box [{edges}] lies outside of what the network sees, [{around}], and is left out")
    return seen
