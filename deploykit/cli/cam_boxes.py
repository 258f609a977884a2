"""Boxes around what pictures show, from a JSON file in pixels of the upright photo.

{"cat.jpg": [[left, top, right, bottom], ...]}
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploykit.errors import UsageError
from deploykit.image import CropBox

_LARGEST = 1e9
_FORM = 'expected {"FILE NAME": [[left, top, right, bottom], ...]} in pixels of the photo'


def read_boxes(file: Path, pictures: Sequence[Path]) -> dict[Path, tuple[CropBox, ...]]:
    """The boxes of the pictures that the file names, by their path as it was given or by their name alone.

    Args:
        pictures: those that are used; the file may name others.

    Raises:
        UsageError: the file cannot be read, has another form, holds a box without area, names none of the pictures, or names one
            where several have that name.
    """
    try:
        content = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UsageError(f"{file} is no JSON text: {error}", hint=_FORM) from error
    if not isinstance(content, dict):
        raise UsageError(f"{file} holds a {type(content).__name__}, {_FORM}")
    found: dict[Path, tuple[CropBox, ...]] = {}
    for picture in pictures:
        key = _key(file, content, picture, pictures)
        if key is not None:
            found[picture] = _boxes(file, key, content[key])
    if not found:
        raise UsageError(f"{file} names none of the pictures; it names {', '.join(list(content)[:3]) or 'nothing'}", hint=_FORM)
    return found


def _key(file: Path, content: Mapping[str, Any], picture: Path, pictures: Sequence[Path]) -> str | None:
    """Under which name the file has a picture's boxes."""
    if str(picture) in content:
        return str(picture)
    if picture.name not in content:
        return None
    alike = [str(other) for other in pictures if other.name == picture.name and str(other) not in content]
    if len(alike) > 1:
        raise UsageError(f"{file} has boxes of {picture.name}, the name of {' and '.join(alike)}", hint="write their whole paths")
    return picture.name


def _boxes(file: Path, key: str, rows: object) -> tuple[CropBox, ...]:
    if not isinstance(rows, list):
        raise UsageError(f"{file} has {rows!r} for {key}, {_FORM}")
    return tuple(_box(file, key, row) for row in rows)


def _box(file: Path, key: str, row: object) -> CropBox:
    is_right = isinstance(row, list) and len(row) == 4 and all(type(edge) in (int, float) for edge in row)
    # NaN is below nothing.
    if not isinstance(row, list) or not is_right or not all(abs(edge) < _LARGEST for edge in row):
        raise UsageError(f"{file} has {row!r} for {key}, {_FORM}")
    box = CropBox(*row)
    if box.left >= box.right or box.top >= box.bottom:
        raise UsageError(f"{file} has the box {row} for {key}, expected left below right and top below bottom", hint=_FORM)
    return box
