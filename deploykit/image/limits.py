"""What a picture may cost. Checked on the header alone, so a refusal costs no more than reading a few hundred bytes."""

from dataclasses import dataclass, replace

from deploykit.errors import ImageError, UsageError
from deploykit.image.formats import FORMATS
from deploykit.image.resize import resized_size
from deploykit.spec import PHOTO_SIDES, ImageSpec


@dataclass(frozen=True)
class DecodeLimits:
    """The largest picture that is decoded.

    Args:
        max_bytes: of the compressed file.
        max_pixels: width x height in the header. Pillow holds 4 bytes a pixel, so the default stands for 256 MB; it admits
            the 50-megapixel photos of today's phones and refuses 12,000 x 12,000.
        max_resized_pixels: width x height after the spec's resize, before the crop.
        max_aspect_ratio: longer side / shorter side. A strip of 1 x 400,000 passes every pixel count, but resizing its
            shorter side to 256 asks for 26 gigapixels.
        min_side, max_side: of width and height; see `limits_for`.
        formats: names out of ``FORMATS``; a file of another format is refused, whatever its suffix says.

    Raises:
        UsageError: a limit is not positive, or a format is unknown.
    """

    max_bytes: int = 128 * 2**20
    max_pixels: int = 64_000_000
    max_resized_pixels: int = 64_000_000
    max_aspect_ratio: float = 100.0
    min_side: int = 1
    max_side: int | None = None
    formats: tuple[str, ...] = tuple(FORMATS)

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "max_resized_pixels", "min_side", "max_side"):
            value: object = getattr(self, name)
            if name == "max_side" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"decode limits: {name} is {value!r}, expected a whole number of at least 1")
        ratio: object = self.max_aspect_ratio
        if not isinstance(ratio, int | float) or not ratio >= 1:
            raise UsageError(f"decode limits: max_aspect_ratio is {ratio!r}, expected a number of at least 1")
        formats: object = self.formats
        if not isinstance(formats, tuple) or not formats or not set(formats) <= set(FORMATS):
            raise UsageError(f"decode limits: formats is {formats!r}, expected a tuple with any of {', '.join(FORMATS)}")


DEFAULT_LIMITS = DecodeLimits()


def limits_for(input_kind: str, limits: DecodeLimits) -> DecodeLimits:
    """The limits of pictures for graphs of a kind of input (`deploykit.spec.INPUT_KINDS`): those that resize photos themselves take
    sides from 8 to 4096 pixels."""
    if input_kind != "photo":
        return limits
    least, greatest = PHOTO_SIDES
    return replace(limits, min_side=max(limits.min_side, least), max_side=min(limits.max_side or greatest, greatest))


def check_bytes(name: str, size_bytes: int, limits: DecodeLimits) -> None:
    """Refuse an empty or too large file.

    Raises:
        ImageError: naming the picture, its bytes and the limit.
    """
    if size_bytes == 0:
        raise ImageError(f"{name}: is empty")
    if size_bytes > limits.max_bytes:
        raise ImageError(f"{name}: {size_bytes:,} bytes, at most {limits.max_bytes:,} are allowed", hint=_hint("max_bytes"))


def check_size(name: str, width: int, height: int, limits: DecodeLimits, spec: ImageSpec | None) -> None:
    """Refuse a picture by the width and height in its header.

    Args:
        spec: when given, the size after the resize that it asks for is checked too.

    Raises:
        ImageError: naming the picture, its size and the limit.
    """
    seen = f"{name}: {width} x {height} pixels"
    if width < 1 or height < 1:
        raise ImageError(f"{seen}, expected at least 1 x 1")
    if min(width, height) < limits.min_side or (limits.max_side is not None and max(width, height) > limits.max_side):
        raise ImageError(
            f"{seen}, width and height may be {limits.min_side} to {limits.max_side or 'any number of'} pixels",
            hint="resize the picture first; graphs exported without --embed-resize take any size, plans that of build --photo-size",
        )
    if width * height > limits.max_pixels:
        raise ImageError(
            f"{seen} are {width * height:,}, at most {limits.max_pixels:,} are allowed",
            hint=_hint("max_pixels"),
        )
    if max(width, height) > limits.max_aspect_ratio * min(width, height):
        ratio = max(width, height) / min(width, height)
        raise ImageError(
            f"{seen} are {ratio:,.1f} : 1, at most {limits.max_aspect_ratio:g} : 1 is allowed",
            hint=_hint("max_aspect_ratio"),
        )
    if spec is not None:
        wide, high = resized_size(width, height, spec)
        if wide * high > limits.max_resized_pixels:
            raise ImageError(
                f"{seen} become {wide} x {high} = {wide * high:,} when resized, at most {limits.max_resized_pixels:,} are allowed",
                hint=_hint("max_resized_pixels"),
            )


def _hint(limit: str) -> str:
    return f"make the picture smaller, or raise DecodeLimits.{limit} for pictures you trust"
