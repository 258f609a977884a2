"""The file formats that are read, told apart by their first bytes and never by their suffix.

Pillow's reader classes are used directly instead of ``Image.open``: that function tries formats nobody asked for and warns about
large pictures (``DecompressionBombWarning``) before the caller can look at their size; silencing a warning changes the
filters of the whole process, which is not safe with threads.

JPEG files with several pictures (MPO, from phones) are read as the JPEG that they begin with.
"""

import struct
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

HEAD_BYTES = 1024


class _Jpeg(JpegImageFile):
    """Pillow's JPEG reader without its search for the print resolution, which warns about a damaged EXIF record on opening."""

    def _read_dpi_from_exif(self) -> None:
        return


class Format(NamedTuple):
    """How a format is recognised and opened."""

    signatures: tuple[bytes, ...]
    suffixes: tuple[str, ...]
    open: Callable[[BinaryIO, str], ImageFile]


FORMATS: dict[str, Format] = {
    "JPEG": Format((b"\xff\xd8\xff",), (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), _Jpeg),
    "PNG": Format((b"\x89PNG\r\n\x1a\n",), (".png", ".apng"), PngImageFile),
    "WEBP": Format((b"RIFF",), (".webp",), WebPImageFile),
    "BMP": Format((b"BM",), (".bmp", ".dib"), BmpImageFile),
    "GIF": Format((b"GIF87a", b"GIF89a"), (".gif",), GifImageFile),
    "TIFF": Format((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), (".tif", ".tiff"), TiffImageFile),
}
SUFFIXES = tuple(suffix for f in FORMATS.values() for suffix in f.suffixes)


def identify(head: bytes) -> str | None:
    """The name of the format that ``head``, the first bytes of a file, begins, or None for an unknown one."""
    for name, fmt in FORMATS.items():
        if head.startswith(fmt.signatures) and (name != "WEBP" or head[8:12] == b"WEBP"):
            return name
    return None


def describe(head: bytes) -> tuple[str, str | None]:
    """What bytes that are no picture seem to be, and what to do about it."""
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "is a Git LFS pointer, not the picture it stands for", "run `git lfs pull`"
    if head[4:8] == b"ftyp":
        return "is a HEIF, AVIF or video file", "convert it to JPEG or PNG"
    if head.lstrip()[:1] == b"<":
        return "is an HTML, XML or SVG text, not a picture", None
    if head.startswith(b"%PDF"):
        return "is a PDF document, not a picture", None
    return f"is not a picture (it begins with {head[:8]!r})", f"formats read: {', '.join(FORMATS)}"


def early_size(name: str, head: bytes) -> tuple[int, int] | None:
    """Width and height out of the first bytes, for the two formats whose Pillow reader spends memory or warns before one can ask.

    WebP's reader allocates the canvas when it opens a file; GIF's compares its first frame with a process-wide limit.
    None where the header holds no size: the reader then reports what is wrong with the file.
    """
    try:
        if name == "WEBP":
            return _webp_size(head)
        if name == "GIF":
            return _gif_size(head)
    except (IndexError, struct.error):
        return None
    return None


def _webp_size(head: bytes) -> tuple[int, int] | None:
    # RFC 9649, sections 2.5 (VP8), 2.6 (VP8L) and 2.7 (VP8X).
    chunk = head[12:16]
    if chunk == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", head, 26)
        return width & 0x3FFF, height & 0x3FFF
    if chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", head, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def _gif_size(head: bytes) -> tuple[int, int]:
    # GIF89a, sections 18 (screen), 20 (image) and 23 to 26 (extensions). A first frame may reach beyond the screen, and Pillow
    # then enlarges the picture.
    width, height, flags = struct.unpack_from("<HHB", head, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while at < len(head) and head[at] == 0x21:
        at += 2
        while head[at]:
            at += head[at] + 1
        at += 1
    if at < len(head) and head[at] == 0x2C:
        left, top, wide, high = struct.unpack_from("<HHHH", head, at + 1)
        return max(width, left + wide), max(height, top + high)
    return width, height
