"""Every kind of source, every orientation and every kind of damage; the modes of pixels are in test_image_colour.py."""

import gc
import io
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deploykit.errors import ImageError
from deploykit.image import DecodeLimits, decode

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)

KINDS = ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP")


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


# Sources


def test_path_bytes_picture_and_array_give_the_same_pixels(tmp_path: Path) -> None:
    array = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8)
    data = encode(Image.fromarray(array))
    path = tmp_path / "a.png"
    path.write_bytes(data)
    sources = (path, str(path), data, bytearray(data), memoryview(data), Image.fromarray(array), array, np.asfortranarray(array))
    for source in sources:
        assert pixels(source) == [[RED, GREEN], [BLUE, WHITE]]


def test_an_upright_rgb_picture_is_returned_without_a_copy() -> None:
    picture = Image.new("RGB", (3, 2))
    assert decode(picture) is picture


def test_grey_and_rgba_arrays_are_taken() -> None:
    assert pixels(np.array([[0, 7, 255]], np.uint8)) == grey(0, 7, 255)
    assert pixels(np.array([[[9]]], np.uint8)) == grey(9)
    assert pixels(np.array([[[255, 0, 0, 255], [255, 0, 0, 0]]], np.uint8)) == [[RED, WHITE]]


def test_a_strided_view_of_an_array_is_read_rightly() -> None:
    array = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    assert np.array_equal(np.asarray(decode(array[::2, ::-1])), array[::2, ::-1])


@pytest.mark.parametrize(
    ("array", "message", "hint"),
    [
        (np.zeros((4, 4, 3), np.float32), "dtype is float32, expected uint8", "not divided by 255"),
        (np.zeros((4, 4, 3), np.int64), "dtype is int64, expected uint8", "as it was decoded"),
        (np.zeros((3, 8, 8), np.uint8), r"shape is \[3, 8, 8\]", r"transpose\(1, 2, 0\), never reshape"),
        (np.zeros((1, 8, 8, 3), np.uint8), r"shape is \[1, 8, 8, 3\]", "one by one"),
        (np.zeros((8, 8, 2), np.uint8), r"shape is \[8, 8, 2\]", None),
        (np.zeros((8,), np.uint8), r"shape is \[8\]", None),
        (np.zeros((0, 8, 3), np.uint8), "8 x 0 pixels, expected at least 1 x 1", None),
    ],
)
def test_an_array_that_is_no_picture_is_refused_with_what_to_do(array: NDArray[Any], message: str, hint: str | None) -> None:
    with pytest.raises(ImageError, match=f"^array: {message}") as caught:
        decode(array)
    if hint:
        assert caught.value.hint is not None
        assert re.search(hint, caught.value.hint)


def test_what_is_no_picture_at_all_is_refused() -> None:
    for source in (None, 3, ["a.jpg"], io.BytesIO(b"x")):
        with pytest.raises(ImageError, match=f"picture of type {type(source).__name__}, expected a path"):
            decode(source)  # type: ignore[arg-type]


# Files that cannot be read


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\0", "is not a picture"),
        (b"hello, this is text", r"is not a picture \(it begins with b'hello, t'\)"),
        (b"<html>404</html>", "is an HTML, XML or SVG text"),
        (b"  <svg xmlns='x'/>", "is an HTML, XML or SVG text"),
        (b"%PDF-1.7", "is a PDF document"),
        (b"\0\0\0\x18ftypheic", "is a HEIF, AVIF or video file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "is a Git LFS pointer"),
        (b"\xff\xd8\xff", "is no readable JPEG file"),
        (b"\x89PNG\r\n\x1a\n", "is no readable PNG file"),
        (b"GIF89a", "is no readable GIF file"),
        (b"RIFF\0\0\0\0WEBPVP8X", "is no readable WEBP file"),
        (b"RIFF\0\0\0\0WAVEfmt ", "is not a picture"),
        (b"BM", "is no readable BMP file"),
        (b"II*\0", "is no readable TIFF file"),
    ],
)
def test_a_file_that_is_no_picture_is_named_with_the_reason(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=f"photo.jpg: {message}"):
        decode(path)
    with pytest.raises(ImageError, match=f"^bytes of {len(content)}: {message}"):
        decode(content)


def test_missing_files_directories_and_pipes_are_named_with_the_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    for name, message in (
        ("missing.jpg", "no such file"),
        (".", "is a directory"),
        ("pipe.jpg", "is not a regular file"),
        ("file/a.jpg", "cannot be opened"),
        ("loop.jpg", "cannot be opened"),
        ("zero\0.jpg", "cannot be opened"),
    ):
        with pytest.raises(ImageError, match=message):
            decode(tmp_path / name)


