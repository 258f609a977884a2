"""The door to TensorRT: what flavours can do, real builds without a GPU, errors with the builder's reasons, names that exist."""

import ast
import logging
import os
import re
import signal
import sys
import threading
import types
import zipfile
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import deploykit.trt
from deploykit.errors import EngineError, MissingExtraError, UsageError
from deploykit.plan import BatchRange, PlanHeader, read_header
from deploykit.trt import BuildOptions, Flavour, build_plan, find_gpu, load_flavour
from deploykit.trt import flavour as flavours
from deploykit.trt.engine import DTYPES
from deploykit.trt.inspect import count_precisions, read_layers
from deploykit.trt.log import _LEVELS, plain
from deploykit.trt.monitor import cancel_on_interrupt
from deploykit.trt.network import _MULTIPLYING, _PASSING, PRECISIONS
from tests.trained import WHEELS

BATCH = BatchRange(1, 2, 4)
SM86 = BuildOptions(BATCH, target="sm86")

without_gpu = pytest.mark.skipif(find_gpu() is not None, reason="asks what happens where there is no GPU")


@pytest.fixture(scope="module")
def rtx() -> Flavour:
    return load_flavour("tensorrt-rtx")


def graph_of(*lines: str, image: tuple[str | int, ...] = ("N", 3, 8, 8), **more: npt.NDArray[Any]) -> onnx.ModelProto:
    """A graph of lines such as ``y = Relu (image)``, with a convolution's weights ``w`` [4, 3, 3, 3]."""
    nodes = [onnx.parser.parse_node(line) for line in lines]
    for node in nodes:
        node.name = f"node_{node.output[0]}"
    weights = {"w": np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32), **more}
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    return model


CONV = graph_of("c = Conv <pads=[1,1,1,1]> (image, w)", "y = Relu (c)").SerializeToString()


def test_a_plan_is_built_for_a_gpu_that_is_not_here(rtx: Flavour) -> None:
    built = build_plan(rtx, CONV, SM86)
    assert read_header(built.data) == PlanHeader("tensorrt-rtx", rtx.version, len(built.data))
    assert built.network.multiplying == {"fp32": 1}
    assert built.network.layers == {"fp32": 2}


