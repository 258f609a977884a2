"""What INT8 costs layer by layer. In: a float graph and its quantized form. Out: signal and noise of each layer's output.

Two questions, each answered by one graph that holds both sides, so each batch of pictures runs once:

- alone: every layer reads the float activations, rounded as its pair says, and its INT8 weights. The noise is what this one layer
  adds, whatever comes before it.
- together: the quantized graph as it is. The noise is what has piled up at each layer.

Nothing but sums is kept, so memory does not grow with the pictures. The shift, the mean difference per output channel, is what bias
correction takes away (`bias`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from deploykit.agreement import signal_to_noise_db
from deploykit.errors import GraphError, UsageError
from deploykit.quantization.calibrate import Batch, Run
from deploykit.quantization.placement_nodes import LAYERS, node_id
from deploykit.quantization.qdq import QuantizedGraph

_ALONE, _TOGETHER = "_int8_alone", "_int8"


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer that computes in INT8.

    Args:
        node: its name.
        tensor: its output in the float graph.
        candidate: the tensor that stands for it on the INT8 side.
        channel_axis: of the output's channels.
    """

    node: str
    tensor: str
    candidate: str
    channel_axis: int


@dataclass(frozen=True, eq=False)
class LayerNoise:
    """Sums over all pictures of one layer's output.

    Args:
        signal, noise: sums of squares of the float output, and of what INT8 adds to it.
        shift: float64 [C], the mean of what INT8 adds, by channel.
        count: values per channel behind the means.
    """

    signal: float
    noise: float
    shift: npt.NDArray[np.float64]
    count: int

    @property
    def snr_db(self) -> float:
        """10 log10(signal / noise): 6 dB are one bit; infinite where nothing is lost."""
        return signal_to_noise_db(self.signal, self.noise)


def side_by_side(graph: ModelProto, quantized: QuantizedGraph, *, alone: bool) -> tuple[ModelProto, tuple[Layer, ...]]:
    """One graph with both sides; its outputs are every INT8 layer's output, from both.

    Args:
        graph: the very float graph that was quantized.
        alone: see the module's text.

    Returns:
        The graph, and its layers in graph order.
    """
    int8 = {edge.node for edge in quantized.placement.edges if edge.input == 0}
    layers: list[Layer] = []
    suffix = _ALONE if alone else _TOGETHER
    added: list[NodeProto] = []
    floats = {name for node in graph.graph.node for name in node.output}
    for node in quantized.graph.graph.node:
        is_layer = node_id(node) in int8 and node.op_type in LAYERS
        if is_layer:
            layers.append(Layer(node_id(node), node.output[0], f"{node.output[0]}{suffix}", -1 if node.op_type == "MatMul" else 1))
        is_pair = node.op_type in {"QuantizeLinear", "DequantizeLinear"}
        if not alone or is_layer or is_pair:
            added.append(_copy_of(node, floats, suffix, inputs_too=not alone))
    both = ModelProto()
    both.CopyFrom(graph)
    known = {t.name for t in both.graph.initializer}
    both.graph.initializer.extend(
        TensorProto.FromString(t.SerializeToString()) for t in quantized.graph.graph.initializer if t.name not in known
    )
    both.graph.node.extend(added)
    del both.graph.output[:], both.graph.value_info[:]
    both.graph.output.extend(ValueInfoProto(name=name) for layer in layers for name in (layer.tensor, layer.candidate))
    return both, tuple(layers)


def _copy_of(node: NodeProto, floats: set[str], suffix: str, *, inputs_too: bool) -> NodeProto:
    """A node of the quantized graph beside the float ones: what it makes is renamed, with ``inputs_too`` what it reads as well."""
    copy = NodeProto.FromString(node.SerializeToString())
    copy.name = f"{node.name or node.output[0]}{suffix}"
    for names in (copy.output, copy.input) if inputs_too else (copy.output,):
        for i, name in enumerate(names):
            if name in floats:
                names[i] = f"{name}{suffix}"
    return copy


def measure_layers(
    run: Run,
    layers: Sequence[Layer],
    batches: Iterable[Batch],
    *,
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, LayerNoise]:
    """Run every batch once and add up signal, noise and shift.

    Args:
        run: of the graph that `side_by_side` makes.
        on_batch: told after each batch how many images it had.

    Returns:
        By node, in graph order.

    Raises:
        UsageError: no layer, or no batch.
        GraphError: NaN or infinity, naming the layer; or ``run`` left an output out.
    """
    if not layers:
        raise UsageError("no layer computes in INT8, so there is nothing to compare")
    sums: dict[str, LayerNoise] = {}
    for batch in batches:
        outputs = run(batch.feeds)
        for layer in layers:
            if layer.tensor not in outputs or layer.candidate not in outputs:
                raise GraphError(f"the run gave no {layer.tensor} or {layer.candidate}", hint="run the graph of `side_by_side`")
            found = _noise(layer, outputs[layer.tensor], outputs[layer.candidate])
            before = sums.get(layer.node)
            sums[layer.node] = found if before is None else _added(before, found)
        if on_batch is not None:
            on_batch(len(batch.names))
    if not sums:
        raise UsageError("there is no picture to compare the layers with")
    return sums


def most_sensitive(snr_db: Mapping[str, float]) -> tuple[str, ...]:
    """Layers by what INT8 costs, the lowest signal-to-noise ratio first; of equal ones the earlier in the graph."""
    return tuple(sorted(snr_db, key=lambda node: snr_db[node]))


def _noise(layer: Layer, reference: npt.NDArray[Any], candidate: npt.NDArray[Any]) -> LayerNoise:
    if not (np.isfinite(reference).all() and np.isfinite(candidate).all()):
        raise GraphError(f"layer {layer.node} gives NaN or infinity", hint="the float graph overflows: check its weights")
    difference = np.subtract(candidate, reference, dtype=np.float32)
    channels_last = np.moveaxis(difference, layer.channel_axis, -1)
    others = tuple(range(channels_last.ndim - 1))
    flat, flat_difference = reference.reshape(-1), difference.reshape(-1)
    return LayerNoise(
        # float32 sums of squares lose up to 1e-4 of a layer of a million values; einsum in float64 would copy it.
        signal=float(np.dot(flat, flat)),
        noise=float(np.dot(flat_difference, flat_difference)),
        shift=channels_last.mean(others, dtype=np.float64),
        count=difference.size // channels_last.shape[-1],
    )


def _added(a: LayerNoise, b: LayerNoise) -> LayerNoise:
    count = a.count + b.count
    return LayerNoise(a.signal + b.signal, a.noise + b.noise, (a.shift * a.count + b.shift * b.count) / count, count)
