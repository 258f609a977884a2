"""``deploykit cpp``: projects that build with warnings as errors, pass their own tests, and refuse what deploykit refuses.

Nothing here runs TensorRT: the runner is compiled where its headers are (``TensorRT_ROOT``), and run with stand-ins for CUDA and
TensorRT that know the golden answers (stand_in/). The plan is one of TensorRT-RTX for sm86: its bytes are looked at, never loaded.
"""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from deploykit.bundle import Bundle
from deploykit.cli.main import run
from deploykit.errors import EngineError
from deploykit.image import load_pixels
from deploykit.integrations.cpp.arrays import pack_arrays
from deploykit.plan import Gpu, PlanRecord, read_plan
from deploykit.runtime.classifier import rank_logits
from tests.conftest import Deploykit

LABELS = ('say "hi"', "back\\slash\\", "what??/ ??=", "Käfer", "猫1", "%s\ttab")
A10 = Gpu("NVIDIA A10", "sm86", "CUDA 13.0")
# Without -O1 the sanitizers take seconds over the digest of a plan.
SANITIZED = ("-DDEPLOYKIT_WERROR=ON", "-DDEPLOYKIT_SANITIZE=ON", "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS=-O1")

STAND_IN = Path(__file__).parent / "stand_in"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorrt_rtx")
MISSING = ", ".join(tool for tool in ("cmake", "g++") if shutil.which(tool) is None)
HEADERS = "TensorRT_ROOT"  # CMake's own spelling, as a variable of the environment

compiles = pytest.mark.skipif(MISSING != "", reason=f"{MISSING} is not installed")