def test_no_file_stays_open_after_success_or_failure(tmp_path: Path) -> None:
    picture = Image.effect_noise((64, 64), 90).convert("RGB")
    for kind in KINDS:
        data = encode(picture, kind)
        (tmp_path / f"ok.{kind}").write_bytes(data)
        (tmp_path / f"cut.{kind}").write_bytes(data[: len(data) // 2])
    before = sorted(Path("/proc/self/fd").iterdir())
    kept = [decode(tmp_path / f"ok.{kind}") for kind in KINDS]
    for kind in KINDS:
        with pytest.raises(ImageError, match=f"cut.{kind}: "):
            decode(tmp_path / f"cut.{kind}")
    assert sorted(Path("/proc/self/fd").iterdir()) == before
    gc.collect()  # a leak would be a ResourceWarning here, and warnings are errors
    assert all(image.getpixel((1, 1)) is not None for image in kept)


# Orientation


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, ["rg", "bw"]),
        (2, ["gr", "wb"]),
        (3, ["wb", "gr"]),
        (4, ["bw", "rg"]),
        (5, ["rb", "gw"]),
        (6, ["br", "wg"]),
        (7, ["wg", "br"]),
        (8, ["gw", "rb"]),
        (0, ["rg", "bw"]),
        (9, ["rg", "bw"]),
    ],
)
def test_the_orientation_of_the_camera_is_applied(kind: str, orientation: int, upright: list[str]) -> None:
    colours = {"r": RED, "g": GREEN, "b": BLUE, "w": WHITE}
    stored = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8).repeat(16, 0).repeat(16, 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless: dict[str, dict[str, Any]] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    options = lossless.get(kind, {})
    image = decode(encode(Image.fromarray(stored), kind, exif=exif, **options))
    seen = np.asarray(image)[8::16, 8::16].astype(int)
    assert np.abs(seen - np.array([[colours[c] for c in row] for row in upright])).max() <= 3  # JPEG at quality 100


def test_orientation_changes_the_size_of_a_wide_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("PNG", "JPEG", "TIFF"):
        assert decode(encode(Image.new("RGB", (40, 20)), kind, exif=exif)).size == (20, 40)


def test_a_damaged_exif_record_counts_as_none() -> None:
    for exif in (b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01", b"Exif\0\0II*\0\xff\xff\xff\xff", b"garbage"):
        assert decode(encode(Image.new("RGB", (4, 2)), "JPEG", exif=exif)).size == (4, 2)


# Threads


def test_many_threads_decode_at_once() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (8, 120, 160, 3), np.uint8)
    files = [encode(Image.fromarray(n), kind) for n, kind in zip(noise, ["PNG", "TIFF", "BMP", "PNG"] * 2, strict=True)]
    start = threading.Barrier(8)

    def work(i: int) -> bool:
        start.wait()
        return all(np.array_equal(np.asarray(decode(files[(i + k) % 8])), noise[(i + k) % 8]) for k in range(8))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


# Damage


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "TIFF lzw", "WEBP", "BMP", "PNG 16"])
def test_random_damage_to_a_file_ends_in_a_picture_or_an_image_error(kind: str) -> None:
    rng = np.random.default_rng(sum(kind.encode()))
    y, x = np.mgrid[:40, :48]
    picture = Image.fromarray(np.stack([x * 5, y * 6, x * y % 256], -1).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    if kind == "PNG 16":
        picture = Image.fromarray((x * y * 30).astype(np.uint16))
    options: dict[str, Any] = {"compression": "tiff_lzw"} if kind == "TIFF lzw" else {}
    data = np.frombuffer(
        encode(picture, kind.split()[0], **({} if kind in ("GIF", "BMP") else {"exif": exif}), **options), np.uint8
    )
    limits = DecodeLimits(max_pixels=100_000)  # a damaged header may ask for more, which is refused too
    read = 0
    for _ in range(250):
        damaged = data.copy()
        # Half of the hits fall into the first 100 bytes, where the structure is.
        reach = min(100, len(data)) if rng.random() < 0.5 else len(data)
        damaged[rng.integers(0, reach, rng.integers(1, 8))] = rng.integers(0, 256)
        cut = damaged.tobytes()[: None if rng.random() < 0.7 else rng.integers(1, len(data))]
        try:
            image = decode(cut, limits)
        except ImageError:
            continue
        read += 1
        assert image.mode == "RGB"
        assert image.width * image.height <= 100_000
    assert 0 < read < 250
