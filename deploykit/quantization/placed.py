"""Where Q/DQ pairs stand, as values that `placement.place` makes: edges, tensors that share a scale, weights, layers in float."""

from dataclasses import dataclass

from deploykit.quantization.placement_rules import RULES


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

    def __post_init__(self) -> None:
        _require_rule(self.rule)


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

    def __post_init__(self) -> None:
        _require_rule(self.rule)
        if not self.calibrated or not set(self.calibrated) <= set(self.tensors):
            raise ValueError(f"calibrated tensors are {self.calibrated}, expected one or more of {self.tensors}")


@dataclass(frozen=True)
class WeightEdge:
    """A constant operand of a node that is stored as INT8.

    Args:
        node, input: where it is read.
        weight: the constant's name.
        axis: of the output channels, one scale each; counted from 0.
    """

    node: str
    input: int
    weight: str
    axis: int


@dataclass(frozen=True)
class FloatNode:
    """A convolution or linear layer that computes in float, and the rule (a key of ``RULES``) that says why."""

    node: str
    operator: str
    rule: str

    def __post_init__(self) -> None:
        _require_rule(self.rule)


@dataclass(frozen=True)
class Placement:
    """Where pairs stand.

    Args:
        groups: every tensor with a pair, once.
        edges: who reads them through it, in graph order.
        weights: constants stored as INT8.
        floats: layers left in float.
        cpu_tensors: outputs of convolutions that TensorRT keeps in float inside one fused kernel, and for which a CPU needs a pair
            of its own (`twin`). They need thresholds too; the TensorRT graph does not use them.
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

    @property
    def calibratable(self) -> tuple[str, ...]:
        """What to calibrate where layers may be kept in float later: no ``keep`` asks for a threshold of another tensor."""
        return tuple(dict.fromkeys([*self.tensors, *self.cpu_tensors]))

    @property
    def tensors(self) -> tuple[str, ...]:
        """Every tensor with a pair."""
        return tuple(name for group in self.groups for name in group.tensors)


def _require_rule(rule: str) -> None:
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}, expected one of {', '.join(RULES)}")
