"""Multiply-adds, counted from graphs: small ones by hand, whole ones against the papers' tables."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.errors import GraphError
from deploykit.graph.multiply_adds import count_multiply_adds
from deploykit.models.export import export_graph
from deploykit.models.registry import load_model


def graph_of(node: onnx.NodeProto, image: list[int | str], weights: tuple[int, ...]) -> onnx.ModelProto:
    """One node from image and weights to logits."""
    made = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.zeros(weights, np.float32), "w")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)])


def test_a_convolution_counts_its_kernel_for_every_output() -> None:
    node = helper.make_node("Conv", ["image", "w"], ["logits"], strides=[2, 2], pads=[1, 1, 1, 1])
    # 5 channels of 4 x 3 pixels, each a sum over 3 channels of 3 x 3 pixels.
    assert count_multiply_adds(graph_of(node, ["N", 3, 8, 6], (5, 3, 3, 3))) == 5 * 4 * 3 * 3 * 9


def test_a_depthwise_convolution_counts_one_channel_per_output() -> None:
    node = helper.make_node("Conv", ["image", "w"], ["logits"], group=4, pads=[1, 1, 1, 1])
    assert count_multiply_adds(graph_of(node, ["N", 4, 8, 8], (4, 1, 3, 3))) == 4 * 64 * 9


def test_a_transposed_convolution_counts_its_kernel_for_every_input() -> None:
    node = helper.make_node("ConvTranspose", ["image", "w"], ["logits"], strides=[2, 2])
    assert count_multiply_adds(graph_of(node, ["N", 3, 4, 4], (3, 5, 2, 2))) == 3 * 16 * 5 * 4


def test_matrix_products_count_their_inner_length() -> None:
    gemm = helper.make_node("Gemm", ["image", "w"], ["logits"], transB=1)
    assert count_multiply_adds(graph_of(gemm, ["N", 7], (10, 7))) == 70
    product = helper.make_node("MatMul", ["image", "w"], ["logits"])
    assert count_multiply_adds(graph_of(product, ["N", 4, 7], (7, 10))) == 280


def test_an_open_height_is_refused() -> None:
    node = helper.make_node("Conv", ["image", "w"], ["logits"])
    with pytest.raises(GraphError, match="cannot be told"):
        count_multiply_adds(graph_of(node, ["N", 3, "H", "W"], (5, 3, 3, 3)))


@pytest.mark.parametrize(
    ("name", "published", "tolerance"),
    [
        ("resnet18", 1.8e9, 0.02),  # He et al., table 1
        ("resnet50", 4.1e9, 0.02),  # He et al. give 3.8 for the stride in the first 1 x 1 convolution; torchvision's page 4.09
        ("efficientnet_b0", 0.39e9, 0.02),  # Tan & Le, table 2
    ],
)
def test_whole_networks_count_what_their_papers_say(name: str, published: float, tolerance: float) -> None:
    loaded = load_model(name)
    counted = count_multiply_adds(export_graph(loaded.model, loaded.image))
    assert abs(counted - published) <= tolerance * published
