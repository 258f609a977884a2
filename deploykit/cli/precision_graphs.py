"""What a further precision needs in a bundle beside its predict graph: explain graphs made from that very graph, and proved.

In: a bundle, the predict graph at its precision, the pictures to ask with. Out: files in a `deploykit.bundle.Stage`. The logits of
the explain graph are the predict graph's to the bit, or nothing is written: whoever explains an answer must explain that answer.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deploykit.bundle import Bundle, Stage
from deploykit.cli.embed_resize import read_float_graph
from deploykit.cli.explain_graphs import open_graphs, relative_difference
from deploykit.cli.export_bundle import add_graph
from deploykit.cli.golden_record import hear_golden
from deploykit.cli.node_noise import measure_nodes, nodes_name, to_text
from deploykit.errors import GraphError, ParityError
from deploykit.graph.explain import make_explain_graph
from deploykit.graph.gradient_check import GradientCheck, check_gradients
from deploykit.graph.half import make_rounding_graph, read_apart
from deploykit.graph.input_gradients import make_input_gradients_graph
from deploykit.graph.tail import make_tail_graph
from deploykit.parity import MapRecord, compare_maps
from deploykit.runtime.classifier import image_feed
from deploykit.runtime.ort import OrtSession
from deploykit.spec import Precision

if TYPE_CHECKING:
    import onnx

Arrays = Mapping[str, npt.NDArray[Any]]

LEAST_SIMILARITY = {Precision.FP16: 0.95, Precision.INT8: 0.7}
"""The cosine between the gradients and those that the float tail gives for the same activations. Behind the last feature map only
the weights' rounding differs (measured: 0.99999); from earlier layers on, rectifiers near zero open in one and not in the other."""

TAIL_TOLERANCE = {Precision.FP16: 2e-3, Precision.INT8: 1.6e-2}
"""Of the largest value: the same nodes, but a runtime may round to float16 or to integers at other places where it fuses otherwise.
A step of float16 is 2^-11 or 5e-4, one of 8 bits is 1/127 or 8e-3."""

TAIL_SIMILARITY = {"gradients": 0.99, "cam": 0.999}
"""The cosine of what the tail gives with what the explain graph gives. A max pooling may hand a whole gradient to the neighbour of
a value that ties with it after rounding, as behind VGG-16's features (measured: 0.9995); maps, of means over positions, hardly see
it."""

EXPLAIN_GRAPHS = ("explain.onnx", "explain_tail.onnx", "input_gradients.onnx")
_PACKAGES = ("onnx", "onnxruntime", "numpy")
_ROUNDED = "rounded.onnx"


@dataclass(frozen=True, eq=False)
class PrecisionGraphs:
    """Graphs that explain a predict graph of some precision, by file name, and how they were proved."""

    graphs: Mapping[str, "onnx.ModelProto"]
    parity: Mapping[str, Any]


def add_precision(
    stage: Stage,
    bundle: Bundle,
    precision: Precision,
    predict: "onnx.ModelProto",
    *,
    pixels: npt.NDArray[np.uint8],
    made_from: Mapping[str, str],
    parity: Mapping[str, Any],
    file_suffix: str = "",
    signed: "onnx.ModelProto | None" = None,
) -> None:
    """Add a predict graph and whatever of it explains, as the bundle's float graphs do; and what ``verify`` holds them to later:
    how far its answers to the golden pictures, and each of its nodes, are from float32.

    Args:
        stage: from `deploykit.bundle.extend_bundle`.
        bundle: the same bundle, as it was opened, `at_network_size`.
        predict: the graph at its precision, with the tensor names of the float graph.
        pixels: pictures to prove the explain graphs with, uint8 [n, H, W, 3]; two different ones at least.
        made_from: what the predict graph was made from, by file name, with digests.
        parity: how the predict graph was compared.
        file_suffix: ``_cpu`` for the CPU twin: ``int8/predict_cpu.onnx`` and so on.
        signed: of the CPU twin, the graph in TensorRT's shape that it must be like.

    Raises:
        ParityError: the logits are not the predict graph's to the bit, or the gradients are wrong.
        GraphError: an operator behind the layer has no gradient rule.
    """
    source = f"{precision}/predict{file_suffix}.onnx"
    heard = hear_golden(bundle, precision, predict, signed)
    nodes = to_text(measure_nodes(bundle, read_float_graph(bundle), predict, precision))
    add_graph(stage, source, predict, made_from=made_from, packages=_PACKAGES, parity={**parity, **heard})
    origin = {**made_from, source: stage.manifest.files[source].sha256}
    stage.add(nodes_name(source), nodes.encode(), made_from=origin)
    made = make_precision_graphs(bundle, precision, predict, pixels, is_twin=bool(file_suffix))
    for name, graph in made.graphs.items():
        stem = name.removesuffix(".onnx")
        proved = made.parity if stem == "explain" else None
        add_graph(stage, f"{precision}/{stem}{file_suffix}.onnx", graph, made_from=origin, packages=_PACKAGES, parity=proved)


def make_precision_graphs(
    bundle: Bundle, precision: Precision, predict: "onnx.ModelProto", pixels: npt.NDArray[np.uint8], *, is_twin: bool = False
) -> PrecisionGraphs:
    """Make and prove what explains a predict graph. Empty for a bundle that explains nothing.

    A twin gets no input gradients: its rectifiers are clips of integers, which guided backpropagation does not see. Runtimes take
    the plain graph's.

    Raises:
        ParityError, GraphError: as `add_precision`.
    """
    has = {name for name in EXPLAIN_GRAPHS if f"{Precision.FP32}/{name}" in bundle.manifest.files}
    if "explain.onnx" not in has:
        return PrecisionGraphs({}, {})
    layers = [layer.tensor for layer in bundle.manifest.layers]
    graphs = {"explain.onnx": make_explain_graph(predict, layers)}
    if "explain_tail.onnx" in has:
        # The float graph has one, but a precision may add a reader of an earlier tensor, such as a scale: then there is none.
        with contextlib.suppress(GraphError):
            graphs["explain_tail.onnx"] = make_tail_graph(predict, layers[0])
    if "input_gradients.onnx" in has and not is_twin:
        graphs["input_gradients.onnx"] = make_input_gradients_graph(predict)
    for name in ("explain.onnx", "input_gradients.onnx"):
        if name in graphs:
            read_apart(graphs[name], predict)
    return PrecisionGraphs(graphs, _prove(bundle, precision, {"predict.onnx": predict, **graphs}, pixels))