def test_a_graph_is_built_from_its_file_too(rtx: Flavour, tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    path.write_bytes(CONV)
    assert build_plan(rtx, path, SM86).network.multiplying == {"fp32": 1}
    with pytest.raises(EngineError, match=r"gone\.onnx does not exist"):
        build_plan(rtx, tmp_path / "gone.onnx", SM86)


def test_progress_rises_to_near_the_end_and_never_falls(rtx: Flavour) -> None:
    shares: list[float] = []
    build_plan(rtx, CONV, SM86, progress=shares.append)
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.2
    assert 0.6 < shares[-1] <= 1


def test_a_convolution_between_dequantized_factors_counts_as_int8(rtx: Flavour) -> None:
    scale, zero = np.float32(0.1), np.int8(0)
    weights = np.ones((4, 3, 3, 3), np.int8)
    graph = graph_of(
        "q = QuantizeLinear (image, s, z)",
        "d = DequantizeLinear (q, s, z)",
        "f = DequantizeLinear (wq, s, z)",
        "c = Conv (d, f)",
        "y = Conv (c, v)",
        wq=weights,
        s=np.array(scale),
        z=np.array(zero),
        v=np.ones((2, 4, 1, 1), np.float32),
    )
    built = build_plan(rtx, graph.SerializeToString(), SM86)
    assert built.network.multiplying == {"fp32": 1, "int8": 1}


def test_a_convolution_whose_weights_alone_are_quantized_does_not_count_as_int8(rtx: Flavour) -> None:
    graph = graph_of(
        "f = DequantizeLinear (wq, s, z)",
        "y = Conv (image, f)",
        wq=np.ones((4, 3, 3, 3), np.int8),
        s=np.array(np.float32(0.1)),
        z=np.array(np.int8(0)),
    )
    assert build_plan(rtx, graph.SerializeToString(), SM86).network.multiplying == {"fp32": 1}


def test_what_the_parser_refuses_is_named_by_node_operator_and_module(rtx: Flavour) -> None:
    graph = graph_of("y = Det (image)").SerializeToString()
    with pytest.raises(EngineError, match=r"node node_y \(Det\) of module features\.3: unsupported node"):
        build_plan(rtx, graph, SM86, modules={"node_y": "features.3"})


def test_bytes_that_are_no_graph_are_refused_by_the_parser(rtx: Flavour) -> None:
    with pytest.raises(EngineError, match=r"does not take a graph of 7 bytes: model deserialize failed"):
        build_plan(rtx, b"garbage", SM86)


def test_an_input_with_dynamic_height_is_refused_by_name(rtx: Flavour) -> None:
    graph = graph_of("y = Relu (image)", image=("N", 3, "H", 8)).SerializeToString()
    with pytest.raises(EngineError, match=r"input image is \[\?, 3, \?, 8\], dynamic in dimension 2; only its first"):
        build_plan(rtx, graph, SM86)


@pytest.mark.parametrize(
    ("image", "operator", "domain", "message"),
    [
        (("n", 3, 32, 32), "Conv", "", None),
        ((1, 3, "h", "w"), "Conv", "", r"input image is \[1, 3, \?, \?\], dynamic in dimensions 2 and 3; only its first"),
        ((1, 3, 32, 32), "NoSuchOp", "my.ops", r"node first \(NoSuchOp\): "),
    ],
    ids=["dyn_batch", "dyn_hw", "unknown_op"],
)
def test_the_graphs_of_case_o16_build_with_a_profile_or_name_what_is_wrong(
    rtx: Flavour, image: tuple[str | int, ...], operator: str, domain: str, message: str | None
) -> None:
    """Case O16: a dynamic input without a profile, or a builder that returns nothing."""
    model = graph_of("y = Conv (image, w)", image=image)
    (node,) = model.graph.node
    node.op_type, node.domain, node.name = operator, domain, "first"
    model.opset_import.extend([helper.make_opsetid(domain, 1)] if domain else [])
    if message is None:
        assert build_plan(rtx, model.SerializeToString(), SM86).data
        return
    options = SM86 if image[0] == "n" else BuildOptions(BatchRange(1, 1, 1), target="sm86")
    with pytest.raises(EngineError, match=message) as caught:
        build_plan(rtx, model.SerializeToString(), options)
    assert caught.value.hint


def test_a_fixed_batch_is_built_as_it_is_and_as_no_other(rtx: Flavour) -> None:
    graph = graph_of("y = Relu (image)", image=(2, 3, 8, 8)).SerializeToString()
    assert build_plan(rtx, graph, BuildOptions(BatchRange(2, 2, 2), target="sm86")).data
    with pytest.raises(EngineError, match=r"takes a batch of 2 and no other; 1:2:4 was asked for"):
        build_plan(rtx, graph, SM86)


def test_a_builder_that_returns_nothing_becomes_an_error_with_its_own_reason_and_the_workspace(rtx: Flavour) -> None:
    with pytest.raises(
        EngineError, match=r"cannot build for sm86, batch 1:2:4: .*workspace limit.*\(workspace: 1 bytes\)"
    ) as caught:
        build_plan(rtx, CONV, BuildOptions(BATCH, target="sm86", workspace_bytes=1))
    assert "--workspace" in str(caught.value.hint)
    assert "/_src/" not in str(caught.value)


def test_an_error_has_no_lines_of_the_build_before_it(rtx: Flavour) -> None:
    with pytest.raises(EngineError, match="workspace limit"):
        build_plan(rtx, CONV, BuildOptions(BATCH, target="sm86", workspace_bytes=1))
    with pytest.raises(EngineError, match="deserialize") as caught:
        build_plan(rtx, b"garbage", SM86)
    assert "workspace" not in str(caught.value)


def test_ctrl_c_stops_a_build_and_the_next_one_works(rtx: Flavour) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        build_plan(rtx, CONV, SM86, progress=lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is before
    assert build_plan(rtx, CONV, SM86).data


def test_ctrl_c_is_seen_from_another_thread_while_the_main_one_stands_still() -> None:
    with cancel_on_interrupt() as cancelled:
        assert not cancelled.is_set()
        seen: list[bool] = []

        def press_and_ask() -> None:
            signal.raise_signal(signal.SIGINT)
            seen.append(cancelled.is_set())

        asking = threading.Thread(target=press_and_ask)
        # A lock's C code holds the main thread: no handler of Python's runs in it until the other thread has asked.
        asking.start()
        asking.join()
        assert seen == [True]
    assert cancelled.is_set()
    assert signal.set_wakeup_fd(-1) == -1


def test_what_the_progress_function_raises_comes_out_after_the_builder_has_stopped(rtx: Flavour) -> None:
    def fail(share: float) -> None:
        raise LookupError(f"{share:.2f}")

    with pytest.raises(LookupError):
        build_plan(rtx, CONV, SM86, progress=fail)


@without_gpu
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BuildOptions(BATCH), "--target current is the GPU of this machine, and there is none"),
        (BuildOptions(BATCH, target="sm90"), r"builds for sm75, sm80, sm86, sm89, sm120.*; --target is sm90"),
        (BuildOptions(BATCH, target="sm86", strip=True), "stripped plans only on a machine with an NVIDIA GPU"),
        (BuildOptions(BATCH, target="sm86", compat="ampere+"), r"has no --compat ampere\+; it has none"),
        (BuildOptions(BATCH, target="sm86", version_compatible=True), "makes no version-compatible plans"),
    ],
)
def test_what_the_flavour_lacks_is_an_error_before_anything_is_built(rtx: Flavour, options: BuildOptions, message: str) -> None:
    with pytest.raises(EngineError, match=message) as caught:
        build_plan(rtx, b"never read", options)
    assert options.target != "current" or "--target sm75|" in str(caught.value.hint)


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_a_timing_cache_is_kept_from_build_to_build_and_a_damaged_one_refused(rtx: Flavour) -> None:
    # TensorRT-RTX still has the calls, though its builder times nothing.
    flavour = replace(rtx, has_timing_cache=True)
    first = build_plan(flavour, CONV, SM86, timing_cache=b"")
    assert first.timing_cache
    assert build_plan(flavour, CONV, SM86, timing_cache=first.timing_cache).timing_cache
    assert build_plan(flavour, CONV, SM86).timing_cache is None


