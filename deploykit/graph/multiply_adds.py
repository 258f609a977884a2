"""How much arithmetic a graph is: the multiply-adds of one image, counted from its nodes.

One multiply-add is one product that is added to a sum, as in the tables of the papers (which often call it a FLOP): convolutions
and matrix products count; additions of a bias, activations and pooling do not.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from onnx import ModelProto, NodeProto

from deploykit.errors import GraphError
from deploykit.graph.tensors import Tensors, describe_tensors


def count_multiply_adds(graph: ModelProto) -> int:
    """The multiply-adds of a graph for a batch of one.

    Raises:
        GraphError: the size of a product cannot be told, because image height or width is left open.
    """
    tensors = describe_tensors(graph)
    return sum(multiply_adds_of(node, tensors) for node in graph.graph.node)


def multiply_adds_of(node: NodeProto, tensors: Tensors) -> int:
    """The multiply-adds of one node for a batch of one; 0 for operators that make no sums of products.

    Raises:
        GraphError: a dimension that counts is not known.
    """
    count = _COUNTED.get(node.op_type)
    return count(node, tensors) if count is not None and node.domain in ("", "ai.onnx") else 0


def _of_convolution(node: NodeProto, tensors: Tensors) -> int:
    # Weights [C_out, C_in / groups, kernel...]: each output is a sum over everything but the first axis.
    return _elements(node, node.output[0], tensors) * math.prod(_sizes(node, node.input[1], tensors)[1:])


def _of_transposed_convolution(node: NodeProto, tensors: Tensors) -> int:
    # Weights [C_in, C_out / groups, kernel...]: each input is spread over everything but the first axis.
    return _elements(node, node.input[0], tensors) * math.prod(_sizes(node, node.input[1], tensors)[1:])


def _of_product(node: NodeProto, tensors: Tensors) -> int:
    return _elements(node, node.output[0], tensors) * _sizes(node, node.input[0], tensors)[-1]


def _of_gemm(node: NodeProto, tensors: Tensors) -> int:
    is_transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return _elements(node, node.output[0], tensors) * _sizes(node, node.input[0], tensors)[0 if is_transposed else -1]


_COUNTED: Mapping[str, Callable[[NodeProto, Tensors], int]] = MappingProxyType(
    {"Conv": _of_convolution, "ConvTranspose": _of_transposed_convolution, "Gemm": _of_gemm, "MatMul": _of_product}
)


def _elements(node: NodeProto, name: str, tensors: Tensors) -> int:
    return math.prod(_sizes(node, name, tensors))


def _sizes(node: NodeProto, name: str, tensors: Tensors) -> tuple[int, ...]:
    """The dimensions of a tensor for one image: a dynamic first one is the batch."""
    first, *others = tensors.shape(name)
    sizes = [first if isinstance(first, int) else 1, *others]
    if not all(isinstance(size, int) for size in sizes):
        shown = ", ".join(map(str, tensors.shape(name)))
        raise GraphError(f"{node.op_type} {node.name or node.output[0]!r} has a tensor [{shown}]: its multiply-adds cannot be told")
    return tuple(int(size) for size in sizes if size is not None)
