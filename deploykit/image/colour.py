"""Every mode in which Pillow hands over a picture -> 8-bit RGB.

ICC profiles are ignored, as torchvision and timm ignore them: the networks were trained on pictures read that way. Pictures with
transparency are laid over white; torchvision and timm drop the alpha channel instead and so show whatever colour lies
hidden under transparent parts (often black, sometimes noise).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from deploykit.errors import ImageError

# Modes that Pillow converts to RGB rightly. LAB is not among them: Pillow copies its three channels as if they were red,
# green and blue.
_CONVERTIBLE = frozenset({"1", "L", "P", "LA", "La", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV"})
_BITS_PER_SAMPLE, _SAMPLE_FORMAT = 258, 339  # TIFF 6.0, section 8 and 19


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert a loaded picture to RGB; a picture that is RGB already, without transparency, is returned itself.

    Greyscale of 16 bits is scaled to 8 by value / 257, rounded, where Pillow's own conversion clips at 255. Mode I counts as
    16 bits if no value is above 65535 and as 32 bits otherwise. 16-bit colour arrives from Pillow as 8 bits.

    Raises:
        ImageError: a mode that has no agreed meaning as a picture: floating point, LAB, negative values.
    """
    if image.mode.startswith("I"):
        return _deep_grey_to_8_bits(image, name).convert("RGB")
    if image.mode not in _CONVERTIBLE:
        raise ImageError(
            f"{name}: pixels of mode {image.mode} have no agreed 8-bit form",
            hint="scale them to 0 to 255 and save the picture as 8-bit RGB or grey",
        )
    if image.has_transparency_data:
        return _over_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    transparent = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(transparent, tuple) and max(transparent) > 255:
        # The transparent colour of a 16-bit PNG, whose pixels Pillow has cut to their upper 8 bits.
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    alpha = rgba.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return rgba.convert("RGB")
    result = Image.new("RGB", image.size, (255, 255, 255))
    result.paste(rgba.convert("RGB"), (0, 0), alpha)
    return result


def _deep_grey_to_8_bits(image: Image.Image, name: str) -> Image.Image:
    values: NDArray[np.integer[Any]] = np.asarray(image)
    bits = 16
    if image.mode == "I":
        is_unsigned = isinstance(image, TiffImageFile) and image.tag_v2.get(_SAMPLE_FORMAT, (1,))[0] == 1
        values = values.view(np.uint32 if is_unsigned else np.int32)
        if values.min() < 0:
            raise ImageError(f"{name}: grey levels down to {values.min()}, expected none below 0")
        if values.max() > 65535:
            values = values >> (16 if is_unsigned else 15)
    elif isinstance(image, TiffImageFile):
        bits = min(16, image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0])  # 12-bit files keep their values in 16
    full = (1 << bits) - 1
    # A table of 65,536 bytes instead of arithmetic: no array wider than the picture is made.
    table = ((np.arange(65536) * 255 + full // 2) // full).clip(max=255).astype(np.uint8)
    grey: NDArray[np.uint8] = table[values]
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey)
