"""How far each node of a graph at a further precision is from float32, as a record to hold the graph to later.

In: the float graph, the graph, pictures. Out: a `NodeNoise` by tensor, or the first node that is further away than was recorded.

Logits alone are a blunt witness: measured on EfficientNet-Lite0 and ResNet-18, one zero point that is off by one left their noise
below 1.5 times what it was in more than half of the places. So a weight is compared with the float weight, a rounded activation
with what was rounded, in the same run, and every other tensor with the float graph's of its name: the first two do not see what has
piled up before them.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deploykit.bundle import Bundle
from deploykit.cli.explain_graphs import open_graphs
from deploykit.errors import BundleError
from deploykit.graph import exposure
from deploykit.graph.exposure import bytes_per_image, split
from deploykit.graph.half import float_tensors, make_rounding_graph
from deploykit.graph.half.ranges import module_text
from deploykit.graph.scopes import with_only_outputs
from deploykit.quantization.stored import dequantized_weights
from deploykit.runtime.classifier import image_feed
from deploykit.runtime.ort import OrtSession
from deploykit.runtime.session import Session
from deploykit.spec import Precision

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[Any]
Feeds = dict[str, Array]

PICTURES = 2
"""Golden pictures that nodes are compared with, one at a time: laid open, one of EfficientNet-B3 takes 400 MB."""

MOST_PARTS = 4
"""Runs of each graph and picture at most; one lays `deploykit.graph.exposure.PART_BYTES` open. Of a large net the largest tensors
are left out, the first layers', whose weights and followers are looked at all the same. Measured: 533 of 582 of EfficientNet-B5's
in 6 s and 2.1 GB."""

_COPIES = 3
"""Of a tensor's size in one run: what the graph gives, what it is compared with, and their difference."""

NOISE_FACTOR = 1.5
"""Times the recorded noise. Sums in another order move values that lie between two integers to the other one, which spreads.
Measured with biases and scales moved by 1e-6, with ONNX Runtime's optimizations off and on, four times on each of ResNet-18 (64
pixels), EfficientNet-Lite0 (trained) and EfficientNet-B0 (random): a node's noise grew to 1.23 times at most."""

SHIFT_SHARE = 0.3
"""Of the recorded noise: how far the mean may move. Measured as above: 0.14 at most where there are 2,000 values and more, and 0.4
of the few values of a gate or of the logits, whose means are therefore not held. One step of a zero point moves it by 3 times the
noise of one rounding."""

SHIFT_VALUES = 1000
"""Below this a mean is not held."""

FLOORS = {Precision.FP16: 5e-4, Precision.INT8: 1e-3}
"""Of a tensor's root mean square, for nodes that were recorded as exact: a step of float16 is 5e-4, the smallest of INT8 8e-3."""

WEIGHT_SHARE = 0.02
"""Of the recorded noise: weights are constants, so nothing but the rounding of sums of squares differs."""


@dataclass(frozen=True)
class NodeNoise:
    """How far a tensor is from its reference.

    Args:
        noise: root mean square of the difference, over that of the reference.
        shift: mean of the difference, over the same.
        values: how many were compared.
        is_weight: a constant.
    """

    noise: float
    shift: float
    values: int
    is_weight: bool = False

    def beyond(self, recorded: "NodeNoise", precision: Precision) -> str | None:
        """What is further away than was recorded, in words; None where nothing is."""
        if self.is_weight:
            most, apart = recorded.noise * (1 + WEIGHT_SHARE) + 1e-6, recorded.noise * WEIGHT_SHARE + 1e-6
        else:
            most, apart = recorded.noise * NOISE_FACTOR + FLOORS[precision], recorded.noise * SHIFT_SHARE + FLOORS[precision]
        if not self.noise <= most:
            return f"noise of {self.noise:.2g} of its values, {recorded.noise:.2g} was recorded, {most:.2g} is allowed"
        if self.values >= SHIFT_VALUES and not abs(self.shift - recorded.shift) <= apart:
            seen = f"its mean is off by {self.shift:.2g} of its values"
            return f"{seen}, {recorded.shift:.2g} was recorded, {apart:.2g} more or less is allowed"
        return None


