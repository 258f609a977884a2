"""The words in which gradient rules are written.

A rule sees one forward node as a ``Step``: its inputs ``x(i)``, its output ``y``, the gradient ``g`` of the score with respect to
that output. It answers with the gradient with respect to the inputs, written with ``Value``: arithmetic on values appends ONNX
nodes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnx import NodeProto, helper

from deploykit.errors import GraphError
from deploykit.graph.rules.emit import Array, Emitter, Value
from deploykit.graph.tensors import Shape, carried_as


@dataclass(frozen=True)
class Step:
    """One forward node as a gradient rule sees it.

    Args:
        node: the forward node.
        grads: d score / d output, per output; None where the score does not depend on that output.
        wanted: the inputs whose gradient is needed; rules may give others, which are dropped.
        emit: where the backward nodes go.
        relu_rule: ``standard``, ``guided`` or ``deconvnet``.
        opset: version of the standard operators.
    """

    node: NodeProto
    grads: tuple[Value | None, ...]
    wanted: frozenset[int]
    emit: Emitter
    relu_rule: str
    opset: int

    @property
    def g(self) -> Value:
        """The gradient of the first output.

        Raises:
            GraphError: the score depends on another output, for which the rule was not written.
        """
        first, *others = self.grads
        if first is None or any(g is not None for g in others):
            used = [n for n, g in zip(self.node.output, self.grads, strict=True) if g is not None]
            raise self.unsupported(f"the score depends on its output {', '.join(used)}, and only the first has a gradient")
        return first

    def x(self, i: int = 0) -> Value:
        """Input i, in the arithmetic type."""
        return self.emit.forward(self.node.input[i])

    @property
    def y(self) -> Value:
        """The first output, in the arithmetic type."""
        return self.emit.forward(self.node.output[0])

    @property
    def y_is_rounded(self) -> bool:
        """True where ``y`` is what integers say of the output, which equals it only to a quantization step."""
        return carried_as(self.emit.tensors, self.node.output[0]) is not None

    def has(self, i: int) -> bool:
        """Is the optional input i given?"""
        return i < len(self.node.input) and bool(self.node.input[i])

    def shape(self, i: int = 0) -> Shape:
        """Dimensions of input i."""
        return self.emit.tensors.shape(self.node.input[i])

    @property
    def out(self) -> Shape:
        """Dimensions of the first output."""
        return self.emit.tensors.shape(self.node.output[0])

    def sizes(self, shape: Shape, axes: Sequence[int]) -> list[int]:
        """The dimensions along some axes, which must be numbers.

        Raises:
            GraphError: one of them is dynamic.
        """
        sizes = [d for d in (shape[a] for a in axes) if isinstance(d, int)]
        if len(sizes) != len(axes):
            raise self.unsupported(
                f"its dimensions {list(shape)} must be fixed along axes {list(axes)}; only the batch may be dynamic"
            )
        return sizes

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        return int(self._attribute(name, default))  # type: ignore[call-overload, no-any-return]

    def number(self, name: str, default: float) -> float:
        """A float attribute."""
        return float(self._attribute(name, default))  # type: ignore[arg-type]

    def integers(self, name: str, default: Sequence[int]) -> list[int]:
        """An attribute that is a list of integers."""
        return [int(v) for v in self._attribute(name, default)]  # type: ignore[attr-defined]

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        value = self._attribute(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def constant(self, i: int) -> Array:
        """The value of input i.

        Raises:
            GraphError: it is computed when the graph runs.
        """
        value = self.emit.tensors.constant(self.node.input[i])
        if value is None:
            raise self.unsupported(f"its input {self.node.input[i]!r} must be a constant")
        return value

    def axes(self, i: int) -> list[int] | None:
        """Axes, which some operators give as input i and older versions as an attribute; None where neither is there."""
        if self.has(i):
            return [int(a) for a in self.constant(i).reshape(-1)]
        axes = self.integers("axes", [])
        return axes or None

    def unsupported(self, reason: str) -> GraphError:
        """The error for a node that cannot be differentiated."""
        return GraphError(f"{describe_node(self.node)} cannot be differentiated: {reason}")

    def _attribute(self, name: str, default: object) -> object:
        for attribute in self.node.attribute:
            if attribute.name == name:
                return helper.get_attribute_value(attribute)
        return default


Rule = Callable[[Step], Value | dict[int, Value]]
"""d score / d inputs: one value means input 0, a dictionary names the inputs."""


def describe_node(node: NodeProto) -> str:
    """How errors name a node."""
    return f"node {node.name or node.output[0]!r} ({node.domain + '.' if node.domain else ''}{node.op_type})"
