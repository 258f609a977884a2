"""Cross-layer equalization: shifts scale between convolutions so that their channels need one range. Graph in, graph out.

Because relu(s x) = s relu(x) for s > 0, dividing output channel i of a convolution by s_i and multiplying the next one's input
channel i by it changes nothing in float32 (but for rounding), and

    s_i = sqrt(r1_i / r2_i)          r1_i = max |W1[i]|, r2_i = max |W2[:, i]|

makes both ranges sqrt(r1_i r2_i). Chains of convolutions are gone through again until nothing moves (Nagel, van Baalen,
Blankevoort and Welling 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1).

Only functions with f(s x) = s f(x) may stand between: none, Relu, LeakyRelu, PRelu. A ReLU6 has a bound that would have to move
with s; the paper replaces it by ReLU, which is another network. Here such pairs are left alone, and counted, so that the verdict
can say so. SiLU is not of that kind at all, which leaves EfficientNet's own blocks out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, numpy_helper

from deploykit.graph.tensors import Tensors, describe_tensors
from deploykit.quantization.placement_nodes import attribute, node_id

_BETWEEN = frozenset({"Relu", "LeakyRelu", "PRelu"})
_MOST_ROUNDS = 50
_STILL = 1e-3
_WIDEST = 1e4
"""A channel is scaled by at most this, so that a dead one does not blow its partner up."""

Weights = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Pair:
    """Two convolutions, the second of which alone reads the first through nothing or a homogeneous function."""

    first: NodeProto
    second: NodeProto


@dataclass(frozen=True)
class Equalized:
    """What was done.

    Args:
        graph: equal to the original in value.
        pairs: by name, first and second layer.
        clipped: pairs that were left alone because a bound such as ReLU6's stands between them.
        largest_factor: by which a channel was scaled, up or down.
    """

    graph: ModelProto
    pairs: tuple[tuple[str, str], ...]
    clipped: tuple[tuple[str, str], ...]
    largest_factor: float


def equalize(graph: ModelProto) -> Equalized:
    """Equalize every pair of convolutions of a float graph; the graph itself where it has none."""
    facts = describe_tensors(graph)
    pairs, clipped = _find_pairs(graph, facts)
    names = tuple((node_id(p.first), node_id(p.second)) for p in pairs)
    left = tuple((node_id(p.first), node_id(p.second)) for p in clipped)
    if not pairs:
        return Equalized(graph, (), left, 1.0)
    result = ModelProto()
    result.CopyFrom(graph)
    wanted = {name for pair in pairs for node in (pair.first, pair.second) for name in node.input[1:]}
    weights = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in result.graph.initializer if t.name in wanted}
    total: dict[str, npt.NDArray[np.float64]] = {}
    for _ in range(_MOST_ROUNDS):
        factors = {node_id(pair.first): _equalize_pair(pair, weights) for pair in pairs}
        for name, factor in factors.items():
            total[name] = total.get(name, np.ones(1)) * factor
        if max(float(np.abs(np.log(factor)).max()) for factor in factors.values()) < _STILL:
            break
    for tensor in result.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name].astype(np.float32), tensor.name))
    widest = max(float(np.exp(np.abs(np.log(factor)).max())) for factor in total.values())
    return Equalized(result, names, left, widest)


def _find_pairs(graph: ModelProto, facts: Tensors) -> tuple[list[Pair], list[Pair]]:
    """Those that can be equalized, and those that a bound keeps apart."""
    pairs: list[Pair] = []
    clipped: list[Pair] = []
    for node in graph.graph.node:
        if not _is_convolution(node, facts):
            continue
        second, is_bounded = _only_reader(node.output[0], facts), False
        if second is not None and second.op_type in _BETWEEN | {"Clip"} and second.input[0] == node.output[0]:
            is_bounded = second.op_type == "Clip"
            second = _only_reader(second.output[0], facts)
        if second is not None and _is_convolution(second, facts) and second.input[0] in _outputs_behind(node, facts):
            (clipped if is_bounded else pairs).append(Pair(node, second))
    return pairs, clipped


def _outputs_behind(node: NodeProto, facts: Tensors) -> set[str]:
    readers = facts.consumers.get(node.output[0], [])
    return {node.output[0], *(name for reader in readers for name in reader.output)}


def _only_reader(name: str, facts: Tensors) -> NodeProto | None:
    readers = facts.consumers.get(name, [])
    return readers[0] if len(readers) == 1 and name not in facts.outputs else None


def _is_convolution(node: NodeProto, facts: Tensors) -> bool:
    """With constant weights and bias that no other node reads."""
    constants = [name for name in node.input[1:] if name]
    return node.op_type == "Conv" and all(
        name in facts.constants and name not in facts.producers and len(facts.consumers[name]) == 1 for name in constants
    )


def _equalize_pair(pair: Pair, weights: Weights) -> npt.NDArray[np.float64]:
    """Move scale from the first convolution's output channels to the second's input channels; the factors [C]."""
    first, second = pair.first.input[1], pair.second.input[1]
    grouped = _by_input_channel(weights[second], attribute(pair.second, "group", 1))
    r1 = np.abs(weights[first]).reshape(len(weights[first]), -1).max(1)
    r2 = np.abs(grouped).max(axis=(1, 3)).reshape(-1)
    is_live = (r1 > 0) & (r2 > 0)
    factor = np.where(is_live, np.sqrt(r1 / np.where(is_live, r2, 1)), 1.0)
    factor = np.clip(np.where(factor > 0, factor, 1.0), 1 / _WIDEST, _WIDEST)
    weights[first] = weights[first] / factor.reshape(-1, *[1] * (weights[first].ndim - 1))
    if len(pair.first.input) > 2 and pair.first.input[2]:
        weights[pair.first.input[2]] = weights[pair.first.input[2]] / factor
    groups, _, inputs, _ = grouped.shape
    weights[second] = (grouped * factor.reshape(groups, 1, inputs, 1)).reshape(weights[second].shape)
    return factor


def _by_input_channel(weight: npt.NDArray[Any], groups: int) -> npt.NDArray[Any]:
    """[C out, C in / groups, k, k] as [groups, C out / groups, C in / groups, k * k]: input channel (g, i) is [g, :, i]."""
    return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)


def describe(equalized: Equalized) -> Mapping[str, Any]:
    """For the manifest: how many pairs, how many bounded ones, and the largest factor."""
    return {
        "pairs": len(equalized.pairs),
        "left_alone_behind_a_bound": len(equalized.clipped),
        "largest_factor": equalized.largest_factor,
    }