def nodes_name(graph: str) -> str:
    """The file that holds the record of a predict graph, or of the explain graph made of it: ``int8/nodes_cpu.json``."""
    return graph.removesuffix(".onnx").replace("/predict", "/nodes").replace("/explain", "/nodes") + ".json"


def measure_nodes(
    bundle: Bundle, floats: "onnx.ModelProto", graph: "onnx.ModelProto", precision: Precision, provider: str = "cpu"
) -> dict[str, NodeNoise]:
    """Compare every float32 tensor that both sides can show, and the weights.

    Args:
        floats: the float predict graph, with the same input as ``graph``.
        graph: a predict or an explain graph of ``precision``.

    Returns:
        By tensor of ``graph``, weights first, then in graph order.
    """
    shown = make_rounding_graph(graph) if precision == Precision.FP16 and provider == "cpu" else graph
    references = _affordable(shown, _references(floats, shown))
    found = {name: _noise_of_weight(*both) for name, both in dequantized_weights(floats, graph)}
    for part in split(shown, list(references), copies=_COPIES):
        some = {name: references[name] for name in part}
        ours = list(dict.fromkeys([*some, *(name for name, is_own in some.values() if is_own)]))
        theirs = list(dict.fromkeys(name for name, is_own in some.values() if not is_own))
        sums = {name: np.zeros(4) for name in some}
        with _open(shown, ours, provider) as session, _open(floats, theirs, provider) as float_session:
            for feeds in _feeds(bundle):
                seen = _run(session, feeds, ours)
                expected = _run(float_session, feeds, theirs)
                for name, (reference, is_own) in some.items():
                    sums[name] += _sums(seen[name], (seen if is_own else expected)[reference])
        found |= {name: _noise_of(total) for name, total in sums.items() if total[3]}
    return found


def first_beyond(
    graph: "onnx.ModelProto", seen: Mapping[str, NodeNoise], recorded: Mapping[str, NodeNoise], precision: Precision
) -> str | None:
    """The first node, in a graph's order, that is further from float32 than was recorded, as a sentence; None where none is.

    A weight speaks for its first reader.
    """
    beyond = {name: seen[name].beyond(recorded[name], precision) for name in recorded if name in seen}
    for node in graph.graph.node:
        weights = [name for name in node.input if name in seen and seen[name].is_weight]
        for name in (*weights, *(name for name in node.output if not (name in seen and seen[name].is_weight))):
            if what := beyond.get(name):
                # deploykit's own names begin with the module; those of graphs from elsewhere do not.
                module = "" if "/" in node.name else module_text(node)
                tensor = f", weight {name.removesuffix('_dequantized')}" if name in weights else ""
                return f"They part at node {node.name or node.output[0]} ({node.op_type}){module}{tensor}: {what}"
    return None


def to_text(nodes: Mapping[str, NodeNoise]) -> str:
    """The record as it stands in the bundle: a node a line. Nodes with infinite values, such as masks, cannot be compared."""
    lines = [
        f"    {json.dumps(name)}: {json.dumps([float(f'{n.noise:.4g}'), float(f'{n.shift:.4g}'), n.values, n.is_weight])}"
        for name, n in nodes.items()
        if np.isfinite([n.noise, n.shift]).all()
    ]
    head = json.dumps({"columns": ["noise", "shift", "values", "is_weight"], "pictures": PICTURES})
    return head[:-1] + ', "nodes": {\n' + ",\n".join(lines) + "\n}}\n"


