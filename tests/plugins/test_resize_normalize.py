"""The arithmetic of the ResizeNormalize plugin, compiled for the CPU, against Pillow: to the last bit."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from deploykit.graph.resize_normalize import resize_normalize_function, resize_normalize_node
from deploykit.image import decode
from deploykit.image.resize import normalize, resize_and_crop, resized_size
from deploykit.spec import ImageSpec
from tests.plugins.calls import Attributes, host_resize_normalize

FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


def pillow(photo: NDArray[np.uint8], attributes: Attributes) -> NDArray[np.uint8]:
    """The reference: the whole photo resized, then its centre cropped. uint8 [height, width, 3]."""
    width, height = resized_size(photo.shape[1], photo.shape[0], attributes.image_spec)
    resized = np.asarray(Image.fromarray(photo).resize((width, height), FILTERS[attributes.cubic]))
    left, top = round((width - attributes.width) / 2), round((height - attributes.height) / 2)
    return resized[top : top + attributes.height, left : left + attributes.width]


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Grey levels of every size, a third of them 0 or 255, so that bicubic overshoots."""
    rng = np.random.default_rng(seed)
    levels = rng.integers(-64, 320, (height, width, 3))
    return np.clip(levels, 0, 255).astype(np.uint8)


def assert_equals_pillow(photo: NDArray[np.uint8], attributes: Attributes) -> None:
    levels = host_resize_normalize(photo, attributes)
    np.testing.assert_array_equal(levels.transpose(1, 2, 0), pillow(photo, attributes).astype(np.float32))


@settings(max_examples=300, deadline=None)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    crop=st.tuples(st.integers(1, 48), st.integers(1, 48)),
    margin=st.none() | st.integers(0, 20),
    cubic=st.integers(0, 1),
    seed=st.integers(0, 1000),
)
def test_it_equals_pillow_to_the_last_bit(
    size: tuple[int, int], crop: tuple[int, int], margin: int | None, cubic: int, seed: int
) -> None:
    resize_size = 0 if margin is None else max(crop) + margin
    assume(resize_size * max(size) <= 8000 * min(size))  # Pillow resizes the whole photo, however long it becomes
    assert_equals_pillow(noise(*size, seed), Attributes(*crop, resize_size, cubic))


@pytest.mark.parametrize("cubic", [0, 1], ids=["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("height", "width", "attributes"),
    [
        (1, 1, Attributes(1, 1)),
        (1, 1, Attributes(5, 7, 9)),
        (3, 3001, Attributes(31, 33, 35)),  # very wide, enlarged
        (3001, 3, Attributes(31, 33, 35)),
        (40, 5000, Attributes(32, 32)),  # very wide, one side shrunk 156 times
        (900, 91, Attributes(30, 30)),  # the rows first
        (910, 900, Attributes(907, 900)),  # three rows lost, no column: the rows first
        (910, 900, Attributes(906, 898)),  # four rows and two columns lost: the columns first
        (33, 33, Attributes(33, 33)),  # nothing to resize
        (64, 48, Attributes(32, 32, 48)),  # only a crop
        (65, 48, Attributes(32, 31, 49)),  # halves in both corners of the crop
    ],
)
def test_sizes_at_the_edges_equal_pillow(height: int, width: int, attributes: Attributes, cubic: int) -> None:
    attributes = Attributes(attributes.height, attributes.width, attributes.resize_size, cubic)
    assert_equals_pillow(noise(height, width), attributes)


@pytest.mark.parametrize("cubic", [0, 1], ids=["bilinear", "bicubic"])
def test_a_photo_is_what_deploykit_gives_the_network(chelsea: Path, cubic: int) -> None:
    attributes = Attributes(96, 80, 112, cubic)
    photo = decode(chelsea)
    assert_equals_pillow(np.asarray(photo), attributes)
    # deploykit.image folds the crop into Pillow's 32-bit box, which moves a value in thousands by one level.
    served = resize_and_crop(photo, attributes.image_spec).transpose(2, 0, 1).astype(np.float32)
    assert np.abs(host_resize_normalize(np.asarray(photo), attributes) - served).max() <= 1


@pytest.mark.parametrize("size", [(75, 100), (100, 75), (400, 61), (20, 30)], ids=str)
@pytest.mark.parametrize(("interpolation", "levels"), [("bilinear", 1), ("bicubic", 2)])
def test_the_operators_body_computes_the_same(size: tuple[int, int], interpolation: str, levels: int) -> None:
    """Body and plugin read one node's attributes; the body's own docstring says how many levels it may be off."""
    spec = ImageSpec(
        24, 28, 32, interpolation=interpolation, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), colour_order="bgr"
    )
    node = resize_normalize_node("image", "normalized", spec)
    graph = helper.make_graph(
        [node],
        "resize",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, "H", "W", 3])],
        [helper.make_tensor_value_info("normalized", TensorProto.FLOAT, [1, 3, spec.height, spec.width])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("deploykit", 1)]
    model = helper.make_model(graph, functions=[resize_normalize_function(spec, 18)], opset_imports=opsets, ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    photo, attributes = noise(*size), Attributes.of_node(node)
    body = session.run(None, {"image": photo[np.newaxis]})[0][0]
    off = np.abs(body - host_resize_normalize(photo, attributes)) / np.reshape(attributes.scale, (3, 1, 1))
    assert np.all(np.rint(off) <= levels)
    assert np.mean(np.rint(off) == 0) > 0.95  # all but the values on the border between two levels


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_normalization_is_the_graphs_to_the_last_bit(order: str) -> None:
    spec = ImageSpec(20, 24, None, "exact", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), colour_order=order)
    photo = noise(37, 41)
    normalized = host_resize_normalize(photo, Attributes.of_node(resize_normalize_node("image", "normalized", spec)))
    expected = normalize(pillow(photo, Attributes(20, 24))[np.newaxis], spec)[0]
    np.testing.assert_array_equal(normalized, expected)


@pytest.mark.parametrize(
    ("size", "attributes", "message"),
    [
        ((8, 8), Attributes(0, 8), "height is not between 1 and 65535"),
        ((8, 8), Attributes(8, 65536), "width is not between 1 and 65535"),
        ((8, 8), Attributes(8, 9, 8), "resize_size is smaller than the crop"),
        ((8, 8), Attributes(8, 8, cubic=2), "cubic is neither 0 nor 1"),
        ((8, 8), Attributes(8, 8, channels=(0, 1, 3)), "channels are not three of 0, 1 and 2"),
        ((1, 65536), Attributes(8, 8), "a side is not between 1 and 65535"),
        ((1, 65535), Attributes(8, 8, 32768), r"the longer side would have more than 2\^30 pixels"),
    ],
)
def test_what_cannot_be_resized_is_refused(size: tuple[int, int], attributes: Attributes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        host_resize_normalize(np.zeros((*size, 3), np.uint8), attributes)