def test_a_library_that_the_builder_misses_is_named_in_its_own_words(rtx: Flavour) -> None:
    flavour = replace(rtx, can_be_version_compatible=True)
    with pytest.raises(EngineError, match=r"cannot build for sm86.*Unable to load library: libnvinfer_lean"):
        build_plan(flavour, CONV, BuildOptions(BATCH, target="sm86", version_compatible=True))


@pytest.mark.parametrize("level", ["same-cc", "ampere+"])
def test_compatibility_levels_reach_the_builder(rtx: Flavour, level: str, caplog: pytest.LogCaptureFixture) -> None:
    flavour = replace(rtx, compat_levels=("none", "same-cc", "ampere+"))
    build_plan(flavour, CONV, BuildOptions(BATCH, target="sm86", compat=level))
    # This flavour's own answer, which is why deploykit refuses the option there.
    assert "setHardwareCompatibilityLevel() is unsupported" in caplog.text


def test_tensorrt_rtx_refuses_a_timing_cache(rtx: Flavour) -> None:
    with pytest.raises(EngineError, match="keeps no timing cache"):
        build_plan(rtx, CONV, SM86, timing_cache=b"")


def test_options_check_themselves() -> None:
    with pytest.raises(EngineError, match="workspace is 0 bytes"):
        BuildOptions(BATCH, workspace_bytes=0)
    with pytest.raises(EngineError, match="optimization level is 6, expected 0 to 5"):
        BuildOptions(BATCH, optimization_level=6)


def test_a_plugin_library_that_is_missing_or_none_is_refused(rtx: Flavour, tmp_path: Path) -> None:
    flavour = replace(rtx, takes_plugins=True)
    with pytest.raises(EngineError, match=r"plugin library .*none\.so does not exist"):
        build_plan(flavour, CONV, BuildOptions(BATCH, target="sm86", plugins=(tmp_path / "none.so",)))
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(EngineError, match=r"plugin library .*text\.so does not load"):
        build_plan(flavour, CONV, BuildOptions(BATCH, target="sm86", plugins=(tmp_path / "text.so",)))


