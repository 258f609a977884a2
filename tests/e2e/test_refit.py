"""``deploykit refit``: plans without weights get those of their bundle's graphs. TensorRT's part is a stand-in: it needs a GPU."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from deploykit.bundle import Bundle, extend_bundle, sha256_of
from deploykit.cli.main import run
from deploykit.plan import Gpu, PlanRecord
from tests.conftest import Deploykit

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorrt_rtx")
SM86 = ["--backend", "tensorrt-rtx", "--target", "sm86", "--no-cache"]


@pytest.fixture(scope="module")
def stripped(small: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose plans say that they have no weights; the builder makes such only where there is a GPU."""
    bundle = tmp_path_factory.mktemp("stripped") / "bundle"
    shutil.copytree(small.path, bundle)
    assert run(["build", str(bundle), *SM86]) == 0
    say_stripped(bundle)
    return bundle


def say_stripped(bundle: Path) -> None:
    for path in bundle.glob("plans/*/plan.json"):
        record = replace(PlanRecord.from_text(path.read_text(), path), stripped=True)
        name = path.relative_to(bundle).as_posix()
        with extend_bundle(bundle) as stage:
            before = stage.manifest.files[name]
            stage.add(name, record.to_text().encode(), made_from=before.made_from, made_with=before.made_with)


@pytest.fixture
def bundle(stripped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def refit(flavour: object, plan: bytes, graph: Path, **_: object) -> bytes:
        assert graph.read_bytes()
        return b"vtrt with weights of " + graph.name.encode()

    monkeypatch.setattr("deploykit.cli.refit.refit_plan", refit)
    monkeypatch.setattr("deploykit.cli.refit.find_gpu", lambda: Gpu("NVIDIA A10", "sm86", "CUDA 13.0"))
    monkeypatch.setattr("deploykit.cli.refit.inspect_engine", lambda *_, **__: ((("stem", "fp32"),), None))
    return Path(shutil.copytree(stripped, tmp_path / "bundle"))


def folder_of(bundle: Path) -> Path:
    (path,) = bundle.glob("plans/*")
    return path


def failed(deploykit_here: Deploykit, path: Path, code: int = 1) -> str:
    done = deploykit_here("refit", path)
    assert done.returncode == code, done.stdout
    assert done.stdout == ""
    return done.stderr


def test_weights_come_back_as_new_plans_with_new_digests(bundle: Path, deploykit_here: Deploykit) -> None:
    before = Bundle.open(bundle).manifest.files
    done = deploykit_here("refit", bundle, "--json")
    assert done.returncode == 0, done.stderr
    opened = Bundle.open(bundle)
    assert opened.damage() == {}
    assert set(opened.manifest.files) == set(before)
    facts = json.loads(done.stdout)
    assert facts["stripped"] is False
    record = PlanRecord.from_text((folder_of(bundle) / "plan.json").read_text(), bundle)
    assert not record.stripped
    for name, file in record.files.items():
        data = (folder_of(bundle) / name).read_bytes()
        assert data == b"vtrt with weights of " + name.replace(".plan", ".onnx").encode()
        assert (file.sha256, file.size_bytes) == (sha256_of(data), len(data))
        assert file.layers == (("stem", "fp32"),)
        recorded = opened.manifest.files[f"{record.folder}/{name}"]
        assert recorded.made_from == before[f"{record.folder}/{name}"].made_from
    assert "nothing is to be put in, its plans have their weights" in failed(deploykit_here, bundle)
    assert "were built with their weights" in failed(deploykit_here, folder_of(bundle))


@pytest.mark.parametrize("name", ["", "plan.json", "explain.plan"])
def test_plans_may_be_named_by_their_folder_or_a_file_in_it(name: str, bundle: Path, deploykit_here: Deploykit) -> None:
    done = deploykit_here("refit", folder_of(bundle) / name)
    assert done.returncode == 0, done.stderr
    assert "weights put in" in done.stdout
    assert Bundle.open(bundle).damage() == {}


def test_what_cannot_be_refitted_leaves_the_plans_as_they_were(
    bundle: Path, deploykit_here: Deploykit, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = (bundle / "manifest.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("deploykit.cli.refit.find_gpu", lambda: None)
        assert "this machine has no NVIDIA GPU" in failed(deploykit_here, bundle)
    with monkeypatch.context() as patch:
        patch.setattr("deploykit.cli.refit.find_gpu", lambda: Gpu("NVIDIA H100", "sm90", "CUDA 13.0"))
        assert "the selected GPU is NVIDIA H100, sm90" in failed(deploykit_here, bundle)
    assert (bundle / "manifest.json").read_bytes() == manifest
    with extend_bundle(bundle) as stage:
        stage.add("fp32/explain.onnx", b"another graph")
    assert "explain.onnx is not the graph that" in failed(deploykit_here, bundle)
    (folder_of(bundle) / "predict.plan").write_bytes(b"")
    (bundle / "fp32/predict.onnx").unlink()
    assert "fp32/predict.onnx is listed in the manifest and missing" in failed(deploykit_here, bundle)


def test_a_damaged_plan_gets_no_weights(bundle: Path, deploykit_here: Deploykit) -> None:
    (folder_of(bundle) / "predict.plan").write_bytes(b"vtrt cut")
    assert "it is cut short" in failed(deploykit_here, bundle)


def test_a_bundle_without_plans_and_one_with_several_are_told_so(bundle: Path, small: Bundle, deploykit_here: Deploykit) -> None:
    assert "nothing is to be put in, it has no plans" in failed(deploykit_here, small.path)
    assert run(["build", str(bundle), *SM86, "--batch", "1"]) == 0
    say_stripped(bundle)
    message = failed(deploykit_here, bundle, 2)
    assert "has 2 folders of plans without weights" in message
    assert "hint: name one: deploykit refit" in message
