"""Measures of maps: formulas by eye, and a network of which the perfect map is known."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.bundle import Bundle
from deploykit.errors import InputError, SessionError, UsageError
from deploykit.graph.versions import set_ir_version
from deploykit.image import CropBox, load_pixels
from deploykit.runtime import Classifier, Explainer, OrtSession
from deploykit.runtime.cam_quality import (
    Floats,
    Pixels,
    Predict,
    area_under,
    blur,
    centre_map,
    drop,
    exchange_pixels,
    is_seen,
    mask_picture,
    mean_grey,
    mean_of,
    measure_map,
    pixel_counts,
    points_into,
    random_map,
    rank_pixels,
)
from deploykit.runtime.classifier import softmax
from tests.unit.bright_bundle import SPEC

SIZE = 32
REGION = np.s_[4:12, 18:28]
"""What the synthetic network looks at: 80 of 1024 pixels, not in the centre."""


def region_network() -> Predict:
    """Class 0 is as likely as the region is bright: logit 0 = (mean grey level of the region - 230) / 5, logit 1 = 0."""
    weights = np.zeros((SIZE * SIZE, 3))
    weights.reshape(SIZE, SIZE, 3)[REGION] = 1 / (5 * 3 * 80)
    constants = {
        "shape": np.array([0, SIZE * SIZE * 3]),
        "head": np.stack([weights.ravel(), np.zeros(weights.size)], axis=1).astype(np.float32),
        "bias": np.array([-46, 0], np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["levels", "shape"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head", "bias"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIZE, SIZE, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph: onnx.ModelProto = helper.make_model(
        helper.make_graph(nodes, "region", [image], [logits], initializers), opset_imports=[helper.make_opsetid("", 18)]
    )
    set_ir_version(graph)
    session = OrtSession(graph.SerializeToString())
    return lambda pixels: softmax(session.run({"image": pixels}, ["logits"])["logits"])


def region_map() -> Floats:
    perfect = np.zeros((SIZE, SIZE), np.float32)
    perfect[REGION] = 1
    return perfect


def picture() -> Pixels:
    """A dark picture whose region alone is white."""
    pixels = np.full((SIZE, SIZE, 3), 40, np.uint8)
    pixels[REGION] = 255
    return pixels


GREY = np.array([128, 128, 128], np.uint8)


def test_the_perfect_map_beats_the_centre_and_random_maps_in_every_measure() -> None:
    network = region_network()
    assert network(picture()[None])[0, 0] > 0.99
    perfect = measure_map(network, picture(), region_map(), 0, GREY).values
    others = [centre_map(SIZE, SIZE), *(random_map(SIZE, SIZE, seed) for seed in range(5))]
    for other in (measure_map(network, picture(), one, 0, GREY).values for one in others):
        assert (perfect["deletion"] or 0) < (other["deletion"] or 0) / 2
        assert (perfect["insertion"] or 0) > (other["insertion"] or 0) + 0.1
        assert (perfect["difference"] or 0) > 0.8
        assert (perfect["drop"] or 0) < 1e-6 < (other["drop"] or 0)


def test_a_map_turned_inside_out_is_the_worst() -> None:
    quality = measure_map(region_network(), picture(), 1 - region_map(), 0, GREY)
    assert quality.difference < -0.8
    assert drop(quality.probability, quality.masked) > 0.9


def test_curves_start_and_end_with_the_whole_picture_the_grey_and_the_blurred_one() -> None:
    network = region_network()
    quality = measure_map(network, picture(), region_map(), 0, GREY, steps=4, batch=3)
    whole, grey, blurred = network(np.stack([picture(), np.broadcast_to(GREY, (SIZE, SIZE, 3)), blur(picture())]))[:, 0]
    assert (len(quality.deletion), len(quality.insertion)) == (5, 5)
    # Another batch size may take another kernel.
    np.testing.assert_allclose(quality.deletion[[0, -1]], [whole, grey], rtol=1e-5)
    np.testing.assert_allclose(quality.insertion[[0, -1]], [blurred, whole], rtol=1e-5)
    for batch in (1, 64):
        again = measure_map(network, picture(), region_map(), 0, GREY, steps=4, batch=batch)
        np.testing.assert_allclose(again.deletion, quality.deletion, rtol=1e-5)


def test_the_area_under_a_constant_is_that_constant_and_under_a_line_its_middle() -> None:
    assert area_under(np.full(21, 0.3)) == pytest.approx(0.3)
    assert area_under(np.linspace(0, 1, 6)) == pytest.approx(0.5)
    assert area_under(np.array([1.0, 0.0])) == 0.5
    assert area_under(np.array([1.0, 0.0, 0.0])) == 0.25


def test_pixels_are_exchanged_best_first_and_equal_ones_from_the_top() -> None:
    network_map = np.array([[0, 0.5], [1, 0.5]], np.float32)
    assert rank_pixels(network_map).tolist() == [2, 1, 3, 0]
    assert pixel_counts(4, 4) == [0, 1, 2, 3, 4]
    assert pixel_counts(10, 4) == [0, 2, 5, 8, 10]
    start, end = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 9, np.uint8)
    found = [one[..., 0].tolist() for one in exchange_pixels(start, end, rank_pixels(network_map), [0, 1, 3])]
    assert found == [[[0, 0], [0, 0]], [[0, 0], [9, 0]], [[0, 9], [9, 9]]]
    assert not start.any()


def test_a_mask_keeps_a_pixel_at_1_and_makes_it_grey_at_0() -> None:
    pixels = np.full((1, 3, 3), 200, np.uint8)
    masked = mask_picture(pixels, np.array([[1, 0.5, 0]], np.float32), np.array([100, 100, 0], np.uint8))
    assert masked.tolist() == [[[200, 200, 200], [150, 150, 100], [100, 100, 0]]]
    assert mean_grey(SPEC).tolist() == [128, 128, 128]


def test_drop_is_the_part_of_the_probability_that_is_lost_and_never_below_0() -> None:
    assert drop(0.8, 0.2) == pytest.approx(0.75)
    assert drop(0.4, 0.6) == 0
    assert drop(0.5, 0) == 1


def test_a_blur_keeps_an_even_picture_and_spreads_a_point_evenly() -> None:
    even = np.full((20, 30, 3), 77, np.uint8)
    np.testing.assert_array_equal(blur(even), even)
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    spread = blur(point, sigma=1)
    # 255 / (2 pi) at the point, times exp(-1/2) beside it.
    assert spread[20, 18:23, 0].tolist() == [5, 25, 41, 25, 5]
    np.testing.assert_array_equal(spread, spread.transpose(1, 0, 2))


def test_the_maximum_is_looked_for_on_the_photo_through_the_crop() -> None:
    network_map = np.zeros((4, 4), np.float32)
    network_map[1, 2] = 1
    crop = CropBox(100, 0, 140, 40)  # the maximum's centre is the photo's (125, 15)
    assert points_into(network_map, crop, [CropBox(124, 14, 126, 16)])
    assert points_into(network_map, crop, [CropBox(0, 0, 5, 5), CropBox(120, 10, 130, 20)])
    assert not points_into(network_map, crop, [CropBox(24, 14, 26, 16)])
    assert not points_into(network_map, crop, [CropBox(15, 125, 16, 126)])
    assert not points_into(np.zeros((4, 4), np.float32), crop, [CropBox(0, 0, 500, 500)])


def test_a_box_is_seen_where_a_part_of_it_lies_in_the_crop() -> None:
    crop = CropBox(100, 0, 140, 40)
    assert is_seen(CropBox(0, 0, 101, 1), crop)
    assert not is_seen(CropBox(0, 0, 100, 40), crop)
    assert not is_seen(CropBox(110, 40, 120, 60), crop)


def test_a_mean_has_an_error_from_two_pictures_on() -> None:
    mean = mean_of([1, 3])
    assert (mean.mean, mean.standard_error, mean.count) == (2, 1, 2)
    assert mean_of([0.5]).standard_error is None


def test_baseline_maps_are_maps_and_the_same_every_time() -> None:
    centre = centre_map(8, 16)
    assert centre.shape == (8, 16)
    assert centre.argmax() == 3 * 16 + 7
    # Half a pixel from the middle: 1/4 of sigma downwards, 1/8 across.
    assert centre[3, 7] == pytest.approx(np.exp(-(0.25**2 + 0.125**2) / 2))
    np.testing.assert_array_equal(centre, centre[::-1, ::-1])
    np.testing.assert_array_equal(random_map(30, 20, 7), random_map(30, 20, 7))
    assert random_map(30, 20, 7).shape == (30, 20)
    assert (random_map(30, 20, 7) != random_map(30, 20, 8)).any()
    assert 0 <= random_map(30, 20, 7).min() < random_map(30, 20, 7).max() <= 1


def test_what_cannot_be_measured_is_refused() -> None:
    network = region_network()
    with pytest.raises(UsageError, match="steps is 0, expected 1 or more"):
        measure_map(network, picture(), region_map(), 0, GREY, steps=0)
    with pytest.raises(InputError, match=r"map has shape \[7, 7\], expected the picture's \[32, 32\]"):
        measure_map(network, picture(), np.zeros((7, 7), np.float32), 0, GREY)
    with pytest.raises(SessionError, match="NaN or infinite"):
        measure_map(lambda pixels: np.full((len(pixels), 2), np.nan, np.float32), picture(), region_map(), 0, GREY)


def test_grad_cam_beats_random_maps_on_the_cup(lite0: Bundle, coffee: Path) -> None:
    # Measured with 20 steps on coffee: grad-cam 0.46, the mean of four random maps -0.10; a map of single random pixels has
    # 0.16, for the noise itself upsets the network.
    with Classifier.open(lite0) as classifier, Explainer.open(lite0) as explainer:
        spec = classifier.manifest.image
        pixels = load_pixels(coffee, spec)
        (found,) = explainer.explain([coffee], "espresso")

        def difference(network_map: Floats) -> float:
            index = found.explained.class_index
            return measure_map(lambda p: softmax(classifier.logits(p)), pixels, network_map, index, mean_grey(spec), 10).difference

        own = difference(found.map)
        random = [difference(random_map(spec.height, spec.width, seed)) for seed in range(3)]
    assert own > 0.4
    assert own > max(random) + 0.1
