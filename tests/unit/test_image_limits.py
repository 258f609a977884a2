"""What is refused before memory is spent, and that nothing of Pillow's process-wide settings is touched (cases O27, O13)."""

import io
import json
import os
import struct
import subprocess
import sys
import warnings
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from deploykit.errors import ImageError, UsageError
from deploykit.image import DecodeLimits, decode, load_pixels
from deploykit.image.formats import early_size
from deploykit.spec import ImageSpec

SPEC = ImageSpec(224, 224, 256)


def flat_png(width: int, height: int) -> bytes:
    """A black 1-bit PNG, made row by row so that making it needs no memory."""
    row = bytes(1 + (width + 7) // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + c + d + struct.pack(">I", zlib.crc32(c + d)) for c, d in chunks
    )


def huge_headers() -> dict[str, bytes]:
    """Files whose headers claim an enormous picture and whose data is missing."""
    jpeg = b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 17, 8, 60000, 60000, 3) + bytes([1, 0x22, 0, 2, 0x11, 0, 3, 0x11, 0])
    vp8x = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (16382).to_bytes(3, "little") * 2
    vp8l = b"VP8L" + struct.pack("<IBI", 10, 0x2F, 16383 | 16383 << 14) + bytes(6)
    vp8 = b"VP8 " + struct.pack("<I", 10) + b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 16383, 16383)
    tags = ((256, 4, 1, 60000), (257, 4, 1, 60000), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8), (279, 4, 1, 8))
    return {
        "jpeg": jpeg + b"\xff\xda" + bytes(100),
        "webp vp8x": b"RIFF" + struct.pack("<I", 4 + len(vp8x)) + b"WEBP" + vp8x,
        "webp vp8l": b"RIFF" + struct.pack("<I", 4 + len(vp8l)) + b"WEBP" + vp8l,
        "webp vp8": b"RIFF" + struct.pack("<I", 4 + len(vp8)) + b"WEBP" + vp8,
        "gif screen": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b";",
        "gif frame": b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + b"," + struct.pack("<HHHHB", 9, 9, 65000, 65000, 0) + b";",
        "bmp": b"BM" + bytes(8) + struct.pack("<IIiiHHIIiiII", 54, 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0),
        "tiff": b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(struct.pack("<HHII", *t) for t in tags) + bytes(4),
    }


@pytest.mark.parametrize("size", [(12_000, 12_000), (40_000, 40_000), (1, 400_000), (400_000, 1)])
def test_a_bomb_is_refused_with_its_size_and_the_limit(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=rf"bytes of [\d,]+: {size[0]} x {size[1]} pixels are .* allowed") as caught:
        decode(flat_png(*size), spec=SPEC)
    assert caught.value.hint is not None
    assert "DecodeLimits.max_" in caught.value.hint


@pytest.mark.parametrize("kind", huge_headers())
def test_a_header_that_claims_too_much_is_refused_in_every_format(kind: str) -> None:
    with pytest.raises(ImageError, match=r"\d+ x \d+ pixels are .* allowed"):
        decode(huge_headers()[kind])


def test_refusing_bombs_takes_no_memory_and_no_time(tmp_path: Path) -> None:
    for i, size in enumerate(((12_000, 12_000), (40_000, 40_000), (1, 400_000))):
        (tmp_path / f"{i}.png").write_bytes(flat_png(*size))
    for name, data in huge_headers().items():
        (tmp_path / name).write_bytes(data)
    # In a process of its own: the peak of this one belongs to other tests.
    program = """
import json, resource, sys, time
from deploykit.errors import ImageError
from deploykit.image import decode
from deploykit.spec import ImageSpec
spec = ImageSpec(224, 224, 256)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
times = []
for path in sys.argv[1:]:
    start = time.perf_counter()
    try:
        decode(path, spec=spec)
    except ImageError:
        times.append(time.perf_counter() - start)
print(json.dumps([times, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024]))
"""
    files = [str(p) for p in sorted(tmp_path.iterdir())]
    done = subprocess.run([sys.executable, "-W", "error", "-c", program, *files], capture_output=True, text=True, check=True)
    times, grown_mib = json.loads(done.stdout)
    assert len(times) == len(files)
    assert max(times) < 0.2
    assert grown_mib < 50
    assert done.stderr == ""


@pytest.mark.parametrize("pillow_limit", [None, 100, 10**12])
def test_the_limits_hold_whatever_pillows_own_limit_is(pillow_limit: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow_limit)
    with pytest.raises(ImageError, match=r"144,000,000, at most 64,000,000 are allowed"):
        decode(flat_png(12_000, 12_000))
    assert decode(flat_png(30, 20)).size == (30, 20)
    assert pillow_limit == Image.MAX_IMAGE_PIXELS


