"""The explain graphs of a predict graph, proved before they are written: what a bundle holds beside predict. Needs no torch.

A layer's gradients are compared with autograd where the caller has it, and otherwise with finite differences of the logits.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deploykit.bundle import LayerRecord
from deploykit.errors import GraphError, ParityError
from deploykit.graph.explain import make_explain_graph
from deploykit.graph.files import write_graph
from deploykit.graph.gradient_check import GradientCheck, check_gradients
from deploykit.graph.input_gradients import INPUT_GRADIENTS, make_input_gradients_graph
from deploykit.graph.layers import default_layer, list_layers, resolve_layer
from deploykit.graph.shift import make_shifted_graph
from deploykit.graph.tail import make_tail_graph
from deploykit.image import normalize
from deploykit.parity import MAP_TOLERANCES, compare_maps
from deploykit.runtime.ort import OrtSession
from deploykit.spec import ImageSpec, Precision

if TYPE_CHECKING:
    import onnx

Pixels = npt.NDArray[np.uint8]
Arrays = Mapping[str, npt.NDArray[Any]]
Autograd = Callable[[str, npt.NDArray[np.int64]], tuple[npt.NDArray[Any], npt.NDArray[Any]] | None]
"""A layer's activations and gradients [n, C, h, w] for one class per picture of the parity check; None where it cannot tell."""

MAP_TOLERANCE = MAP_TOLERANCES[Precision.FP32]

LOGITS_TOLERANCE = 1e-5
"""Of the largest logit. The nodes are the same; a runtime may fuse them otherwise where a tensor between them is an output."""


@dataclass(frozen=True)
class ExplainGraphs:
    """What explains, ready to be written.

    Args:
        graphs: by file name, ``explain.onnx`` and so on.
        layers: what they show.
        parity: by file name, how each was compared, for the manifest; a graph that nothing was compared with is not in it.
        explained_class, cam: the answers to the pictures of the parity check, for the golden vectors: int64 [n], float32 [n, h, w].
            The map is autograd's; where that knows nothing of the first layer, the explain graph's.
    """

    graphs: Mapping[str, "onnx.ModelProto"]
    layers: tuple[LayerRecord, ...]
    parity: Mapping[str, Mapping[str, Any]]
    explained_class: npt.NDArray[np.int64]
    cam: npt.NDArray[np.float32]


def make_explain_graphs(
    predict: "onnx.ModelProto",
    layers: Sequence[str],
    pixels: Pixels,
    image: ImageSpec,
    *,
    input_kind: str,
    input_gradients: bool,
    autograd: Autograd | None = None,
) -> ExplainGraphs:
    """Make the explain graph, its tail and, if asked, the input gradients; run them and prove them.

    Args:
        predict: the graph that was proved equal to its original.
        layers: module paths or tensor names; the first is the default of ``deploykit explain``. None takes the last feature map.
        pixels: the pictures of the parity check, uint8 [n, H, W, 3].
        autograd: the original's gradients. A layer that it cannot tell of is judged by finite differences.

    Raises:
        UsageError: a layer that does not exist.
        GraphError: an operator behind a layer has no gradient rule.
        ParityError: the logits are not those of the predict graph, or the gradients are wrong.
    """
    records = tuple(_layer_record(predict, name) for name in layers or [_default_layer(predict, by_module=autograd is not None)])
    graphs = _make_graphs(predict, records, input_gradients=input_gradients)
    feed = normalize(pixels, image) if input_kind == "float" else pixels
    with open_graphs({"predict.onnx": predict, **graphs}) as sessions:
        answer = sessions["explain.onnx"].run({"image": feed, "class_index": np.full(len(feed), -1, np.int64)})
        _check_logits(answer["logits"], sessions["predict.onnx"].run({"image": feed})["logits"])
        tail = sessions.get("explain_tail.onnx")
        guard = check_gradients(sessions["explain.onnx"].run, feed, tail.run if tail else None)
        tail_parity = {"explain_tail.onnx": _compare_tail(tail, answer)} if tail else {}
        if input_gradients:
            _check_input_gradients(sessions["input_gradients.onnx"], feed)
        compared = [_compare_with_autograd(autograd, r, i, answer) if autograd else None for i, r in enumerate(records)]
        figures = [
            found[0] if found else {"layer": r.name, "finite_difference": _finite_difference(predict, r, i, sessions, feed, guard)}
            for i, (r, found) in enumerate(zip(records, compared, strict=True))
        ]
    cam = answer["cam"] if compared[0] is None else compared[0][1]
    parity = {"explain.onnx": _parity(guard, figures), **tail_parity}
    return ExplainGraphs(graphs, records, parity, answer["explained_class"], cam)


