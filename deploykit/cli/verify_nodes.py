"""Where two graphs part: inner tensors of both, run on the same pictures, compared in graph order where their names match.

Graphs of a further precision are held, node by node, to what was recorded when they were written (`deploykit.cli.node_noise`), and
a CPU twin to the integers of the graph in TensorRT's shape. Apart from verify_hops.py because it needs onnx, which a machine that
only serves bundles does not have.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deploykit.bundle import Bundle
from deploykit.cli.node_noise import PICTURES, first_beyond, measure_nodes, nodes_name, read_nodes
from deploykit.graph.files import read_graph
from deploykit.graph.half import expose_floats, make_rounding_graph
from deploykit.graph.half.ranges import module_text
from deploykit.parity import TOLERANCES
from deploykit.quantization.stored import first_unlike
from deploykit.runtime.classifier import image_feed
from deploykit.runtime.opening import TWIN_SUFFIX
from deploykit.runtime.ort import OrtSession
from deploykit.spec import Precision

if TYPE_CHECKING:
    import onnx

Arrays = Mapping[str, npt.NDArray[Any]]


def rounded(path: Path) -> bytes:
    """An FP16 graph as a device computes it, for ONNX Runtime's CPU; see `deploykit.graph.half.rounding`."""
    return make_rounding_graph(read_graph(path), lay_open=False).SerializeToString()


def check_nodes(bundle: Bundle, reference: str, candidate: str, precision: Precision, provider: str) -> tuple[str | None, int]:
    """Hold a graph, node by node, to the record that was made when it was written.

    Args:
        reference, candidate: files of the bundle. precision: the candidate's.

    Returns:
        The first node that is further from float32 than recorded, as a sentence, or None; and how many were compared, 0 where the
        bundle has no such record.

    Raises:
        BundleError: the record is damaged.
    """
    name = nodes_name(candidate)
    if name not in bundle.manifest.files:
        return None, 0
    graph, recorded = read_graph(bundle.file(candidate)), read_nodes(bundle, name)
    seen = measure_nodes(bundle, read_graph(bundle.file(reference)), graph, precision, provider)
    return first_beyond(graph, seen, recorded, precision), len(seen.keys() & recorded.keys())


def check_integers(bundle: Bundle, twin: str) -> str | None:
    """The first node at which a CPU twin does not stand for the numbers of its graph in TensorRT's shape, as a sentence."""
    signed = twin.replace(f"{TWIN_SUFFIX}.onnx", ".onnx")
    return first_unlike(read_graph(bundle.file(signed)), read_graph(bundle.file(twin)))


def locate_difference(bundle: Bundle, reference: str, candidate: str, precision: Precision, provider: str) -> str:
    """The first node of a graph whose values are not those of another graph's tensor of the same name, as a sentence.

    Args:
        reference, candidate: files of the bundle. precision: the candidate's.
    """
    before, after = (read_graph(bundle.file(name)) for name in (reference, candidate))
    shown = make_rounding_graph(after) if precision == Precision.FP16 and provider == "cpu" else expose_floats(after)
    expected, seen = _values(bundle, expose_floats(before), provider), _values(bundle, shown, provider)
    return first_difference(after, expected, seen, TOLERANCES[precision])


def first_difference(graph: "onnx.ModelProto", expected: Arrays, seen: Arrays, tolerance: float) -> str:
    """The first node, in a graph's order, that is further from what is expected than a share of its largest value.

    Args:
        expected, seen: tensors by name; those that only one side has, or has in another shape, are passed over.
    """
    compared, worst = 0, (0.0, "")
    for node in graph.graph.node:
        for name in node.output:
            if name not in expected or name not in seen or expected[name].shape != seen[name].shape or not expected[name].size:
                continue
            compared += 1
            scale = float(np.abs(expected[name]).max())
            apart = float(np.abs(expected[name] - seen[name]).max())
            # deploykit's own names begin with the module; those of graphs from elsewhere do not.
            module = "" if "/" in node.name else module_text(node)
            label = f"node {node.name or name} ({node.op_type}){module}"
            if not apart <= tolerance * scale:
                return f"They part at {label}: {apart:.3g} apart there, where the largest value is {scale:.3g}"
            worst = max(worst, (apart / (scale or 1.0), label))
    if not compared:
        return "Their inner tensors have no names in common, so no node can be named"
    return f"None of {compared} inner tensors differs by that much, so it adds up; the furthest is {worst[1]}, {worst[0]:.1e} apart"


def _values(bundle: Bundle, graph: "onnx.ModelProto", provider: str) -> Arrays:
    golden, manifest = bundle.golden(), bundle.manifest
    rows = 1 if manifest.input == "photo" else PICTURES
    with OrtSession(graph.SerializeToString(), provider=provider) as session:
        feeds: dict[str, npt.NDArray[Any]] = {"image": image_feed(manifest.image, manifest.input, golden.image[:rows])}
        if any(tensor.name == "class_index" for tensor in session.inputs) and golden.explained_class is not None:
            feeds["class_index"] = golden.explained_class[:rows]
        return session.run(feeds)
