"""From raw maps to maps from 0 to 1, and onto the photo."""

import numpy as np
import pytest

from deploykit.errors import InputError
from deploykit.image import CropBox, placement
from deploykit.runtime.maps import has_evidence, normalize_map, place_map, scale_box
from deploykit.spec import ImageSpec


def test_a_map_goes_from_0_to_1_with_half_pixel_centres() -> None:
    found = normalize_map(np.array([[[2, 6]]], np.float32), 1, 4)
    # Shifted to 0 and 1 at x = 0.5 and 1.5 of 2; the four centres lie at 0.25, 0.75, 1.25, 1.75.
    np.testing.assert_allclose(found, [[[0, 0.25, 0.75, 1]]], atol=1e-7)  # one rounding of float32
    assert found.dtype == np.float32


def test_each_image_is_scaled_by_itself_whatever_stands_beside_it_in_the_batch() -> None:
    maps = np.random.default_rng(0).random((3, 5, 4)).astype(np.float32) * np.array([1e-12, 1, 1e9], np.float32)[:, None, None]
    together = normalize_map(maps, 20, 20)
    for row, single in enumerate(maps):
        np.testing.assert_array_equal(together[row], normalize_map(single[None], 20, 20)[0])
        assert together[row].min() == 0
        assert together[row].max() == 1


def test_maps_of_tiny_gradients_come_out_at_full_strength() -> None:
    cam = np.random.default_rng(0).random((1, 7, 7)).astype(np.float32)
    np.testing.assert_allclose(normalize_map(cam * np.float32(1e-30), 28, 28), normalize_map(cam, 28, 28), atol=1e-6)


def test_zeros_stay_zeros_beside_a_normal_image_and_say_so() -> None:
    """Case O24: scaling zeros by their maximum would give NaN."""
    cams = np.zeros((2, 4, 4), np.float32)
    cams[1, 2, 2] = 3
    found = normalize_map(cams, 8, 8)
    assert has_evidence(cams).tolist() == [False, True]
    assert not found[0].any()
    assert found[1].max() == 1


@pytest.mark.parametrize("value", [0.1, 7.0, 1e-20])
def test_an_even_map_is_zeros_and_counts_as_evidence(value: float) -> None:
    cam = np.full((1, 3, 3), value, np.float32)
    cam[0, 1, 1] = np.nextafter(cam[0, 1, 1], np.float32(np.inf))  # a rounding is no place
    assert not normalize_map(cam, 12, 12).any()
    assert has_evidence(cam).all()


def test_a_layer_of_one_pixel_has_no_place_to_show() -> None:
    assert normalize_map(np.array([[[5]]], np.float32), 6, 6).tolist() == np.zeros((1, 6, 6)).tolist()


def test_a_layer_of_one_row_is_enlarged() -> None:
    found = normalize_map(np.array([[[0, 1, 0]]], np.float32), 6, 6)
    assert (found == found[:, :1]).all()
    assert found.max() == 1


@pytest.mark.parametrize(
    ("cam", "message"),
    [
        (np.full((1, 2, 2), np.nan), "NaN"),
        (np.full((1, 2, 2), np.inf), "infinity"),
        (np.full((1, 2, 2), -1.0), "values down to -1, expected 0 or more"),
        (np.zeros((2, 2)), r"shape \[2, 2\], expected \[N, h, w\]"),
        (np.zeros((0, 2, 2)), r"shape \[0, 2, 2\]"),
    ],
)
def test_what_is_no_raw_map_is_refused(cam: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        normalize_map(cam.astype(np.float32), 4, 4)


@pytest.mark.parametrize(("width", "height"), [(90, 60), (60, 90), (64, 64), (301, 77), (20, 31)])
@pytest.mark.parametrize("rule", ["shorter", "exact"])
def test_a_ramp_lies_on_the_photo_as_the_network_saw_it_and_nothing_lies_outside(width: int, height: int, rule: str) -> None:
    spec = ImageSpec(32, 32, 40 if rule == "shorter" else None, resize_rule=rule)
    box = placement(width, height, spec)
    ramp = np.tile((np.arange(32) + 0.5) / 32, (32, 1)).astype(np.float32)  # the share of the way across the box
    placed = place_map(ramp, box, (width, height))
    assert placed.shape == (height, width)
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    inside = (x > box.left) & (x < box.right) & (y > box.top) & (y < box.bottom)
    assert (placed[~inside] == 0).all()
    # Beyond the outermost centres the ramp's end holds, half a pixel of the network's 32.
    expected = np.clip((x - box.left) / (box.right - box.left), 0.5 / 32, 1 - 0.5 / 32)
    np.testing.assert_allclose(placed[inside], expected[inside], atol=1e-5)  # float32 coordinates of some hundreds of pixels


def test_a_box_follows_the_photo_to_another_size() -> None:
    assert scale_box(CropBox(10, 20, 30, 60), (100, 80), (50, 40)) == CropBox(5, 10, 15, 30)
    with pytest.raises(InputError, match="60 x 60 is not the explained photo of 100 x 80"):
        scale_box(CropBox(10, 20, 30, 60), (100, 80), (60, 60))
