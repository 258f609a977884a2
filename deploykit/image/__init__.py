"""The one door through which a picture enters deploykit: the runtime, the server and calibration all decode, resize and crop here.

    limits.py    what is refused before memory is spent
    formats.py   which file formats are read, told apart by their first bytes
    decode.py    path, bytes, Pillow image or array -> upright 8-bit RGB
    colour.py    every Pillow mode -> RGB
    resize.py    RGB -> the pixels that the network sees, and where they lie on the photo
    files.py     folders of pictures, good and bad

Pillow and numpy only. No process-wide setting of Pillow's is changed, and every function may be called from many threads.
"""

from deploykit.image.decode import Source, decode
from deploykit.image.files import decode_each, find_images, load_pixels
from deploykit.image.limits import DEFAULT_LIMITS, DecodeLimits, limits_for
from deploykit.image.resize import CropBox, graph_pixels, normalize, placement, resize_and_crop, resized_size

__all__ = [
    "DEFAULT_LIMITS",
    "CropBox",
    "DecodeLimits",
    "Source",
    "decode",
    "decode_each",
    "find_images",
    "graph_pixels",
    "limits_for",
    "load_pixels",
    "normalize",
    "placement",
    "resize_and_crop",
    "resized_size",
]
