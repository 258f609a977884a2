"""Which nodes of a graph stay in float32, and why. In: a graph and what values its tensors take. Out: reasons by node.

Fixed reasons are few: the normalization of pixels, reductions and softmax, operators that are not known to work in FP16. All others
come from values that were seen: an activation or a weight that FP16 cannot hold.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper

from deploykit.errors import UsageError
from deploykit.graph.explain import normalized_input
from deploykit.graph.half.ranges import LARGEST, SMALLEST_NORMAL, TensorRange, module_of
from deploykit.graph.layers import read_by
from deploykit.graph.scopes import scopes_of
from deploykit.graph.tensors import Tensors, ancestors

HEADROOM = 4.0
"""Pictures that were not seen may reach further than those that were: what comes within two bits of the limit stays in float32."""

MOST_SUBNORMAL = 0.5
"""Of a tensor's values that are not zero."""

MOST_AVERAGED = 64
"""Elements that an average may sum in FP16: the worst relative error of such a sum is 64 * 2^-11, 3 %, and 0.4 % at random."""

QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})

MOVERS = frozenset(
    {"Identity", "Dropout", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Gather", "Expand", "Tile",
     "Split", "DepthToSpace", "SpaceToDepth"}
)  # fmt: skip
"""They hand values on, in the type in which they get them: no cast is needed for their sake."""

READ_ANY = frozenset({"Cast", "Shape", "Size", "QuantizeLinear", "DequantizeLinear"})

HALF = MOVERS | frozenset(
    {"Abs", "Add", "AveragePool", "BatchNormalization", "Ceil", "Clip", "Concat", "Conv", "ConvTranspose", "Div", "Elu", "Erf",
     "Floor", "Gelu", "Gemm", "GlobalMaxPool", "HardSigmoid", "HardSwish", "LeakyRelu", "MatMul", "Max", "MaxPool", "Min", "Mish",
     "Mul", "Neg", "PRelu", "Pad", "ReduceMax", "ReduceMin", "Relu", "Resize", "Selu", "Sigmoid", "Sub", "Sum", "Tanh", "Where"}
)  # fmt: skip
"""Operators that compute in FP16 unless values forbid it. Everything else stays in float32: sums over many elements (means, norms,
global pooling, softmax), exponentials, roots, powers, and operators that are not known."""

OPSET_OF_HALF_SCALES = 19
"""From here on QuantizeLinear and DequantizeLinear take float16 (ONNX operator changelog)."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RangeProblem:
    """A value that FP16 cannot hold.

    Args:
        node, operator, module: where it is made or, of a weight, read; the module is None where the graph does not say.
        kind: ``overflow``, ``near overflow``, ``underflow``, ``weight overflow`` or ``weight underflow``.
        tensor: the activation or the weight.
        value: what was seen: the largest absolute value.
        limit: FP16's: 65504, or 2^-14 for underflow.
    """

    node: str
    operator: str
    module: str | None
    kind: str
    tensor: str
    value: float
    limit: float

    def __str__(self) -> str:
        where = f" in module {self.module}" if self.module else ""
        return (
            f"{self.kind} at {self.node} ({self.operator}){where}: {self.tensor} reaches {self.value:.3g}, limit {self.limit:.3g}"
        )


@dataclass(frozen=True)
class KeptNode:
    """A node that stays in float32, and why."""

    node: str
    operator: str
    module: str | None
    reason: str


@dataclass(frozen=True)
class HalfReport:
    """What the conversion did.

    Args:
        problems: every value that FP16 cannot hold, in graph order.
        kept: the nodes in float32, in graph order; those that merely hand values on are not listed.
        half_nodes: how many nodes compute in FP16.
        casts: how many casts were added.
        half_weights, float_weights: numbers stored in FP16, and in float32.
    """

    problems: tuple[RangeProblem, ...] = ()
    kept: tuple[KeptNode, ...] = ()
    half_nodes: int = 0
    casts: int = 0
    half_weights: int = 0
    float_weights: int = 0

    def to_json(self) -> dict[str, Any]:
        """The report as it stands in a file."""
        return asdict(self)


@dataclass(frozen=True)
class Kept:
    """Reasons by the number of a node, and the values behind them."""

    reasons: Mapping[int, str]
    problems: tuple[RangeProblem, ...] = field(default=())


def decide_kept(graph: ModelProto, tensors: Tensors, ranges: Mapping[str, TensorRange], keep: Sequence[str], opset: int) -> Kept:
    """Decide which nodes stay in float32.

    Args:
        ranges: of the graph's float tensors; those missing are not judged.
        keep: names of nodes, of their outputs or of torch modules that the user wants in float32.

    Raises:
        UsageError: ``keep`` names nothing in the graph.
    """
    nodes = list(graph.graph.node)
    reasons: dict[int, str] = {}
    problems: list[RangeProblem] = []
    wanted = _named(nodes, keep)
    pixels = _normalization(graph, tensors)
    held = {name for node in nodes if not _is_plain(node) for name in read_by(node)} - {i.name for i in graph.graph.input}
    beyond = {name for name, seen in ranges.items() if _kind_of(seen) is not None}
    for i, node in enumerate(nodes):
        reason = wanted.get(i) or _fixed_reason(node, tensors, pixels, held, opset)
        found = [_activation_problem(node, name, ranges[name]) for name in node.output if name in beyond]
        if not reason and not (node.op_type in QUANTIZERS and opset < OPSET_OF_HALF_SCALES):
            found += _weight_problems(node, tensors, ranges)
        problems += found
        reason = reason or (f"{found[0].kind} of {found[0].tensor}" if found else "")
        if not reason and (read := beyond.intersection(node.input)):
            reason = f"reads {min(read)}, which FP16 cannot hold"
        if reason:
            reasons[i] = reason
    return Kept(reasons, tuple(problems))


def node_label(node: NodeProto) -> str:
    """A node's name; its first output where it has none."""
    return node.name or node.output[0]


