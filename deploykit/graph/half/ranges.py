"""What values the tensors of a graph take on real pictures. In: a way to run it, and batches. Out: a `TensorRange` per tensor.

Four numbers a tensor are kept and never an activation, so memory depends on the batch and not on the number of pictures.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto

from deploykit.errors import GraphError, UsageError
from deploykit.graph.describe import NAME_SCOPES
from deploykit.graph.scopes import scopes_of, with_outputs
from deploykit.graph.tensors import Tensors, describe_tensors

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]
Run = Callable[[Feeds], Mapping[str, Array]]

LARGEST = 65504.0
"""The largest finite float16 (IEEE 754-2008, binary16)."""

SMALLEST_NORMAL = 2.0**-14
"""Below it a float16 has fewer than 11 significant bits; below half of 2^-24 it is zero."""


@dataclass(frozen=True)
class TensorRange:
    """The values of one tensor over all pictures.

    Args:
        least, greatest: the extremes.
        smallest: the smallest absolute value that is not zero; 0 where all are.
        subnormal_share: of the values that are not zero, how many a float16 holds with fewer than 11 bits or not at all, 0 to 1.
    """

    least: float
    greatest: float
    smallest: float
    subnormal_share: float

    @property
    def largest(self) -> float:
        """The largest absolute value."""
        return max(abs(self.least), abs(self.greatest))

    def to_json(self) -> dict[str, float]:
        """The range as it stands in a file."""
        return asdict(self)


def float_tensors(graph: ModelProto, tensors: Tensors | None = None) -> list[str]:
    """The float32 inputs of a graph and the tensors that its nodes make, in graph order; constants are not among them."""
    tensors = tensors or describe_tensors(graph)
    made = [i.name for i in graph.graph.input]
    made += (name for node in graph.graph.node for name in node.output if name)
    return [name for name in made if tensors.types.get(name) == TensorProto.FLOAT and name not in tensors.constants]


def expose_floats(graph: ModelProto) -> ModelProto:
    """A copy of a graph that also gives every float32 tensor its nodes make."""
    inputs = {i.name for i in graph.graph.input}
    return with_outputs(graph, [name for name in float_tensors(graph) if name not in inputs])


def measure_ranges(
    run: Run, names: Sequence[str], batches: Iterable[Feeds], *, on_batch: Callable[[int], None] | None = None
) -> dict[str, TensorRange]:
    """Run every batch once and note the extremes of each tensor.

    Args:
        run: of a graph that gives the tensors, such as `expose_floats` makes.
        names: which to look at.
        batches: what the graph takes, pictures along the first axis.
        on_batch: told after each batch how many pictures it had.

    Raises:
        UsageError: no batch.
        GraphError: NaN or infinity in the float32 graph itself; the first such tensor is named.
    """
    least = dict.fromkeys(names, np.inf)
    greatest = dict.fromkeys(names, -np.inf)
    smallest = dict.fromkeys(names, np.inf)
    counts = {name: np.zeros(2, np.int64) for name in names}
    seen = 0
    for feeds in batches:
        outputs = run(feeds)
        for name in names:
            values = feeds[name] if name in feeds else outputs[name]
            if not values.size:
                continue
            low, high = float(values.min()), float(values.max())
            if not (np.isfinite(low) and np.isfinite(high)):
                raise GraphError(
                    f"tensor {name!r} holds NaN or infinity in float32", hint="look for a diverged checkpoint: deploykit verify"
                )
            least[name], greatest[name] = min(least[name], low), max(greatest[name], high)
            size = np.abs(values[values != 0])
            if size.size:
                smallest[name] = min(smallest[name], float(size.min()))
                counts[name] += size.size, int((size < SMALLEST_NORMAL).sum())
        pictures = len(next(iter(feeds.values())))
        seen += pictures
        if on_batch is not None:
            on_batch(pictures)
    if not seen:
        raise UsageError("there is no picture to measure the ranges with")
    return {
        name: TensorRange(
            least[name],
            greatest[name],
            smallest[name] if counts[name][0] else 0.0,
            float(counts[name][1] / max(int(counts[name][0]), 1)),
        )
        for name in names
        if np.isfinite(least[name])
    }


def require_finite(graph: ModelProto, outputs: Mapping[str, Array], what: str) -> None:
    """Refuse a run with NaN or infinity anywhere, naming the first node that made one.

    Args:
        graph: the graph that ran.
        outputs: its tensors, as `rounding.make_rounding_graph` shows them.
        what: for the message: which graph, on what.

    Raises:
        GraphError: with the node, its module, and how to keep it in float32.
    """
    for node in graph.graph.node:
        for name in node.output:
            values = outputs.get(name)
            bad = 0 if values is None else int((~np.isfinite(values)).sum())
            if bad:
                label = f"{node.name or name} ({node.op_type}){module_text(node)}"
                raise GraphError(
                    f"{what}: {bad:,} values of {name!r} are NaN or infinite, first at node {label}",
                    hint=f"keep it in float32 with: --keep {node.name or name}",
                )


def module_of(node: Any) -> str | None:
    """The path of the innermost torch module around a node; None where the graph does not say."""
    scopes = scopes_of(node) if any(p.key == NAME_SCOPES for p in node.metadata_props) else []
    return scopes[-1] if scopes else None


def module_text(node: Any) -> str:
    """The same for a sentence."""
    module = module_of(node)
    return f" in module {module}" if module else ""