def _make_graphs(
    predict: "onnx.ModelProto", records: Sequence[LayerRecord], *, input_gradients: bool
) -> dict[str, "onnx.ModelProto"]:
    """By file name. The tail is the first layer's, where it has one."""
    graphs = {"explain.onnx": make_explain_graph(predict, [r.tensor for r in records])}
    if (tail := _tail_or_none(predict, records[0].tensor)) is not None:
        graphs["explain_tail.onnx"] = tail
    if input_gradients:
        graphs["input_gradients.onnx"] = make_input_gradients_graph(predict)
    return graphs


@contextlib.contextmanager
def open_graphs(graphs: Mapping[str, "onnx.ModelProto"]) -> Iterator[dict[str, OrtSession]]:
    """A session for each graph. From files, because those above 2 GB cannot be given as bytes."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deploykit-")))
        yield {name: stack.enter_context(OrtSession(write_graph(graph, folder / name)[0])) for name, graph in graphs.items()}


def _default_layer(predict: "onnx.ModelProto", *, by_module: bool) -> str:
    """The last feature map that everything passes through; with ``by_module`` the module that returns it, where one does, of which
    autograd can tell.

    Whoever exports names a family's own layer. Of a graph from elsewhere nothing is known, and in a ViT the last tensors of rank 4
    are attention heads, whose axes are no places in the picture.
    """
    found = default_layer(predict)
    candidates = {layer.tensor: layer for layer in list_layers(predict)}
    if len(predict.graph.output[0].type.tensor_type.shape.dim) == 2:
        names = list(candidates)
        before = reversed(names[: names.index(found.tensor) + 1])
        found = next((candidates[name] for name in before if _tail_or_none(predict, name) is not None), found)
    return found.modules[0] if by_module and found.modules else found.tensor


def _layer_record(predict: "onnx.ModelProto", name: str) -> LayerRecord:
    layer = resolve_layer(predict, name)
    return LayerRecord(name, layer.tensor, layer.channels, layer.height, layer.width)


def _tail_or_none(predict: "onnx.ModelProto", tensor: str) -> "onnx.ModelProto | None":
    """The tail graph where the logits depend on the image through this layer alone. Where the explain graph exists, every operator
    behind the layer has its rule, and this is the one reason left for a refusal."""
    try:
        return make_tail_graph(predict, tensor)
    except GraphError:
        return None


def _check_logits(seen: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    difference = relative_difference(seen, expected)
    if not difference <= LOGITS_TOLERANCE:
        raise ParityError(f"the explain graph's logits are {difference:.1e} from the predict graph's, {LOGITS_TOLERANCE} allowed")


def _compare_tail(tail: OrtSession, answer: Arrays) -> dict[str, Any]:
    """The tail must say of the activations what the explain graph says of the picture."""
    again = tail.run({"activations": answer["activations"], "class_index": answer["explained_class"]})
    worst = max(relative_difference(again[name], answer[name]) for name in ("logits", "gradients", "cam"))
    if not worst <= LOGITS_TOLERANCE * 10:
        raise ParityError(f"the tail graph differs from the explain graph by {worst:.1e}, {LOGITS_TOLERANCE * 10:.0e} is allowed")
    return {"reference": "explain.onnx", "relative_difference": worst, "tolerance": LOGITS_TOLERANCE * 10}


def _check_input_gradients(session: OrtSession, feed: npt.NDArray[Any]) -> None:
    """They must be finite and depend on the class, and guided backpropagation on the picture. The deconvnet need not: its ReLUs
    look at the gradient alone, so without max pooling it is the same for every picture of a class.

    The rules have no counterpart in autograd to be compared with.
    """
    first = session.run({"image": feed, "class_index": np.full(len(feed), -1, np.int64)})
    classes = first["logits"].shape[1]
    other = session.run({"image": feed, "class_index": (first["explained_class"] + 1) % classes})
    for name in INPUT_GRADIENTS:
        if not (np.isfinite(first[name]).all() and np.isfinite(other[name]).all()):
            raise ParityError(f"{name} holds NaN or infinite values")
        if classes > 1 and np.array_equal(first[name], other[name]):
            raise ParityError(f"{name} is the same for two classes")
    if np.array_equal(first["guided_backprop"][0], first["guided_backprop"][1]):
        raise ParityError("guided_backprop is the same for two different pictures")


def _compare_with_autograd(
    autograd: Autograd, record: LayerRecord, index: int, answer: Arrays
) -> tuple[dict[str, Any], npt.NDArray[np.float32]] | None:
    """How far a layer's gradients are from autograd's, and autograd's map; None for a tensor that autograd knows nothing of."""
    suffix = _suffix(index)
    found = autograd(record.name, answer["explained_class"])
    if found is None:
        return None
    activations, gradients = found
    seen = {name: answer[f"{name}{suffix}"] for name in ("activations", "gradients", "cam")}
    if seen["activations"].shape != activations.shape:
        raise ParityError(f"layer {record.name} has shape {seen['activations'].shape} in the graph, {activations.shape} in torch")
    cam = np.maximum((gradients.mean((2, 3), keepdims=True) * activations).sum(1), 0)
    maps = compare_maps(cam, seen["cam"], Precision.FP32)
    differences = {
        "activations": relative_difference(seen["activations"], activations),
        "gradients": relative_difference(seen["gradients"], gradients),
    }
    if not maps.is_equal or not differences["activations"] <= MAP_TOLERANCE:
        figures = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
        raise ParityError(f"the explain graph contradicts autograd at layer {record.name}: {figures}, maps {maps}")
    return {"layer": record.name, **differences, **maps.to_json()}, cam


