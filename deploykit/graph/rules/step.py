"""The words in which gradient rules are written.

A rule sees one forward node as a ``Step``: its inputs ``x(i)``, its output ``y``, the gradient ``g`` of the score with respect to
that output. It answers with the gradient with respect to the inputs, written with ``Value``: arithmetic on values appends ONNX
nodes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

from deploykit.errors import GraphError
from deploykit.graph.tensors import Shape, Tensors

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Value:
    """A tensor of the backward part, in its arithmetic type. ``a * b`` appends a Mul node, and so on."""

    name: str
    emit: "Emitter" = field(repr=False)

    def __add__(self, other: "Value | float") -> "Value":
        return self.emit.op("Add", self, other)

    def __sub__(self, other: "Value | float") -> "Value":
        return self.emit.op("Sub", self, other)

    def __mul__(self, other: "Value | float") -> "Value":
        return self.emit.op("Mul", self, other)

    def __truediv__(self, other: "Value | float") -> "Value":
        return self.emit.op("Div", self, other)

    def __radd__(self, other: float) -> "Value":
        return self.emit.op("Add", other, self)

    def __rsub__(self, other: float) -> "Value":
        return self.emit.op("Sub", other, self)

    def __rmul__(self, other: float) -> "Value":
        return self.emit.op("Mul", self, other)

    def __rtruediv__(self, other: float) -> "Value":
        return self.emit.op("Div", other, self)

    def __neg__(self) -> "Value":
        return self.emit.op("Neg", self)

    def __gt__(self, other: "Value | float") -> "Value":
        return self.emit.op("Greater", self, other)

    def __lt__(self, other: "Value | float") -> "Value":
        return self.emit.op("Less", self, other)

    def equals(self, other: "Value | float") -> "Value":
        """Elementwise equality. Not ``==``, which Python needs for comparing names."""
        return self.emit.op("Equal", self, other)


class Emitter:
    """Collects the nodes and constants of the backward part and gives them names of their own.

    Args:
        tensors: the forward graph.
        dtype: arithmetic type, ``TensorProto.FLOAT`` or ``DOUBLE``.
        prefix: begins every new name; no name of the forward graph does.
    """

    def __init__(self, tensors: Tensors, dtype: int, prefix: str) -> None:
        self.tensors = tensors
        self.dtype = dtype
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._prefix = prefix
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Value] = {}
        self._casts: dict[str, Value] = {}

    def op(self, op_type: str, *inputs: "Value | float | Array | None", **attributes: object) -> Value:
        """Append a node with one output. Numbers and arrays become constants (see ``constant``); None leaves an input out."""
        names = ["" if i is None else i.name if isinstance(i, Value) else self.constant(i).name for i in inputs]
        output = f"{self._prefix}{op_type}_{len(self.nodes)}"
        attributes = {k: v for k, v in attributes.items() if v is not None}
        self.nodes.append(helper.make_node(op_type, names, [output], name=output, **attributes))  # type: ignore[arg-type]
        return Value(output, self)

    def constant(self, value: "float | Array") -> Value:
        """A constant, held once however often it is used. Floats take the arithmetic type, integers stay as they are."""
        array = np.asarray(value)
        if array.dtype.kind == "f" or isinstance(value, int | float):
            array = array.astype(helper.tensor_dtype_to_np_dtype(self.dtype))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"{self._prefix}constant_{len(self._constants)}"
            self.initializers.append(numpy_helper.from_array(array, name))
            self._constants[key] = Value(name, self)
        return self._constants[key]

    def ints(self, values: Sequence[int]) -> Value:
        """An int64 vector: axes, shapes, indices."""
        return self.constant(np.asarray(values, dtype=np.int64))

    def forward(self, name: str) -> Value:
        """A forward tensor in the arithmetic type, cast once where it is of another (float16 under a float32 backward)."""
        if self.tensors.types.get(name, self.dtype) in {self.dtype, 0}:
            return Value(name, self)
        if name not in self._casts:
            self._casts[name] = self.op("Cast", Value(name, self), to=self.dtype)
        return self._casts[name]

    def where(self, condition: Value, a: "Value | float", b: "Value | float") -> Value:
        return self.op("Where", condition, a, b)

    def sum(self, value: Value, axes: Sequence[int], keepdims: bool = True) -> Value:
        return self.op("ReduceSum", value, self.ints(axes), keepdims=int(keepdims)) if axes else value

    def transpose(self, value: Value, perm: Sequence[int]) -> Value:
        return value if list(perm) == sorted(perm) else self.op("Transpose", value, perm=list(perm))

    def reshape(self, value: Value, dims: Sequence[int]) -> Value:
        return self.op("Reshape", value, self.ints(dims))

    def reshape_like(self, value: Value, name: str) -> Value:
        """Give a value the shape of a forward tensor. One unknown dimension is left to Reshape; more are read in the graph."""
        shape = self.tensors.shape(name)
        dims = [d if isinstance(d, int) else -1 for d in shape]
        if dims.count(-1) > 1 or 0 in dims:
            return self.op("Reshape", value, self.op("Shape", Value(name, self)))
        return self.reshape(value, dims)

    def expand(self, value: Value, shape: Shape) -> Value:
        """Broadcast to known dimensions; a value already has the unknown ones, so 1 leaves those alone."""
        return self.op("Expand", value, self.ints([d if isinstance(d, int) else 1 for d in shape]))

    def sum_to(self, value: Value, out: Shape, shape: Shape) -> Value:
        """The adjoint of broadcasting ``shape`` to ``out``: sum over the axes that broadcasting made or stretched."""
        lead = len(out) - len(shape)
        value = self.sum(value, range(lead), keepdims=False)
        return self.sum(value, [i for i, d in enumerate(shape) if d == 1 and out[lead + i] != 1])

    def apply_matrix(self, value: Value, matrix: Array, axis: int, rank: int) -> Value:
        """Contract one axis with a constant [in, out] matrix: result[..., o, ...] = sum_i value[..., i, ...] matrix[i, o]."""
        axis %= rank
        if axis == rank - 1:
            return self.op("MatMul", value, matrix)
        if axis == rank - 2:
            return self.op("MatMul", np.ascontiguousarray(matrix.T), value)
        perm = [*(i for i in range(rank) if i != axis), axis]
        moved = self.op("MatMul", self.transpose(value, perm), matrix)
        return self.transpose(moved, [perm.index(i) for i in range(rank)])


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
        return self.emit.forward(self._read(self.node.input[i]))

    @property
    def y(self) -> Value:
        """The first output, in the arithmetic type."""
        return self.emit.forward(self._read(self.node.output[0]))

    @property
    def y_is_rounded(self) -> bool:
        """True where ``y`` is read behind a Q/DQ pair, so it equals the node's output only to a quantization step."""
        return self._read(self.node.output[0]) != self.node.output[0]

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

    def _read(self, name: str) -> str:
        return dequantized(self.emit.tensors, name)


Rule = Callable[[Step], Value | dict[int, Value]]
"""d score / d inputs: one value means input 0, a dictionary names the inputs."""


def describe_node(node: NodeProto) -> str:
    """How errors name a node."""
    return f"node {node.name or node.output[0]!r} ({node.domain + '.' if node.domain else ''}{node.op_type})"


def dequantized(tensors: Tensors, name: str) -> str:
    """Where to read a tensor of a quantized graph: behind its Q/DQ pair if nothing else reads it, else where it is.

    A second reader in front of the pair would keep runtimes from fusing producer and QuantizeLinear into one integer kernel, and
    the logits would no longer be those of the predict graph.
    """
    readers = tensors.consumers.get(name, [])
    if name in tensors.outputs or len(readers) != 1 or readers[0].op_type != "QuantizeLinear" or readers[0].input[0] != name:
        return name
    for reader in tensors.consumers.get(readers[0].output[0], []):
        if reader.op_type == "DequantizeLinear":
            return reader.output[0]
    return name
