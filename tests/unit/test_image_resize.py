"""The geometry of the crop, and normalization; torchvision and timm are asked in tests/oracles."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deploykit.errors import ImageError, InputError
from deploykit.image import CropBox, decode, load_pixels, normalize, placement, resize_and_crop, resized_size
from deploykit.spec import ImageSpec

SPEC = ImageSpec(224, 224, 256)


def test_the_shorter_side_takes_the_size_and_the_longer_is_rounded_down() -> None:
    assert resized_size(1224, 817, SPEC) == (383, 256)
    assert resized_size(817, 1224, SPEC) == (256, 383)
    assert resized_size(1, 1, SPEC) == (256, 256)
    assert resized_size(1000, 10, ImageSpec(224, 200, None, "exact")) == (200, 224)


def test_the_box_of_a_photo_is_its_middle() -> None:
    assert placement(512, 512, SPEC) == CropBox(32, 32, 480, 480)
    assert placement(1024, 512, SPEC) == CropBox(288, 32, 736, 480)
    assert placement(512, 1024, SPEC) == CropBox(32, 288, 480, 736)
    assert placement(300, 200, ImageSpec(224, 224, None, "exact")) == CropBox(0, 0, 300, 200)


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([(224, 224, 224), (224, 192, 256), (299, 299, 320)]))
def test_the_box_lies_on_the_photo_and_has_the_shape_of_the_crop(width: int, height: int, sizes: tuple[int, int, int]) -> None:
    spec = ImageSpec(*sizes)
    left, top, right, bottom = placement(width, height, spec)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    wide, high = resized_size(width, height, spec)
    assert (right - left) * wide / width == pytest.approx(spec.width)
    assert (bottom - top) * high / height == pytest.approx(spec.height)


def test_a_mark_on_the_photo_is_seen_where_the_box_says() -> None:
    photo = np.zeros((600, 900, 3), np.uint8)
    photo[395:405, 595:605] = 255  # a square of 10 pixels round (600, 400)
    left, top, right, bottom = placement(900, 600, SPEC)
    seen = resize_and_crop(Image.fromarray(photo), SPEC)[..., 0].astype(float)
    y, x = (np.indices(seen.shape) * seen).sum((1, 2)) / seen.sum() + 0.5
    assert left + x * (right - left) / 224 == pytest.approx(600, abs=0.2)
    assert top + y * (bottom - top) / 224 == pytest.approx(400, abs=0.2)


def test_pixels_are_contiguous_writable_and_of_the_asked_size() -> None:
    pixels = load_pixels(np.full((300, 500, 3), 7, np.uint8), ImageSpec(100, 60, 128))
    assert pixels.shape == (100, 60, 3)
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert (pixels == 7).all()


def test_a_picture_that_is_not_rgb_is_sent_to_decode() -> None:
    with pytest.raises(ImageError, match="picture of mode L, expected RGB"):
        resize_and_crop(Image.new("L", (9, 9)), SPEC)


def test_a_reddish_picture_keeps_its_channel_means_on_every_way_in() -> None:
    array = np.zeros((8, 8, 3), np.uint8)
    array[..., 0] = 200
    array[:4, :, 2] = 90
    spec = ImageSpec(8, 8, 8)
    for source in (array, Image.fromarray(array), np.asfortranarray(array)):
        assert load_pixels(source, spec).mean((0, 1)).tolist() == [200, 0, 45]


def test_normalization_is_that_of_the_spec() -> None:
    spec = ImageSpec(1, 2, 2, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    pixels = np.array([[[[0, 0, 0], [255, 255, 255]]]], np.uint8)
    assert normalize(pixels, spec).tolist() == [[[[-1, 1]], [[-1, 3]], [[0, 1]]]]


def test_bgr_swaps_the_channels_and_keeps_each_ones_mean() -> None:
    rgb = ImageSpec(5, 4, 8)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), np.uint8)
    assert np.array_equal(normalize(pixels, replace(rgb, colour_order="bgr")), normalize(pixels, rgb)[:, ::-1])


def test_normalized_values_are_those_of_exact_arithmetic_within_float32() -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    got = normalize(pixels, SPEC)
    exact = ((pixels / 255 - np.array(SPEC.mean)) / np.array(SPEC.std)).transpose(0, 3, 1, 2)
    assert got.dtype == np.float32
    assert got.shape == (1, 3, 16, 16)
    assert got.flags.c_contiguous
    assert np.abs(got - exact).max() < 1e-6  # values reach 2.6, where float32 has steps of 2.4e-7


def test_normalizing_twice_and_other_layouts_are_refused() -> None:
    pixels = np.zeros((1, 4, 4, 3), np.uint8)
    for wrong in (normalize(pixels, SPEC), pixels[0], pixels.transpose(0, 3, 1, 2), pixels.astype(np.int32)):
        with pytest.raises(InputError, match=r"expected uint8 \[N, H, W, 3\]"):
            normalize(wrong, SPEC)  # type: ignore[arg-type]
    assert normalize(pixels[:0], SPEC).shape == (0, 3, 4, 4)


def test_decoding_and_resizing_are_all_that_load_pixels_does() -> None:
    photo = np.random.default_rng(2).integers(0, 256, (300, 260, 3), np.uint8)
    assert np.array_equal(load_pixels(photo, SPEC), resize_and_crop(decode(photo), SPEC))
