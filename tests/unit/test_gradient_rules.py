"""Every gradient rule against torch autograd and against finite differences of the ONNX operator itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper

from deploykit.errors import GraphError
from deploykit.graph.gradient import add_gradient
from deploykit.graph.rules import RULES

Array = npt.NDArray[Any]
Tensor = torch.Tensor

# What TensorRT's parser refuses, or takes only in a form that we do not emit.
REFUSED = {"ScatterND", "ScatterElements", "NonZero", "Resize", "LayerNormalization", "Loop", "If", "Scan", "GatherND"}


@dataclass(frozen=True)
class Case:
    """One operator: ``shapes`` are its inputs to differentiate, then come ``constants``; ``oracle`` says the same in torch."""

    op: str
    shapes: Sequence[tuple[int, ...]]
    oracle: Callable[..., Tensor]
    constants: Sequence[Array | None] = ()
    opset: int = 18
    draw: str = "normal"  # or "positive", "wide", "ties", and "distinct": further apart than a finite difference moves them
    first_constant: bool = False
    attributes: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        details = "-".join(f"{k}={v}" for k, v in self.attributes.items())
        return f"{self.op}-{details}-{'x'.join(map(str, self.shapes[0]))}-{self.draw}-opset{self.opset}".replace(" ", "")


def ints(*values: int) -> Array:
    return np.array(values, dtype=np.int64)


def floats(*shape: int, seed: int = 3) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> Array:
    return np.abs(floats(*shape)) + np.float32(0.5)


def case(op: str, shapes: Any, oracle: Callable[..., Tensor], *constants: Any, **options: Any) -> Case:
    shapes = [shapes] if isinstance(shapes[0], int) else shapes
    known = {k: options.pop(k) for k in ("opset", "draw", "first_constant") if k in options}
    return Case(op, shapes, oracle, constants, attributes=options, **known)


def t(array: Array) -> Tensor:
    return torch.from_numpy(np.array(array))


X = (2, 4, 7, 6)


def unary(op: str, oracle: Callable[[Tensor], Tensor], draw: str = "normal", **options: Any) -> Case:
    return case(op, X, oracle, draw=draw, **options)


ACTIVATIONS = [
    unary("Relu", F.relu),
    unary("Relu", F.relu, draw="ties"),
    unary("LeakyRelu", lambda x: F.leaky_relu(x, 0.2), alpha=0.2),
    unary("Elu", lambda x: F.elu(x, 0.7), alpha=0.7),
    unary("Celu", lambda x: F.celu(x, 0.7), alpha=0.7),
    unary("Selu", F.selu),
    unary("Sigmoid", torch.sigmoid),
    unary("HardSigmoid", F.hardsigmoid, alpha=1 / 6, beta=0.5),
    unary("HardSwish", lambda x: F.hardswish(x), draw="wide"),
    unary("Tanh", torch.tanh),
    unary("Softplus", F.softplus),
    unary("Softsign", F.softsign),
    unary("Mish", F.mish),
    unary("Gelu", F.gelu, opset=20),
    unary("Gelu", lambda x: F.gelu(x, approximate="tanh"), opset=20, approximate="tanh"),
    unary("Swish", F.silu, opset=24),
    unary("Swish", lambda x: x * torch.sigmoid(1.5 * x), opset=24, alpha=1.5),
    unary("Softmax", lambda x: F.softmax(x, 1), axis=1),
    unary("LogSoftmax", lambda x: F.log_softmax(x, -1)),
    unary("Erf", torch.erf),
    unary("Exp", torch.exp),
    unary("Log", torch.log, draw="positive"),
    unary("Sqrt", torch.sqrt, draw="positive"),
    unary("Reciprocal", torch.reciprocal, draw="positive"),
    unary("Neg", torch.neg),
    unary("Abs", torch.abs),
    unary("Sin", torch.sin),
    unary("Cos", torch.cos),
    unary("Identity", lambda x: x * 1),
    unary("Dropout", lambda x: x * 1),
    case("Clip", X, lambda x: F.hardtanh(x, -0.5, 0.8), np.float32(-0.5), np.float32(0.8)),
    case("Clip", X, lambda x: F.hardtanh(x, 0, 1), np.float32(0), np.float32(1), draw="ties"),
    case("Clip", X, lambda x: x.clamp(min=0.1), np.float32(0.1)),
    case("Cast", X, lambda x: x * 1, to=TensorProto.FLOAT),
    case("CastLike", X, lambda x: x * 1, np.float32(0)),
    case("PRelu", [X, (4, 1, 1)], lambda x, s: torch.where(x > 0, x, s * x)),
]

B = (2, 1, 7, 1)
ARITHMETIC = [
    case("Add", [X, B], torch.add),
    case("Sub", [(2, 4, 1, 6), X], torch.sub),
    case("Mul", [X, (4, 1, 1)], torch.mul),
    case("Mul", [X, X], torch.mul),
    case("Div", [X, B], torch.div, draw="positive"),
    case("Div", [(6,), X], torch.div, draw="positive"),
    case("Sum", [X, B, (6,)], lambda a, b, c: a + b + c),
    case("Mean", [X, B, (6,)], lambda a, b, c: (a + b + c) / 3),
    case("Max", [X, B], torch.maximum),
    case("Max", [X, X], torch.maximum, draw="ties"),
    case("Min", [X, (4, 1, 1)], torch.minimum),
    case("Pow", X, lambda x: x**2, np.float32(2)),
    case("Pow", X, lambda x: x**3, np.float32(3)),
    case("Pow", X, lambda x: x**2, np.array(2)),
    case("Pow", X, lambda x: x.pow(1.7), np.float32(1.7), draw="positive"),
    case("Pow", [X, (4, 1, 1)], torch.pow, draw="positive"),
    case("Where", [B, X], lambda a, b: torch.where(t(floats(4, 7, 6) > 0), a, b), floats(4, 7, 6) > 0, first_constant=True),
]

CONVOLUTIONS = [
    case("Conv", X, lambda x: F.conv2d(x, t(floats(5, 4, 3, 3)), t(floats(5))), floats(5, 4, 3, 3), floats(5)),
    case("Conv", X, lambda x: F.conv2d(x, t(floats(5, 4, 3, 2)), stride=2), floats(5, 4, 3, 2), strides=[2, 2]),
    case("Conv", (2, 4, 8, 8), lambda x: F.conv2d(x, t(floats(5, 4, 1, 1)), stride=2), floats(5, 4, 1, 1), strides=[2, 2]),
    case(
        "Conv",
        (2, 4, 9, 10),
        lambda x: F.conv2d(x, t(floats(6, 2, 3, 3)), stride=(3, 2), padding=(2, 1), dilation=(1, 2), groups=2),
        floats(6, 2, 3, 3),
        strides=[3, 2],
        pads=[2, 1, 2, 1],
        dilations=[1, 2],
        group=2,
    ),
    case(
        "Conv", X, lambda x: F.conv2d(x, t(floats(4, 1, 3, 3)), padding=1, groups=4), floats(4, 1, 3, 3), group=4, pads=[1, 1, 1, 1]
    ),
    case("Conv", X, lambda x: F.conv2d(x, t(floats(8, 1, 3, 3)), groups=4, stride=2), floats(8, 1, 3, 3), group=4, strides=[2, 2]),
    case(
        "Conv", X, lambda x: F.conv2d(x, t(floats(8, 2, 3, 3)), groups=2, padding=1), floats(8, 2, 3, 3), group=2, pads=[1, 1, 1, 1]
    ),
    case("Conv", X, lambda x: F.conv2d(F.pad(x, (0, 2, 3, 1)), t(floats(5, 4, 2, 3))), floats(5, 4, 2, 3), pads=[3, 0, 1, 2]),
    case("Conv", X, lambda x: F.conv2d(F.pad(x, (1, 1, 1, 1)), t(floats(5, 4, 1, 1))), floats(5, 4, 1, 1), pads=[1, 1, 1, 1]),
    case(
        "Conv",
        X,
        lambda x: F.conv2d(x, t(floats(5, 4, 3, 3)), padding=2, dilation=2),
        floats(5, 4, 3, 3),
        pads=[2] * 4,
        dilations=[2, 2],
    ),
    case(
        "Conv",
        X,
        lambda x: F.conv2d(F.pad(x, (0, 1, 1, 1)), t(floats(5, 4, 3, 3)), stride=2),
        floats(5, 4, 3, 3),
        strides=[2, 2],
        auto_pad="SAME_UPPER",
    ),
    case(
        "Conv",
        (2, 4, 8, 6),
        lambda x: F.conv2d(F.pad(x, (1, 0, 1, 0)), t(floats(5, 4, 3, 3)), stride=2),
        floats(5, 4, 3, 3),
        strides=[2, 2],
        auto_pad="SAME_LOWER",
    ),
    case("Conv", (2, 4, 9), lambda x: F.conv1d(x, t(floats(5, 4, 3)), stride=2), floats(5, 4, 3), strides=[2]),
    case("ConvTranspose", X, lambda x: F.conv_transpose2d(x, t(floats(4, 5, 3, 3))), floats(4, 5, 3, 3)),
    case(
        "ConvTranspose",
        X,
        lambda x: F.conv_transpose2d(x, t(floats(4, 3, 3, 3)), stride=2, padding=1, output_padding=1, groups=2, dilation=2),
        floats(4, 3, 3, 3),
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        output_padding=[1, 1],
        group=2,
        dilations=[2, 2],
    ),
]


def max_pool(*shape: int, draw: str = "distinct", **o: Any) -> Case:
    attributes: dict[str, Any] = {"kernel_shape": [o["k"]] * 2, "strides": [o["s"]] * 2, "pads": [o.get("p", 0)] * 4}
    attributes |= {"dilations": [o["d"]] * 2} if "d" in o else {}
    attributes |= {"ceil_mode": 1} if "ceil" in o else {}
    options = {"padding": o.get("p", 0), "dilation": o.get("d", 1), "ceil_mode": "ceil" in o}
    return case("MaxPool", shape, lambda x: F.max_pool2d(x, o["k"], o["s"], **options), draw=draw, **attributes)


def average_pool(*shape: int, **o: Any) -> Case:
    attributes: dict[str, Any] = {"kernel_shape": [o["k"]] * 2, "strides": [o["s"]] * 2, "pads": [o.get("p", 0)] * 4}
    attributes |= {"ceil_mode": 1} if "ceil" in o else {}
    attributes |= {"count_include_pad": 1} if "count" in o else {}
    options = {"padding": o.get("p", 0), "ceil_mode": "ceil" in o, "count_include_pad": "count" in o}
    return case("AveragePool", shape, lambda x: F.avg_pool2d(x, o["k"], o["s"], **options), opset=19, **attributes)


POOLING = [
    max_pool(*X, k=2, s=2),
    max_pool(*X, k=3, s=2, p=1),
    max_pool(*X, k=3, s=2, p=1, draw="ties"),
    max_pool(2, 3, 8, 8, k=3, s=2, ceil=1),
    max_pool(2, 3, 8, 8, k=3, s=2, ceil=1, draw="ties"),
    max_pool(*X, k=3, s=1, p=1, draw="ties"),
    max_pool(2, 3, 9, 9, k=2, s=2, d=3),
    max_pool(2, 3, 11, 9, k=2, s=3),
    average_pool(*X, k=2, s=2),
    average_pool(*X, k=3, s=1, p=1),
    average_pool(*X, k=3, s=2, p=1, count=1),
    average_pool(2, 3, 8, 8, k=3, s=2, ceil=1),
    average_pool(2, 3, 8, 8, k=3, s=2, p=1, ceil=1),
    average_pool(2, 3, 8, 8, k=3, s=2, p=1, ceil=1, count=1),
    case("AveragePool", (2, 3, 9), lambda x: F.avg_pool1d(x, 3, 2), kernel_shape=[3], strides=[2]),
    unary("GlobalAveragePool", lambda x: x.mean((2, 3), keepdim=True)),
    unary("GlobalMaxPool", lambda x: F.adaptive_max_pool2d(x, 1)),
    unary("GlobalMaxPool", lambda x: F.adaptive_max_pool2d(x, 1), draw="ties"),
]


def batch_norm(x: Tensor) -> Tensor:
    return F.batch_norm(x, t(floats(4)), t(positive(4)), t(floats(4)), t(floats(4)), eps=1e-3)


NORMALIZATION = [
    case("BatchNormalization", X, batch_norm, floats(4), floats(4), floats(4), positive(4), epsilon=1e-3),
    case("InstanceNormalization", X, lambda x: F.instance_norm(x, weight=t(floats(4)), bias=t(floats(4))), floats(4), floats(4)),
    case("LayerNormalization", (2, 5, 6), lambda x: F.layer_norm(x, (6,), t(floats(6)), t(floats(6))), floats(6), floats(6)),
    case("LayerNormalization", (2, 5, 6), lambda x: F.layer_norm(x, (5, 6), t(floats(5, 6))), floats(5, 6), axis=1),
    case("RMSNormalization", (2, 5, 6), lambda x: F.rms_norm(x, (6,), t(floats(6)), 1e-5), floats(6), opset=23),
    case("RMSNormalization", (2, 5, 6), lambda x: F.rms_norm(x, (5, 6), t(floats(5, 6)), 1e-5), floats(5, 6), opset=23, axis=1),
    case(
        "GroupNormalization",
        X,
        lambda x: F.group_norm(x, 2, t(floats(4)), t(floats(4))),
        floats(4),
        floats(4),
        num_groups=2,
        opset=21,
    ),
    case("LRN", (2, 9, 3, 3), lambda x: F.local_response_norm(x, 5, 0.3, 0.75, 2.0), size=5, alpha=0.3, beta=0.75, bias=2.0),
]

MATRICES = [
    case("Gemm", [(3, 4), (4, 5), (5,)], lambda a, b, c: 0.5 * a @ b + 2 * c, alpha=0.5, beta=2.0),
    case("Gemm", [(4, 3), (4, 5)], lambda a, b: a.T @ b, transA=1),
    case("Gemm", [(3, 4), (5, 4)], lambda a, b: a @ b.T, transB=1),
    case("Gemm", [(4, 3), (5, 4)], lambda a, b: a.T @ b.T, transA=1, transB=1),
    case("MatMul", [(2, 3, 4, 5), (5, 6)], torch.matmul),
    case("MatMul", [(2, 1, 4, 5), (3, 5, 6)], torch.matmul),
    case("MatMul", [(4, 5), (2, 3, 5, 6)], torch.matmul),
    case("Einsum", [(2, 3, 4), (2, 4, 5)], lambda a, b: torch.einsum("bik,bkj->bij", a, b), equation="bik,bkj->bij"),
]

REDUCTIONS = [
    case("ReduceMean", X, lambda x: x.mean((2, 3), keepdim=True), ints(2, 3)),
    case("ReduceMean", X, lambda x: x.mean((1, 3)), ints(-1, 1), keepdims=0),
    case("ReduceMean", X, lambda x: x.mean((2, 3)), axes=[2, 3], keepdims=0, opset=13),
    case("ReduceSum", X, lambda x: x.sum(1), ints(1), keepdims=0, opset=13),
    case("ReduceMax", X, lambda x: x.amax((2, 3)), ints(2, 3), keepdims=0),
    case("ReduceMax", X, lambda x: x.amax((2, 3), keepdim=True), ints(2, 3), draw="ties"),
    case("ReduceMin", X, lambda x: x.amin((2, 3), keepdim=True), axes=[2, 3], opset=13),
    case("ReduceL1", X, lambda x: x.abs().sum(1), ints(1), keepdims=0),
    case("ReduceL2", X, lambda x: x.norm(dim=1), ints(1), keepdims=0),
    case("ReduceL2", X, lambda x: x.norm(dim=1, keepdim=True), axes=[1], opset=13),
    case("ReduceSumSquare", X, lambda x: x.square().sum((2, 3)), ints(2, 3), keepdims=0),
    case("ReduceLogSumExp", X, lambda x: x.logsumexp((2, 3)), ints(2, 3), keepdims=0),
]


def strided(x: Tensor) -> Tensor:
    return x[:, 1:4:2, ::2].flip(3)[..., ::2]


SHAPES = [
    case("Reshape", X, lambda x: x.reshape(2, 2, 2, 42), ints(0, 2, 2, -1)),
    case("Flatten", X, lambda x: x.flatten(1)),
    case("Squeeze", (2, 3, 1, 4), lambda x: x.squeeze(2), ints(2)),
    case("Unsqueeze", (2, 3), lambda x: x[:, None, :, None], ints(1, 3)),
    case("Transpose", X, lambda x: x.permute(0, 2, 3, 1), perm=[0, 2, 3, 1]),
    case("Transpose", X, lambda x: x.permute(3, 1, 0, 2), perm=[3, 1, 0, 2]),
    case("Concat", [X, (2, 3, 7, 6)], lambda a, b: torch.cat([a, b], 1), axis=1),
    case("Slice", X, lambda x: x[:, :, 1:-2], ints(1), ints(-2), ints(2)),
    case("Slice", X, lambda x: x[:, 1:4:2], ints(1), ints(4), ints(1), ints(2)),
    case("Slice", X, strided, ints(1, 0, -1), ints(4, 2**62, -(2**62)), ints(1, 2, 3), ints(2, 2, -2)),
    case("Slice", X, lambda x: x[:, 3:], ints(0, 3), ints(2**62, 2**62), ints(0, 1)),
    case("Gather", X, lambda x: x[:, 2], np.array(2), axis=1),
    case("Gather", X, lambda x: x[:, :, [6, 0, 3]], ints(6, 0, -4), axis=2),
    case("Gather", X, lambda x: x[:, [1, 1, 3, 1]], ints(1, 1, 3, 1), axis=1),
    case("Gather", X, lambda x: x[:, torch.tensor([[1, 2], [2, 0]])], np.array([[1, 2], [2, 0]]), axis=1),
    case("GatherND", (3, 4, 2), lambda x: x[[2, 0, 2], [1, 3, 1]], np.array([[2, 1], [0, 3], [2, 1]])),
    case("Expand", (2, 4, 1, 1), lambda x: x.expand(2, 4, 7, 6), ints(1, 1, 7, 6)),
    case("Expand", (4, 1, 6), lambda x: x.expand(2, 4, 7, 6), ints(2, 4, 7, 6)),
    case("Tile", X, lambda x: x.repeat(1, 2, 1, 3), ints(1, 2, 1, 3)),
    case("Pad", X, lambda x: F.pad(x, (1, 2, 0, 3)), ints(0, 0, 0, 1, 0, 0, 3, 2)),
    case("Pad", X, lambda x: F.pad(x, (-1, 2, 1, -3)), ints(0, 0, 1, -1, 0, 0, -3, 2)),
    case("Pad", X, lambda x: F.pad(x, (1, 2, 3, 0), mode="reflect"), ints(0, 0, 3, 1, 0, 0, 0, 2), mode="reflect"),
    case("Pad", X, lambda x: F.pad(x, (1, 2, 3, 0), mode="replicate"), ints(3, 1, 0, 2), None, ints(2, 3), mode="edge"),
    case("Pad", X, lambda x: F.pad(x, (1, 2, 3, 0), mode="circular"), ints(0, 0, 3, 1, 0, 0, 0, 2), mode="wrap", opset=19),
    case("DepthToSpace", (2, 8, 3, 2), lambda x: F.pixel_shuffle(x, 2), blocksize=2, mode="CRD"),
    case("DepthToSpace", (2, 4, 3, 2), lambda x: F.pixel_shuffle(x, 2), blocksize=2),
    case("SpaceToDepth", (2, 1, 4, 6), lambda x: F.pixel_unshuffle(x, 2), blocksize=2),
]


def resize(sizes: tuple[int, int], oracle: Callable[[Tensor], Tensor], **attributes: Any) -> Case:
    return case("Resize", (2, 3, 5, 4), oracle, None, None, ints(2, 3, *sizes), **attributes)


def interpolate(size: tuple[int, int], mode: str, **options: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: F.interpolate(x, size, mode=mode, **options)


RESIZES = [
    resize((10, 7), interpolate((10, 7), "bilinear"), mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
    resize((3, 9), interpolate((3, 9), "bilinear"), mode="linear"),
    resize((10, 7), interpolate((10, 7), "bilinear", align_corners=True), mode="linear",
    coordinate_transformation_mode="align_corners"), resize((10, 7), interpolate((10, 7), "bicubic"), mode="cubic"),
    resize((10, 7), interpolate((10, 7), "bicubic", align_corners=True), mode="cubic",
    coordinate_transformation_mode="align_corners"), resize((10, 8), interpolate((10, 8), "nearest"), mode="nearest",
    coordinate_transformation_mode="asymmetric", nearest_mode="floor"), resize((7, 9), interpolate((7, 9), "nearest-exact"),
    mode="nearest", nearest_mode="round_prefer_ceil"), resize((3, 2), interpolate((3, 2), "bilinear", antialias=True),
    mode="linear", antialias=1, exclude_outside=1), case("Resize", (2, 3, 5, 4), lambda x: F.interpolate(x, scale_factor=2), None,
    np.array([1, 1, 2, 2], np.float32), mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric"),
]  # fmt: skip

CASES = [
    *ACTIVATIONS,
    *ARITHMETIC,
    *CONVOLUTIONS,
    *POOLING,
    *NORMALIZATION,
    *MATRICES,
    *REDUCTIONS,
    *SHAPES,
    *RESIZES,
]


def draw_inputs(case: Case) -> list[Array]:
    rng = np.random.default_rng(0)
    arrays = []
    for shape in case.shapes:
        values: Array = rng.standard_normal(shape)
        if case.draw == "positive":
            values = np.abs(values) + 0.5
        elif case.draw == "ties":
            values = rng.integers(-1, 2, shape)
        elif case.draw == "wide":
            values = values * 3
        elif case.draw == "distinct":
            values = rng.permutation(values.size).reshape(shape) * 0.05
        arrays.append(values.astype(np.float32))
    return arrays


def build(case: Case, inputs: list[Array], out_shape: Sequence[int]) -> onnx.ModelProto:
    """The operator alone: inputs ``x0``..., output ``y``, an input ``seed`` of y's shape; dimension 0 of rank-4 data is dynamic."""
    data = [f"x{i}" for i in range(len(inputs))]
    constants = [f"c{i}" if c is not None else "" for i, c in enumerate(case.constants)]
    names = [*constants, *data] if case.first_constant else [*data, *constants]
    dynamic = len(case.shapes) == 1 and len(inputs[0].shape) == 4 and out_shape[0] == inputs[0].shape[0] and case.op != "Transpose"
    dims = [["N", *a.shape[1:]] if dynamic else list(a.shape) for a in inputs]
    outputs = ["y0", "y1", "y2"] if case.op == "Split" else ["y"]
    graph = helper.make_graph(
        [helper.make_node(case.op, names, outputs, **case.attributes)],
        "rule",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, d) for n, d in zip(data, dims, strict=True)]
        + [helper.make_tensor_value_info("seed", TensorProto.FLOAT, list(out_shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(c), f"c{i}") for i, c in enumerate(case.constants) if c is not None],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", case.opset)], ir_version=10)


def run(model: onnx.ModelProto, feeds: dict[str, Array], outputs: list[str] | None = None) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = {i.name for i in session.get_inputs()}
    return list(session.run(outputs, {k: v for k, v in feeds.items() if k in names}))


def differentiated(model: onnx.ModelProto, at: list[str]) -> onnx.ModelProto:
    names = add_gradient(model, at, "y", "seed")
    model.graph.output.extend(helper.make_tensor_value_info(names[a], TensorProto.FLOAT, None) for a in at)
    return model


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_rule_agrees_with_autograd_and_with_finite_differences(case: Case) -> None:
    inputs = draw_inputs(case)
    leaves = [torch.from_numpy(a.astype(np.float64)).requires_grad_() for a in inputs]
    with torch.no_grad():
        out_shape = case.oracle(*[leaf.float() for leaf in leaves]).shape
    seed = np.random.default_rng(1).standard_normal(out_shape).astype(np.float32)
    expected = torch.autograd.grad(case.oracle(*[leaf.float() for leaf in leaves]), leaves, torch.from_numpy(seed))

    model = differentiated(build(case, inputs, out_shape), [f"x{i}" for i in range(len(inputs))])
    backward = [n for n in model.graph.node if n.output[0].startswith("gradient/")]
    assert not REFUSED & {n.op_type for n in backward}
    assert all(len(n.output) == 1 for n in backward)
    feeds = {f"x{i}": a for i, a in enumerate(inputs)} | {"seed": seed}
    y, *gradients = run(model, feeds)
    with torch.no_grad():
        np.testing.assert_allclose(y, case.oracle(*[leaf.float() for leaf in leaves]).numpy(), atol=2e-5)
    for gradient, wanted in zip(gradients, expected, strict=True):
        assert gradient.shape == tuple(wanted.shape)
        # Both are float32 sums of at most a few hundred products.
        np.testing.assert_allclose(gradient, wanted.numpy(), atol=1e-5 * max(1.0, float(wanted.abs().max())))
    if case.draw != "ties":
        assert_matches_finite_differences(model, feeds, y, gradients)


def assert_matches_finite_differences(model: onnx.ModelProto, feeds: dict[str, Array], y: Array, gradients: list[Array]) -> None:
    """Along one random direction per input: (s(x + e d) - s(x - e d)) / 2e = gradient . d, for s = seed . y."""
    step = 1e-3  # float32 rounding of y gives about 1e-4 relative; random inputs lie farther than this from kinks, almost all
    for i, gradient in enumerate(gradients):
        direction = np.random.default_rng(2).standard_normal(gradient.shape).astype(np.float32)
        ends = [run(model, feeds | {f"x{i}": feeds[f"x{i}"] + np.float32(e) * direction}, ["y"])[0] for e in (step, -step)]
        slope = float((feeds["seed"].astype(np.float64) * (ends[0].astype(np.float64) - ends[1])).sum()) / (2 * step)
        scale = float(np.abs(gradient * direction).sum())
        assert abs(slope - float((gradient * direction).sum())) <= 5e-3 * scale + 1e-3


def test_every_rule_in_the_table_is_tested() -> None:
    elsewhere = {"Split", "Swish", "RMSNormalization", "CastLike", "QuantizeLinear", "DequantizeLinear"}
    assert set(RULES) == {case.op for case in CASES} | elsewhere


@pytest.mark.parametrize("used", [(0, 1, 2), (1,), (0, 2)])
def test_split_joins_the_gradients_of_its_pieces_and_counts_unused_ones_as_zero(used: tuple[int, ...]) -> None:
    pieces = [f"p{i}" for i in range(3)]
    nodes = [
        helper.make_node("Split", ["x", "sizes"], pieces, axis=1),
        helper.make_node("Concat", [pieces[i] for i in used], ["y"], axis=1),
    ]
    x, width = floats(2, 6, 3), sum((1, 3, 2)[i] for i in used)
    model = small_model(nodes, {"x": x}, width, {"sizes": ints(1, 3, 2)})
    seed = floats(2, width, 3, seed=1)
    _, gradient = run(differentiated(model, ["x"]), {"x": x, "seed": seed})
    expected = np.zeros_like(x)
    kept = np.concatenate([np.arange(6)[(slice(0, 1), slice(1, 4), slice(4, 6))[i]] for i in used])
    expected[:, kept] = seed
    np.testing.assert_array_equal(gradient, expected)


def small_model(
    nodes: list[onnx.NodeProto], inputs: dict[str, Array], width: int, constants: dict[str, Array], opset: int = 18
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", *a.shape[1:]]) for n, a in inputs.items()]
        + [helper.make_tensor_value_info("seed", TensorProto.FLOAT, ["N", width, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def test_a_tensor_read_twice_receives_both_gradients() -> None:
    nodes = [helper.make_node("Mul", ["x", "x"], ["s"]), helper.make_node("Add", ["s", "x"], ["y"])]
    x, seed = floats(2, 2, 3), np.ones((2, 2, 3), np.float32)
    _, gradient = run(differentiated(small_model(nodes, {"x": x}, 2, {}), ["x"]), {"x": x, "seed": seed})
    np.testing.assert_allclose(gradient, 2 * x + 1, rtol=1e-6)


def test_quantization_passes_the_gradient_straight_through() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    constants: dict[str, Array] = {"s": np.array(0.1, np.float32), "z": np.array(0, np.int8)}
    x, seed = floats(2, 2, 3), floats(2, 2, 3, seed=1)
    _, gradient = run(differentiated(small_model(nodes, {"x": x}, 2, constants), ["x"]), {"x": x, "seed": seed})
    np.testing.assert_array_equal(gradient, seed)


def refusal(*nodes: onnx.NodeProto, **constants: Array) -> GraphError:
    x = floats(2, 4, 3)
    with pytest.raises(GraphError) as info:
        add_gradient(small_model(list(nodes), {"x": x}, 4, constants), ["x"], "y", "seed")
    return info.value


def test_an_operator_without_a_rule_is_named() -> None:
    error = refusal(helper.make_node("CumSum", ["x", "axis"], ["y"], name="running"), axis=np.array(1))
    assert "'running' (CumSum)" in str(error)


def test_an_operator_of_another_domain_is_named_with_its_domain() -> None:
    model = small_model([helper.make_node("Relu", ["x"], ["y"], domain="com.microsoft")], {"x": floats(2, 4, 3)}, 4, {})
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(GraphError, match=r"com\.microsoft\.Relu"):
        add_gradient(model, ["x"], "y", "seed")


def test_a_second_output_that_the_score_depends_on_is_refused() -> None:
    nodes = helper.make_node("MaxPool", ["x"], ["p", "i"], kernel_shape=[1]), helper.make_node("Cast", ["i"], ["f"], to=1)
    add = helper.make_node("Add", ["p", "f"], ["y"])
    x = floats(2, 4, 3)
    # Indices are integers, so nothing flows back from them; the first output alone has a gradient.
    model = small_model([*nodes, add], {"x": x}, 4, {})
    with pytest.raises(GraphError, match="depends on its output p, i"):
        add_gradient(model, ["x"], "y", "seed")


def test_weights_that_depend_on_the_tensor_are_refused() -> None:
    nodes = [helper.make_node("Reshape", ["x", "dims"], ["w"]), helper.make_node("Conv", ["x", "w"], ["y"])]
    assert "depend" in str(refusal(*nodes, dims=ints(3, 4, -1)))


def test_an_output_that_does_not_depend_on_the_tensor_is_refused() -> None:
    nodes = [helper.make_node("ArgMax", ["x"], ["i"], axis=1), helper.make_node("Cast", ["i"], ["y"], to=1)]
    assert "does not depend on 'x'" in str(refusal(*nodes))


def test_an_opset_below_the_floor_is_refused() -> None:
    model = small_model([helper.make_node("Relu", ["x"], ["y"])], {"x": floats(2, 4, 3)}, 4, {}, opset=12)
    with pytest.raises(GraphError, match="opset 12; differentiating needs 13"):
        add_gradient(model, ["x"], "y", "seed")


def test_differentiating_twice_keeps_both_results() -> None:
    x, seed = floats(2, 2, 3), np.ones((2, 2, 3), np.float32)
    model = small_model([helper.make_node("Relu", ["x"], ["y"])], {"x": x}, 2, {})
    first = add_gradient(model, ["x"], "y", "seed")["x"]
    second = add_gradient(model, ["x"], "y", "seed", relu_rule="deconvnet")["x"]
    model.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in (first, second))
    _, standard, deconvnet = run(model, {"x": x, "seed": seed})
    np.testing.assert_array_equal(standard, (x > 0).astype(np.float32))
    np.testing.assert_array_equal(deconvnet, seed)
