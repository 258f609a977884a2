"""``deploykit build``: real TensorRT-RTX plans for another machine's GPU, in a bundle, without one here."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

from deploykit.bundle import Bundle, extend_bundle
from deploykit.plan import Gpu, PlanRecord, read_plan, read_record
from deploykit.spec import Precision
from deploykit.trt import find_gpu
from tests.conftest import Deploykit
from tests.unit.quantized_graphs import quantized
from tests.unit.test_bench_plans import Plan

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorrt_rtx")
SM86 = ("--backend", "tensorrt-rtx", "--target", "sm86", "--batch", "1:2:4")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEPLOYKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"


@pytest.fixture
def bundle(small: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small.path, tmp_path / "bundle"))


def files_of(bundle: Path) -> set[str]:
    return {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}


def record_of(bundle: Path) -> PlanRecord:
    (path,) = bundle.glob("plans/*/plan.json")
    record = PlanRecord.from_text(path.read_text(), path)
    assert path.parent == bundle / record.folder
    return record


def test_plans_of_both_graphs_are_added_to_the_bundle(bundle: Path, deploykit_here: Deploykit) -> None:
    before = Bundle.open(bundle).manifest.files
    done = deploykit_here("build", bundle, *SM86, "--json")
    assert done.returncode == 0, done.stderr
    opened = Bundle.open(bundle)
    assert opened.damage() == {}
    assert {name: opened.manifest.files[name] for name in before} == before
    record = record_of(bundle)
    assert json.loads(done.stdout)["folder"] == record.folder
    assert (record.sm, record.gpu, record.precision, str(record.batch)) == ("sm86", None, Precision.FP32, "1:2:4")
    for graph in ("predict", "explain"):
        plan = opened.manifest.files[f"{record.folder}/{graph}.plan"]
        assert plan.made_from == {f"fp32/{graph}.onnx": before[f"fp32/{graph}.onnx"].sha256}
        assert plan.made_with == {"tensorrt-rtx": record.version}
        assert record.files[f"{graph}.plan"].sha256 == plan.sha256
        assert (bundle / record.folder / f"{graph}.plan").read_bytes().startswith(b"vtrt")
    # ResNet-18: 20 convolutions and a fully connected layer; explaining multiplies by the last one's weights once more.
    assert record.files["predict.plan"].multiplying == {"fp32": 21}
    assert record.files["explain.plan"].multiplying == {"fp32": 22}


def test_int8_plans_are_built_from_the_graph_in_tensorrts_shape(bundle: Path, deploykit_here: Deploykit) -> None:
    graph = onnx.load(bundle / "fp32/predict.onnx")
    with extend_bundle(bundle) as stage:
        origin = {"fp32/predict.onnx": stage.manifest.files["fp32/predict.onnx"].sha256}
        stage.add("int8/predict.onnx", quantized(graph).graph.SerializeToString(), made_from=origin)
        stage.add("int8/predict_cpu.onnx", b"a twin that no builder may see", made_from=origin)
    done = deploykit_here("build", bundle, *SM86, "--precision", "int8")
    assert done.returncode == 0, done.stderr
    record = record_of(bundle)
    assert list(record.files) == ["predict.plan"]
    assert record.files["predict.plan"].multiplying == {"int8": 21}
    assert record.files["predict.plan"].graph == "int8/predict.onnx"
    assert record.files["predict.plan"].size_bytes < 0.5 * (bundle / "fp32/predict.onnx").stat().st_size


@pytest.mark.alone
def test_the_same_build_again_changes_nothing_and_takes_less_than_a_second(bundle: Path, deploykit_here: Deploykit) -> None:
    assert deploykit_here("build", bundle, *SM86).returncode == 0
    manifest = (bundle / "manifest.json").read_bytes()
    start = time.perf_counter()
    again = deploykit_here("build", bundle, *SM86)
    assert time.perf_counter() - start < 1
    assert again.returncode == 0
    assert "was there already" in again.stdout
    assert (bundle / "manifest.json").read_bytes() == manifest


def test_another_bundle_of_the_same_graphs_gets_the_plans_from_the_cache(
    bundle: Path, small: Bundle, tmp_path: Path, deploykit_here: Deploykit
) -> None:
    other = Path(shutil.copytree(small.path, tmp_path / "other"))
    assert deploykit_here("build", bundle, *SM86).returncode == 0
    done = deploykit_here("build", other, *SM86)
    assert "taken from the cache" in done.stdout
    assert {name: file.sha256 for name, file in record_of(other).files.items()} == {
        name: file.sha256 for name, file in record_of(bundle).files.items()
    }
    assert not record_of(bundle).files["predict.plan"].from_cache
    rebuilt = deploykit_here("build", other, *SM86, "--force", "--no-cache")
    assert rebuilt.returncode == 0
    assert "taken from the cache" not in rebuilt.stdout


def test_plans_with_other_options_are_replaced_with_force_alone(bundle: Path, deploykit_here: Deploykit) -> None:
    assert deploykit_here("build", bundle, *SM86).returncode == 0
    before = files_of(bundle)
    other = ("build", bundle, *SM86, "--workspace", "1G")
    refused = deploykit_here(*other)
    assert refused.returncode == 1
    assert "holds plans of other graphs or options" in refused.stderr
    assert "--force" in refused.stderr
    assert record_of(bundle).workspace_bytes is None
    assert deploykit_here(*other, "--force").returncode == 0
    assert record_of(bundle).workspace_bytes == 1 << 30
    assert files_of(bundle) == before
    assert Bundle.open(bundle).damage() == {}


def test_a_plan_that_was_damaged_is_seen_and_replaced(bundle: Path, deploykit_here: Deploykit) -> None:
    assert deploykit_here("build", bundle, *SM86).returncode == 0
    plan = bundle / record_of(bundle).folder / "predict.plan"
    plan.unlink()
    plan.write_bytes(b"cut")
    assert deploykit_here("build", bundle, *SM86).returncode == 1
    assert deploykit_here("build", bundle, *SM86, "--force").returncode == 0
    assert Bundle.open(bundle).damage() == {}


def test_two_builds_of_one_bundle_at_once_both_end_well(bundle: Path) -> None:
    command = [sys.executable, "-m", "deploykit", "build", str(bundle), *SM86]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], answers
    assert Bundle.open(bundle).damage() == {}
    assert set(record_of(bundle).files) == {"predict.plan", "explain.plan"}


def test_several_builds_are_compared_and_the_median_one_is_kept(
    bundle: Path, cache: Path, deploykit_here: Deploykit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploykit.cli.build_timing.find_gpu", lambda: None)
    done = deploykit_here("build", bundle, *SM86, "--repeat", "3")
    assert done.returncode == 0, done.stderr
    assert "3 builds: " in done.stdout
    assert "their latency: not measured (no NVIDIA GPU here that could run the plans)" in done.stdout
    assert not cache.exists()
    record = record_of(bundle)
    for name, file in record.files.items():
        repeats = file.repeats
        assert repeats is not None
        middle = sorted(zip(repeats.size_bytes, repeats.build_s, strict=True))[1]
        assert (repeats.size_bytes[repeats.kept], repeats.build_s[repeats.kept]) == middle
        assert repeats.sha256[repeats.kept] == file.sha256 == Bundle.open(bundle).manifest.files[f"{record.folder}/{name}"].sha256
        assert ("identical bytes" in done.stdout) == all(f.repeats and f.repeats.is_identical for f in record.files.values())
    # Whoever asks for several builds wants them made, so what is there is not taken for an answer.
    refused = deploykit_here("build", bundle, *SM86, "--repeat", "2")
    assert refused.returncode == 1
    assert "holds plans\n" in refused.stderr
    assert deploykit_here("build", bundle, *SM86, "--repeat", "2", "--force").returncode == 0
    assert "was there already" in deploykit_here("build", bundle, *SM86).stdout


def test_where_plans_can_run_several_builds_are_compared_by_their_time_on_the_gpu(
    bundle: Path, deploykit_here: Deploykit, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Session(Plan):
        def __init__(self, path: Path, **_: object) -> None:
            super().__init__()
            gpu = Gpu("NVIDIA A10", "sm86", "CUDA 13.0")
            assert read_plan(path, backend="tensorrt-rtx", version=record_version(path), gpu=gpu)

        def __enter__(self) -> "Session":
            return self

        def __exit__(self, *_: object) -> None:
            assert self.open == 0

    def record_version(path: Path) -> str:
        record = read_record(path.parent)
        assert record is not None
        return record.version

    monkeypatch.setattr("deploykit.cli.build_timing.find_gpu", lambda: Gpu("NVIDIA A10", "sm86", "CUDA 13.0"))
    monkeypatch.setattr("deploykit.cli.build_timing.TrtSession", Session)
    done = deploykit_here("build", bundle, *SM86, "--repeat", "2")
    assert done.returncode == 0, done.stderr
    repeats = record_of(bundle).files["explain.plan"].repeats
    assert repeats is not None
    # The stand-in's run takes a millisecond more each time: the 101st to 200th call count.
    assert (repeats.gpu_time_ms, repeats.timed_batch) == ((151.5, 151.5), 2)
    assert "151.500 ms on the GPU at batch 2, 0.0% apart" in done.stdout


@pytest.mark.skipif(find_gpu() is not None, reason="asks what happens where there is no GPU")
def test_without_a_gpu_the_target_must_be_named(bundle: Path, deploykit_here: Deploykit) -> None:
    done = deploykit_here("build", bundle, "--backend", "tensorrt-rtx")
    assert done.returncode == 1
    assert "--target current is the GPU of this machine, and there is none" in done.stderr
    assert "hint: name the GPU that the plan is for: --target sm75|sm80|sm86" in done.stderr


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--batch", "8:4:1"), 2, "batch is 8:4:1, expected min:opt:max"),
        (("--workspace", "lots"), 2, "--workspace is 'lots', expected a size such as 512M or 2G"),
        (("--target", "A100"), 2, "--target is 'A100', expected current or a compute capability such as sm86"),
        (("--target", "sm90"), 1, "--target is sm90"),
        (("--compat", "ampere+"), 1, "has no --compat ampere+"),
        (("--precision", "int8"), 1, "has no int8 graphs; it has fp32"),
        (("--target", "sm75"), 1, "cannot build for sm75, batch 1:2:4: "),  # it multiplies no float32 matrices
    ],
)
def test_what_cannot_be_built_leaves_the_bundle_as_it_was(
    options: tuple[str, ...], code: int, message: str, bundle: Path, deploykit_here: Deploykit
) -> None:
    before, manifest = files_of(bundle), (bundle / "manifest.json").read_bytes()
    done = deploykit_here("build", bundle, *SM86, *options)
    assert done.returncode == code
    assert message in done.stderr
    assert done.stdout == ""
    assert (files_of(bundle), (bundle / "manifest.json").read_bytes()) == (before, manifest)


def test_a_graph_that_is_damaged_or_stale_is_not_built(bundle: Path, deploykit_here: Deploykit) -> None:
    graph = bundle / "fp32/explain.onnx"
    data = graph.read_bytes()
    graph.unlink()
    graph.write_bytes(data[:-1])
    done = deploykit_here("build", bundle, *SM86)
    assert done.returncode == 1
    assert "fp32/explain.onnx is not what the manifest says" in done.stderr


def test_a_precision_that_was_not_delivered_fails_unless_it_is_accepted(bundle: Path, deploykit_here: Deploykit) -> None:
    with extend_bundle(bundle) as stage:
        stage.add("fp16/predict.onnx", bundle / "fp32/predict.onnx")
    done = deploykit_here("build", bundle, *SM86, "--precision", "fp16")
    assert done.returncode == 1
    assert "fp16 was asked for, and no convolution or matrix product multiplies in it (21 in fp32)" in done.stderr
    assert not list(bundle.glob("plans/*"))
    assert deploykit_here("build", bundle, *SM86, "--precision", "fp16", "--allow-fallback").returncode == 0


def test_published_weights_build_for_every_gpu_that_can_be_named(lite0: Bundle, tmp_path: Path, deploykit_here: Deploykit) -> None:
    bundle = Path(shutil.copytree(lite0.path, tmp_path / "lite0"))
    for sm in ("sm80", "sm89", "sm120"):
        done = deploykit_here("build", bundle, "--backend", "tensorrt-rtx", "--target", sm)
        assert done.returncode == 0, done.stderr
    assert {path.parent.name.split("-")[3] for path in bundle.glob("plans/*/plan.json")} == {"sm80", "sm89", "sm120"}