def test_a_picture_beyond_pillows_warning_is_read_without_one_when_the_caller_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    picture = Image.new("RGB", (50, 30), (9, 8, 7))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for kind in ("PNG", "JPEG", "BMP", "GIF", "WEBP"):
            assert decode(encode(picture, kind)).size == (50, 30)
        with pytest.raises(ImageError, match="at most 1,000 are allowed by Pillow in this process"):
            decode(encode(picture, "TIFF"))
    assert seen == []


def test_the_size_after_the_resize_counts_too() -> None:
    strip = np.zeros((90, 9000, 3), np.uint8)
    assert decode(strip).size == (9000, 90)
    with pytest.raises(ImageError, match=r"become 67200 x 672 = 45,158,400 when resized, at most 40,000,000"):
        decode(strip, DecodeLimits(max_resized_pixels=40_000_000), ImageSpec(600, 600, 672))
    assert load_pixels(strip, SPEC).shape == (224, 224, 3)


@pytest.mark.parametrize("source", ["bytes", "path", "picture", "array"])
def test_every_kind_of_source_is_held_to_the_same_limits(source: str, tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 30))
    (tmp_path / "a.png").write_bytes(encode(picture, "PNG"))
    value: Any = {"bytes": encode(picture, "PNG"), "path": tmp_path / "a.png", "picture": picture, "array": np.asarray(picture)}[
        source
    ]
    with pytest.raises(ImageError, match=r"40 x 30 pixels are 1,200, at most 1,199 are allowed"):
        decode(value, DecodeLimits(max_pixels=1199))
    assert decode(value, DecodeLimits(max_pixels=1200)).size == (40, 30)


def test_the_length_of_a_file_is_checked_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "long.png"
    path.write_bytes(b"")
    os.truncate(path, 10**12)
    with pytest.raises(ImageError, match=r"long.png: 1,000,000,000,000 bytes, at most 134,217,728 are allowed"):
        decode(path)
    with pytest.raises(ImageError, match="bytes of 11: 11 bytes, at most 10"):
        decode(bytes(11), DecodeLimits(max_bytes=10))


def test_only_listed_formats_are_read() -> None:
    png = encode(Image.new("RGB", (2, 2)), "PNG")
    with pytest.raises(ImageError, match="is a PNG file, allowed are JPEG, WEBP"):
        decode(png, DecodeLimits(formats=("JPEG", "WEBP")))
    for kind in ("PPM", "TGA", "PCX", "ICO", "EPS"):
        with pytest.raises(ImageError, match="is not a picture"):
            decode(encode(Image.new("RGB", (16, 16)), kind))


@pytest.mark.parametrize(
    "change",
    [
        {"max_bytes": 0},
        {"max_pixels": -1},
        {"max_pixels": 1.5},
        {"max_resized_pixels": True},
        {"max_aspect_ratio": 0.5},
        {"max_aspect_ratio": float("nan")},
        {"formats": ()},
        {"formats": ("JPEG", "EPS")},
        {"formats": "JPEG"},
    ],
)
def test_limits_that_make_no_sense_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(change))} is "):
        replace(DecodeLimits(), **change)


def test_pillows_settings_are_left_alone() -> None:
    program = """
from PIL import Image, ImageFile
import numpy as np
import warnings
before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
from deploykit.image import decode
decode(np.zeros((2, 2, 3), np.uint8))
assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"])
@pytest.mark.parametrize("is_lenient", [False, True])
def test_a_truncated_file_is_refused_even_if_the_process_loads_truncated_pictures(
    kind: str, is_lenient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", is_lenient)
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    data = encode(Image.fromarray(noise), kind)
    assert decode(data).size == (80, 60)
    with pytest.raises(ImageError, match=r"truncated|no readable WEBP"):
        decode(data[: len(data) * 2 // 3])


@pytest.mark.parametrize("kind", ["VP8 lossy", "VP8L", "VP8X", "GIF", "GIF with a comment"])
def test_the_early_size_is_the_size(kind: str) -> None:
    picture = Image.new("RGB", (37, 21))
    data = {
        "VP8 lossy": lambda: encode(picture, "WEBP"),
        "VP8L": lambda: encode(picture, "WEBP", lossless=True),
        "VP8X": lambda: encode(picture, "WEBP", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"),
        "GIF": lambda: encode(picture, "GIF"),
        "GIF with a comment": lambda: encode(picture, "GIF", comment=b"x" * 300),
    }[kind]()
    assert early_size(kind[:3].replace("VP8", "WEBP"), data[:1024]) == (37, 21)


def test_of_many_frames_only_the_first_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.new("RGB", (9, 9), (i, 0, 0)) for i in (200, 100, 50)]
    for kind in ("GIF", "TIFF", "WEBP", "PNG"):
        extra = {"lossless": True} if kind == "WEBP" else {}
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **extra)
        assert decode(data).getpixel((0, 0)) == (200, 0, 0)


def encode(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()
