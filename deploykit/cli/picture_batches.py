"""Paths in, decoded photos out, a few at a time: what verbs do that draw on the photos."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from deploykit.errors import ImageError
from deploykit.image import DecodeLimits, decode
from deploykit.spec import ImageSpec


@dataclass(frozen=True, eq=False)
class PictureBatch:
    """Some pictures.

    Args:
        numbers: of the good ones among all paths.
        photos: upright, RGB.
        errors: of the bad ones that were met on the way.
    """

    numbers: list[int]
    photos: list[Image.Image]
    errors: list[ImageError]


def decode_batches(paths: Sequence[Path], spec: ImageSpec, limits: DecodeLimits, size: int) -> Iterator[PictureBatch]:
    """Batches of ``size`` good pictures; the last may be smaller."""
    batch = PictureBatch([], [], [])
    for number, path in enumerate(paths):
        try:
            batch.photos.append(decode(path, limits, spec))
            batch.numbers.append(number)
        except ImageError as error:
            batch.errors.append(error)
        if len(batch.photos) == size:
            yield batch
            batch = PictureBatch([], [], [])
    if batch.photos or batch.errors:
        yield batch
