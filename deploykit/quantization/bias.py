"""Bias correction: takes away the mean by which INT8 moves each output channel. In: a float graph and shifts. Out: the graph.

Rounding weights and clipping activations moves the mean of a layer's output, channel by channel; depthwise layers, with nine
weights per channel, most. The mean is measured on calibration pictures and taken off the bias (Nagel, van Baalen, Blankevoort and
Welling 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2; its appendix D measures, too):

    b' = b - E[y_int8 - y]          for each output channel

The shift is that of the layer alone, reading float activations (`sensitivity`): with all layers corrected their inputs' means
are right as well, so one pass over the pictures does for all layers what layer-by-layer correction does in as many passes.
"""

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, numpy_helper

from deploykit.quantization.placement_nodes import node_id
from deploykit.quantization.sensitivity import LayerNoise

CORRECTED = frozenset({"Conv", "ConvTranspose", "Gemm"})
"""Operators that have a bias; MatMul has none, the addition behind it belongs to another node."""


def correct_biases(graph: ModelProto, noise: Mapping[str, LayerNoise]) -> tuple[ModelProto, tuple[str, ...]]:
    """A copy of a float graph whose biases make up for what INT8 does to the means; it is to be quantized like the original.

    Args:
        noise: by node, of the layers ``alone``; layers that are not in it keep their bias.

    Returns:
        The graph, and the nodes that were corrected.
    """
    result = ModelProto()
    result.CopyFrom(graph)
    body = result.graph
    constants = {t.name: t for t in body.initializer}
    corrected = []
    for node in body.node:
        found = noise.get(node_id(node))
        if found is None or node.op_type not in CORRECTED:
            continue
        name = node.input[2] if len(node.input) > 2 else ""
        if name and name not in constants:
            continue  # computed
        beta = next((a.f for a in node.attribute if a.name == "beta"), 1.0) if node.op_type == "Gemm" else 1.0
        if not beta:
            continue
        bias = numpy_helper.to_array(constants[name]).astype(np.float64) if name else np.zeros(len(found.shift))
        # A Gemm's bias may be [K], [1, K] or of one element.
        moved = (bias - found.shift / beta).astype(np.float32)
        # A new name: two nodes may share one bias.
        new = f"{node.output[0]}_bias_corrected"
        del node.input[2:]
        node.input.append(new)
        body.initializer.append(numpy_helper.from_array(moved, new))
        corrected.append(node_id(node))
    read = {name for node in body.node for name in node.input}
    kept = [t for t in body.initializer if t.name in read]
    del body.initializer[:]
    body.initializer.extend(kept)
    return result, tuple(corrected)
