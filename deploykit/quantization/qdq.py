"""The quantized graph in TensorRT's shape. In: a float graph, a placement, thresholds. Out: the graph with Q/DQ pairs, and a report."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnx import ModelProto

from deploykit.errors import UsageError
from deploykit.quantization.placement import Placement


@dataclass(frozen=True)
class QuantizationReport:
    """What was done.

    Args:
        scales: of every tensor with a pair: threshold / 127.
        zero_tensors: activations whose threshold was zero or too small; they have the smallest scale and still give exactly zero.
        zero_filters: by weight, the output channels that are zero or too small to be told from zero.
        int8_weights_bytes, float_weights_bytes: the size of the weights that became INT8 and of those that did not.
    """

    scales: Mapping[str, float]
    zero_tensors: tuple[str, ...] = ()
    zero_filters: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    int8_weights_bytes: int = 0
    float_weights_bytes: int = 0


@dataclass(frozen=True, eq=False)
class QuantizedGraph:
    """A graph in TensorRT's shape: signed INT8 with zero point 0, and what its CPU twin needs to know.

    Args:
        graph: with Q/DQ pairs; ``image`` and ``logits`` as before.
        report: what was done.
        placement: where the pairs stand.
        cpu_scales: of the tensors in ``placement.cpu_tensors``.
    """

    graph: ModelProto
    report: QuantizationReport
    placement: Placement
    cpu_scales: Mapping[str, float]


def quantize_graph(graph: ModelProto, placement: Placement, thresholds: Mapping[str, float]) -> QuantizedGraph:
    """Put pairs into a copy of a graph and store its weights as INT8.

    Weights: per output channel, symmetric, -127 to 127. Activations: one scale per tensor, symmetric, threshold / 127, zero point 0.
    Biases stay float32.

    Args:
        placement: made from this very graph.
        thresholds: for every tensor of ``placement.calibrated`` the absolute value that becomes 127; others are ignored.

    Raises:
        UsageError: thresholds are missing.
        GraphError: a threshold or a weight is NaN, infinite or negative; or the placement belongs to another graph.
    """
    raise UsageError("not written yet")
