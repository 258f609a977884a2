"""Plans on a real GPU: built there, they answer as their graphs do at every precision; damaged and foreign ones fail in one error.

The GPU halves of cases O16, O17 and O18. What needs no GPU of them is in tests/unit/test_plan.py and test_trt.py.
"""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.bundle import Bundle, extend_bundle
from deploykit.cli.main import run
from deploykit.errors import EngineError
from deploykit.graph.half import convert_to_half, make_rounding_graph
from deploykit.plan import BatchRange, Gpu, PlanRecord, read_record
from deploykit.runtime import OrtSession, TrtSession
from deploykit.trt import BuildOptions, build_plan, find_gpu, load_flavour
from tests.conftest import Deploykit
from tests.unit.bright_bundle import SPEC, make_bundle

BATCH = BatchRange(1, 4, 8)
# Of the largest logit: float32 sums in another order, TF32 off; float16's 11 bits over three layers; one step of one INT8 sum.
TOLERANCES = {"fp32": 1e-4, "fp16": 5e-3, "int8": 2e-2}


@pytest.fixture(scope="module")
def gpu() -> Gpu:
    found = find_gpu()
    assert found is not None
    return found


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOYKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A small bundle whose golden vectors are its own graph's answers."""
    made = make_bundle(tmp_path / "bright")
    pixels = np.random.default_rng(0).integers(0, 256, (5, SPEC.height, SPEC.width, 3), np.uint8)
    with OrtSession(made.file("fp32/explain.onnx")) as session:
        answer = session.run({"image": pixels, "class_index": np.full(5, -1, np.int64)})
    golden = io.BytesIO()
    np.savez(golden, image=pixels, logits=answer["logits"], explained_class=answer["explained_class"], cam=answer["cam"])
    with extend_bundle(made.path) as stage:
        stage.add("golden.npz", golden.getvalue())
    return made.path


@pytest.fixture
def planned(bundle: Path, backend: str) -> Path:
    assert run(["build", str(bundle), "--backend", backend, "--batch", str(BATCH)]) == 0
    return bundle


def folder_of(bundle: Path) -> Path:
    (folder,) = bundle.glob("plans/*")
    return folder


def record_of(bundle: Path) -> PlanRecord:
    record = read_record(folder_of(bundle))
    assert record is not None
    return record


def net(precision: str) -> onnx.ModelProto:
    """Two convolutions with a ReLU between them and average pooling, with weights of size 1; in INT8 between Q/DQ pairs."""
    random = np.random.default_rng(1)
    weights = {"v": random.normal(size=(32, 16, 3, 3)) / 12, "w": random.normal(size=(16, 32, 3, 3)) / 17}
    arrays: dict[str, Any] = {name: array.astype(np.float32) for name, array in weights.items()}
    lines = ["c = Conv <pads=[1,1,1,1]> (image, v)", "r = Relu (c)", "d = Conv <pads=[1,1,1,1]> (r, w)"]
    if precision == "int8":
        arrays = {name: np.round(array / 0.004).clip(-127, 127).astype(np.int8) for name, array in arrays.items()}
        arrays |= {"s": np.float32(0.03), "t": np.float32(0.004), "z": np.int8(0)}
        lines = [f"{name}_f = DequantizeLinear ({name}, t, z)" for name in weights]
        for before, after, convolution in (("image", "c", "v"), ("r", "d", "w")):
            lines += [f"{after}_q = QuantizeLinear ({before}, s, z)", f"{after}_x = DequantizeLinear ({after}_q, s, z)"]
            lines += [f"{after} = Conv <pads=[1,1,1,1]> ({after}_x, {convolution}_f)"]
            lines += ["r = Relu (c)"] if after == "c" else []
    lines.append("y = GlobalAveragePool (d)")
    nodes = [onnx.parser.parse_node(line) for line in lines]
    for node in nodes:
        node.name = f"node_{node.output[0]}"
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 16, 24, 24])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 16, 1, 1])
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    model = helper.make_model(
        helper.make_graph(nodes, precision, [image], [y], constants), opset_imports=[helper.make_opsetid("", 18)]
    )
    model.ir_version = 8
    return model if precision != "fp16" else convert_to_half(model, {}).graph


@pytest.mark.parametrize("precision", TOLERANCES)
def test_a_plan_of_each_precision_answers_as_its_graph(precision: str, backend: str, tmp_path: Path) -> None:
    graph = net(precision)
    built = build_plan(load_flavour(backend), graph.SerializeToString(), BuildOptions(BATCH))
    assert built.network.multiplying.get(precision) == 2
    (tmp_path / "net.plan").write_bytes(built.data)
    shown = make_rounding_graph(graph) if precision == "fp16" else graph
    with TrtSession(tmp_path / "net.plan") as plan, OrtSession(shown.SerializeToString()) as expected:
        for rows in (1, 4, 8):
            image = np.random.default_rng(rows).normal(size=(rows, 16, 24, 24)).astype(np.float32)
            found, right = (session.run({"image": image}, ["y"])["y"] for session in (plan, expected))
            assert np.abs(found - right).max() <= TOLERANCES[precision] * np.abs(right).max()


def test_the_record_names_this_gpu_and_the_engine_was_looked_into(planned: Path, gpu: Gpu) -> None:
    record = record_of(planned)
    assert (record.gpu, record.sm) == (gpu, gpu.sm)
    for file in record.files.values():
        assert file.layers
        assert file.not_inspected is None or "tells no precision" in file.not_inspected


