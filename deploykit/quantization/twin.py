"""The CPU twin of a quantized graph: the same scales and weights, in the shape whose integer kernels ONNX Runtime has on x86."""

from onnx import ModelProto

from deploykit.errors import UsageError
from deploykit.quantization.qdq import QuantizedGraph


def make_cpu_twin(quantized: QuantizedGraph, *, exact: bool = False) -> ModelProto:
    """The same quantized network for ONNX Runtime on a CPU: activations uint8 with zero point 128 instead of int8 with 0.

    Args:
        quantized: the TensorRT-shaped graph.
        exact: leave every convolution's output that the TensorRT graph keeps in float (before a residual addition, before SiLU) in float
            here too. Then the twin equals the TensorRT graph in value, and those convolutions run in float. By default such outputs get a
            pair of their own (``placement.cpu_tensors``), with which every convolution runs in integers.
    """
    raise UsageError("not written yet")