def _finite_difference(
    predict: "onnx.ModelProto",
    record: LayerRecord,
    index: int,
    sessions: Mapping[str, OrtSession],
    feed: npt.NDArray[Any],
    guard: GradientCheck,
) -> float:
    """How far a layer's gradients are from differences of the logits, which come from the layer's own tail graph if it has one."""
    if index == 0 and guard.finite_difference is not None:
        return guard.finite_difference
    explain, suffix = sessions["explain.onnx"], _suffix(index)

    def run(feeds: Arrays) -> Arrays:
        answer = explain.run(feeds)
        return {**answer, **{name: answer[f"{name}{suffix}"] for name in ("activations", "gradients", "cam")}}

    tail = _tail_or_none(predict, record.tensor)
    with open_graphs({"probe": make_shifted_graph(predict, record.tensor) if tail is None else tail}) as opened:
        probe = opened["probe"].run
        found = check_gradients(run, feed, None if tail is None else probe, shifted=probe).finite_difference
    assert found is not None  # noqa: S101 a probe was given
    return found


def _suffix(index: int) -> str:
    """How the explain graph tells the outputs of several layers apart."""
    return f"_{index + 1}" if index else ""


def relative_difference(seen: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """The largest difference, of the largest expected value."""
    return float(np.abs(seen - expected).max() / max(float(np.abs(expected).max()), np.finfo(np.float32).tiny))


def _parity(guard: GradientCheck, layers: list[dict[str, Any]]) -> dict[str, Any]:
    """For the manifest: what judged the gradients, and the worst of them."""
    by_autograd = [layer["gradients"] for layer in layers if "gradients" in layer]
    by_differences = [layer["finite_difference"] for layer in layers if "finite_difference" in layer]
    named = {"torch autograd": by_autograd, "finite differences": by_differences}
    return {
        "reference": " and ".join(name for name, figures in named.items() if figures),
        "relative_difference": max(by_autograd + by_differences),
        "tolerance": MAP_TOLERANCE,
        "layers": layers,
        "guard": guard.to_json(),
    }
