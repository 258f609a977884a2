"""Pictures to calibrate with and pictures to judge by. In: files and directories. Out: `Pictures`, and batches of pixels.

Every file is decoded in full before it counts, so a bad one is named at the start and not hours later. A picture is its content:
the same bytes under two names are one picture, and which pictures are held out depends on contents alone, so that nothing a network
was calibrated with is ever used to judge it. Pixels come through `deploykit.image` as they do when serving.
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from deploykit.bundle.manifest import sha256_of
from deploykit.errors import ImageError, UsageError
from deploykit.image import decode, find_images, load_pixels, normalize, resize_and_crop
from deploykit.quantization.calibrate import Batch
from deploykit.spec import ImageSpec

FEW = 32
"""Below this many pictures the user is told: a single odd one then moves the scales."""

MOST_BAD_SHARE = 0.5
"""Of the files; above it the directory is not what the user believes it to be."""

HELD_OUT_SHARE = 0.2

CROPS_RULE = (
    "view 0 of a photo is what the network sees of it; further views are boxes of 25 to 100 % of its area, sides 3:4 to 4:3, "
    "their place and size drawn from numpy's PCG64 seeded with the photo's sha256 and the view's number"
)


@dataclass(frozen=True)
class Photo:
    """A picture that can be read.

    Args:
        path: where it is.
        name: under the directory that was named, with forward slashes; as given where the file itself was named.
        sha256: of the file's bytes.
    """

    path: Path
    name: str
    sha256: str


@dataclass(frozen=True)
class Skipped:
    """A file that is not used, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Pictures:
    """What was found.

    Args:
        calibration, held_out: no content is in both. ``held_out`` is empty where there is one picture alone.
        skipped: files that cannot be read, and second copies.
        views: how many pictures each photo makes: 1, or more where ``crops`` asked for more than there are photos.
        warnings: what the user should know, a line each.
    """

    calibration: tuple[Photo, ...]
    held_out: tuple[Photo, ...]
    skipped: tuple[Skipped, ...]
    views: int = 1
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.calibration or self.views < 1:
            raise ValueError(f"{len(self.calibration)} photos with {self.views} views, expected at least one of each")
        require_apart((p.sha256 for p in self.calibration), self.held_out)


def find_pictures(
    paths: Sequence[str | os.PathLike[str]],
    spec: ImageSpec,
    *,
    at_most: int | None = None,
    crops: int | None = None,
    held_out_share: float = HELD_OUT_SHARE,
    most_bad_share: float = MOST_BAD_SHARE,
    on_file: Callable[[int, int], None] | None = None,
) -> Pictures:
    """Find, read and split the pictures in files and directories, whatever their depth and the case of their suffixes.

    Args:
        spec: pictures that are too large for its resize are refused as they are when serving.
        at_most: of more files than this, so many are taken, evenly spread over the order of their names.
        crops: how many pictures to calibrate with; where there are fewer photos, each makes several views (`CROPS_RULE`).
        held_out_share: of the photos, 0 to below 1; at least one is held out where there are two and the share is not 0.
        most_bad_share: of the files.
        on_file: told after each file how many were read and how many there are.

    Raises:
        ImageError: nothing there, no picture among it, none that can be read, or more bad ones than the share allows.
        UsageError: a number out of range.
    """
    _check_numbers(at_most, crops, held_out_share, most_bad_share)
    files = _spread([file for path in paths for file in _named_files(path)], at_most)
    if not files:
        raise ImageError("no picture and no directory is named, expected at least one")
    photos: dict[str, Photo] = {}
    bad: list[Skipped] = []
    copies: list[Skipped] = []
    for done, (path, name) in enumerate(files, 1):
        try:
            load_pixels(path, spec)
            photo = Photo(path, name, _digest(path))
            if (first := photos.setdefault(photo.sha256, photo)) is not photo:
                copies.append(Skipped(name, f"has the same content as {first.name}"))
        except ImageError as error:
            bad.append(Skipped(name, str(error).removeprefix(f"{path}: ")))
        if on_file is not None:
            on_file(done, len(files))
    _require_enough(len(files), bad, most_bad_share)
    calibration, held_out = split_photos(photos.values(), held_out_share)
    views = max(1, math.ceil((crops or 0) / len(calibration)))
    return Pictures(calibration, held_out, (*bad, *copies), views, _warnings(calibration, held_out, views, held_out_share))


def split_photos(photos: Iterable[Photo], held_out_share: float) -> tuple[tuple[Photo, ...], tuple[Photo, ...]]:
    """Set photos apart for judging, by their contents alone.

    The share with the lowest sha256 is held out, which no name, order or place of a file changes.

    Returns:
        Those for calibration and those held out, each in the order of their digests.
    """
    ordered = sorted({p.sha256: p for p in photos}.values(), key=lambda p: p.sha256)
    count = 0 if held_out_share == 0 else min(max(1, round(held_out_share * len(ordered))), len(ordered) - 1)
    return tuple(ordered[count:]), tuple(ordered[:count])