def _named(nodes: Sequence[NodeProto], keep: Sequence[str]) -> dict[int, str]:
    wanted: dict[int, str] = {}
    for name in keep:
        found = [i for i, node in enumerate(nodes) if name == node.name or name in node.output or name in scopes_of(node)]
        if not found:
            known = {n for node in nodes for n in (node.name, *scopes_of(node)) if n}
            close = difflib.get_close_matches(name, known, n=3)
            raise UsageError(
                f"no node or module is named {name!r}{'; close: ' + ', '.join(close) if close else ''}",
                hint="list modules with: deploykit inspect BUNDLE --layers",
            )
        wanted.update(dict.fromkeys(found, f"asked for: {name}"))
    return wanted


def _normalization(graph: ModelProto, tensors: Tensors) -> set[str]:
    """The tensors between the input and what the network proper sees."""
    return ancestors(graph.graph, [normalized_input(graph, tensors)])


def _is_plain(node: NodeProto) -> bool:
    """Has a node no graph inside of it, whose tensors would need a type of their own?"""
    return set(read_by(node)) == {name for name in node.input if name}


def _fixed_reason(node: NodeProto, tensors: Tensors, pixels: set[str], held: set[str], opset: int) -> str:
    if pixels.intersection(node.output):
        return "normalizes the pixels"
    if held.intersection(node.output):
        return "is read inside of a control-flow operator"
    if node.domain not in {"", "ai.onnx"} or (node.op_type not in HALF and node.op_type not in READ_ANY):
        return f"{node.op_type} computes in float32"
    if node.op_type == "AveragePool" and math.prod(_attribute(node, "kernel_shape") or [1]) > MOST_AVERAGED:
        return f"averages more than {MOST_AVERAGED} elements"
    if node.op_type == "BatchNormalization" and any(tensors.constant(name) is None for name in node.input[1:5]):
        return "its statistics are computed"
    if any(tensors.types.get(name) is None for name in (*node.input, *node.output) if name):
        return "its types cannot be inferred"
    if opset < OPSET_OF_HALF_SCALES and node.op_type not in QUANTIZERS and _beside_pair(node, tensors):
        return f"stands at a Q/DQ pair, which is float32 before opset {OPSET_OF_HALF_SCALES}"
    return ""


def _beside_pair(node: NodeProto, tensors: Tensors) -> bool:
    """A cast between a layer and its pair would keep a runtime from computing it in integers."""
    makers = [tensors.producers[name] for name in node.input if name in tensors.producers]
    readers = [reader for name in node.output for reader in tensors.consumers.get(name, [])]
    return any(other.op_type in QUANTIZERS for other in (*makers, *readers))


def _kind_of(seen: TensorRange) -> str | None:
    """What is wrong with the values of a tensor in FP16; None where nothing is."""
    if seen.largest > LARGEST:
        return "overflow"
    if seen.largest * HEADROOM > LARGEST:
        return "near overflow"
    # Below 2^-14 the rounding is 2^-25, whatever the value: more than 2^-11 of the largest.
    if 0 < seen.largest < SMALLEST_NORMAL or seen.subnormal_share > MOST_SUBNORMAL:
        return "underflow"
    return None


def _activation_problem(node: NodeProto, name: str, seen: TensorRange) -> RangeProblem:
    kind = _kind_of(seen) or ""
    return _problem(node, kind, name, seen.largest)


def _problem(node: NodeProto, kind: str, tensor: str, value: float) -> RangeProblem:
    limit = SMALLEST_NORMAL if kind.endswith("underflow") else LARGEST
    return RangeProblem(node_label(node), node.op_type, module_of(node), kind, tensor, value, limit)


