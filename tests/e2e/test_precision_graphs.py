"""What every further precision gets beside its predict graph: FP16, INT8 in TensorRT's shape, and INT8's CPU twin."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from deploykit.bundle import Bundle, extend_bundle
from deploykit.cli import precision_graphs
from deploykit.cli.precision_graphs import add_precision, make_precision_graphs
from deploykit.errors import ParityError
from deploykit.graph.files import read_graph
from deploykit.graph.half import convert_to_half
from deploykit.quantization.twin import make_cpu_twin
from deploykit.runtime.classifier import open_predict
from deploykit.runtime.opening import TWIN_SUFFIX, graph_name
from deploykit.spec import Precision
from tests.conftest import Deploykit
from tests.oracles.gradient_oracle import run
from tests.unit.quantized_graphs import quantized


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A ResNet-18 that explains at two layers and at the input."""
    from deploykit.cli.main import run as deploykit

    path = tmp_path_factory.mktemp("several") / "net"
    layers = ["--layer", "layer4", "--layer", "layer2"]
    assert deploykit(["export", "resnet18", "--num-classes", "6", *layers, "--input-gradients", "-o", str(path)]) == 0
    return Bundle.open(path)


@pytest.fixture(scope="module")
def predicts(several: Bundle) -> dict[str, onnx.ModelProto]:
    """Folder and suffix -> predict graph."""
    graph = read_graph(several.file("fp32/predict.onnx"))
    signed = quantized(graph)
    return {"fp16": convert_to_half(graph, {}).graph, "int8": signed.graph, "int8_cpu": make_cpu_twin(signed)}


@pytest.fixture(scope="module")
def full(several: Bundle, predicts: dict[str, onnx.ModelProto], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle with every precision and the twin."""
    path = Path(shutil.copytree(several.path, tmp_path_factory.mktemp("full") / "net"))
    record = {"reference": "the golden vectors", "relative_difference": 0.1}
    origin = {"fp32/predict.onnx": several.manifest.files["fp32/predict.onnx"].sha256}
    with extend_bundle(path) as stage:
        for key, predict in predicts.items():
            name, _, suffix = key.partition("_")
            add_precision(
                stage,
                several,
                Precision(name),
                predict,
                pixels=several.golden().image,
                made_from=origin,
                parity=record,
                file_suffix=f"_{suffix}" if suffix else "",
            )
    return Bundle.open(path)


def test_logits_of_every_added_graph_are_those_of_its_predict_graph_to_the_bit(full: Bundle) -> None:
    image = full.golden().image
    for stem in ("fp16/{}", "int8/{}", "int8/{}_cpu"):
        expected = run(onnx.load(full.file(f"{stem.format('predict')}.onnx")), image=image)["logits"]
        for name in ("explain", "input_gradients"):
            if f"{stem.format(name)}.onnx" == "int8/input_gradients_cpu.onnx":
                continue  # a twin has none
            answer = run(onnx.load(full.file(f"{stem.format(name)}.onnx")), image=image, class_index=[-1] * len(image))
            np.testing.assert_array_equal(answer["logits"], expected, err_msg=f"{stem} {name}")


def test_every_file_says_what_it_was_made_from_and_nothing_is_stale(full: Bundle) -> None:
    files = full.manifest.files
    for stem in ("fp16/{}", "int8/{}", "int8/{}_cpu"):
        predict, explain = (f"{stem.format(name)}.onnx" for name in ("predict", "explain"))
        assert files[explain].made_from[predict] == files[predict].sha256
        parity = files[explain].parity
        assert parity is not None
        assert parity["map_difference"] <= parity["map_tolerance"]
    assert full.damage() == {}


def test_a_cpu_takes_the_twin_and_any_other_provider_the_plain_graph(full: Bundle) -> None:
    for graph in ("predict", "explain"):
        assert graph_name(full, "int8", graph) == f"int8/{graph}{TWIN_SUFFIX}.onnx"
        assert graph_name(full, "int8", graph, provider="cuda") == f"int8/{graph}.onnx"
        assert graph_name(full, "fp16", graph) == f"fp16/{graph}.onnx"
    # The twin's rectifiers are clips of integers, which have no guided backpropagation.
    assert graph_name(full, "int8", "input_gradients") == "int8/input_gradients.onnx"
    image = full.golden().image
    with open_predict(full, "int8") as session:
        seen = session.run({"image": image}, ["logits"])["logits"]
    np.testing.assert_array_equal(seen, run(onnx.load(full.file("int8/predict_cpu.onnx")), image=image)["logits"])


def test_predict_explain_verify_and_inspect_speak_of_the_twin(
    full: Bundle, deploykit_here: Deploykit, coffee: Path, tmp_path: Path
) -> None:
    done = deploykit_here("predict", full.path, coffee, "--precision", "int8", "--json")
    assert json.loads(done.stdout)["graph"] == "int8/predict_cpu.onnx"
    assert "int8/predict_cpu.onnx answers" in done.stderr
    done = deploykit_here("explain", full.path, coffee, "--precision", "int8", "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "int8/explain_cpu.onnx answers" in done.stderr
    names = {check["name"] for check in json.loads(deploykit_here("verify", full.path, "--json").stdout)}
    assert {"int8/predict", "int8/predict_cpu", "int8/explain", "int8/explain_cpu", "fp16/explain"} <= names
    assert "of fp32, with a twin for CPUs" in deploykit_here("inspect", full.path).stdout


def test_a_graph_whose_logits_change_where_it_explains_is_refused(
    several: Bundle, predicts: dict[str, onnx.ModelProto], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Read like any other tensor, an FP16 one is rounded for the network behind it too.
    monkeypatch.setattr(precision_graphs, "read_apart", lambda *_: None)
    with pytest.raises(ParityError, match=r"logits of explain.onnx are \S+ from the predict graph's, and must be the same"):
        make_precision_graphs(several, Precision.FP16, predicts["fp16"], several.golden().image)