def test_a_plugin_library_is_registered_once(rtx: Flavour, tmp_path: Path) -> None:
    (tmp_path / "plugins.so").touch()
    loaded: list[str] = []

    def load_library(path: str) -> object | None:  # as TensorRT's registry does: nothing for what it has already
        loaded.append(path)
        return object() if loaded.count(path) == 1 else None

    api = types.SimpleNamespace(get_plugin_registry=lambda: types.SimpleNamespace(load_library=load_library))
    flavour = replace(rtx, takes_plugins=True, api=api)
    for _ in range(2):  # predict.plan, explain.plan
        flavours.load_plugins(flavour, (tmp_path / "plugins.so",))
    assert loaded == [str((tmp_path / "plugins.so").resolve())]


def test_tensorrt_rtx_takes_no_plugins_and_prefers_none(rtx: Flavour, tmp_path: Path) -> None:
    # Its parser would end the process over a plugin layer, which its networks do not have.
    assert not hasattr(rtx.api.INetworkDefinition, "add_plugin_v3")
    assert not rtx.has_plugin_override
    with pytest.raises(EngineError, match=r"tensorrt-rtx .* takes no plugins") as error:
        build_plan(rtx, CONV, BuildOptions(BATCH, target="sm86", plugins=(tmp_path / "plugins.so",)))
    assert "their bodies" in str(error.value.hint)


def test_the_log_goes_to_python_logging(rtx: Flavour, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="deploykit.trt"):
        build_plan(rtx, CONV, SM86)
    assert {record.name for record in caplog.records} == {"deploykit.trt"}
    assert any(record.levelno == logging.DEBUG for record in caplog.records)


def test_tensorrts_messages_lose_its_own_file_names() -> None:
    message = "IBuilder::build: Error Code 4: API Usage Error (No profile. In validate at /_src/optimizer/network.cpp:4023)"
    assert plain(message) == "API Usage Error (No profile.)"


def fake(version: str, **names: object) -> types.ModuleType:
    module = types.ModuleType("tensorrt")
    module.__dict__.update(__version__=version, Builder=object, OnnxParserFlag=object, **names)
    return module


@pytest.mark.parametrize(
    ("version", "fits"), [("10.11.0.33", False), ("10.12.0.36", True), ("11.4.0.106", True), ("12.0.1", False)]
)
def test_tensorrt_is_taken_from_10_12_to_11(version: str, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake(version))
    if fits:
        found = load_flavour("tensorrt")
        assert (found.version, found.targets, found.compat_levels) == (version, (), ("none", "same-cc", "ampere+"))
        assert found.has_timing_cache
        assert found.can_be_version_compatible
    else:
        with pytest.raises(MissingExtraError, match=rf"tensorrt {version} is installed, deploykit builds with 10\.12") as caught:
            load_flavour("tensorrt")
        assert "pip install" in str(caught.value.hint)


def test_a_flavour_that_is_not_installed_is_an_error_with_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (None, types.ModuleType("tensorrt")):  # not there; a folder of type stubs
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        with pytest.raises(MissingExtraError, match="tensorrt is not installed") as caught:
            load_flavour("tensorrt")
        assert "pip install 'tensorrt>=10.12'" in str(caught.value.hint)
    with pytest.raises(UsageError, match="backend is 'tensorflow'"):
        load_flavour("tensorflow")


@without_gpu
def test_tensorrt_without_a_gpu_says_which_flavour_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake("11.4.0.106"))
    found = load_flavour("tensorrt")
    with pytest.raises(EngineError, match="--target current") as caught:
        build_plan(found, CONV, BuildOptions(BATCH))
    assert "--backend tensorrt-rtx --target sm86" in str(caught.value.hint)
    with pytest.raises(EngineError, match=r"tensorrt 11\.4\.0\.106 builds for this GPU alone; --target is sm86"):
        build_plan(found, CONV, SM86)


