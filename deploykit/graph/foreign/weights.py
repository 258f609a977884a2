"""What a graph's weights are: how many numbers, and in which type its file keeps them. Nothing is changed."""

import math
from collections.abc import Mapping

from onnx import ModelProto, TensorProto

_FLOATS: Mapping[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
}
_QUANTIZED: Mapping[int, str] = {TensorProto.INT8: "int8", TensorProto.UINT8: "uint8"}


def count_weights(model: ModelProto) -> int:
    """How many numbers of a graph are weights: in initializers of floating-point or 8-bit type with more than one element. Shapes,
    axes and single constants such as an epsilon are none. A BatchNorm's mean and variance are counted.
    """
    sizes = [math.prod(t.dims) for t in model.graph.initializer if t.data_type in {**_FLOATS, **_QUANTIZED}]
    return sum(size for size in sizes if size > 1)


def stored_dtype(model: ModelProto) -> str:
    """The floating-point type of a file's weights: ``float32``, ``float16``, ... or ``mixed``."""
    found = _dtypes(model)
    return found.pop() if len(found) == 1 else "mixed" if found else "float32"


def is_half_precision(model: ModelProto) -> bool:
    """Does a file keep weights in float16, and so round to 11 bits somewhere?"""
    return "float16" in _dtypes(model)


def _dtypes(model: ModelProto) -> set[str]:
    tensors = [*model.graph.initializer, *(a.t for node in model.graph.node for a in node.attribute if a.name == "value")]
    return {_FLOATS[t.data_type] for t in tensors if t.data_type in _FLOATS and math.prod(t.dims) > 1}
