"""``deploykit verify`` holds INT8 and FP16 to what was measured when they were written: damage that used to pass fails."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploykit.bundle import Bundle, extend_bundle
from deploykit.cli.checks import Check
from deploykit.cli.main import run
from deploykit.cli.node_noise import measure_nodes
from deploykit.cli.precision_graphs import add_precision
from deploykit.cli.verify_hops import Chain, check_graph, check_graph_hops
from deploykit.cli.verify_plans import check_plan_hops
from deploykit.graph import exposure
from deploykit.graph.half import convert_to_half
from deploykit.plan import Gpu
from deploykit.quantization.twin import make_cpu_twin
from deploykit.runtime.ort import OrtSession
from deploykit.spec import Precision
from tests.unit.quantized_graphs import quantized

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorrt_rtx")
Edit = Callable[[onnx.ModelProto], None]
SIGNED, TWIN, HALF = "int8/predict.onnx", "int8/predict_cpu.onnx", "fp16/predict.onnx"


def make(path: Path, name: str, *more: str) -> Path:
    """A bundle with FP16, INT8 and its twin, as ``convert`` and ``quantize`` write them."""
    assert run(["export", name, "--num-classes", "6", "-o", str(path), *more]) == 0
    bundle = Bundle.open(path)
    graph = onnx.load(bundle.file("fp32/predict.onnx"))
    signed = quantized(graph)
    origin = {"fp32/predict.onnx": bundle.manifest.files["fp32/predict.onnx"].sha256}
    shared: dict[str, Any] = {"pixels": bundle.golden().pixels, "made_from": origin, "parity": {}}
    with extend_bundle(path) as stage:
        add_precision(stage, bundle, Precision.FP16, convert_to_half(graph, {}).graph, **shared)
        add_precision(stage, bundle, Precision.INT8, signed.graph, **shared)
        twin = make_cpu_twin(signed)
        add_precision(stage, bundle, Precision.INT8, twin, file_suffix="_cpu", signed=signed.graph, **shared)
    return path


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("recorded") / "resnet18", "resnet18", "--image-size", "64")


@pytest.fixture
def bundle(resnet: Path, tmp_path: Path) -> Path:
    """Hard links: writers take a name away before they write it."""
    return Path(shutil.copytree(resnet, tmp_path / "bundle", copy_function=os.link))


def checks_of(bundle: Path) -> dict[str, Check]:
    return {check.name: check for check in check_graph_hops(Bundle.open(bundle), "cpu")}


def check_of(bundle: Path, name: str) -> Check:
    return check_graph(Chain(Bundle.open(bundle), "cpu"), name, Precision(name.partition("/")[0]))


def failed(bundle: Path) -> dict[str, str]:
    return {name: check.found for name, check in checks_of(bundle).items() if not check.passed}


def change(bundle: Path, name: str, edit: Edit) -> None:
    """Edit a graph and put its digest right, so that its answers alone are wrong; what was recorded of it stays."""
    graph = onnx.load(bundle / name)
    edit(graph)
    with extend_bundle(bundle) as stage:
        before = stage.manifest.files[name]
        stage.add(name, graph.SerializeToString(), made_from=before.made_from, parity=before.parity)


def initializer(graph: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in graph.graph.initializer if tensor.name == name)


def scale_by_1_3(layer: str) -> Edit:
    def edit(graph: onnx.ModelProto) -> None:
        scale = initializer(graph, f"{layer}.weight_scale")
        scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.3), scale.name))

    return edit


def shuffle(layer: str) -> Edit:
    def edit(graph: onnx.ModelProto) -> None:
        weight = initializer(graph, f"{layer}.weight_int8")
        values = np.random.default_rng(0).permutation(numpy_helper.to_array(weight).ravel())
        weight.CopyFrom(numpy_helper.from_array(values.reshape(list(weight.dims)), weight.name))

    return edit


def shift_zero_point(layer: str) -> Edit:
    """What a layer reads is taken one step higher than it was rounded."""

    def edit(graph: onnx.ModelProto) -> None:
        makers = {output: node for node in graph.graph.node for output in node.output}
        reader = next(n for n in graph.graph.node if n.op_type == "Conv" and n.input[1] == f"{layer}.weight_dequantized")
        pair = makers[reader.input[0]]
        zero = numpy_helper.to_array(initializer(graph, pair.input[2]))
        graph.graph.initializer.append(numpy_helper.from_array(np.asarray(zero + 1, zero.dtype), "shifted"))
        pair.input[2] = "shifted"

    return edit


DAMAGE = {"scale": scale_by_1_3, "shuffle": shuffle, "shift": shift_zero_point}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("layer", ["layer1.0.conv2", "layer3.1.conv1", "layer4.1.conv2"])
@pytest.mark.parametrize("name", [SIGNED, TWIN])
def test_damage_that_half_of_the_largest_logit_lets_through_fails_and_its_node_is_named(
    kind: str, layer: str, name: str, bundle: Path
) -> None:
    change(bundle, name, DAMAGE[kind](layer))
    check = check_of(bundle, name.removesuffix(".onnx"))
    assert check.parity is not None
    assert kind == "shuffle" or check.parity["relative_difference"] < 0.5
    assert not check.passed
    if kind == "shift":
        pair = name_of_pair(bundle / name, layer)
        assert f"They part at node {pair} (DequantizeLinear): " in check.found
    else:
        assert f"They part at node {layer}/Conv (Conv), weight {layer}.weight: noise of " in check.found


def name_of_pair(path: Path, layer: str) -> str:
    graph = onnx.load(path)
    makers = {output: node for node in graph.graph.node for output in node.output}
    reader = next(n for n in graph.graph.node if n.op_type == "Conv" and n.input[1] == f"{layer}.weight_dequantized")
    return makers[reader.input[0]].name


def test_damage_of_fp16_fails_that_the_old_tolerance_lets_through(bundle: Path) -> None:
    def edit(graph: onnx.ModelProto) -> None:
        weight = next(t for t in graph.graph.initializer if t.name.startswith("layer4.1.conv2.weight"))
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float16(1.02), weight.name))

    change(bundle, HALF, edit)
    check = check_of(bundle, "fp16/predict")
    assert check.parity is not None
    assert check.parity["relative_difference"] < 2e-2
    assert not check.passed
    assert "layer4.1.conv2" in check.found


@pytest.mark.parametrize(("kind", "says"), [("scale", "other scales"), ("shuffle", "other integers"), ("shift", "zero point")])
def test_a_twin_that_holds_other_numbers_than_its_graph_fails(kind: str, says: str, bundle: Path) -> None:
    change(bundle, TWIN, DAMAGE[kind]("layer3.1.conv1"))
    found = failed(bundle)
    assert {"int8/predict_cpu", "int8/twin"} <= set(found)
    assert says in found["int8/twin"]


def test_a_signed_graph_with_a_zero_point_fails_whatever_it_answers(bundle: Path) -> None:
    def edit(graph: onnx.ModelProto) -> None:  # of all pairs, so that it says nearly the same
        zero = initializer(graph, "zero_int8")
        zero.CopyFrom(numpy_helper.from_array(np.asarray(1, np.int8), zero.name))

    change(bundle, SIGNED, edit)
    assert "has zero point 1, and TensorRT takes 0 alone" in failed(bundle)["int8/twin"]


def test_an_explain_graph_is_held_to_the_record_of_its_predict_graph(bundle: Path) -> None:
    change(bundle, "int8/explain.onnx", scale_by_1_3("layer3.1.conv1"))
    found = failed(bundle)
    assert list(found) == ["int8/explain"]
    assert "weight layer3.1.conv1.weight" in found["int8/explain"]


@pytest.mark.parametrize("name", ["int8/predict", "int8/explain"])
def test_sums_in_another_order_pass(name: str, bundle: Path) -> None:
    # Constants that move by a millionth send values that lie between two integers to the other one, as another order does.
    random = np.random.default_rng(0)

    def edit(graph: onnx.ModelProto) -> None:
        for tensor in graph.graph.initializer:
            if ("bias" in tensor.name or "_scale" in tensor.name) and tensor.data_type == onnx.TensorProto.FLOAT:
                values = numpy_helper.to_array(tensor)
                moved = values * (1 + random.uniform(-1e-6, 1e-6, values.shape))
                tensor.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), tensor.name))

    before = check_of(bundle, name)
    change(bundle, f"{name}.onnx", edit)
    after = check_of(bundle, name)
    assert before.parity is not None
    assert after.parity is not None
    assert before.parity["noise"] != pytest.approx(after.parity["noise"], rel=1e-3)  # they did move
    assert after.passed, after.found


@pytest.mark.parametrize("name", ["efficientnet_b0", "inception_v1"])
def test_healthy_nets_pass_and_show_what_was_seen_recorded_and_allowed(name: str, tmp_path: Path) -> None:
    bundle = make(tmp_path / name, name, "--image-size", "64")
    checks = checks_of(bundle)
    assert all(check.passed for check in checks.values()), {n: c.found for n, c in checks.items() if not c.passed}
    for key in ("int8/predict", "int8/predict_cpu", "int8/explain", "int8/explain_cpu", "fp16/predict", "fp16/explain"):
        check = checks[key]
        parity = check.parity
        assert parity is not None
        assert parity["batch_sizes"] == [1, 2, 5, 8]
        recorded = parity["recorded"]
        assert parity["relative_difference"] == pytest.approx(recorded["relative_difference"], rel=0.05)  # the same runtime
        assert recorded["noise"] < parity["noise_tolerance"] < 2 * recorded["noise"] + 0.01
        assert "recorded, " in check.found
        assert f"each of {parity['nodes']} nodes and weights as recorded" in check.found
        assert parity["nodes"] > 50


def without_record(bundle: Path) -> None:
    """As a bundle was that was written before what was measured was recorded."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    for name in [name for name in manifest["files"] if "/nodes" in name]:
        del manifest["files"][name]
        (bundle / name).unlink()
    for record in manifest["files"].values():
        for key in ("golden", "twin"):
            (record["parity"] or {}).pop(key, None)
    (bundle / "manifest.json").unlink()
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_a_bundle_without_the_record_passes_by_the_old_tolerance_and_says_so(bundle: Path) -> None:
    without_record(bundle)
    checks = checks_of(bundle)
    assert all(check.passed for check in checks.values())
    for name in ("fp16/predict", "int8/predict", "int8/predict_cpu", "int8/twin", "int8/explain"):
        assert "written before what was measured was recorded" in checks[name].found
        parity = checks[name].parity
        assert parity is not None
        assert (parity["recorded"], parity["tolerance"]) == (None, 2e-2 if name.startswith("fp16") else 0.5)
    assert "recorded" not in checks["fp32/predict"].found


