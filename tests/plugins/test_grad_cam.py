"""The arithmetic of the GradCam plugin, compiled for the CPU, against numpy in float64 and against the operator's own body."""

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from deploykit.graph.explain import grad_cam_function
from tests.plugins.calls import exact_cam, grad_cam_bound, grad_cam_error_units, host_grad_cam

Maps = NDArray[np.float32]


def maps(shape: tuple[int, int, int, int], seed: int = 0) -> tuple[Maps, Maps]:
    """Activations as a rectifier leaves them, gradients of both signs that nearly cancel, as a trained network's do."""
    rng = np.random.default_rng(seed)
    activations = np.maximum(rng.normal(size=shape), 0).astype(np.float32)
    return activations, (rng.normal(size=shape) * 1e-6).astype(np.float32)


def assert_within_bound(activations: Maps, gradients: Maps) -> None:
    error = np.abs(host_grad_cam(activations, gradients) - exact_cam(activations, gradients))
    assert np.all(error <= grad_cam_bound(activations, gradients))


@pytest.mark.parametrize("channels", [1, 2, 31, 32, 33, 127, 128, 129, 512, 2048])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 3), (2, 2), (7, 7), (8, 8), (31, 33), (32, 32), (25, 41), (33, 33), (64, 64)]
)
def test_it_is_within_its_bound_of_float64(channels: int, height: int, width: int) -> None:
    # A bank of 2048 channels of 64 x 64 is 34 MB, so large maps get fewer channels; both kinds of tiles see many groups.
    channels = min(channels, 400_000 // (height * width))
    assert_within_bound(*maps((1, channels, height, width)))


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 300), st.integers(1, 12), st.integers(1, 12)),
    seed=st.integers(0, 1000),
    offset=st.sampled_from([0.0, 1e-3, 1.0]),
)
def test_any_shape_is_within_its_bound(shape: tuple[int, int, int, int], seed: int, offset: float) -> None:
    activations, gradients = maps(shape, seed)
    gradients[:, ::2] += np.float32(offset)  # channels for and against the class, all but cancelling
    gradients[:, 1::2] -= np.float32(offset)
    assert_within_bound(activations, gradients)


def test_the_bound_stays_small() -> None:
    # 2^-24 times this, relative to the sum of all contributions: 7e-6 at worst.
    assert max(grad_cam_error_units(c, side * side) for c in range(1, 2049) for side in (1, 7, 14, 32, 33, 64)) <= 116


def test_numbers_that_an_eye_can_check() -> None:
    activations = np.array([[[[1, 2, 3]], [[10, 20, 30]]]], np.float32)
    gradients = np.array([[[[3, 3, 3]], [[-1, 0, 1]]]], np.float32)  # means 3 and 0
    np.testing.assert_array_equal(host_grad_cam(activations, gradients), [[[3, 6, 9]]])
    np.testing.assert_array_equal(host_grad_cam(activations, -gradients), [[[0, 0, 0]]])


def test_rows_of_a_batch_know_nothing_of_each_other() -> None:
    activations, gradients = maps((3, 40, 7, 7))
    together = host_grad_cam(activations, gradients)
    for row in range(3):
        np.testing.assert_array_equal(together[row], host_grad_cam(activations[[row]], gradients[[row]])[0])


def test_nan_and_infinity_are_not_rectified_away() -> None:
    activations, gradients = maps((1, 8, 2, 2))
    activations[0, 3, 1, 0] = np.nan
    cam = host_grad_cam(activations, gradients)
    assert np.isnan(cam[0, 1, 0])
    assert np.isfinite(cam).sum() == 3


@pytest.mark.parametrize("side", [7, 40])
def test_it_is_what_the_operators_body_computes(side: int) -> None:
    activations, gradients = maps((2, 64, side, side))
    value = helper.make_tensor_value_info
    shape = ["N", "C", "h", "w"]
    graph = helper.make_graph(
        [helper.make_node("GradCam", ["activations", "gradients"], ["cam"], domain="deploykit")],
        "cam",
        [value("activations", TensorProto.FLOAT, shape), value("gradients", TensorProto.FLOAT, shape)],
        [value("cam", TensorProto.FLOAT, ["N", "h", "w"])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("deploykit", 1)]
    model = helper.make_model(graph, functions=[grad_cam_function(18)], opset_imports=opsets, ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    body = session.run(None, {"activations": activations, "gradients": gradients})[0]
    # The body's float32 sums have an order of their own: as many roundings at most as there are addends, 64 + side * side.
    mass = grad_cam_bound(activations, gradients) / grad_cam_error_units(64, side * side)
    assert np.all(
        np.abs(host_grad_cam(activations, gradients) - body) <= mass * (grad_cam_error_units(64, side * side) + 64 + side * side)
    )
