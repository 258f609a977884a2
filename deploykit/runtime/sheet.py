"""One picture with several explanations side by side: for several classes, several methods, or both.

In: the upright photo and its explanations. Out: a Pillow image, light, with label, probability, method and layer under each tile.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from deploykit.errors import UsageError
from deploykit.runtime.classifier import Prediction
from deploykit.runtime.colours import colour_map
from deploykit.runtime.explanation import Explanation
from deploykit.runtime.overlay import draw_explanation
from deploykit.runtime.segmenter import ClassShare

TILE = 380
"""The longer side of a picture on the sheet, in pixels, and the width of a column."""

_MOST_COLUMNS = 4
_GAP = 24
_LABEL, _TEXT, _SMALL = 21, 16, 14
_CAPTION = _LABEL + _TEXT + _SMALL + 34
_FOOTER = 30
PAPER, INK, PALE, ALERT = (250, 250, 247), (32, 33, 36), (105, 108, 115), (170, 62, 20)

Lines = list[tuple[str, int, tuple[int, int, int]]]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_sheet(
    photo: Image.Image, explanations: Sequence[Explanation], *, title: str = "", columns: int | None = None
) -> Image.Image:
    """Draw a photo and its explanations on one sheet.

    Args:
        photo: RGB, upright; any size.
        explanations: of this photo, in reading order.
        title: stands under the plain photo, such as the file's name.
        columns: explanations per row, with the photo in a column of its own; None fills rows of at most four tiles, photo included.

    Raises:
        UsageError: no explanations, or less than one column.
        InputError: the explanations are of a photo of another shape.
    """
    if not explanations or (columns is not None and columns < 1):
        raise UsageError(f"a sheet of {len(explanations)} explanations in {columns} columns, expected at least one of both")
    scale = TILE / max(photo.size)
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    small = photo.resize(size, Image.Resampling.LANCZOS)
    tiles = [(small, _photo_caption(title, explanations[0]))]
    tiles += [(draw_explanation(small, e), _caption(e)) for e in explanations]
    places = _places(len(explanations), columns)
    wide, high = 1 + max(x for x, _ in places), 1 + max(y for _, y in places)
    step_x, step_y = TILE + _GAP, size[1] + _CAPTION + _GAP
    sheet = Image.new("RGB", (_GAP + wide * step_x, _GAP + high * step_y + _FOOTER), PAPER)
    draw = ImageDraw.Draw(sheet)
    for (picture, lines), (x, y) in zip(tiles, places, strict=True):
        corner = (_GAP + x * step_x, _GAP + y * step_y)
        sheet.paste(picture, corner)
        _write(draw, lines, (corner[0], corner[1] + size[1] + 8))
    if any(e.input_gradients is None for e in explanations):
        _draw_key(sheet, draw, has_masks=any(e.mask is not None for e in explanations))
    return sheet


def shorten(text: str, font: Font, width: float) -> str:
    """The text, or as much of it as fits into ``width`` pixels with an ellipsis behind; line breaks become spaces."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:  # the longest beginning that fits
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle] + "…") <= width else (low, middle - 1)
    return text[:low].rstrip() + "…"


def _places(count: int, columns: int | None) -> list[tuple[int, int]]:
    """Column and row of the photo and of each explanation."""
    if columns is not None:
        return [(0, 0)] + [(1 + i % columns, i // columns) for i in range(count)]
    across = math.ceil((count + 1) / math.ceil((count + 1) / _MOST_COLUMNS))
    return [(i % across, i // across) for i in range(count + 1)]


def _photo_caption(title: str, explanation: Explanation) -> Lines:
    best = explanation.predictions[0]
    kind = "top-1" if isinstance(best, Prediction) else "most"
    return [(title, _LABEL, INK), (f"{kind}: {best.label}, {_figure(best)}", _TEXT, PALE)]


def _caption(explanation: Explanation) -> Lines:
    seen = explanation.explained
    lines: Lines = [
        (seen.label, _LABEL, INK),
        (f"{_figure(seen)}, {explanation.method} at {explanation.layer}", _TEXT, PALE),
    ]
    if isinstance(seen, ClassShare) and not seen.share:
        lines.append(("predicted at no pixel, so nothing is explained", _SMALL, ALERT))
    elif not explanation.has_evidence:
        lines.append(("no positive evidence", _SMALL, ALERT))
    elif explanation.is_even:
        lines.append(("evidence is the same everywhere", _SMALL, ALERT))
    return lines


def _figure(answer: Prediction | ClassShare) -> str:
    return percent(answer.probability) if isinstance(answer, Prediction) else f"{percent(answer.share)} of the picture"


def percent(probability: float) -> str:
    """A probability or a share, 0 to 1, in words."""
    if probability == 0:
        return "0 %"
    return f"{100 * probability:.1f} %" if probability >= 0.0005 else "< 0.1 %"


def _write(draw: ImageDraw.ImageDraw, lines: Lines, corner: tuple[int, int]) -> None:
    x, y = corner
    for text, size, colour in lines:
        draw.text((x, y), shorten(text, load_font(size), TILE), fill=colour, font=load_font(size))
        y += size + 7


def _draw_key(sheet: Image.Image, draw: ImageDraw.ImageDraw, *, has_masks: bool) -> None:
    """What the colours mean, in the sheet's last line."""
    font, y = load_font(_SMALL), sheet.height - _FOOTER
    bar = colour_map(np.tile(np.linspace(0, 1, 120, dtype=np.float32), (10, 1)))
    draw.text((_GAP, y), "least", fill=PALE, font=font)
    x = _GAP + round(font.getlength("least")) + 8
    sheet.paste(Image.fromarray(bar), (x, y + 4))
    room = sheet.width - (x + 128) - _GAP
    line = "the white line is at half, the blue one round the class's pixels" if has_masks else "the line is at half"
    text = f"most evidence in its picture; {line}; the network did not see the darkened border"
    draw.text((x + 128, y), shorten(text, font, room), fill=PALE, font=font)


@functools.cache
def load_font(size: int) -> Font:
    """Pillow's own font, which every installation has."""
    return ImageFont.load_default(size)
