"""Every mode of pixels becomes 8-bit RGB; the numbers are small enough to follow by eye."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deploykit.errors import ImageError
from deploykit.image import decode

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def encode(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(source: Any) -> list[Any]:
    image = decode(source)
    assert image.mode == "RGB"
    values: list[Any] = np.asarray(image).tolist()
    return [[tuple(p) for p in row] for row in values]


def grey(*levels: int) -> list[Any]:
    return [[(v, v, v) for v in levels]]


def from_values(values: Any, dtype: Any) -> Image.Image:
    return Image.fromarray(np.array(values, dtype))


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    values = [[0, 128, 129, 257, 32768, 65535]]
    expected = grey(0, 0, 1, 1, 128, 255)  # value / 257, rounded
    picture = from_values(values, np.uint16)
    assert picture.mode == "I;16"
    assert pixels(picture) == expected
    assert pixels(encode(picture, "PNG")) == expected
    assert pixels(encode(picture, "TIFF")) == expected
    big_endian = Image.frombytes("I;16B", (6, 1), np.array(values, ">u2").tobytes())
    assert pixels(big_endian) == expected
    assert pixels(encode(big_endian, "TIFF")) == expected


def test_mode_i_is_16_bits_if_the_values_fit_and_32_otherwise() -> None:
    assert pixels(from_values([[0, 257, 65535]], np.int32)) == grey(0, 1, 255)
    assert pixels(from_values([[0, 2**30, 2**31 - 1]], np.int32)) == grey(0, 128, 255)
    assert pixels(encode(from_values([[0, 2**30, 2**31 - 1]], np.int32), "TIFF")) == grey(0, 128, 255)
    assert pixels(unsigned_tiff([0, 2**31, 2**32 - 1])) == grey(0, 128, 255)
    with pytest.raises(ImageError, match="grey levels down to -1, expected none below 0"):
        decode(from_values([[-1, 5]], np.int32))


def unsigned_tiff(values: list[int]) -> bytes:
    tags = [
        (256, 4, 1, len(values)),
        (257, 4, 1, 1),
        (258, 3, 1, 32),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 0),
        (277, 3, 1, 1),
        (278, 4, 1, 1),
        (279, 4, 1, 4 * len(values)),
        (339, 3, 1, 1),
    ]
    start = 8 + 2 + 12 * len(tags) + 4
    rows = b"".join(
        np.array([t, k], "<u2").tobytes() + np.array([n, start if t == 273 else v], "<u4").tobytes() for t, k, n, v in tags
    )
    head = b"II*\0" + np.array([8], "<u4").tobytes() + np.array([len(tags)], "<u2").tobytes()
    return head + rows + bytes(4) + np.array(values, "<u4").tobytes()


def test_the_transparent_grey_of_a_16_bit_png_is_white() -> None:
    data = encode(from_values([[0, 257, 514]], np.uint16), "PNG", transparency=257)
    assert pixels(data) == grey(0, 255, 2)


def test_floating_point_and_lab_pixels_are_refused() -> None:
    for picture in (from_values([[0.5]], np.float32), Image.new("LAB", (1, 1))):
        with pytest.raises(ImageError, match=f"mode {picture.mode} have no agreed 8-bit form"):
            decode(picture)
        with pytest.raises(ImageError, match=f"mode {picture.mode}"):
            decode(encode(picture, "TIFF"))


def test_alpha_is_laid_over_white() -> None:
    rgba = from_values([[(0, 0, 0, 255), (0, 0, 0, 0), (200, 100, 0, 51)]], np.uint8)
    over = [[BLACK, WHITE, (244, 224, 204)]]  # 200 * 0.2 + 255 * 0.8 = 244
    for source in (rgba, encode(rgba, "PNG"), encode(rgba, "TIFF"), encode(rgba, "WEBP", lossless=True, exact=True)):
        assert pixels(source) == over
    la = Image.merge("LA", (from_values([[0, 0, 100]], np.uint8), from_values([[255, 0, 51]], np.uint8)))
    assert pixels(la) == grey(0, 255, 224)
    assert pixels(encode(la, "PNG")) == grey(0, 255, 224)
    assert pixels(la.convert("RGBA").convert("RGBa")) == grey(0, 255, 224)


def test_an_opaque_alpha_channel_changes_nothing() -> None:
    assert pixels(np.array([[[1, 2, 3, 255]]], np.uint8)) == [[(1, 2, 3)]]


def test_palettes_are_looked_up_and_their_transparent_entries_are_white() -> None:
    picture = Image.new("P", (3, 1))
    picture.putpalette([*RED, *GREEN, *BLUE])
    picture.putdata([0, 1, 2])
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        assert pixels(encode(picture, kind)) == [[RED, GREEN, BLUE]]
    for kind in ("PNG", "GIF"):
        assert pixels(encode(picture, kind, transparency=1)) == [[RED, WHITE, BLUE]]
    assert pixels(encode(picture, "PNG", transparency=bytes([255, 51, 0]))) == [[RED, (204, 255, 204), WHITE]]
    assert pixels(picture.convert("PA")) == [[RED, GREEN, BLUE]]


def test_one_bit_grey_and_colours_with_a_transparent_value_become_rgb() -> None:
    bits = from_values([[0, 255]], np.uint8).convert("1")
    for kind in ("PNG", "TIFF", "BMP"):
        assert pixels(encode(bits, kind)) == grey(0, 255)
    assert pixels(encode(bits, "PNG", transparency=0)) == grey(255, 255)
    assert pixels(encode(from_values([[5, 6]], np.uint8), "PNG", transparency=5)) == grey(255, 6)
    assert pixels(encode(from_values([[(1, 2, 3), (3, 2, 1)]], np.uint8), "PNG", transparency=(1, 2, 3))) == [[WHITE, (3, 2, 1)]]


def test_16_bit_colour_keeps_its_upper_8_bits() -> None:
    samples = np.array([[[0x1234, 0xFFFF, 0x00FF], [0x8000, 0, 0]]], ">u2")

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    body = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    tail = chunk(b"IDAT", zlib.compress(b"\0" + samples.tobytes())) + chunk(b"IEND", b"")
    assert pixels(b"\x89PNG\r\n\x1a\n" + body + tail) == [[(0x12, 0xFF, 0), (0x80, 0, 0)]]
    transparent = chunk(b"tRNS", struct.pack(">HHH", 0x8000, 0, 0))
    assert pixels(b"\x89PNG\r\n\x1a\n" + body + transparent + tail) == [[(0x12, 0xFF, 0), WHITE]]


def test_cmyk_is_converted_in_tiff_and_in_jpegs_inverted_by_adobe() -> None:
    inks = [[(0, 0, 0, 0), (0, 0, 0, 255), (0, 255, 255, 0), (255, 0, 0, 0)]]
    picture = Image.frombytes("CMYK", (4, 1), np.array(inks, np.uint8).tobytes())
    expected = [[WHITE, BLACK, RED, (0, 255, 255)]]
    assert pixels(picture) == expected
    assert pixels(encode(picture, "TIFF")) == expected
    jpeg = encode(picture.resize((64, 16), Image.Resampling.NEAREST), "JPEG", quality=100)
    assert b"Adobe" in jpeg
    middle = np.asarray(decode(jpeg))[8, 8::16]
    assert np.abs(middle.astype(int) - np.array(expected[0])).max() <= 4  # JPEG at quality 100 loses a few levels


def test_hsv_and_ycbcr_are_converted() -> None:
    for mode in ("HSV", "YCbCr"):
        assert pixels(Image.new("RGB", (1, 1), RED).convert(mode))[0][0] == pytest.approx(RED, abs=2)


def test_decoding_what_was_decoded_changes_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = from_values([[RED, GREEN, BLUE]], np.uint8)
    palette = picture.quantize(3)
    for data in (encode(picture, "PNG", exif=exif), encode(palette, "PNG", transparency=0), encode(palette, "GIF", transparency=0)):
        once = decode(data)
        assert decode(once) is once