def require_apart(calibrated: Iterable[str], judged: Iterable[Photo]) -> None:
    """Refuse to judge by pictures that were calibrated with.

    Args:
        calibrated: sha256 of each, as a `deploykit.quantization.record.CalibrationRecord` holds them.

    Raises:
        UsageError: there are pictures in both, with their number and the first ones' names.
    """
    known = set(calibrated)
    both = [photo.name for photo in judged if photo.sha256 in known]
    if both:
        shown = ", ".join(both[:3]) + (", ..." if len(both) > 3 else "")
        raise UsageError(
            f"{len(both)} pictures to be judged by were calibrated with: {shown}",
            hint="name other pictures: agreement on calibrated ones says nothing about new ones",
        )


def read_batches(
    photos: Iterable[Photo], spec: ImageSpec, batch_size: int, *, views: int = 1, input_kind: str = "pixels"
) -> Iterator[Batch]:
    """Read photos one by one and give their views in batches for a graph with the input ``image``.

    Args:
        batch_size: the last batch may be smaller.
        views: per photo, see `CROPS_RULE`.
        input_kind: the bundle's: ``pixels`` (uint8 [N, H, W, 3]) or ``float`` (normalized float32 [N, 3, H, W]).

    Raises:
        ImageError: a file that has changed, or cannot be read any more, since `find_pictures` looked at it.
    """
    names: list[str] = []
    pixels: list[npt.NDArray[np.uint8]] = []
    for photo in photos:
        for view, array in enumerate(_views(photo, spec, views)):
            names.append(f"{photo.name} (view {view})" if view else photo.name)
            pixels.append(array)
            if len(names) == batch_size:
                yield _batch(names, pixels, spec, input_kind)
                names, pixels = [], []
    if names:
        yield _batch(names, pixels, spec, input_kind)


def _batch(names: list[str], pixels: list[npt.NDArray[np.uint8]], spec: ImageSpec, input_kind: str) -> Batch:
    array: npt.NDArray[Any] = np.stack(pixels)
    return Batch(tuple(names), {"image": normalize(array, spec) if input_kind == "float" else array})


def _views(photo: Photo, spec: ImageSpec, views: int) -> Iterator[npt.NDArray[np.uint8]]:
    """The network's own view of a photo, then boxes of it."""
    if _digest(photo.path) != photo.sha256:
        raise ImageError(
            f"{photo.path}: has changed since the pictures were listed", hint="calibrate again when nothing writes there"
        )
    if views == 1:
        yield load_pixels(photo.path, spec)
        return
    image = decode(photo.path, spec=spec)
    yield resize_and_crop(image, spec)
    for view in range(1, views):
        yield resize_and_crop(image.crop(_box(image, photo.sha256, view)), spec)


def _box(image: Image.Image, sha256: str, view: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a view, see `CROPS_RULE`."""
    seed = int.from_bytes(hashlib.sha256(f"{sha256} {view}".encode()).digest()[:8], "big")
    random = np.random.Generator(np.random.PCG64(seed))
    area = image.width * image.height * random.uniform(0.25, 1)
    aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
    width = min(max(1, round(math.sqrt(area * aspect))), image.width)
    height = min(max(1, round(math.sqrt(area / aspect))), image.height)
    left, top = (int(random.integers(0, spare + 1)) for spare in (image.width - width, image.height - height))
    return left, top, left + width, top + height


def _named_files(path: str | os.PathLike[str]) -> list[tuple[Path, str]]:
    """The files of one argument, each with the name that messages and records use."""
    root = Path(path)
    return [(file, file.relative_to(root).as_posix() if file != root else file.name) for file in find_images([root])]


def _spread(files: list[tuple[Path, str]], at_most: int | None) -> list[tuple[Path, str]]:
    if at_most is None or len(files) <= at_most:
        return files
    return [files[i * len(files) // at_most] for i in range(at_most)]


def _digest(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise ImageError(f"{path}: cannot be opened ({error.strerror})") from error


def _require_enough(found: int, bad: list[Skipped], most_bad_share: float) -> None:
    """Stop where too little of what was found can be read."""
    if not bad:
        return
    example = f"{bad[0].name} {bad[0].reason}"
    if len(bad) == found:
        raise ImageError(
            f"none of {found} pictures can be read; for one, {example}", hint="calibration needs photos like those to come"
        )
    if len(bad) / found > most_bad_share:
        raise ImageError(
            f"{len(bad)} of {found} pictures cannot be read, more than {most_bad_share:.0%} of them; for one, {example}",
            hint="name a directory of photos, or allow a larger share of bad ones",
        )


def _warnings(calibration: Sequence[Photo], held_out: Sequence[Photo], views: int, held_out_share: float) -> tuple[str, ...]:
    lines = []
    if len(calibration) < FEW:
        lines.append(f"only {len(calibration)} photos to calibrate with; {FEW} or more are advised")
    if views > 1:
        lines.append(f"each photo makes {views} pictures, by crops: {len(calibration) * views} in all")
    if not held_out and held_out_share:
        lines.append("a single photo leaves none to judge by")
    return tuple(lines)


def _check_numbers(at_most: int | None, crops: int | None, held_out_share: float, most_bad_share: float) -> None:
    for name, number in (("at_most", at_most), ("crops", crops)):
        if number is not None and number < 1:
            raise UsageError(f"{name} is {number}, expected at least 1")
    if not 0 <= held_out_share < 1:
        raise UsageError(f"the share held out is {held_out_share:g}, expected 0 to below 1")
    if not 0 <= most_bad_share <= 1:
        raise UsageError(f"the largest share of bad pictures is {most_bad_share:g}, expected 0 to 1")
