"""A further precision in a bundle: its explain graphs have its own logits, its gradients are right, and a CPU takes the twin."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from deploykit.bundle import Bundle, extend_bundle
from deploykit.cli import precision_graphs
from deploykit.cli.precision_graphs import add_precision, make_precision_graphs
from deploykit.cli.verify import check_bundle
from deploykit.errors import ParityError
from deploykit.graph.tail import make_tail_graph
from deploykit.quantization.calibrate import Batch, collect, expose
from deploykit.quantization.methods import thresholds
from deploykit.quantization.placement import place
from deploykit.quantization.qdq import QuantizedGraph, quantize_graph
from deploykit.quantization.twin import make_cpu_twin
from deploykit.runtime import Explainer
from deploykit.runtime.classifier import Classifier
from deploykit.runtime.opening import graph_name
from deploykit.runtime.ort import OrtSession
from deploykit.spec import Precision

INT8 = Precision.INT8


@pytest.fixture(scope="module")
def quantized(small: Bundle) -> QuantizedGraph:
    """ResNet-18 in INT8, calibrated on its own golden pictures: enough to answer, not to be judged."""
    graph = onnx.load(small.file("fp32/predict.onnx"))
    placement = place(graph)
    pixels = small.golden().image
    with OrtSession(expose(graph, placement.calibrated).SerializeToString()) as session:
        batch = Batch(tuple(map(str, range(len(pixels)))), {"image": pixels})
        histograms = collect(session.run, placement.calibrated, [batch])
    return quantize_graph(graph, placement, thresholds(histograms, "mse"))


@pytest.fixture(scope="module")
def bundle(small: Bundle, quantized: QuantizedGraph, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("int8") / "resnet18"
    shutil.copytree(small.path, path)
    made_from = {"fp32/predict.onnx": small.manifest.files["fp32/predict.onnx"].sha256}
    with extend_bundle(path) as stage:
        for graph, suffix in ((quantized.graph, ""), (make_cpu_twin(quantized), "_cpu")):
            add_precision(
                stage,
                Bundle.open(path),
                INT8,
                graph,
                pixels=small.golden().image,
                made_from=made_from,
                parity={"relative_difference": 0.0},
                file_suffix=suffix,
            )
    return Bundle.open(path)


def test_the_logits_of_both_explain_graphs_are_their_predict_graphs_to_the_bit(bundle: Bundle) -> None:
    pixels = bundle.golden().image
    for suffix in ("", "_cpu"):
        with (
            OrtSession(bundle.file(f"int8/predict{suffix}.onnx")) as predict,
            OrtSession(bundle.file(f"int8/explain{suffix}.onnx")) as explain,
        ):
            logits = predict.run({"image": pixels})["logits"]
            answer = explain.run({"image": pixels, "class_index": np.full(len(pixels), -1)})
        np.testing.assert_array_equal(answer["logits"], logits)
        assert answer["gradients"].dtype == np.float32


def test_verify_asks_every_graph_of_every_precision(bundle: Bundle) -> None:
    checks = {check.name: check for check in check_bundle(bundle, "cpu")}
    assert all(check.passed for check in checks.values()), checks
    assert {"fp32/predict", "int8/predict", "int8/predict_cpu", "int8/explain", "int8/explain_cpu"} <= set(checks)


def test_a_cpu_takes_the_twin_and_any_other_provider_the_graph_itself(bundle: Bundle) -> None:
    assert graph_name(bundle, "int8", "predict") == "int8/predict_cpu.onnx"
    assert graph_name(bundle, "int8", "predict", provider="tensorrt") == "int8/predict.onnx"
    assert graph_name(bundle, "fp32", "predict") == "fp32/predict.onnx"
    with Classifier.open(bundle, precision=INT8) as classifier, Explainer.open(bundle, precision=INT8) as explainer:
        pixels = bundle.golden().image
        explained = explainer.explain(list(pixels))
        answers = classifier.classify_batch(list(pixels))
    assert [e.predictions[0].class_index for e in explained] == [a[0].class_index for a in answers]


def test_files_of_a_precision_are_stale_when_the_float_graph_changes(bundle: Bundle) -> None:
    made_from = bundle.manifest.files["int8/explain.onnx"].made_from
    assert set(made_from) == {"fp32/predict.onnx", "int8/predict.onnx"}
    assert bundle.manifest.stale_files() == []


def test_a_wrong_gradient_is_refused_and_nothing_is_written(bundle: Bundle, quantized: QuantizedGraph, tmp_path: Path) -> None:
    wrong = onnx.ModelProto()
    wrong.CopyFrom(quantized.graph)
    # Another head: the straight-through gradient is no longer that of the float tail.
    weight = next(t for t in wrong.graph.initializer if t.name.startswith("fc.weight") and t.data_type == onnx.TensorProto.INT8)
    values = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(-values[::-1]), weight.name))
    with pytest.raises(ParityError, match=r"have a cosine of -?0\.\d+ with the float tail's"):
        make_precision_graphs(bundle, INT8, wrong, bundle.golden().image)


@pytest.mark.parametrize(("tensor", "says"), [("fc.weight", "logits differ"), ("class_index", "gradients have a cosine")])
def test_a_tail_that_says_otherwise_than_the_explain_graph_is_refused(
    tensor: str, says: str, bundle: Bundle, quantized: QuantizedGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    def another(graph: onnx.ModelProto, layer: str) -> onnx.ModelProto:
        tail = make_tail_graph(graph, layer)
        if tensor == "class_index":  # it explains the class behind the one that was asked for
            one = onnx.numpy_helper.from_array(np.array(1, np.int64), "one")
            tail.graph.initializer.append(one)
            for node in tail.graph.node:
                node.input[:] = ["next_class" if name == "class_index" else name for name in node.input]
            tail.graph.node.insert(0, onnx.helper.make_node("BitwiseXor", ["class_index", "one"], ["next_class"]))
            return tail
        weight = next(t for t in tail.graph.initializer if t.name.startswith(tensor) and t.data_type == onnx.TensorProto.INT8)
        weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight)[::-1].copy(), weight.name))
        return tail

    monkeypatch.setattr(precision_graphs, "make_tail_graph", another)
    with pytest.raises(ParityError, match=f"the tail graph's {says}"):
        make_precision_graphs(bundle, INT8, quantized.graph, bundle.golden().image)
