"""Pictures of segmentations: each class's pixels in its colour over the photo, with a legend, and the class indices themselves.

In: the upright photo (`deploykit.image.decode`) and its `Segmentation`. Out: Pillow images. A class keeps its colour from picture
to picture (`deploykit.runtime.class_colours`); the colours are told apart with the common kinds of colour blindness too, lines
mark where two classes meet, and the legend names every colour.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from deploykit.runtime.class_colours import class_colours
from deploykit.runtime.maps import scale_box
from deploykit.runtime.overlay import check_photo, line_width, mark_unseen
from deploykit.runtime.segmenter import ClassMap, ClassShare, Mask, Segmentation, class_map_on_photo, unseen_value
from deploykit.runtime.sheet import ALERT, INK, PALE, PAPER, load_font, percent, shorten

BACKGROUNDS = ("background", "__background__")
"""Labels of what is none of the classes: such pixels stay as they are on the photo."""

_OPACITY = 0.55
_LINE = np.array((255, 255, 255), np.float32)
_LINE_OPACITY = 0.85
_LEAST_WIDTH = 320
_TEXT = 16
_ROW = 26
_GAP = 14
_SWATCH = 16
_ENTRY_WIDTH = 210
_MOST_NAMED = 40
_PALETTE = 256


def draw_masks(photo: Image.Image, segmentation: Segmentation, *, title: str = "") -> Image.Image:
    """The photo with its classes coloured, and under it a legend: colour, name and share of every class, largest first.

    The photo may be the segmented one at another size; the drawing has its width (at least 320 pixels). The background, where a
    label names one, keeps the photo's own colours. What the network did not see is darkened.

    Args:
        title: stands first in the legend, such as the file's name.

    Raises:
        InputError: the photo is not RGB, or has another shape than the segmented one.
    """
    picture = colour_classes(photo, segmentation)
    return _add_legend(picture, segmentation, title)


def colour_classes(photo: Image.Image, segmentation: Segmentation) -> Image.Image:
    """`draw_masks` without the legend: a picture of the photo's own size."""
    check_photo(photo)
    class_map = class_map_on_photo(segmentation, photo.size)
    colours = class_colours(len(segmentation.logits)).astype(np.float32)
    seen = class_map != unseen_value(class_map)
    plain = [one.class_index for one in segmentation.classes if is_background(one.label)]
    painted = seen & ~np.isin(class_map, plain)
    pixels = np.array(photo, np.float32)
    pixels[painted] += _OPACITY * (colours[class_map[painted]] - pixels[painted])
    edges = borders(class_map, max(1, round(line_width(photo.size)))) & seen
    pixels[edges] += _LINE_OPACITY * (_LINE - pixels[edges])
    box = scale_box(segmentation.box, segmentation.photo_size, photo.size)
    return mark_unseen(Image.fromarray(np.rint(pixels).astype(np.uint8)), box)


def draw_class_map(segmentation: Segmentation) -> Image.Image:
    """The class indices at the photo's size, to be saved as PNG and read back as they are.

    Up to 255 classes: mode P, as in Pascal VOC, so a viewer shows the classes' colours and ``numpy.asarray`` gives the indices;
    255 is what the network did not see. More classes: mode I;16, and 65535.
    """
    class_map = class_map_on_photo(segmentation)
    if class_map.dtype != np.uint8:
        return Image.fromarray(class_map)
    picture = Image.fromarray(class_map)
    colours = np.full((_PALETTE, 3), 58, np.uint8)
    count = len(segmentation.logits)
    colours[:count] = class_colours(count)
    for one in segmentation.classes:
        if is_background(one.label):
            colours[one.class_index] = 0
    picture.putpalette(colours.tobytes())  # turns the mode from L to P; the values stay
    return picture


def is_background(label: str) -> bool:
    """Whether a label names what is none of the classes."""
    return label.casefold() in BACKGROUNDS


def borders(class_map: ClassMap | Mask, width: int) -> Mask:
    """Where two values meet: the pixels [h, w] within ``width`` of a neighbour (left, right, above, below) of another value.

    The line lies on both sides for a width of 2 and more; a width of 1 takes the left and the upper side.
    """
    edge: Mask = np.zeros(class_map.shape, np.bool_)
    edge[:, :-1] |= class_map[:, :-1] != class_map[:, 1:]
    edge[:-1] |= class_map[:-1] != class_map[1:]
    for step in range(width - 1):
        edge = _grown(edge, towards_end=step % 2 == 0)
    return edge


def _grown(mask: Mask, *, towards_end: bool) -> Mask:
    """The mask and its neighbours to the right and below, or to the left and above."""
    grown = mask.copy()
    if towards_end:
        grown[:, 1:] |= mask[:, :-1]
        grown[1:] |= mask[:-1]
    else:
        grown[:, :-1] |= mask[:, 1:]
        grown[:-1] |= mask[1:]
    return grown


def _add_legend(picture: Image.Image, segmentation: Segmentation, title: str) -> Image.Image:
    named = segmentation.classes[:_MOST_NAMED]
    width = max(picture.width, _LEAST_WIDTH)
    columns = max(1, (width - _GAP) // _ENTRY_WIDTH)
    rows = -(-len(named) // columns)
    first = picture.height + _GAP
    lines = _ROW if title else 0
    left_out = len(segmentation.classes) - len(named)
    height = first + lines + (rows + bool(left_out)) * _ROW + _GAP // 2
    sheet = Image.new("RGB", (width, height), PAPER)
    sheet.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((_GAP, first), shorten(title, load_font(_TEXT), width - 2 * _GAP), fill=INK, font=load_font(_TEXT))
    colours = class_colours(len(segmentation.logits))
    room = (width - _GAP) // columns
    for i, one in enumerate(named):
        corner = (_GAP + i // rows * room, first + lines + i % rows * _ROW)
        _draw_entry(draw, corner, room - _GAP, one, None if is_background(one.label) else colours[one.class_index])
    if left_out:
        text = f"and {left_out} more with smaller shares"
        draw.text((_GAP, first + lines + rows * _ROW), text, fill=ALERT, font=load_font(_TEXT))
    return sheet


def _draw_entry(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], room: int, one: ClassShare, colour: npt.NDArray[np.uint8] | None
) -> None:
    """Swatch, name and share; the swatch of the background is empty, since its pixels are not coloured."""
    x, y = corner
    fill = None if colour is None else (int(colour[0]), int(colour[1]), int(colour[2]))
    draw.rectangle((x, y + 2, x + _SWATCH, y + 2 + _SWATCH), fill=fill, outline=PALE)
    share = percent(one.share)
    share_width = round(load_font(_TEXT).getlength(share))
    text_room = room - _SWATCH - share_width - 2 * 8
    name = shorten(one.label, load_font(_TEXT), text_room)
    draw.text((x + _SWATCH + 8, y), name, fill=INK, font=load_font(_TEXT))
    draw.text((x + _SWATCH + 8 + round(load_font(_TEXT).getlength(name)) + 8, y), share, fill=PALE, font=load_font(_TEXT))
