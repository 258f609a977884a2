"""Pictures of explanations: the map over the photo, the map alone, and the gradients at the input. Pillow and numpy only.

In: the upright photo (`deploykit.image.decode`) and its `Explanation`. Out: Pillow images of mode RGB at the photo's size.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from deploykit.errors import InputError
from deploykit.image import CropBox
from deploykit.runtime.colours import colour_map
from deploykit.runtime.explanation import Explanation, map_on_photo, mask_on_photo
from deploykit.runtime.maps import scale_box
from deploykit.runtime.segmenter import Mask

Floats = npt.NDArray[np.float32]

_MOST_OPACITY = 0.72
"""At the strongest evidence: the object's own outlines must still be seen through the colour."""

_HALF = 0.5
_LINE_OPACITY = 0.8

_UNSEEN_LIGHT = 0.5
"""Brightness that is left of what the network did not see."""

_UNSEEN_MAP = (58, 58, 62)
_FRAME = (255, 255, 255)
_OUTLINE, _OUTLINE_SHADOW = (70, 215, 255), (10, 40, 60)
_TYPICAL_PERCENT = 99.5


def draw_overlay(photo: Image.Image, explanation: Explanation) -> Image.Image:
    """The photo with its map over it. What the network did not see is darkened and a fine line marks the border.

    The photo may be the explained one at another size. Without positive evidence, or where it is even, there is no map on it. Of a
    segmentation net a blue line runs round the pixels of the explained class, whether they have evidence or not.

    Raises:
        InputError: the photo is not RGB, or has another shape than the explained one.
    """
    check_photo(photo)
    outlined = mask_on_photo(explanation, photo.size)
    if not explanation.map.any():
        return photo.copy() if outlined is None else draw_outline(photo, outlined)
    picture = overlay(photo, map_on_photo(explanation, photo.size), outline=explanation.input_gradients is None)
    if outlined is not None:
        picture = draw_outline(picture, outlined)
    return mark_unseen(picture, scale_box(explanation.box, explanation.photo_size, photo.size))


def overlay(photo: Image.Image, photo_map: Floats, *, outline: bool = True) -> Image.Image:
    """Lay a map on a photo: each pixel takes the map's colour as far as the map is strong, and stays as it is where the map is 0.

    Args:
        photo: RGB.
        photo_map: float32 [photo height, photo width], 0 to 1.
        outline: draw a fine line round what has at least half of the strongest evidence. It shows the place where photo and map
            share their colours; maps of single pixels are better without.

    Raises:
        InputError: the photo is not RGB, the sizes differ, or the map leaves 0 to 1.
    """
    check_photo(photo)
    if photo_map.shape != (photo.height, photo.width):
        raise InputError(f"map has shape {list(photo_map.shape)}, expected [{photo.height}, {photo.width}], the photo's")
    if not (photo_map.min() >= 0 and photo_map.max() <= 1):
        raise InputError(f"map goes from {photo_map.min():.3g} to {photo_map.max():.3g}, expected 0 to 1")
    opacity = (_MOST_OPACITY * _ease(photo_map))[..., None]
    mixed = np.array(photo, np.float32)
    mixed += opacity * (colour_map(photo_map) - mixed)
    if outline:
        mixed += _LINE_OPACITY * _line(photo_map, _HALF, line_width(photo.size))[..., None] * (255 - mixed)
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def draw_outline(photo: Image.Image, mask: Mask) -> Image.Image:
    """A line round the pixels of a mask [photo height, photo width]: light, with a dark one inside, so that one is always seen."""
    width = max(1, round(line_width(photo.size)))
    pixels = np.array(photo)
    inner = shrink(mask, width)
    pixels[inner & ~shrink(inner, width)] = _OUTLINE_SHADOW
    pixels[mask & ~inner] = _OUTLINE
    return Image.fromarray(pixels)


def shrink(mask: Mask, width: int) -> Mask:
    """The mask [h, w] without the pixels that lie within ``width`` of its edge; the picture's own edges are none."""
    for _ in range(width):
        padded = np.pad(mask, 1, mode="edge")
        mask = padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