def _weight_problems(node: NodeProto, tensors: Tensors, ranges: Mapping[str, TensorRange]) -> list[RangeProblem]:
    """Constants of a node that FP16 cannot hold."""
    if node.op_type in QUANTIZERS:
        return _scale_problems(node, tensors)
    if node.op_type == "BatchNormalization":
        slope, shift = affine_of(node, tensors)
        lost = _lost(node, node.input[1], slope, shift, tensors, ranges)
        return [*_overflow(node, node.input[1], slope), *_overflow(node, node.input[2], shift), *lost]
    found: list[RangeProblem] = []
    for i, name in enumerate(node.input):
        if not name or tensors.types.get(name) != TensorProto.FLOAT or (value := tensors.constant(name)) is None:
            continue
        if (node.op_type, i) in {("Resize", 1), ("Resize", 2)} or node.op_type in {"Clip", "Pad"}:
            continue  # not read in FP16, or brought to FP16's limits, which is the same in effect
        array = np.asarray(value, np.float32)
        found += _overflow(node, name, array)
        by_channel = _by_channel(node, i, array)
        if by_channel is not None and node.op_type in {"Conv", "ConvTranspose", "Gemm"}:
            bias = tensors.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
            found += _lost(node, name, by_channel, None if bias is None else np.asarray(bias, np.float32), tensors, ranges)
        elif node.op_type in {"Mul", "Div"} or by_channel is not None:
            found += _lost(node, name, array.reshape(-1) if by_channel is None else by_channel, None, tensors, ranges)
    return found


def _overflow(node: NodeProto, name: str, array: Floats) -> list[RangeProblem]:
    finite = np.abs(array[np.isfinite(array)])
    largest = float(finite.max()) if finite.size else 0.0
    return [_problem(node, "weight overflow", name, largest)] if largest > LARGEST else []


def _lost(
    node: NodeProto, name: str, channels: Floats, bias: Floats | None, tensors: Tensors, ranges: Mapping[str, TensorRange]
) -> list[RangeProblem]:
    """A channel [C, ...] whose weights are all subnormal or zero in FP16, though not zero in float32.

    It is no loss where what the rounding changes stays below the rounding of the channel's own bias.
    """
    rows = channels.reshape(len(channels), -1).astype(np.float64)
    largest = np.abs(rows).max(1, initial=0)
    lost = (largest > 0) & (largest < SMALLEST_NORMAL)
    if not lost.any():
        return []
    seen = ranges.get(node.input[0])
    if bias is not None and bias.size == len(rows) and seen is not None:
        error = np.abs(rows - rows.astype(np.float16)).sum(1) * seen.largest
        lost &= error > np.abs(bias.reshape(-1)) * 2.0**-11
    return [_problem(node, "weight underflow", name, float(largest[lost].max()))] if lost.any() else []


def _by_channel(node: NodeProto, index: int, array: Floats) -> Floats | None:
    """A layer's weights [C, ...] with output channels first; None for any other constant."""
    if index != 1 or array.ndim < 2:
        return None
    if node.op_type == "Conv" or (node.op_type == "Gemm" and _attribute(node, "transB")):
        return array
    if node.op_type in {"MatMul", "Gemm"}:
        return np.moveaxis(array, -1, 0)
    if node.op_type == "ConvTranspose":
        # [C_in, C_out / groups, h, w]
        groups = int(_attribute(node, "group") or 1)
        split = array.reshape(groups, -1, *array.shape[1:])
        return np.moveaxis(split, 2, 1).reshape(groups * array.shape[1], -1)
    return None


def _scale_problems(node: NodeProto, tensors: Tensors) -> list[RangeProblem]:
    """A scale that moves by more than 2^-10 of itself: the integers would mean other numbers."""
    scale = tensors.constant(node.input[1])
    if scale is None or tensors.types.get(node.input[1]) != TensorProto.FLOAT:
        return []
    array = np.asarray(scale, np.float64).reshape(-1)
    with np.errstate(over="ignore"):
        moved = np.abs(array.astype(np.float16) - array) > 2.0**-10 * np.abs(array)
    if not moved.any():
        return []
    kind = "weight overflow" if np.abs(array).max() > LARGEST else "weight underflow"
    return [_problem(node, kind, node.input[1], float(np.abs(array[moved]).max()))]


def affine_of(node: NodeProto, tensors: Tensors) -> tuple[Floats, Floats]:
    """What BatchNormalization computes, x * slope + shift, each [C]; in float64 and rounded once."""
    arrays = [np.asarray(tensors.constant(name), np.float64) for name in node.input[1:5]]
    weight, bias, mean, variance = arrays
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    slope = weight / np.sqrt(variance + epsilon)
    return slope.astype(np.float32), (bias - mean * slope).astype(np.float32)


def _attribute(node: NodeProto, name: str) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), None)
