"""Running a bundle's plans from the command line: on a machine without a GPU one clear error, never a traceback or garbage."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploykit.bundle import Bundle
from deploykit.errors import EngineError
from deploykit.plan import PlanRecord
from deploykit.runtime import TrtSession
from deploykit.trt import find_gpu
from tests.conftest import Deploykit
from tests.engines import with_plans
from tests.unit.bright_bundle import make_bundle

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorrt_rtx"),
    pytest.mark.skipif(find_gpu() is not None, reason="asks what happens where there is no GPU"),
]
RTX = ("--backend", "tensorrt-rtx")


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with real plans for an sm86."""
    folder = tmp_path_factory.mktemp("planned")
    options = (*RTX, "--target", "sm86", "--batch", "1:2:4")
    return with_plans(make_bundle(folder / "bright"), *options, cache=folder / "cache")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "bright.png"
    Image.fromarray(np.full((40, 40, 3), 250, np.uint8)).save(path)
    return path


def plan_folder(bundle: Bundle) -> Path:
    (path,) = bundle.path.glob("plans/*/plan.json")
    return path.parent


@pytest.mark.parametrize("verb", ["predict", "explain", "evaluate", "evaluate-cam"])
def test_without_a_gpu_every_verb_says_so_once_and_names_the_cpu_way(
    verb: str, planned: Bundle, photo: Path, tmp_path: Path, deploykit_here: Deploykit
) -> None:
    if verb == "evaluate":
        (tmp_path / "list.csv").write_text(f"path,label\n{photo},bright\n")
    arguments_of: dict[str, list[str | Path]] = {
        "predict": [photo],
        "explain": [photo, "-o", tmp_path / "explained"],
        "evaluate": ["--data", tmp_path / "list.csv"],
        "evaluate-cam": [photo],
    }
    done = deploykit_here(verb, planned.path, *arguments_of[verb], *RTX)
    assert done.returncode == 1
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith(("error:", "hint:"))]
    assert len(lines) == 2
    assert lines[0].endswith("plan was built for sm86; this machine has no NVIDIA GPU that the CUDA driver can use")
    assert lines[1] == "hint: run the graph on the CPU instead: --backend onnxruntime --provider cpu"
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "explained").exists()


def test_the_cpu_way_that_is_named_answers(planned: Bundle, photo: Path, deploykit_here: Deploykit) -> None:
    done = deploykit_here("predict", planned.path, photo, "--backend", "onnxruntime", "--provider", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert (row["graph"], row["predictions"][0]["label"]) == ("fp32/predict.onnx", "bright")


def test_a_process_of_its_own_ends_as_cleanly(planned: Bundle, photo: Path, deploykit: Deploykit) -> None:
    done = deploykit("predict", planned.path, photo, *RTX)
    assert done.returncode == 1
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"]


def test_a_named_folder_is_looked_at_as_closely(planned: Bundle, photo: Path, deploykit_here: Deploykit) -> None:
    done = deploykit_here("predict", planned.path, photo, "--plan", plan_folder(planned).name)
    assert done.returncode == 1
    assert "no NVIDIA GPU" in done.stderr
    done = deploykit_here("predict", planned.path, photo, "--plan", plan_folder(planned), "--precision", "fp16")
    assert (done.returncode, done.stdout) == (2, "")
    assert "hint: add --precision fp32" in done.stderr


def test_a_backend_that_the_bundle_has_no_plans_of_is_told_apart(planned: Bundle, photo: Path, deploykit_here: Deploykit) -> None:
    done = deploykit_here("predict", planned.path, photo, "--backend", "tensorrt")
    assert done.returncode == 1
    assert "has no tensorrt fp32 plan of predict; it has tensorrt-rtx fp32 explain, tensorrt-rtx fp32 predict" in done.stderr


def test_options_of_onnx_runtime_are_not_dropped_in_silence(planned: Bundle, photo: Path, deploykit_here: Deploykit) -> None:
    done = deploykit_here("predict", planned.path, photo, *RTX, "--threads", "2")
    assert done.returncode == 2
    assert "threads 2 are for onnxruntime" in done.stderr


def test_the_session_itself_refuses_before_tensorrt_sees_the_plan(planned: Bundle, tmp_path: Path) -> None:
    plan = plan_folder(planned) / "predict.plan"
    with pytest.raises(EngineError, match="this machine has no NVIDIA GPU"):
        TrtSession(plan)
    alone = tmp_path / "predict.plan"
    alone.write_bytes(plan.read_bytes())
    with pytest.raises(EngineError, match="cannot run here: this machine has no NVIDIA GPU") as caught:
        TrtSession(alone)
    assert "--provider cpu" in str(caught.value.hint)
    alone.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(EngineError, match="Git LFS pointer"):
        TrtSession(alone)
    with pytest.raises(EngineError, match="cannot be read"):
        TrtSession(tmp_path / "none.plan")


def test_a_damaged_plan_is_named_before_the_missing_gpu(planned: Bundle, tmp_path: Path) -> None:
    for file in plan_folder(planned).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    record = PlanRecord.from_text((tmp_path / "plan.json").read_text(), tmp_path / "plan.json")
    assert set(record.files) == {"predict.plan", "explain.plan"}
    (tmp_path / "predict.plan").write_bytes((tmp_path / "predict.plan").read_bytes()[:-7])
    with pytest.raises(EngineError, match="it is cut short"):
        TrtSession(tmp_path / "predict.plan")


def test_doctor_says_whether_plans_run_here_and_why_not(deploykit_here: Deploykit) -> None:
    done = deploykit_here("doctor", "--json")
    assert done.returncode == 0, done.stderr
    found = {f["name"]: f for f in json.loads(done.stdout)["backends"]}
    assert found["running plans"]["works"] is False
    assert "no NVIDIA GPU" in found["running plans"]["found"]
