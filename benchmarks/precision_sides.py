"""The sides of the comparison of precisions, each in a process of its own: a network in, its graphs and calls out.

Networks have the registry's random weights with measured statistics, EfficientNet-Lite0 its published ones. All are calibrated on
photos of scikit-image and scikit-learn, and judged on crops of other photos of theirs.
"""

import importlib.util
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from benchmarks.worker import SideAbsent
from deploykit.benchmark.timing import Call

BATCHES = (1, 8)
PRETRAINED = frozenset({"efficientnet_lite0"})
CALIBRATION_CROPS = 48
HELD_OUT_VIEWS = 4
METHOD = "mse"

Calls = Mapping[str, Call]
Array = npt.NDArray[Any]


def prepare_precisions(folder: Path, name: str) -> Calls:
    """Write ``NAME-fp32.onnx``, ``-signed.onnx`` (TensorRT's shape) and ``-twin.onnx``; the call ``facts`` gives what was found.

    Raises:
        SideAbsent: the registry has no such network.
    """
    from deploykit.graph.exposure import batch_size_for
    from deploykit.models.export import export_graph
    from deploykit.models.registry import MODELS, load_model
    from deploykit.quantization.calibrate import collect, expose
    from deploykit.quantization.methods import thresholds
    from deploykit.quantization.pictures import find_pictures, read_batches
    from deploykit.quantization.placement import place
    from deploykit.quantization.qdq import quantize_graph
    from deploykit.quantization.twin import added_pairs, make_cpu_twin
    from deploykit.runtime.ort import OrtSession

    if name not in MODELS:
        raise SideAbsent(f"the registry has no {name}")
    loaded = load_model(name, pretrained=name in PRETRAINED)
    graph = export_graph(loaded.model, loaded.image)
    placement = place(graph)
    pictures = find_pictures(_photo_folders(), loaded.image, crops=CALIBRATION_CROPS, held_out_share=0.4)
    size = batch_size_for(graph, placement.calibrated)
    with OrtSession(expose(graph, placement.calibrated).SerializeToString()) as session:
        batches = read_batches(pictures.calibration, loaded.image, size, views=pictures.views)
        histograms = collect(session.run, placement.calibrated, batches)
    quantized = quantize_graph(graph, placement, thresholds(histograms, METHOD))
    graphs = {"fp32": graph, "signed": quantized.graph, "twin": make_cpu_twin(quantized)}
    for kind, made in graphs.items():
        graph_path(folder, name, kind).write_bytes(made.SerializeToString())
    held_out = [b.feeds["image"] for b in read_batches(pictures.held_out, loaded.image, 8, views=HELD_OUT_VIEWS)]
    np.save(folder / f"{name}-pictures.npy", np.concatenate(held_out)[: max(BATCHES)])
    facts = {
        "calibration": {"photos": len(pictures.calibration), "views": pictures.views, "method": METHOD},
        "weights": "published" if name in PRETRAINED else "random, statistics measured",
        "size_bytes": {kind: graph_path(folder, name, kind).stat().st_size for kind in graphs},
        "pairs_added_for_the_cpu": len(added_pairs(quantized)),
        "agreement": _compare(graphs, held_out),
    }
    return {"facts": lambda: facts}


def graph_path(folder: Path, name: str, kind: str) -> Path:
    """Where `prepare_precisions` puts a graph."""
    return folder / f"{name}-{kind}.onnx"


def make_deploykit(folder: Path, name: str, kind: str) -> Calls:
    """deploykit's session on one thread."""
    from deploykit.runtime.ort import OrtSession

    session = OrtSession(graph_path(folder, name, kind), threads=1)
    return {f"batch {n}": partial(session.run, {"image": array}) for n, array in _pictures(folder, name).items()}


def make_openvino(folder: Path, name: str, kind: str) -> Calls:
    """OpenVINO on the same file, the batch fixed, one thread, what is not INT8 in float32.

    Raises:
        SideAbsent: it is not installed.
    """
    if importlib.util.find_spec("openvino") is None:
        raise SideAbsent("openvino is not installed")
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    calls: dict[str, Call] = {}
    for n, array in _pictures(folder, name).items():
        graph = core.read_model(graph_path(folder, name, kind))
        graph.reshape(list(array.shape))
        request = core.compile_model(graph, "CPU", settings).create_infer_request()
        calls[f"batch {n}"] = partial(request.infer, [array], share_inputs=True, share_outputs=True)
    return calls


def _compare(graphs: Mapping[str, onnx.ModelProto], batches: list[Array]) -> dict[str, Any]:
    """Each quantized graph against the float one on held-out crops: top-1 agreement, cosine and signal-to-noise of the logits."""
    from deploykit.runtime.ort import OrtSession

    logits = {}
    for kind, graph in graphs.items():
        with OrtSession(graph.SerializeToString()) as session:
            logits[kind] = np.concatenate([session.run({"image": b}, ["logits"])["logits"] for b in batches]).astype(np.float64)
    expected = logits.pop("fp32").reshape(sum(map(len, batches)), -1)
    found: dict[str, Any] = {"pictures": len(expected)}
    for kind, given in logits.items():
        given = given.reshape(expected.shape)
        cosines = (given * expected).sum(1) / np.linalg.norm(given, axis=1) / np.linalg.norm(expected, axis=1)
        noise = ((given - expected) ** 2).sum()
        found[kind] = {
            "top1": round(float((given.argmax(1) == expected.argmax(1)).mean()), 4),
            "cosine": round(float(cosines.mean()), 5),
            "snr_db": round(float(10 * np.log10((expected**2).sum() / noise)), 2),
        }
    return found


def _photo_folders() -> list[str]:
    """Where scikit-image and scikit-learn keep their photos."""
    import skimage
    import sklearn

    return [str(Path(skimage.__path__[0]) / "data"), str(Path(sklearn.__path__[0]) / "datasets" / "images")]


def _pictures(folder: Path, name: str) -> dict[int, Array]:
    pictures = np.load(folder / f"{name}-pictures.npy")
    repeated = np.concatenate([pictures] * max(BATCHES))
    return {n: np.ascontiguousarray(repeated[:n]) for n in BATCHES}


def describe_facts(facts: Mapping[str, Any]) -> str:
    """What a network's facts say, in lines under its table."""
    sizes, agreement = facts["size_bytes"], facts["agreement"]
    share = sizes["signed"] / sizes["fp32"]
    lines = [
        f"{kind} against FP32 on {agreement['pictures']} held-out crops: {json.dumps(agreement[kind])}"
        for kind in ("signed", "twin")
    ]
    files = f"file {sizes['signed']:,} bytes, {share:.3f} of FP32; the twin {sizes['twin'] / sizes['fp32']:.3f}"
    return "\n".join(f"  {line}" for line in [files, *lines])
