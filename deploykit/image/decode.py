"""A picture from anywhere in; an upright 8-bit RGB picture out.

Order of work: the file's length, its format by its first bytes, width and height from its header, and only then the pixels.
Nothing lossy is used to save time: JPEG's scaled decoding (``draft``) is faster and changes answers.
"""

import io
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from deploykit.errors import ImageError
from deploykit.image.colour import to_rgb
from deploykit.image.formats import FORMATS, HEAD_BYTES, describe, early_size, identify
from deploykit.image.limits import DEFAULT_LIMITS, DecodeLimits, check_bytes, check_size
from deploykit.spec import ImageSpec

Source: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[Any]

_TRANSPOSES = {  # EXIF 2.32, tag Orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112


def decode(source: Source, limits: DecodeLimits = DEFAULT_LIMITS, spec: ImageSpec | None = None) -> Image.Image:
    """Read a picture as upright 8-bit RGB.

    The EXIF orientation is applied; of several frames the first is read; transparency is laid over white; greyscale
    beyond 8 bits is scaled (see ``colour.py``); ICC profiles are ignored.

    Args:
        source: a path; the bytes of a file; a Pillow image; or a uint8 array [H, W, 3] (RGB), [H, W] or [H, W, 1] (grey) or
            [H, W, 4] (RGBA).
        spec: when given, the size after its resize is held to the limits too, before a pixel is decoded.

    Returns:
        A loaded picture of mode RGB that needs no file any more. A Pillow image that is upright RGB already is returned itself.

    Raises:
        ImageError: naming the picture ("a.jpg", "bytes of 12,345", "array") and what is wrong with it.
    """
    if isinstance(source, np.ndarray):
        image = _from_array(source, limits, spec)
        return to_rgb(image, "array")
    if isinstance(source, Image.Image):
        return _finish(source, "picture", limits, spec)
    if isinstance(source, bytes | bytearray | memoryview):
        size_bytes = memoryview(source).nbytes
        name = f"bytes of {size_bytes:,}"
        check_bytes(name, size_bytes, limits)
        with io.BytesIO(source) as file:
            return _from_file(file, name, limits, spec)
    if isinstance(source, str | os.PathLike):
        return _from_path(source, limits, spec)
    raise ImageError(
        f"picture of type {type(source).__name__}, expected a path, bytes, a Pillow image or a uint8 array",
    )


def _from_path(source: str | os.PathLike[str], limits: DecodeLimits, spec: ImageSpec | None) -> Image.Image:
    path = Path(source)
    name = str(path)
    try:
        info = path.stat()
        # Looked at before opening: to open a named pipe would wait for ever.
        if stat.S_ISDIR(info.st_mode):
            raise ImageError(f"{name}: is a directory, expected one picture", hint="list its pictures with find_images")
        if not stat.S_ISREG(info.st_mode):
            raise ImageError(f"{name}: is not a regular file")
        check_bytes(name, info.st_size, limits)
        with path.open("rb") as file:
            return _from_file(file, name, limits, spec)
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise ImageError(f"{name}: cannot be opened ({getattr(error, 'strerror', None) or error})") from error


def _from_file(file: BinaryIO, name: str, limits: DecodeLimits, spec: ImageSpec | None) -> Image.Image:
    head = file.read(HEAD_BYTES)
    fmt = identify(head)
    if fmt is None:
        reason, hint = describe(head)
        raise ImageError(f"{name}: {reason}", hint=hint)
    if fmt not in limits.formats:
        raise ImageError(f"{name}: is a {fmt} file, allowed are {', '.join(limits.formats)}")
    if size := early_size(fmt, head):
        check_size(name, *size, limits, spec)
    file.seek(0)
    try:
        image = FORMATS[fmt].open(cast(BinaryIO, _Strict(file)) if ImageFile.LOAD_TRUNCATED_IMAGES else file, "")
    except Exception as error:  # Pillow's readers raise whatever the damaged bytes lead them to, KeyError and Warning included
        raise ImageError(f"{name}: is no readable {fmt} file ({_reason(error)})") from error
    return _finish(image, name, limits, spec)


def _finish(image: Image.Image, name: str, limits: DecodeLimits, spec: ImageSpec | None) -> Image.Image:
    """Decode the pixels of an opened picture, convert and turn it."""
    check_size(name, *image.size, limits, spec)
    pillow_limit = Image.MAX_IMAGE_PIXELS
    if isinstance(image, TiffImageFile) and pillow_limit is not None and image.width * image.height > pillow_limit:
        # This one reader asks Pillow's process-wide limit again on loading, and warns.
        raise ImageError(
            f"{name}: {image.width} x {image.height} pixels, at most {pillow_limit:,} are allowed by Pillow in this process",
            hint="raise PIL.Image.MAX_IMAGE_PIXELS for TIFF files you trust",
        )
    try:
        image.load()
        # No size is trusted twice: GIF may grow and TIFF may turn on loading.
        check_size(name, *image.size, limits, spec)
        rgb = to_rgb(image, name)
        return _upright(image, rgb)
    except ImageError:
        raise
    except Exception as error:  # as above: what Pillow raises on damaged data is not a closed list
        raise ImageError(f"{name}: cannot be decoded ({_reason(error)})") from error


def _upright(image: Image.Image, rgb: Image.Image) -> Image.Image:
    """Turn ``rgb`` as the EXIF record of ``image`` says. A damaged record counts as none, as in browsers."""
    if isinstance(image, TiffImageFile):
        return rgb  # Pillow turns TIFF files when it loads them
    try:
        method = _TRANSPOSES.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Pillow's EXIF reader on damaged bytes: not a closed list either
        return rgb
    if method is None:
        return rgb
    turned = rgb.transpose(method)
    for key in ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"):
        turned.info.pop(key, None)  # or the next reader would turn it again
    return turned


def _from_array(array: NDArray[Any], limits: DecodeLimits, spec: ImageSpec | None) -> Image.Image:
    shape = list(array.shape)
    if array.dtype != np.uint8:
        raise ImageError(
            f"array: dtype is {array.dtype}, expected uint8 grey levels from 0 to 255",
            hint="pass the picture as it was decoded: not divided by 255, not normalized",
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        hint = None
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            hint = "channels come last: array.transpose(1, 2, 0), never reshape"
        elif array.ndim == 4:
            hint = "pass the pictures of a batch one by one"
        raise ImageError(f"array: shape is {shape}, expected [H, W, 3], [H, W, 4] or [H, W]", hint=hint)
    check_size("array", array.shape[1], array.shape[0], limits, spec)
    return Image.fromarray(np.ascontiguousarray(array))


class _Strict(io.BufferedIOBase):
    """A file that raises at its end, for processes in which another library has set Pillow's ``LOAD_TRUNCATED_IMAGES``.

    That setting hands over truncated pictures with their rest in grey. A reader of a complete picture never reads past its end.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int | None = -1, /) -> bytes:
        data = self._file.read(-1 if size is None else size)
        if not data and size:
            raise OSError("image file is truncated")
        return data

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
