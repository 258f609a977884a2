"""Small graphs written out by hand, real nets at small sizes, and thresholds for them; for the tests of quantization."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from deploykit.graph.scopes import with_outputs
from deploykit.parity import sample_pictures
from deploykit.quantization.placed import Placement
from deploykit.quantization.placement import place
from deploykit.quantization.qdq import QuantizedGraph, quantize_graph
from tests.oracles.gradient_oracle import run

Array = npt.NDArray[Any]


def graph_of(
    *lines: str, weights: Mapping[str, Sequence[int] | Array], classes: int = 5, image: Sequence[int] = (3, 12, 12)
) -> onnx.ModelProto:
    """A float predict graph from lines such as ``c = Conv <pads=[1,1,1,1]> (image, w)``; nodes are called after their outputs.

    Args:
        weights: arrays, or shapes of random weights that keep activations near 1.
    """
    rng = np.random.default_rng(0)
    nodes = [onnx.parser.parse_node(line) for line in lines]
    for node in nodes:
        node.name = node.output[0]
    constants = []
    for name, weight in weights.items():
        if not isinstance(weight, np.ndarray):
            fan_in = int(np.prod(weight[1:])) or 1
            weight = rng.normal(size=tuple(weight)) * (1.4 / np.sqrt(fan_in))
        constants.append(numpy_helper.from_array(weight if weight.dtype == np.int64 else weight.astype(np.float32), name))
    graph = helper.make_graph(
        nodes,
        "by_hand",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *image])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


HEAD = ("p = GlobalAveragePool (last)", "f = Flatten (p)", "logits = Gemm <transB=1> (f, head, head_bias)")
"""From the feature map ``last`` to the logits, with weights ``head`` [K, C] and ``head_bias`` [K]."""


def head(channels: int, classes: int = 5) -> dict[str, Sequence[int]]:
    """The weights of `HEAD`."""
    return {"head": (classes, channels), "head_bias": (classes,)}


def images(graph: onnx.ModelProto, count: int, seed: int = 0) -> Array:
    """Pictures as a graph takes them: pixels, or numbers around 0."""
    info = graph.graph.input[0]
    shape = [d.dim_value for d in info.type.tensor_type.shape.dim][1:]
    if info.type.tensor_type.elem_type == TensorProto.UINT8:
        return sample_pictures(count, shape[0], shape[1], seed=seed)
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def thresholds_of(graph: onnx.ModelProto, placement: Placement, count: int = 4) -> dict[str, float]:
    """The largest absolute value of every tensor that a placement wants calibrated."""
    values = run(with_outputs(graph, list(placement.calibrated)), image=images(graph, count, seed=1))
    return {name: float(np.abs(values[name]).max()) for name in placement.calibrated}


def quantized(graph: onnx.ModelProto, keep: Collection[str] = (), **options: bool) -> QuantizedGraph:
    """Placed, calibrated on four pictures and quantized."""
    placement = place(graph, keep)
    return quantize_graph(graph, placement, thresholds_of(graph, placement), **options)


@cache
def net(name: str, size: int = 64) -> onnx.ModelProto:
    """A net of the registry with random weights and measured statistics, 10 classes, pixels in. Do not change it."""
    from deploykit.models.export import export_graph
    from deploykit.models.registry import load_model

    loaded = load_model(name, num_classes=10)
    resize = None if loaded.image.resize_rule == "exact" else size
    return export_graph(loaded.model, replace(loaded.image, height=size, width=size, resize_size=resize))


def optimized(graph: onnx.ModelProto, path: Any) -> onnx.ModelProto:
    """What ONNX Runtime makes of a graph."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(graph.SerializeToString(), options)
    return onnx.load(str(path))


