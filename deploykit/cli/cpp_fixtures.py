"""What the tests of a C++ project are held against: photos, maps and logits, with what deploykit itself makes of them.

In: a bundle's manifest and golden vectors. Out: arrays by name, as template/tests reads them.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from deploykit.bundle import Golden, Manifest
from deploykit.image import normalize, placement, resize_and_crop
from deploykit.parity import sample_pictures
from deploykit.runtime.classifier import rank_logits, softmax
from deploykit.runtime.maps import normalize_map, place_map
from deploykit.spec import ImageSpec

Arrays = dict[str, npt.NDArray[Any]]

_MOST_PIXELS = 600_000
"""Of one photo: fixtures of a network of 600 x 600 stay below 10 MB."""


def make_fixtures(manifest: Manifest, golden: Golden) -> Arrays:
    """Fixtures for the image spec and the classes of a bundle; the same for the same versions of numpy and Pillow."""
    return _photos(manifest.image) | _maps(manifest.image, golden) | _ranking(golden.logits[0])


def photo_sizes(spec: ImageSpec) -> list[tuple[int, int]]:
    """Widths and heights of photos that take every way through the resize: shrunk and enlarged, wide and tall, with the vertical
    pass first (photos that shrink more in height), cropped without a resize, and of sides that share no factor with the target."""
    side = spec.resize_size or max(spec.height, spec.width)
    sizes = [
        (side * 11 // 8 + 1, side + 7),
        (side * 9 // 8, side * 5 // 2 + 3),
        (max(side * 2 // 3, 2), max(side // 2, 2) + 1),
        (max(side // 3, 2), max(side * 2 // 5, 3)),
        (side, side) if spec.resize_rule == "shorter" else (spec.width, spec.height),
        (side + 1, side * 3 // 2),
    ]
    return [size for size in sizes if size[0] * size[1] <= _MOST_PIXELS] or sizes[2:4]


def _photos(spec: ImageSpec) -> Arrays:
    arrays: Arrays = {}
    for number, (width, height) in enumerate(photo_sizes(spec)):
        photo = sample_pictures(1, height, width, seed=number)[0]
        if number % 2:  # edges of full contrast, where bicubic overshoots and is clipped between the passes
            photo[:: max(height // 9, 1)] = 0
            photo[:, :: max(width // 7, 1)] = 255
        arrays[f"photo_{number}"] = photo
        arrays[f"input_{number}"] = resize_and_crop(Image.fromarray(photo), spec)
        arrays[f"box_{number}"] = np.array(placement(width, height, spec), np.float32)
    arrays["normalized_0"] = normalize(arrays["input_0"][None], spec)[0]
    return arrays


def _maps(spec: ImageSpec, golden: Golden) -> Arrays:
    random = np.random.default_rng(0)
    cams = [np.maximum(random.normal(size=size), 0).astype(np.float32) for size in ((7, 7), (3, 5), (1, 4))]
    cams += [np.full((2, 2), 3, np.float32), cams[0] * np.float32(1e-12)]
    if golden.cam is not None:
        cams.append(golden.cam[0])
    small = [size for size in photo_sizes(spec) if size[0] * size[1] <= spec.height * spec.width]
    arrays: Arrays = {}
    for number, cam in enumerate(cams):
        arrays[f"cam_{number}"] = cam
        scaled = normalize_map(cam[None], spec.height, spec.width)[0]
        arrays[f"map_{number}"] = scaled
        size = small[number % len(small)]
        arrays[f"placed_{number}"] = place_map(scaled, placement(*size, spec), size)
    return arrays


def _ranking(logits: npt.NDArray[np.float32]) -> Arrays:
    logits = logits.copy()
    logits[-1] = logits[0]  # a tie, which goes by the order of classes
    ranked = rank_logits(logits[None], None, len(logits))[0]
    return {
        "logits": logits,
        "probabilities": softmax(logits[None])[0],
        "order": np.array([one.class_index for one in ranked], np.int64),
    }