def test_precisions_are_counted_from_either_wording_of_the_inspector() -> None:
    words = ["Channel major INT8 format where channel % 32 == 0", "Half", "Row major linear FP32", "Float", "N/A"]
    layers = ", ".join(f'{{"Name": "l", "Inputs": [{{"Format/Datatype": "{word}"}}], "Outputs": []}}' for word in words)
    found = read_layers(f'{{"Layers": [{layers}]}}')
    assert [layer.name for layer in found] == ["l"] * 5
    assert count_precisions(found) == {"fp16": 1, "fp32": 2, "int8": 1, "unknown": 1}


def test_a_report_without_precisions_counts_nothing_and_a_broken_one_is_an_error() -> None:
    found = read_layers('{"Layers": ["conv1", "conv2"]}')
    assert found == (("conv1", "unknown"), ("conv2", "unknown"))
    assert count_precisions(found) is None
    assert count_precisions(()) is None
    with pytest.raises(EngineError, match="cannot be read"):
        read_layers("nothing")


HANDLES = {
    "api", "builder", "network", "config", "parser", "profile", "layer", "tensor", "error", "cache", "registry",
    "runtime", "engine", "inspector", "refitter", "source", "memory", "context",
}  # fmt: skip
"""Variables of deploykit.trt that hold TensorRT's objects."""


def used_names() -> set[str]:
    """Attributes of TensorRT's objects in deploykit.trt, names of overridden methods, and names of enum members in its tables."""
    found = set(_LEVELS) | set(PRECISIONS) | set(DTYPES) | set(_MULTIPLYING) | set(_PASSING)
    for path in Path(deploykit.trt.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and _root(node) in HANDLES:
                found.add(node.attr)
            if isinstance(node, ast.ClassDef) and any(isinstance(base, ast.Attribute) for base in node.bases):
                found |= {item.name for item in node.body if isinstance(item, ast.FunctionDef) and not item.name.startswith("_")}
    return {name for name in found if not name.startswith("__")} - set(dir(str)) - {"api"}


def _root(node: ast.AST) -> str | None:
    while isinstance(node, ast.Attribute | ast.Call):
        if isinstance(node, ast.Attribute) and node.attr == "api":
            return "api"
        node = node.value if isinstance(node, ast.Attribute) else node.func
    return node.id if isinstance(node, ast.Name) else None


def _stub_names(text: str) -> set[str]:
    """What type stubs define; read by line, because these are not valid Python everywhere."""
    return set(re.findall(r"^ *(?:class |def )?([A-Za-z_]\w*) *(?=[:(])", text, re.MULTILINE))


def test_the_names_are_found_in_the_code() -> None:
    names = used_names()
    assert {
        "build_serialized_network",
        "STRONGLY_TYPED",
        "set_compute_capability",
        "phase_start",
        "get_engine_information",
    } <= names
    assert {"AMPERE_PLUS", "create_timing_cache", "node_operator", "ENABLE_PLUGIN_OVERRIDE", "CONVOLUTION", "log"} <= names


def test_every_name_exists_in_tensorrt_11() -> None:
    library = metadata.distribution("tensorrt-cu13-bindings").locate_file("tensorrt_bindings/tensorrt.so")
    binary = Path(str(library)).read_bytes()
    # A linker keeps one string for all that end alike, so a name may stand at the end of a longer one.
    missing = {name for name in used_names() if name.encode() + b"\0" not in binary}
    assert missing == flavours.RTX_ONLY_NAMES


def test_every_name_exists_in_tensorrt_10_12() -> None:
    (wheel,) = WHEELS.glob("tensorrt_stubs-10.12*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = _stub_names(archive.read("tensorrt_bindings/tensorrt.pyi").decode())
    assert used_names() - names == flavours.RTX_ONLY_NAMES | flavours.NEWER_NAMES


def test_every_name_exists_in_tensorrt_rtx(rtx: Flavour) -> None:
    there = set(dir(rtx.api)) | {name for value in vars(rtx.api).values() if isinstance(value, type) for name in dir(value)}
    assert used_names() - there == set()
