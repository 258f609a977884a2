"""``deploykit inspect`` of plans: what they are for, whether they are whole and fit here, without loading them."""

import json
import shutil
from pathlib import Path

import pytest

from deploykit.bundle import Bundle, extend_bundle
from deploykit.cli.main import run
from deploykit.plan import Gpu
from tests.conftest import Deploykit

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorrt_rtx")
A10 = Gpu("NVIDIA A10", "sm86", "CUDA 13.0")
H100 = Gpu("NVIDIA H100", "sm90", "CUDA 13.0")


@pytest.fixture(scope="module")
def built(small: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("built") / "bundle"
    shutil.copytree(small.path, bundle)
    options = ["--backend", "tensorrt-rtx", "--target", "sm86", "--batch", "1:2:4", "--no-cache"]
    assert run(["build", str(bundle), *options]) == 0
    return bundle


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    """The folder of the plans in a copy of the bundle."""
    bundle = Path(shutil.copytree(built, tmp_path / "bundle"))
    (path,) = bundle.glob("plans/*")
    return path


def facts_of(deploykit_here: Deploykit, path: Path) -> dict[str, object]:
    done = deploykit_here("inspect", path, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert isinstance(facts, dict)
    return facts


def test_a_folder_its_record_and_a_plan_tell_what_they_are_for(
    folder: Path, deploykit_here: Deploykit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploykit.cli.inspect_plan.find_gpu", lambda: None)
    done = deploykit_here("inspect", folder)
    assert done.returncode == 0, done.stderr
    assert "for       sm86, tensorrt-rtx 1.7" in done.stdout
    assert "fp32, batch 1:2:4" in done.stdout
    assert "no: " in done.stdout
    assert "this machine has no NVIDIA GPU" in done.stdout
    assert "convolutions and matrix products: 21 in fp32" in done.stdout
    assert done.stdout.count("as it was written") == 2
    assert facts_of(deploykit_here, folder / "plan.json")["files"] == facts_of(deploykit_here, folder)["files"]
    assert list(facts_of(deploykit_here, folder / "explain.plan")["files"]) == ["explain.plan"]  # type: ignore[call-overload]


@pytest.mark.parametrize(("gpu", "fits"), [(A10, True), (H100, False)])
def test_whether_it_fits_this_machine_is_said_without_loading_it(
    gpu: Gpu, fits: bool, folder: Path, deploykit_here: Deploykit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploykit.cli.inspect_plan.find_gpu", lambda: gpu)
    verdict = facts_of(deploykit_here, folder)["here"]
    assert isinstance(verdict, dict)
    assert verdict["fits"] is fits
    assert fits or "was built for sm86; the selected GPU is NVIDIA H100, sm90" in verdict["why_not"]


def test_plans_without_weights_do_not_fit_yet(folder: Path, deploykit_here: Deploykit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploykit.cli.inspect_plan.find_gpu", lambda: A10)
    record = folder / "plan.json"
    record.write_text(record.read_text().replace('"stripped": false', '"stripped": true'))
    done = deploykit_here("inspect", folder)
    assert "no: the plans have no weights yet" in done.stdout
    assert "deploykit refit BUNDLE" in done.stdout


def test_a_damaged_plan_and_one_whose_graph_has_changed_are_named(folder: Path, deploykit_here: Deploykit) -> None:
    plan = folder / "predict.plan"
    data = plan.read_bytes()
    plan.write_bytes(data[:1000])
    assert "it is cut short" in deploykit_here("inspect", folder).stdout
    plan.write_bytes(data)
    bundle = folder.parent.parent
    with extend_bundle(bundle) as stage:
        stage.add("fp32/predict.onnx", b"another graph")
    assert "predict.plan is stale: fp32/predict.onnx has changed since it was built" in deploykit_here("inspect", folder).stdout


def test_the_layers_of_an_engine_are_listed_where_it_could_be_looked_into(folder: Path, deploykit_here: Deploykit) -> None:
    path = folder / "plan.json"
    record = json.loads(path.read_text())
    record["files"]["predict.plan"] |= {"engine": {"fp16": 1, "fp32": 1}, "layers": [["stem + relu", "fp16"], ["head", "fp32"]]}
    path.write_text(json.dumps(record))
    lines = deploykit_here("inspect", folder / "predict.plan", "--layers").stdout.splitlines()
    assert "layers of the engine: 1 in fp16, 1 in fp32" in "\n".join(lines)
    assert [line.split(maxsplit=1) for line in lines[-2:]] == [["fp16", "stem + relu"], ["fp32", "head"]]


def test_a_plan_without_a_record_tells_its_header_and_no_more(folder: Path, tmp_path: Path, deploykit_here: Deploykit) -> None:
    bare = Path(shutil.copy(folder / "predict.plan", tmp_path / "bare.plan"))
    facts = facts_of(deploykit_here, bare)
    assert set(facts) == {"path", "record", "backend", "version", "size_bytes", "sha256"}
    assert (facts["backend"], facts["size_bytes"]) == ("tensorrt-rtx", bare.stat().st_size)
    assert "unknown   GPU, precision and batch" in deploykit_here("inspect", bare).stdout


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.plan", None, "gone.plan cannot be read"),
        ("empty.plan", b"", "empty.plan is empty"),
        ("pointer.engine", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("plan.json", None, "plan.json does not exist"),
        ("plan.json", b"{", "is not JSON"),
    ],
)
def test_what_is_no_plan_is_refused(
    name: str, content: bytes | None, message: str, tmp_path: Path, deploykit_here: Deploykit
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = deploykit_here("inspect", tmp_path / name)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stdout == ""


def test_a_plan_that_the_record_beside_it_does_not_know_is_refused(folder: Path, deploykit_here: Deploykit) -> None:
    shutil.copy(folder / "predict.plan", folder / "other.plan")
    done = deploykit_here("inspect", folder / "other.plan")
    assert done.returncode == 1
    assert "says nothing of other.plan; it describes predict.plan, explain.plan" in done.stderr