def test_a_damaged_record_fails_with_what_to_do(bundle: Path) -> None:
    with extend_bundle(bundle) as stage:
        stage.add("int8/nodes.json", b'{"nodes": 3}')
    check = checks_of(bundle)["int8/predict"]
    assert not check.passed
    assert "is no record of nodes" in check.found
    assert check.hint == "make the precision again with --force"


def test_without_onnx_the_logits_alone_are_held_to_the_record(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploykit.cli.verify_hops.find_spec", lambda name: None)
    check = check_of(bundle, "int8/predict")
    assert check.passed
    assert "nodes and weights" not in check.found
    change(bundle, SIGNED, shuffle("layer3.1.conv1"))
    assert not check_of(bundle, "int8/predict").passed


def test_of_a_net_too_large_the_largest_tensors_are_left_out_and_the_weights_are_not(
    resnet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(resnet)
    floats, graph = (onnx.load(bundle.file(name)) for name in ("fp32/predict.onnx", SIGNED))
    everything = measure_nodes(bundle, floats, graph, Precision.INT8)
    monkeypatch.setattr(exposure, "PART_BYTES", 60_000)
    some = measure_nodes(bundle, floats, graph, Precision.INT8)
    assert 0 < len(some) < len(everything)
    assert [node.noise for node in some.values()] == pytest.approx([everything[name].noise for name in some], rel=1e-2)
    assert [n for n in everything if everything[n].is_weight] == [n for n in some if some[n].is_weight]
    left_out = min(everything[name].values for name in everything if name not in some)
    assert left_out >= max(node.values for node in some.values() if not node.is_weight)


class Plan:
    """What stands for an INT8 plan on a GPU: the graph it was built from, with noise in its logits."""

    noise = 0.0

    def __init__(self, path: Path, **_: object) -> None:
        self.session = OrtSession(path.parents[2] / "int8" / f"{path.stem}.onnx")
        self.backend, self.inputs, self.outputs = "tensorrt-rtx 1.7 (NVIDIA A10)", self.session.inputs, self.session.outputs

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        answers = self.session.run(feeds, outputs)
        spread = np.abs(answers["logits"]).max() * self.noise
        return answers | {"logits": answers["logits"] + spread * np.sign(answers["logits"])}

    def __enter__(self) -> "Plan":
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()


def test_an_int8_plan_is_held_to_what_another_order_of_its_graph_gives(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--backend", "tensorrt-rtx", "--target", "sm86", "--batch", "1:2:6", "--no-cache", "--precision", "int8"]
    assert run(["build", str(bundle), *options]) == 0
    monkeypatch.setattr("deploykit.cli.verify_plans.find_gpu", lambda: Gpu("NVIDIA A10", "sm86", "CUDA 13.0"))
    monkeypatch.setattr("deploykit.runtime.opening.TrtSession", Plan)

    def plans() -> list[Check]:
        return check_plan_hops(Bundle.open(bundle))

    assert [check.verdict for check in plans()] == ["ok", "ok"]
    parity = plans()[0].parity
    assert parity is not None
    recorded = parity["recorded"]["noise"]
    assert parity["noise_tolerance"] == pytest.approx(recorded, abs=3e-3)
    assert "the same integers but for sums in another order" in plans()[0].found
    monkeypatch.setattr(Plan, "noise", 2 * recorded)  # a tenth of the largest logit, which was allowed
    assert 2 * recorded < 0.1
    assert [check.verdict for check in plans()] == ["FAILED", "FAILED"]
