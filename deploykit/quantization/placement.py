"""Where Q/DQ pairs stand in a graph, and why. In: a float predict graph. Out: a `Placement`, which names tensors and nodes alone.

A pair on an edge means: this node reads this tensor rounded to INT8. The edges are those of TensorRT's fusions (NVIDIA TensorRT
documentation, "Working with Quantized Types", "Q/DQ Placement Recommendations"); `placement_rules.RULES` gives each rule's reason.
Nothing is calibrated here: which tensors need a threshold is part of the answer.
"""

from collections.abc import Collection
from dataclasses import dataclass

from onnx import ModelProto

from deploykit.errors import UsageError


@dataclass(frozen=True)
class Edge:
    """One input of one node that reads its tensor through a pair.

    Args:
        node: the node's name, or its first output where it has none (`node_id`).
        input: which of its inputs.
        tensor: what it reads.
        rule: a key of ``RULES``.
    """

    node: str
    input: int
    tensor: str
    rule: str


@dataclass(frozen=True)
class ScaleGroup:
    """Tensors that share one scale.

    Args:
        tensors: all of them, in graph order.
        calibrated: those whose values contain the others': a concatenation for its parts, a pooling's input for its output. The
            scale is the largest of their thresholds.
        rule: why they share; ``single`` for a tensor of its own.
    """

    tensors: tuple[str, ...]
    calibrated: tuple[str, ...]
    rule: str


@dataclass(frozen=True)
class WeightEdge:
    """A constant operand of a node that is stored as INT8.

    Args:
        node, input: where it is read.
        weight: the constant's name.
        axis: of the output channels, one scale each; counted from 0.
        group: of a grouped transposed convolution, whose output channels are axis 1 within each of ``group`` slices of axis 0.
    """

    node: str
    input: int
    weight: str
    axis: int
    group: int = 1


@dataclass(frozen=True)
class FloatNode:
    """A convolution or linear layer that computes in float, and the rule (a key of ``RULES``) that says why."""

    node: str
    operator: str
    rule: str


@dataclass(frozen=True)
class Placement:
    """Where pairs stand.

    Args:
        groups: every tensor with a pair, once.
        edges: who reads them through it.
        weights: constants stored as INT8.
        floats: layers left in float.
        cpu_tensors: outputs of convolutions that TensorRT keeps in float inside one fused kernel, and for which a CPU needs a pair of its
            own (`twin`). They need thresholds too; the TensorRT graph does not use them.
    """

    groups: tuple[ScaleGroup, ...]
    edges: tuple[Edge, ...]
    weights: tuple[WeightEdge, ...]
    floats: tuple[FloatNode, ...]
    cpu_tensors: tuple[str, ...]

    @property
    def calibrated(self) -> tuple[str, ...]:
        """Every tensor that `quantize_graph` needs a threshold of, once, ``cpu_tensors`` included."""
        return tuple(dict.fromkeys([*(name for group in self.groups for name in group.calibrated), *self.cpu_tensors]))


def place(graph: ModelProto, keep: Collection[str] = ()) -> Placement:
    """Decide which edges of a graph get a pair.

    Args:
        graph: a float predict graph with its BatchNorms folded where they can be.
        keep: what stays out of INT8: node names, names of tensors that nodes make, or torch module paths (all nodes under them).

    Raises:
        UsageError: a name in ``keep`` that the graph does not have.
        GraphError: nothing in the graph can be quantized.
    """
    raise UsageError("not written yet")