@dataclass(frozen=True)
class Built:
    """A project in its build folder."""

    bundle: Bundle
    project: Path
    build: Path

    def call(self, program: str, *arguments: str | Path, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
        command = [str(self.build / program), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=60)


def configure_and_build(project: Path, *options: str, targets: tuple[str, ...] = ()) -> Path:
    build = project / "build"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    environment = {k: v for k, v in os.environ.items() if k != HEADERS} | {"CXX": "g++"}
    configured = ["cmake", "-S", str(project), "-B", str(build), *generator, *options]
    for command in (configured, ["cmake", "--build", str(build), "--parallel", "2", *(["--target", *targets] if targets else [])]):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
    return build


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """An untrained network whose labels, input, size and layers are anything but usual; with plans for sm86."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS), encoding="utf-8")
    path = folder / "odd"
    wish = ["--image-size", "48x64", "--num-classes", "6", "--labels", str(folder / "labels.txt"), "--input", "float"]
    layers = ["--colour-order", "bgr", "--layer", "features.18", "--layer", "features.10"]
    assert run(["export", "mobilenet_v2", *wish, *layers, "-o", str(path)]) == 0
    options = ["--backend", "tensorrt-rtx", "--target", "sm86", "--batch", "1:2:4", "--no-cache"]
    assert run(["build", str(path), *options]) == 0
    return Bundle.open(path)


@pytest.fixture(scope="module")
def built(odd: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Its project, built with the sanitizers."""
    project = tmp_path_factory.mktemp("odd") / "cpp"
    assert run(["cpp", str(odd.path), "-o", str(project), "--namespace", "acme::vision"]) == 0
    return Built(odd, project, configure_and_build(project, *SANITIZED))


@pytest.fixture(scope="module")
def built_lite0(lite0: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The project of published weights, built as a user would."""
    project = tmp_path_factory.mktemp("lite0") / "cpp"
    assert run(["cpp", str(lite0.path), "-o", str(project)]) == 0
    return Built(lite0, project, configure_and_build(project, "-DDEPLOYKIT_WERROR=ON"))


def ctest(built: Built) -> str:
    done = subprocess.run(
        ["ctest", "--test-dir", built.build, "--output-on-failure"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@compiles
def test_a_project_passes_its_own_tests_under_the_sanitizers(built: Built) -> None:
    said = ctest(built)
    for subject in ("constants", "sha256", "json", "manifest", "golden", "image", "maps", "classify"):
        assert re.search(rf": {subject} \.+ +Passed", said), said


@compiles
def test_the_project_of_published_weights_passes_its_own_tests(built_lite0: Built) -> None:
    assert "100% tests passed, 0 tests failed out of 8" in ctest(built_lite0)


@compiles
def test_labels_come_out_of_cpp_as_they_went_in(built: Built, tmp_path: Path) -> None:
    done = built.call("classify", "--golden", "1", "--top", "6", "--output", tmp_path / "g")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "warning: mobilenet_v2 is untrained: its answers mean nothing\n"
    lines = done.stdout.splitlines()[:6]
    expected = rank_logits(built.bundle.golden().logits[1:2], LABELS, 6)[0]
    assert [line[15:] for line in lines] == [one.label for one in expected]
    # Printed with four digits.
    np.testing.assert_allclose([float(line.split()[0]) for line in lines], [one.probability for one in expected], atol=6e-5)


@compiles
def test_a_golden_picture_is_drawn_with_its_map(built_lite0: Built, tmp_path: Path) -> None:
    done = built_lite0.call("classify", "--golden", "0", "--output", tmp_path / "g")
    assert done.returncode == 0, done.stderr
    grey, overlay = np.array(Image.open(tmp_path / "g.map.pgm")), np.array(Image.open(tmp_path / "g.overlay.ppm"))
    assert (grey.shape, overlay.shape) == ((224, 224), (224, 224, 3))
    assert (grey.min(), grey.max()) == (0, 255)
    picture = built_lite0.bundle.golden().image[0]
    np.testing.assert_array_equal(overlay[grey == 0], picture[grey == 0])  # no evidence: as it was
    assert (overlay[grey > 200] != picture[grey > 200]).any(-1).mean() > 0.99


@compiles
def test_what_the_example_shows_the_network_is_what_deploykit_shows_it(
    built_lite0: Built, built: Built, coffee: Path, tmp_path: Path
) -> None:
    Image.open(coffee).save(tmp_path / "coffee.ppm")
    raw = np.array(Image.open(coffee))
    (tmp_path / "coffee.rgb").write_bytes(raw.tobytes())
    for one in (built_lite0, built):
        for arguments in (("coffee.ppm",), ("coffee.rgb", "--raw", f"{raw.shape[1]}x{raw.shape[0]}")):
            done = one.call("classify", *arguments, "--plans", "nowhere", "--output", "c", cwd=tmp_path)
            assert done.returncode == 1
            assert "error: this program was built without TensorRT, so no engine answers\nhint: configure with" in done.stderr
            seen = np.array(Image.open(tmp_path / "c.input.ppm"))
            np.testing.assert_array_equal(seen, load_pixels(coffee, one.bundle.manifest.image))
            (tmp_path / "c.input.ppm").unlink()


@compiles
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("photo.jpg",), 1, "photo.jpg cannot be read: No such file or directory"),
        ((), 2, "0 arguments"),
        (("a.ppm", "b.ppm"), 2, "2 arguments"),
        (("a.ppm", "--colour"), 2, "unknown option --colour"),
        (("a.ppm", "--top"), 2, "--top needs a value"),
        (("a.ppm", "--top", "many"), 2, "--top is many, expected 1 to 6"),
        (("a.ppm", "--class", "6"), 2, "--class is 6, expected -1 to 5"),
        (("a.rgb", "--raw", "5"), 2, "--raw is 5, expected WIDTHxHEIGHT"),
        (("--golden", "99"), 2, "--golden is 99, there are 5"),
    ],
)
def test_the_example_says_what_is_wrong_with_its_arguments(
    arguments: tuple[str, ...], code: int, message: str, built: Built, tmp_path: Path
) -> None:
    done = built.call("classify", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert f"error: {message}" in done.stderr


DAMAGED = {
    "whole": lambda data: data,
    "empty": lambda data: b"",
    "pointer": lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
    "gzip": lambda data: b"\x1f\x8b\x08" + data,
    "page": lambda data: b"<!DOCTYPE html>",
    "onnx": lambda data: bytes([0x08, 0x08, 0x12, 0x07]) + b"pytorch",
    "cut": lambda data: data[: len(data) // 2],
    "text": lambda data: data.replace(b"\n", b"\r\n"),
    "longer": lambda data: data + b"x",
    "changed": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
}


@compiles
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_plan_is_refused_in_deploykits_own_words(kind: str, built: Built, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(next((built.project / "plans").iterdir()), tmp_path / "plans"))
    plan, version = folder / "predict.plan", record_of(folder).version
    plan.write_bytes(DAMAGED[kind](plan.read_bytes()))
    for beside in (True, False):
        if not beside:
            (folder / "plan.json").unlink()
        try:
            read_plan(plan, backend="tensorrt-rtx", version=version, gpu=A10)
            expected = ""
        except EngineError as error:
            expected = f"error: {error}\nhint: {error.hint}\n"
        assert (expected == "") == (kind == "whole" or (not beside and kind == "changed"))
        done = check_plan(built, plan, version, A10)
        assert done.stderr == expected
        assert done.returncode == (1 if expected else 0)


@compiles
@pytest.mark.parametrize(
    ("changes", "version", "gpu"),
    [
        ({}, "1.9.0.1", A10),
        ({"version_compatible": True}, "1.9.0.1", A10),
        ({}, "", replace(A10, name="NVIDIA H100", sm="sm90")),
        ({}, "", None),
        ({"backend": "tensorrt", "version": "11.4.0.106"}, "", A10),
        ({"gpu": Gpu("NVIDIA A40", "sm86", "CUDA 13.0"), "compat": "same-cc"}, "", replace(A10, sm="sm89")),
        ({"compat": "ampere+"}, "", Gpu("Tesla T4", "sm75", "CUDA 13.0")),
        ({"compat": "ampere+"}, "", Gpu("NVIDIA H100", "sm90", "CUDA 13.0")),
        ({"plugins": ("liba.so", "libb.so")}, "", A10),
        ({"stripped": True}, "", A10),
        ({"files": {}}, "", A10),
    ],
)
def test_a_plan_for_something_else_is_refused_in_deploykits_own_words(
    changes: dict[str, object], version: str, gpu: Gpu | None, built: Built, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(next((built.project / "plans").iterdir()), tmp_path / "plans"))
    record = record_of(folder)
    version = version or record.version
    (folder / "plan.json").write_text(replace(record, **changes).to_text())  # type: ignore[arg-type]
    try:
        read_plan(folder / "predict.plan", backend="tensorrt-rtx", version=version, gpu=gpu)
        expected = ""
    except EngineError as error:
        expected = f"error: {error}\n" + (f"hint: {error.hint}\n" if error.hint else "")
    assert check_plan(built, folder / "predict.plan", version, gpu).stderr == expected


@compiles
def test_facts_that_were_compiled_in_refuse_a_changed_byte_and_a_changed_record(built: Built, tmp_path: Path) -> None:
    folder = next((built.project / "plans").iterdir())
    version = record_of(folder).version
    for name in ("predict.plan", "explain.plan"):
        assert check_plan(built, folder / name, version, A10, "--compiled-in").returncode == 0
    copy = Path(shutil.copytree(folder, tmp_path / folder.name))
    data = bytearray((copy / "explain.plan").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "explain.plan").write_bytes(data)
    files = record_of(copy).files
    forged = replace(files["explain.plan"], sha256=built_digest(copy / "explain.plan"))
    (copy / "plan.json").write_text(replace(record_of(copy), files={**files, "explain.plan": forged}).to_text())
    assert check_plan(built, copy / "explain.plan", version, A10).returncode == 0  # plan.json was changed to fit
    done = check_plan(built, copy / "explain.plan", version, A10, "--compiled-in")
    assert done.returncode == 1
    assert "explain.plan does not match its plan.json: sha256" in done.stderr


@compiles
def test_a_plan_of_another_bundles_graph_is_refused(built_lite0: Built, built: Built) -> None:
    folder = next((built.project / "plans").iterdir())
    done = check_plan(built_lite0, folder / "predict.plan", record_of(folder).version, A10)
    assert done.returncode == 1
    assert "predict.plan was built from a graph of sha256" in done.stderr


@compiles
@pytest.mark.skipif(HEADERS not in os.environ, reason=f"{HEADERS} names no folder with TensorRT's headers")
@pytest.mark.parametrize("bundle", ["lite0", "odd"])
def test_the_runner_compiles_against_tensorrts_headers(bundle: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    project = tmp_path / "cpp"
    assert run(["cpp", str(request.getfixturevalue(bundle).path), "-o", str(project)]) == 0
    options = ("-DDEPLOYKIT_WERROR=ON", f"-DTensorRT_ROOT={os.environ[HEADERS]}", "-DCMAKE_BUILD_TYPE=Debug")
    build = configure_and_build(project, *options, targets=("runner_compiles",))
    assert len(list(build.rglob("self_test.cpp.o"))) == 1


def with_stand_in(built: Built, source: Path, sanitizer: str, program: Path) -> Path:
    """A program with the runner, against stand-ins for CUDA and TensorRT that answer golden pictures with their golden answers."""
    flags = ["-std=c++17", "-O1", f"-fsanitize={sanitizer}", "-pthread", "-DDEPLOYKIT_WITH_TENSORRT"]
    data = f'-DDEPLOYKIT_DATA="{built.project / "data"}"'
    folders = [f"-I{built.project / 'src'}", f"-I{built.project / 'include'}", "-isystem", str(STAND_IN / "include")]
    command = ["g++", *flags, "-Wall", "-Wextra", "-Werror", data, *folders, str(source), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return program


def run_with_stand_in(program: Path, built: Built, *arguments: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    golden = {"STAND_IN_GOLDEN": str(built.project / "data/golden.bin")}
    command = [str(program), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env={**os.environ, **golden, **environment}
    )


@compiles
def test_threads_share_a_runner_without_races_and_get_their_own_answers(built: Built, tmp_path: Path) -> None:
    program = with_stand_in(built, built.project / "src/self_test.cpp", "thread", tmp_path / "self_test")
    done = run_with_stand_in(program, built)
    assert done.returncode == 0, done.stderr
    assert "4 threads: every answer as one caller gets it" in done.stdout
    for size in (1, 2, 4):
        for what in ("predict: logits differ by 0.0", "explain: logits differ by 0.0", "explain: maps differ by 0.0"):
            assert f"batch {size}, {what}" in done.stdout
    golden = built.bundle.golden()
    assert golden.explained_class is not None
    assert golden.cam is not None
    wrong: dict[str, npt.NDArray[Any]] = {"image": golden.image, "logits": golden.logits[::-1]}
    wrong |= {"explained_class": golden.explained_class, "cam": golden.cam}
    (tmp_path / "wrong.bin").write_bytes(pack_arrays(wrong))
    failed = run_with_stand_in(program, built, STAND_IN_GOLDEN=str(tmp_path / "wrong.bin"))
    assert failed.returncode == 1
    assert "error: batch 1, predict: logits differ by" in failed.stderr


@compiles
def test_a_runner_frees_what_it_made_and_refuses_before_tensorrt_sees_a_plan(built: Built, tmp_path: Path) -> None:
    program = with_stand_in(built, STAND_IN / "leaks.cpp", "address,undefined", tmp_path / "leaks")
    folder = next((built.project / "plans").iterdir())
    done = run_with_stand_in(program, built, folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "batch is 9, the plan takes 1 to 4",
        "class_index is 6, expected -1 to 5",
        "2 launches",  # of batches 1 and 4, which are captured; a batch of 3 is not
        "0 left",
    ]
    for environment, message in (
        ({"STAND_IN_NO_GPU": "1"}, "was built for sm86; this machine has no NVIDIA GPU"),
        ({"STAND_IN_FULL": "1"}, "CUDA cannot allocate"),
        ({"STAND_IN_REFUSES": "1"}, "predict.plan: the stand-in does not like it"),
        ({"STAND_IN_OTHER_SHAPE": "1"}, "predict.plan: logits has another shape than the header says"),
    ):
        done = run_with_stand_in(program, built, folder, **environment)
        assert message in done.stdout
        assert done.stdout.endswith("\n0 left\n")
        assert done.returncode == 0, done.stderr
    copy = Path(shutil.copytree(folder, tmp_path / folder.name))
    (copy / "explain.plan").write_bytes((folder / "predict.plan").read_bytes())
    done = run_with_stand_in(program, built, copy)
    assert "explain.plan has" in done.stdout
    assert done.stdout.endswith("\n0 left\n")


@compiles
def test_a_service_takes_in_two_models_at_once(built: Built, built_lite0: Built, tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.18)\nproject(service LANGUAGES CXX)\n"
        f"add_subdirectory({built.project} odd)\nadd_subdirectory({built_lite0.project} lite0)\n"
        "add_executable(service main.cpp other.cpp)\n"
        "target_link_libraries(service PRIVATE deploykit_mobilenet_v2 deploykit_efficientnet_lite0)\n"
    )
    headers = ("efficientnet_lite0.h", "mobilenet_v2.h", "deploykit/manifest.h", "deploykit/image.h", "deploykit/classes.h")
    includes = "".join(f'#include "{header}"\n' for header in headers)
    (tmp_path / "other.cpp").write_text(f"{includes}int classes() {{ return acme::vision::model.num_classes; }}\n")
    (tmp_path / "main.cpp").write_text(
        f"{includes}#include <cstdio>\nint classes();\n"
        'int main() { std::printf("%d %d", classes(), deploykit::models::efficientnet_lite0::model.num_classes); }\n'
    )
    build = configure_and_build(tmp_path, "-DCMAKE_BUILD_TYPE=Debug")
    assert subprocess.run([build / "service"], capture_output=True, text=True, check=True).stdout == "6 1000"


def test_an_untrained_bundle_says_so_and_plans_are_taken_along(odd: Bundle, tmp_path: Path, deploykit_here: Deploykit) -> None:
    done = deploykit_here("cpp", odd.path, "-o", tmp_path / "cpp", "--json")
    assert done.returncode == 0
    assert "is untrained (random (seed 0)): its answers mean nothing" in done.stderr
    facts = json.loads(done.stdout)
    assert facts["namespace"] == "deploykit::models::mobilenet_v2"
    (folder,) = (tmp_path / "cpp/plans").iterdir()
    assert facts["plans"] == [folder.name]
    assert {path.name for path in folder.iterdir()} == {"predict.plan", "explain.plan", "plan.json"}
    assert "UNTRAINED" in (tmp_path / "cpp/include/mobilenet_v2.h").read_text()
    readme = (tmp_path / "cpp/README.md").read_text()
    assert "untrained" in readme
    assert "for sm86, tensorrt-rtx" in readme
    assert not re.search(r"@[A-Z]+@", readme + (tmp_path / "cpp/CMakeLists.txt").read_text())


def test_without_plans_it_says_how_to_build_them(lite0: Bundle, tmp_path: Path, deploykit_here: Deploykit) -> None:
    done = deploykit_here("cpp", lite0.path, "-o", tmp_path / "cpp")
    assert done.returncode == 0
    assert "no fp32 plans: the header has the graphs' facts, and the runner loads any plan of them. Build one" in done.stderr
    assert f"deploykit build {lite0.path} --precision fp32" in done.stderr
    assert "None yet" in (tmp_path / "cpp/README.md").read_text()


def test_plans_are_named_by_folder_or_path(odd: Bundle, tmp_path: Path, deploykit_here: Deploykit) -> None:
    (folder,) = (odd.path / "plans").iterdir()
    for number, name in enumerate((folder.name, f"plans/{folder.name}", folder)):
        done = deploykit_here("cpp", odd.path, "-o", tmp_path / str(number), "--plan", name, "--json")
        assert json.loads(done.stdout)["plans"] == [folder.name]
    done = deploykit_here("cpp", odd.path, "-o", tmp_path / "x", "--plan", "nothing")
    assert done.returncode == 1
    assert f"nothing is no folder of plans with its plan.json; the bundle has {folder.name}" in done.stderr
    done = deploykit_here("cpp", odd.path, "-o", tmp_path / "x", "--plan", folder, "--plan", folder.name)
    assert (done.returncode, f"{folder.name} is asked for twice" in done.stderr) == (2, True)


def test_plans_that_do_not_belong_are_refused(odd: Bundle, lite0: Bundle, tmp_path: Path, deploykit_here: Deploykit) -> None:
    (folder,) = (odd.path / "plans").iterdir()
    done = deploykit_here("cpp", lite0.path, "-o", tmp_path / "x", "--plan", folder)
    assert done.returncode == 1
    assert "predict.plan was built from a graph of sha256" in done.stderr
    copy = Path(shutil.copytree(folder, tmp_path / folder.name))
    for change, message in (
        ({"stripped": True}, "was built without its weights (--strip)"),
        ({"precision": "fp16"}, "holds fp16 plans, expected fp32"),
        ({"files": {}}, "has no predict.plan"),
    ):
        (copy / "plan.json").write_text(json.dumps(json.loads((folder / "plan.json").read_text()) | change))
        done = deploykit_here("cpp", odd.path, "-o", tmp_path / "x", "--plan", copy)
        assert done.returncode == 1
        assert message in done.stderr
    shutil.copy(folder / "plan.json", copy)
    (copy / "explain.plan").write_bytes(b"ftrt")
    done = deploykit_here("cpp", odd.path, "-o", tmp_path / "x", "--plan", copy)
    assert "explain.plan has 4 bytes, plan.json says" in done.stderr
    assert not (tmp_path / "x").exists()


def test_a_project_is_replaced_with_force_alone_and_the_users_files_stay(
    odd: Bundle, tmp_path: Path, deploykit_here: Deploykit
) -> None:
    project = tmp_path / "cpp"
    assert deploykit_here("cpp", odd.path, "-o", project).returncode == 0
    (project / "build").mkdir()
    (project / "build/CMakeCache.txt").write_text("mine")
    (project / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    refused = deploykit_here("cpp", odd.path, "-o", project, "--namespace", "acme")
    assert refused.returncode == 1
    assert f"{project} exists\nhint: replace it with --force" in refused.stderr
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before
    assert deploykit_here("cpp", odd.path, "-o", project, "--namespace", "acme", "--force").returncode == 0
    assert "namespace acme {" in (project / "include/mobilenet_v2.h").read_text()
    assert (project / "notes.txt").read_text() == (project / "build/CMakeCache.txt").read_text() == "mine"
    assert {path for path in project.rglob("*") if path.is_file()} == set(before)
    assert [path.name for path in tmp_path.iterdir()] == ["cpp"]


def test_another_folder_is_never_replaced(odd: Bundle, tmp_path: Path, deploykit_here: Deploykit) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/main.cpp").write_text("int main() {}")
    for target in (tmp_path / "mine", odd.path):
        done = deploykit_here("cpp", odd.path, "-o", target, "--force")
        assert done.returncode == 1
        assert f"{target} exists and is no C++ project of deploykit's" in done.stderr
    done = deploykit_here("cpp", odd.path, "-o", tmp_path / "no/where")
    assert "is not a folder" in done.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["main.cpp"]


def test_a_damaged_bundle_or_a_wrong_wish_writes_nothing(odd: Bundle, tmp_path: Path, deploykit_here: Deploykit) -> None:
    copy = Path(shutil.copytree(odd.path, tmp_path / "copy"))
    cases = [
        (("--precision", "int8"), 1, "has no int8 graphs; it has fp32"),
        (("--namespace", "acme::class"), 2, "class is a word of C++ itself"),
        (("--precision", "fp8"), 2, "fp8"),
    ]
    for options, code, message in cases:
        done = deploykit_here("cpp", copy, "-o", tmp_path / "cpp", *options)
        assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    for file in ("labels.txt", "golden.npz", "fp32/explain.onnx"):
        data = (copy / file).read_bytes()
        (copy / file).write_bytes(data[:-1])
        done = deploykit_here("cpp", copy, "-o", tmp_path / "cpp")
        assert done.returncode == 1
        assert f"{file} is not what the manifest says" in done.stderr
        (copy / file).write_bytes(data)
    text = (copy / "manifest.json").read_text()
    for old, new, message in (
        ('"input": "float"', '"input": "photo"', "takes photo inputs, the C++ runner feeds pixels or float"),
        ('"task": "classification"', '"task": "segmentation"', "holds a segmentation model"),
    ):
        (copy / "manifest.json").write_text(text.replace(old, new))
        done = deploykit_here("cpp", copy, "-o", tmp_path / "cpp")
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "cpp").exists()


def record_of(folder: Path) -> PlanRecord:
    return PlanRecord.from_text((folder / "plan.json").read_text(), folder / "plan.json")


def built_digest(path: Path) -> str:
    return subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]


def check_plan(built: Built, plan: Path, version: str, gpu: Gpu | None, *options: str) -> "subprocess.CompletedProcess[str]":
    where = ("--gpu", gpu.name, "--sm", gpu.sm) if gpu else ()
    return built.call("check_plan", plan, "--backend", "tensorrt-rtx", "--version", version, *where, *options)