def test_a_whole_chain_is_verified_inspected_and_measured(planned: Path, backend: str, deploykit_here: Deploykit) -> None:
    done = deploykit_here("verify", planned, "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    plans = [check for name, check in checks.items() if name.startswith("plans/")]
    assert len(plans) == 2
    assert all(check["was_run"] and check["passed"] for check in plans), done.stdout
    assert "fits here yes" in deploykit_here("inspect", folder_of(planned)).stdout
    file = planned.parent / "bench.json"
    assert (
        deploykit_here("bench", planned, "--backend", backend, "--batch", "1,8", "--seconds", "0.2", "--json", file).returncode == 0
    )
    for case in json.loads(file.read_text())["cases"][1:]:
        assert 0 < case["spans_ms"]["gpu"]["median"] < case["latency_ms"]["median"]


def test_several_builds_are_compared_by_their_time_on_the_gpu(bundle: Path, backend: str, deploykit_here: Deploykit) -> None:
    done = deploykit_here("build", bundle, "--backend", backend, "--batch", "1:4:8", "--repeat", "3")
    assert done.returncode == 0, done.stderr
    assert "ms on the GPU at batch 4" in done.stdout
    for file in record_of(bundle).files.values():
        assert file.repeats is not None
        assert file.repeats.gpu_time_ms is not None
        assert sorted(file.repeats.gpu_time_ms)[1] == file.repeats.gpu_time_ms[file.repeats.kept]


def test_a_stripped_plan_runs_once_its_weights_are_in(bundle: Path, backend: str, deploykit_here: Deploykit) -> None:
    done = deploykit_here("build", bundle, "--backend", backend, "--batch", "1:4:8", "--strip")
    assert done.returncode == 0, done.stderr
    with pytest.raises(EngineError, match="without its weights"):
        TrtSession(folder_of(bundle) / "predict.plan")
    done = deploykit_here("refit", bundle)
    assert done.returncode == 0, done.stderr
    assert not record_of(bundle).stripped
    assert Bundle.open(bundle).damage() == {}
    assert deploykit_here("verify", bundle).returncode == 0


def test_a_builder_that_returns_nothing_leaves_nothing_behind(bundle: Path, backend: str, deploykit_here: Deploykit) -> None:
    """Case O16: no room for any kernel."""
    before = {path for path in bundle.rglob("*") if path.is_file()}
    done = deploykit_here("build", bundle, "--backend", backend, "--workspace", "1")
    if done.returncode == 0:
        pytest.skip(f"{backend} finds kernels that need no workspace for so small a graph")
    assert done.returncode == 1
    assert "(workspace: 1 bytes)" in done.stderr
    assert "NoneType" not in done.stderr
    assert {path for path in bundle.rglob("*") if path.is_file()} == before


def test_a_plan_for_another_gpu_or_version_is_refused_with_both_sides(planned: Path, gpu: Gpu) -> None:
    """Case O17: the selected GPU decides, before TensorRT is touched."""
    record, plan = record_of(planned), folder_of(planned) / "predict.plan"
    other = replace(record, sm="sm75", gpu=Gpu("Tesla T4", "sm75", gpu.driver))
    (plan.parent / "plan.json").write_text(other.to_text())
    with pytest.raises(EngineError, match=rf"built for sm75 \(Tesla T4\); the selected GPU is .*{gpu.sm}"):
        TrtSession(plan)
    older = replace(record, version="0.9.1")
    (plan.parent / "plan.json").write_text(older.to_text())
    with pytest.raises(EngineError, match=rf"built with {record.backend} 0\.9\.1; here is {record.version}"):
        TrtSession(plan)


def damaged(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Case O18's files, of a real plan."""
    yield "zero", b""
    yield "cut", data[: len(data) // 2]
    yield "noise", data[:4] + np.random.default_rng(0).bytes(4096)
    yield "textmode", data.replace(b"\n", b"\r\n")
    yield "pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 123456\n"
    yield "is_onnx", bytes([0x08, 0x08, 0x12, 0x07]) + b"pytorch" + b"\0" * 64


@pytest.mark.parametrize("with_record", [True, False])
def test_a_damaged_plan_is_one_error_and_no_crash(with_record: bool, planned: Path, tmp_path: Path) -> None:
    """Case O18, each in a process of its own: without a record TensorRT itself may be the one that refuses, and must not crash."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    if with_record:
        shutil.copy(folder_of(planned) / "plan.json", folder)
    for name, data in damaged((folder_of(planned) / "predict.plan").read_bytes()):
        path = folder / "predict.plan"
        path.write_bytes(data)
        code = (
            "import sys\nfrom deploykit.errors import EngineError\nfrom deploykit.runtime import TrtSession\n"
            f"try:\n    TrtSession({str(path)!r})\nexcept EngineError as error:\n    sys.exit(f'EngineError: {{error}}')"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 1, (name, done.returncode, done.stderr)
        assert "EngineError: " in done.stderr, (name, done.stderr)


def test_two_processes_that_build_at_once_get_one_good_engine(bundle: Path, backend: str) -> None:
    command = [sys.executable, "-m", "deploykit", "build", str(bundle), "--backend", backend, "--batch", str(BATCH)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=280) for process in running]
    assert [process.returncode for process in running] == [0, 0], answers
    pixels: npt.NDArray[np.uint8] = np.zeros((2, SPEC.height, SPEC.width, 3), np.uint8)
    with TrtSession(folder_of(bundle) / "predict.plan") as plan, OrtSession(bundle / "fp32/predict.onnx") as graph:
        found, expected = (session.run({"image": pixels})["logits"] for session in (plan, graph))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
