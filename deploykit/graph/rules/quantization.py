"""Gradients through Q/DQ pairs: the straight-through estimator (Bengio et al. 2013, arXiv 1308.3432).

The gradient of an INT8 graph is that of the real numbers which its integers stand for.
"""

import numpy as np
from onnx import TensorProto

from deploykit.graph.rules.activation import gate
from deploykit.graph.rules.emit import Value
from deploykit.graph.rules.step import Rule, Step

# What a Relu stands behind in a float graph; a pooled or shuffled tensor is not rectified again.
_SIGNED = frozenset({"Add", "BatchNormalization", "Conv", "ConvTranspose", "Gemm", "MatMul", "Sum"})


def quantize(step: Step) -> Value:
    """dx = g, but g [q > zero] behind an operator that gives negative numbers, where the zero point is the lowest integer.

    There quantizing is also a ReLU, and quantizers leave the Relu node out. Saturation at the top passes: often only the brightest
    pixels reach it, and they should be explained.
    """
    maker = step.emit.tensors.producers.get(step.node.input[0])
    lowest = _lowest_zero_point(step)
    if lowest is None or maker is None or maker.op_type not in _SIGNED:
        return step.g
    integers = step.emit.op("Cast", Value(step.node.output[0], step.emit), to=step.emit.dtype)
    return gate(step, integers > lowest)


def dequantize(step: Step) -> Value:
    """dx = g: the number that an integer stands for is the number that was rounded."""
    return step.g


def _lowest_zero_point(step: Step) -> float | None:
    """The zero point, where it is the lowest integer of its type; it is 0 of uint8 where none is given."""
    if not step.has(2):
        return 0.0 if step.emit.tensors.types.get(step.node.output[0]) == TensorProto.UINT8 else None
    zero = step.constant(2)
    lowest = {np.dtype(t): np.iinfo(t).min for t in (np.int8, np.uint8, np.int16, np.uint16)}
    return float(lowest[zero.dtype]) if zero.size == 1 and zero.reshape(-1)[0] == lowest.get(zero.dtype) else None


RULES: dict[str, Rule] = {"QuantizeLinear": quantize, "DequantizeLinear": dequantize}
