"""Writing the backward part: arithmetic on values appends ONNX nodes."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

from deploykit.graph.tensors import Integers, Shape, Tensors, carried_as

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
        self._forward: dict[str, Value] = {}

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
        """A forward tensor in the arithmetic type: cast once where it is of another, made of its integers in a quantized graph."""
        if name not in self._forward:
            carried = carried_as(self.tensors, name)
            self._forward[name] = self._cast(name) if carried is None else self._dequantize(carried)
        return self._forward[name]

    def _cast(self, name: str) -> Value:
        value = Value(name, self)
        return value if self.tensors.types.get(name, self.dtype) in {self.dtype, 0} else self.op("Cast", value, to=self.dtype)

    def _dequantize(self, carried: Integers) -> Value:
        """Plain arithmetic, because runtimes would merge a DequantizeLinear with the forward one."""
        value = self.op("Cast", Value(carried.integers, self), to=self.dtype)
        if carried.zero:
            value = value - self.op("Cast", Value(carried.zero, self), to=self.dtype)
        return value * self._cast(carried.scale)

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

    def shift_ends(self, value: Value, begin: Sequence[int], end: Sequence[int]) -> Value:
        """Per axis, add zeros at the ends, or take elements away where the number is negative (not all runtimes crop by Pad)."""
        if any(n > 0 for n in (*begin, *end)):
            value = self.op("Pad", value, self.ints([max(n, 0) for n in (*begin, *end)]))
        axes = [i for i, ends in enumerate(zip(begin, end, strict=True)) if min(ends) < 0]
        if axes:
            starts = [max(-begin[i], 0) for i in axes]
            stops = [end[i] if end[i] < 0 else np.iinfo(np.int64).max for i in axes]
            value = self.op("Slice", value, self.ints(starts), self.ints(stops), self.ints(axes))
        return value

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