RESIDUAL = graph_of(
    "c = Conv <pads=[1,1,1,1]> (image, w0, b0)",
    "r = Relu (c)",
    "d = Conv <pads=[1,1,1,1]> (r, w1, b1)",
    "e = Relu (d)",
    "g = Conv <pads=[1,1,1,1]> (e, w2, b2)",
    "s = Add (g, r)",
    "last = Relu (s)",
    *HEAD,
    weights={"w0": (8, 3, 3, 3), "b0": (8,), "w1": (8, 8, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "b2": (8,), **head(8)},
)
"""conv, relu, then a residual block of two convolutions."""

DENSE = graph_of(
    "c = Conv <pads=[1,1,1,1]> (image, w0, b0)",
    "r = Relu (c)",
    "m = MaxPool <kernel_shape=[2,2], strides=[2,2]> (r)",
    "n1 = BatchNormalization (m, g1, h1, u1, v1)",
    "r1 = Relu (n1)",
    "d1 = Conv <pads=[1,1,1,1]> (r1, w1)",
    "k1 = Concat <axis=1> (m, d1)",
    "n2 = BatchNormalization (k1, g2, h2, u2, v2)",
    "r2 = Relu (n2)",
    "d2 = Conv <pads=[1,1,1,1]> (r2, w2)",
    "k2 = Concat <axis=1> (m, d1, d2)",
    "n3 = BatchNormalization (k2, g3, h3, u3, v3)",
    "r3 = Relu (n3)",
    "t = Conv (r3, w3)",
    "last = AveragePool <kernel_shape=[2,2], strides=[2,2]> (t)",
    *HEAD,
    weights={
        "w0": (8, 3, 3, 3), "b0": (8,), "w1": (4, 8, 3, 3), "w2": (4, 12, 3, 3), "w3": (8, 16, 1, 1),
        **{f"{kind}{i}": np.random.default_rng(10 * i + j).uniform(0.5, 1.5, size)
           for i, size in ((1, 8), (2, 12), (3, 16)) for j, kind in enumerate("ghuv")},
        **head(8),
    },
)  # fmt: skip
"""A dense block of two layers and a transition, as in DenseNet."""

SQUEEZE_EXCITE = graph_of(
    "c = Conv (image, w0, b0)",
    "cs = Sigmoid (c)",
    "x = Mul (c, cs)",
    "d = Conv <pads=[1,1,1,1], group=16> (x, w1, b1)",
    "ds = Sigmoid (d)",
    "y = Mul (d, ds)",
    "q = ReduceMean <keepdims=1> (y, axes)",
    "s1 = Conv (q, w2, b2)",
    "s1s = Sigmoid (s1)",
    "s1y = Mul (s1, s1s)",
    "s2 = Conv (s1y, w3, b3)",
    "gate = Sigmoid (s2)",
    "z = Mul (y, gate)",
    "o = Conv (z, w4, b4)",
    "a = Conv (o, w5, b5)",
    "last = Add (a, o)",
    *HEAD,
    weights={
        "w0": (16, 3, 1, 1), "b0": (16,), "w1": (16, 1, 3, 3), "b1": (16,), "axes": np.array([2, 3]), "w2": (4, 16, 1, 1),
        "b2": (4,),
        "w3": (16, 4, 1, 1), "b3": (16,), "w4": (8, 16, 1, 1), "b4": (8,), "w5": (8, 8, 1, 1), "b5": (8,), **head(8),
    },
)  # fmt: skip
"""An EfficientNet block: expansion, depthwise convolution, squeeze-excite, projection; then a residual addition."""

INCEPTION = graph_of(
    "c = Conv (image, w0, b0)",
    "r = Relu (c)",
    "b1 = Conv (r, w1)",
    "b1r = Relu (b1)",
    "b2 = MaxPool <kernel_shape=[3,3], pads=[1,1,1,1]> (r)",
    "b3 = AveragePool <kernel_shape=[3,3], pads=[1,1,1,1]> (r)",
    "b3c = Conv (b3, w2)",
    "b3r = Relu (b3c)",
    "k = Concat <axis=1> (b1r, b2, b3r)",
    "o = Conv (k, w3)",
    "last = Clip (o, zero, six)",
    *HEAD,
    weights={
        "w0": (8, 3, 3, 3), "b0": (8,), "w1": (4, 8, 1, 1), "w2": (4, 8, 1, 1), "w3": (8, 16, 1, 1), "zero": np.array(0.0),
        "six": np.array(6.0), **head(8),
    },
)  # fmt: skip
"""A block with three branches, two of them with poolings, and ReLU6 behind the concatenation."""
