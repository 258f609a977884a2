"""What a parsed network computes in, read from the network itself: known on every machine, with or without a GPU.

A strongly typed network says the type of every tensor, and TensorRT may not choose another. A convolution or a matrix product whose
inputs come out of DequantizeLinear is INT8: TensorRT fuses the two.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PRECISIONS = {"FLOAT": "fp32", "HALF": "fp16", "INT8": "int8", "BF16": "bf16", "FP8": "fp8"}
_MULTIPLYING = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
# Layers that hand values on as they are: a weight's DequantizeLinear may stand behind one.
_PASSING = ("SHUFFLE", "IDENTITY", "SQUEEZE", "UNSQUEEZE")


@dataclass(frozen=True)
class NetworkSummary:
    """A network's layers by precision.

    Args:
        layers: all layers by the type of their first output, such as ``{"fp32": 40, "int64": 3}``.
        multiplying: convolutions and matrix products by what they multiply in, such as ``{"int8": 20, "fp32": 1}``.
    """

    layers: Mapping[str, int]
    multiplying: Mapping[str, int]


def summarize(network: Any) -> NetworkSummary:
    """Count the layers of a parsed network."""
    makers: dict[str, Any] = {}
    layers: Counter[str] = Counter()
    multiplying: Counter[str] = Counter()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for i in range(layer.num_outputs):
            makers[layer.get_output(i).name] = layer
        if layer.num_outputs:
            layers[_precision(layer.get_output(0))] += 1
        if layer.type.name in _MULTIPLYING:
            multiplying[_multiplies_in(layer, makers)] += 1
    return NetworkSummary(dict(sorted(layers.items())), dict(sorted(multiplying.items())))


def _multiplies_in(layer: Any, makers: Mapping[str, Any]) -> str:
    """Both factors must come out of DequantizeLinear; a convolution's weights may also stand inside the layer."""
    sources = [_source(layer.get_input(i), makers) for i in range(min(layer.num_inputs, 2))]
    quantized = [source is not None and source.type.name == "DEQUANTIZE" for source in sources]
    return "int8" if len(quantized) == 2 and all(quantized) else _precision(layer.get_input(0))


def _source(tensor: Any, makers: Mapping[str, Any]) -> Any:
    layer = makers.get(tensor.name) if tensor is not None else None
    while layer is not None and layer.type.name in _PASSING and (before := layer.get_input(0)) is not None:
        layer = makers.get(before.name)
    return layer


def _precision(tensor: Any) -> str:
    name = str(tensor.dtype.name)
    return PRECISIONS.get(name, name.lower())
