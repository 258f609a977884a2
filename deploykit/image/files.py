"""Folders of pictures: which files are meant, and their pixels one by one, with a reason for each that cannot be used."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploykit.errors import ImageError
from deploykit.image.decode import Source, decode
from deploykit.image.formats import SUFFIXES
from deploykit.image.limits import DEFAULT_LIMITS, DecodeLimits, limits_for
from deploykit.image.resize import graph_pixels
from deploykit.spec import ImageSpec


def load_pixels(
    source: Source, spec: ImageSpec, limits: DecodeLimits = DEFAULT_LIMITS, input_kind: str = "pixels"
) -> NDArray[np.uint8]:
    """Decode a picture and resize it to what the network sees, or leave it at its own size for graphs that resize it themselves:
    ``decode``, then ``graph_pixels``.

    Args:
        input_kind: of the graphs that it is for, one of `deploykit.spec.INPUT_KINDS`.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        ImageError: naming the picture and what is wrong with it.
    """
    return graph_pixels(decode(source, limits_for(input_kind, limits), spec), spec, input_kind)


def decode_each(
    paths: Iterable[str | os.PathLike[str]],
    spec: ImageSpec,
    limits: DecodeLimits = DEFAULT_LIMITS,
    input_kind: str = "pixels",
) -> Iterator[tuple[Path, NDArray[np.uint8] | ImageError]]:
    """Read files one after the other; one that cannot be used arrives as its error, so that the caller counts and names it.

    Yields:
        The path with its pixels, uint8 [H, W, 3], or with the ImageError that says why there are none.
    """
    for path in map(Path, paths):
        try:
            pixels: NDArray[np.uint8] | ImageError = load_pixels(path, spec, limits, input_kind)
        except ImageError as error:
            pixels = error
        yield path, pixels


def find_images(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """List the pictures in files and directories.

    Directories are searched with all below them, following links, for files with a picture's suffix in upper or lower case.
    Hidden files and directories are skipped. A file that is named itself is taken whatever its name.

    Returns:
        The paths in the order of the arguments, those of a directory in natural order ("2.jpg" before "10.jpg").

    Raises:
        ImageError: no path is given, a path is missing, a directory cannot be read, or a directory holds no picture.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += _search(path)
        elif os.path.lexists(path):
            found.append(path)
        else:
            raise ImageError(f"{path}: no such file or directory")
    if not found:
        raise ImageError("no picture and no directory is named, expected at least one")
    return found


def _search(directory: Path) -> list[Path]:
    """The pictures of one directory, in natural order."""
    pictures: list[Path] = []
    others: Counter[str] = Counter()
    folders = hidden = 0
    seen: set[tuple[int, int]] = set()
    for folder, names, files in os.walk(directory, followlinks=True, onerror=_refuse):
        info = os.stat(folder)  # noqa: PTH116 - os.walk speaks in strings
        if (info.st_dev, info.st_ino) in seen:  # a link that leads back
            names.clear()
            continue
        seen.add((info.st_dev, info.st_ino))
        folders += 1
        # Sorted, so that of two ways to one folder the same one is taken on every machine.
        names[:] = sorted(name for name in names if not name.startswith("."))
        for file in files:
            suffix = Path(file).suffix.lower()
            if file.startswith("."):
                hidden += 1
            elif suffix in SUFFIXES:
                pictures.append(Path(folder, file))
            else:
                others[suffix or "no suffix"] += 1
    if not pictures:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
        raise ImageError(
            f"{directory}: no picture among {others.total()} files{f' ({kinds})' if kinds else ''} and {hidden} hidden files "
            f"in {folders} {'directory' if folders == 1 else 'directories'}",
            hint=f"suffixes of pictures: {', '.join(SUFFIXES)}; a file that is named itself is taken whatever its suffix",
        )
    return sorted(pictures, key=_natural)


def _natural(path: Path) -> list[tuple[tuple[int, int, str], ...]]:
    """A key that sorts digits by their value and letters without case; the exact name decides between equals."""
    return [(*map(_piece, re.split(r"([0-9]+)", part)), (2, 0, part)) for part in path.parts]


def _piece(text: str) -> tuple[int, int, str]:
    return (0, int(text), text) if text.isdecimal() else (1, 0, text.casefold())


def _refuse(error: OSError) -> None:
    raise ImageError(f"{error.filename}: cannot be read ({error.strerror})") from error