def draw_map(explanation: Explanation, size: tuple[int, int] | None = None) -> Image.Image:
    """The map alone in its colours, on a canvas of the photo's size; grey where the network saw nothing.

    Args:
        size: width and height, when not the photo's own.
    """
    size = size or explanation.photo_size
    picture = colour_map(map_on_photo(explanation, size))
    picture[~_seen(scale_box(explanation.box, explanation.photo_size, size), size)] = _UNSEEN_MAP
    return Image.fromarray(picture)


def draw_input_gradients(explanation: Explanation, size: tuple[int, int] | None = None) -> Image.Image:
    """The gradients at the input, on a canvas of the photo's size: grey is 0, and each colour channel goes up and down from there.

    The scale is per picture and leaves out the strongest 0.5 % of values, which would leave everything else grey.

    Args:
        size: width and height, when not the photo's own.

    Raises:
        InputError: the explanation has none: its method does not look at the input.
    """
    gradients = explanation.input_gradients
    if gradients is None:
        raise InputError(f"an explanation by {explanation.method} has no gradients at the input")
    size = size or explanation.photo_size
    limit = float(np.percentile(np.abs(gradients), _TYPICAL_PERCENT)) or float(np.abs(gradients).max()) or 1.0
    levels = 127.5 + 127.5 * np.clip(gradients.transpose(1, 2, 0) / limit, -1, 1)
    box = scale_box(explanation.box, explanation.photo_size, size)
    left, top, right, bottom = (round(edge) for edge in box)
    seen = Image.fromarray(np.rint(levels).astype(np.uint8)).resize((max(right - left, 1), max(bottom - top, 1)))
    picture = Image.new("RGB", size, _UNSEEN_MAP)
    picture.paste(seen, (left, top))
    return picture


def draw_explanation(photo: Image.Image, explanation: Explanation) -> Image.Image:
    """What shows an explanation best at the photo's size: the overlay, or the gradients for methods at the input."""
    if explanation.input_gradients is None:
        return draw_overlay(photo, explanation)
    return draw_input_gradients(explanation, photo.size)


def _line(values: Floats, level: float, width: float) -> Floats:
    """Where a map [h, w] passes a level: 1 on a line of that width in pixels, fading to 0 within a pixel beside it."""
    if min(values.shape) < 2:
        return np.zeros_like(values)
    down, across = np.gradient(values)
    slope = np.maximum(np.hypot(down, across), np.finfo(np.float32).tiny)
    distance = np.abs(values - np.float32(level)) / slope
    return np.asarray(np.clip(0.5 + width / 2 - distance, 0, 1), np.float32)


def line_width(size: tuple[int, int]) -> float:
    """In pixels: thin enough on a thumbnail, and still seen on a large photo that is shown reduced."""
    return max(1.0, min(size) / 350)


def _ease(values: Floats) -> Floats:
    """Opacity's course from 0 to 1: soft where it sets in, so that no contour appears that the map does not have."""
    return np.asarray(values**1.25, np.float32)


def mark_unseen(picture: Image.Image, box: CropBox) -> Image.Image:
    """Darken what lies outside of the box, and frame it; a picture that was seen whole comes back as it is."""
    seen = _seen(box, picture.size)
    if seen.all():
        return picture
    pixels = np.array(picture)
    grey = pixels[~seen].astype(np.float32).mean(-1, keepdims=True)
    pixels[~seen] = np.rint(_UNSEEN_LIGHT * (0.5 * grey + 0.5 * pixels[~seen])).astype(np.uint8)
    marked = Image.fromarray(pixels)
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    width = round(line_width(picture.size))
    edges = (columns[0] - width, rows[0] - width, columns[-1] + width, rows[-1] + width)
    ImageDraw.Draw(marked).rectangle(edges, outline=_FRAME, width=width)
    return marked


def _seen(box: CropBox, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Which pixels of a picture of that width and height have their centre in the box: bool [height, width]."""
    columns, rows = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
    inside = np.outer((rows > box.top) & (rows < box.bottom), (columns > box.left) & (columns < box.right))
    return np.asarray(inside, np.bool_)


def check_photo(photo: Image.Image) -> None:
    """Refuse what `deploykit.image.decode` would not give.

    Raises:
        InputError: the photo is not RGB.
    """
    if photo.mode != "RGB":
        raise InputError(f"photo has mode {photo.mode}, expected RGB", hint="pass it through deploykit.image.decode first")