def read_nodes(bundle: Bundle, name: str) -> dict[str, NodeNoise]:
    """The record that a bundle has under a name.

    Raises:
        BundleError: it is not such a record.
    """
    path = bundle.file(name)
    try:
        return {tensor: NodeNoise(*row) for tensor, row in json.loads(path.read_bytes())["nodes"].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BundleError(f"{path} is no record of nodes: {error}", hint="make the precision again with --force") from error


def _references(floats: "onnx.ModelProto", graph: "onnx.ModelProto") -> dict[str, tuple[str, bool]]:
    """What each tensor is compared with, and whether that is the graph's own: a rounded one with what was rounded."""
    shown, ours = set(float_tensors(floats)), float_tensors(graph)
    inputs = {i.name for i in graph.graph.input}
    own, found = set(ours), {}
    for name in ours:
        before = name.removesuffix("_dequantized")
        if before != name and before in own:
            found[name] = (before, True)
        elif before in shown and name not in inputs:
            found[name] = (before, False)
    return found


def _affordable(graph: "onnx.ModelProto", references: Mapping[str, tuple[str, bool]]) -> dict[str, tuple[str, bool]]:
    """The tensors that `MOST_PARTS` runs can show, the smallest first; in graph order as before."""
    sizes = dict(zip(references, bytes_per_image(graph, list(references)), strict=True))
    left, taken = MOST_PARTS * exposure.PART_BYTES, set()
    for name in sorted(sizes, key=sizes.__getitem__):
        left -= _COPIES * sizes[name]
        if left < 0:
            break
        taken.add(name)
    return {name: both for name, both in references.items() if name in taken}


def _feeds(bundle: Bundle) -> Iterator[Feeds]:
    """The golden pictures, one at a time, as the bundle's graphs take them."""
    golden, manifest = bundle.golden(), bundle.manifest
    pictures = golden.image if manifest.input == "photo" else golden.pixels
    for i in range(min(PICTURES, len(pictures))):
        feeds: Feeds = {"image": image_feed(manifest.image, manifest.input, pictures[i : i + 1])}
        if golden.explained_class is not None:
            feeds["class_index"] = golden.explained_class[i : i + 1]
        yield feeds


@contextlib.contextmanager
def _open(graph: "onnx.ModelProto", names: Sequence[str], provider: str) -> Iterator[Session]:
    exposed = with_only_outputs(graph, names) if names else graph
    if provider == "cpu":
        with open_graphs({"nodes.onnx": exposed}) as sessions:
            yield sessions["nodes.onnx"]
    else:
        with OrtSession(exposed.SerializeToString(), provider=provider) as session:
            yield session


def _run(session: Session, feeds: Feeds, names: Sequence[str]) -> dict[str, Array]:
    taken = {tensor.name for tensor in session.inputs}
    return session.run({name: array for name, array in feeds.items() if name in taken}, names) if names else {}


def _sums(seen: Array, expected: Array) -> npt.NDArray[np.float64]:
    """Sums of squares of the difference and of the reference, the sum of the difference, and how many values there are."""
    if seen.shape != expected.shape:
        return np.zeros(4)
    reference = expected.astype(np.float32, copy=False).ravel()
    with np.errstate(invalid="ignore", over="ignore"):  # infinite values give NaN, which is never within bounds
        difference = seen.astype(np.float32, copy=False).ravel() - reference
        squares = np.dot(difference, difference), np.dot(reference, reference)
        return np.array([*squares, difference.sum(dtype=np.float64), reference.size], np.float64)


def _noise_of(sums: npt.NDArray[np.float64], *, is_weight: bool = False) -> NodeNoise:
    noise, signal, shift, values = (float(total) for total in sums)
    # Of a tensor of zeros nothing is a share: then the difference stands as it is. A share of infinity is none either.
    scale = float(np.sqrt(signal / values)) or 1.0
    scale = scale if np.isfinite(scale) else float("nan")
    return NodeNoise(float(np.sqrt(noise / values)) / scale, shift / values / scale, int(values), is_weight)


def _noise_of_weight(seen: Array, expected: Array) -> NodeNoise:
    return _noise_of(_sums(seen, expected), is_weight=True)