def _prove(
    bundle: Bundle, precision: Precision, graphs: Mapping[str, "onnx.ModelProto"], pixels: npt.NDArray[np.uint8]
) -> dict[str, Any]:
    feed = image_feed(bundle.manifest.image, bundle.manifest.input, pixels)
    # ONNX Runtime's CPU drops FP16's rounding between nodes; verify puts it in, so the record of the maps has it too.
    rounded = {_ROUNDED: make_rounding_graph(graphs["explain.onnx"], lay_open=False)} if precision == Precision.FP16 else {}
    with open_graphs({**graphs, **rounded}) as sessions:
        logits = sessions["predict.onnx"].run({"image": feed})["logits"]
        explain = sessions["explain.onnx"]
        answer = explain.run({"image": feed, "class_index": np.full(len(feed), -1, np.int64)})
        for name in ("explain.onnx", "input_gradients.onnx"):
            if name in sessions:
                _require_same_logits(name, sessions[name], feed, logits)
        guard = check_gradients(explain.run, feed)
        if tail := sessions.get("explain_tail.onnx"):
            _require_same_tail(tail, answer, precision)
        from_float = _compare_with_float_tail(bundle, precision, answer)
        maps = _compare_with_golden(bundle, precision, sessions.get(_ROUNDED, explain))
    return _record(guard, from_float, maps, precision)


def _require_same_logits(name: str, session: OrtSession, feed: npt.NDArray[Any], logits: npt.NDArray[Any]) -> None:
    seen = session.run({"image": feed, "class_index": np.full(len(feed), -1, np.int64)}, ["logits"])["logits"]
    if not np.array_equal(seen, logits):
        raise ParityError(
            f"the logits of {name} are {float(np.abs(seen - logits).max()):.1e} from the predict graph's, and must be the same",
            hint="an operator runs otherwise where its input has a second reader: report the model",
        )


def _require_same_tail(tail: OrtSession, answer: Arrays, precision: Precision) -> None:
    """The tail must say of the activations what the explain graph says of the picture."""
    again = tail.run({"activations": answer["activations"], "class_index": answer["explained_class"]})
    worst, allowed = relative_difference(again["logits"], answer["logits"]), TAIL_TOLERANCE[precision]
    if not worst <= allowed:
        raise ParityError(f"the tail graph's logits differ from the explain graph's by {worst:.1e}, {allowed:.0e} is allowed")
    if answer["logits"].ndim > 2:
        # Of a segmentation net those pixels count where the class is largest: one that ties may change sides, and its gradient with
        # it, between two sessions whose logits differ by rounding.
        return
    for name, least in TAIL_SIMILARITY.items():
        similarity = _cosine(again[name], answer[name])
        if not similarity >= least:
            raise ParityError(
                f"the tail graph's {name} have a cosine of {similarity:.4f} with the explain graph's, at least {least} is expected"
            )


def _compare_with_float_tail(bundle: Bundle, precision: Precision, answer: Arrays) -> float | None:
    """How like the gradients are to the float tail's for the same activations and classes: the straight-through estimator, checked
    where the layer has a tail; None elsewhere."""
    name = f"{Precision.FP32}/explain_tail.onnx"
    if name not in bundle.manifest.files:
        return None
    with OrtSession(bundle.file(name)) as tail:
        feeds = {"activations": answer["activations"], "class_index": answer["explained_class"]}
        expected = tail.run(feeds, ["gradients"])["gradients"]
    similarity = _cosine(answer["gradients"], expected)
    if not similarity >= LEAST_SIMILARITY[precision]:
        raise ParityError(
            f"the gradients of the {precision} explain graph have a cosine of {similarity:.3f} with the float tail's for the same "
            f"activations; at least {LEAST_SIMILARITY[precision]} is expected"
        )
    return similarity


def _compare_with_golden(bundle: Bundle, precision: Precision, explain: OrtSession) -> MapRecord:
    """How far the maps of the golden classes are from the golden maps."""
    golden = bundle.golden()
    if golden.cam is None or golden.explained_class is None:
        raise ParityError(f"{bundle.path} explains, and its golden vectors hold no map", hint="export the model again with --force")
    feed = image_feed(bundle.manifest.image, bundle.manifest.input, golden.pixels)
    seen = explain.run({"image": feed, "class_index": golden.explained_class}, ["cam"])["cam"]
    found = compare_maps(golden.cam, seen, precision)
    if not found.is_equal:
        raise ParityError(f"the {precision} maps differ from the golden ones by {found}")
    return found


def _record(guard: GradientCheck, from_float: float | None, maps: MapRecord, precision: Precision) -> dict[str, Any]:
    return {
        "reference": f"{precision}/predict.onnx (logits, to the bit); the float tail (gradients); the golden vectors (maps)",
        "gradient_cosine": from_float,
        "least_cosine": LEAST_SIMILARITY[precision],
        **maps.to_json(),
        "guard": guard.to_json(),
    }


def _cosine(seen: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    a, b = seen.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), np.finfo(np.float64).tiny))
