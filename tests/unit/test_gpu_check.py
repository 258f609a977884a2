"""``make gpu-check`` without a GPU: the steps it plans, how it keeps its time, what it says of failures and of what is missing."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_check, gpu_prepare
from benchmarks.gpu_needs import CARRIED, NEEDS, WHEELS_LINE, find_needs, how_to_get, install_wheels, is_installed
from benchmarks.gpu_report import as_summary, make_report
from benchmarks.gpu_run import Answer, Outcome, run_command, run_steps
from benchmarks.gpu_steps import MODELS, PRECISIONS, Here, Step, ort_probe, plan_steps
from benchmarks.gpu_trtexec import read_median, trtexec_command
from deploykit.cli.main import run as run_deploykit
from deploykit.plan import BatchRange, Gpu, PlanRecord
from deploykit.spec import Precision

H100 = Gpu("NVIDIA H100", "sm90", "CUDA 13.0")
HERE = Here(Path("bundles"), Path("out"), ("tensorrt", "tensorrt-rtx"), ("tests/gpu/test_session.py",), True, True, "/bin/trtexec")


def step(name: str, limit_s: float = 10, needs: tuple[str, ...] = (), output: Path | None = None) -> Step:
    return Step(name, (name,), limit_s, needs, output)


class Clock:
    """Time that passes only while a command runs."""

    def __init__(self, **seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds
        self.ran: list[str] = []
        self.limits: dict[str, float] = {}

    def __call__(self) -> float:
        return self.now

    def run(self, command: Sequence[str], limit_s: float) -> Answer:
        (name,) = command
        self.ran.append(name)
        self.limits[name] = limit_s
        self.now += min(self.seconds[name], limit_s)
        return Answer(
            None if self.seconds[name] > limit_s else int(name.startswith("bad")), '{"done": true}', "error: it broke\nhint: x"
        )


def test_every_network_is_built_proved_and_measured_at_every_precision_on_each_tensorrt() -> None:
    steps = plan_steps(HERE)
    names = [one.name for one in steps]
    for model in MODELS:
        for backend in HERE.backends:
            for precision in PRECISIONS:
                build, bench = (f"{kind} {model} {precision} {backend}" for kind in ("build", "bench"))
                assert names.index(build) < names.index(f"verify {model}") < names.index(bench)
                assert steps[names.index(bench)].needs == (build,)
    assert names[0] == "tests tests/gpu"
    assert names.index("torch resnet50 fp32") > names.index("bench efficientnet_b3 int8 tensorrt")
    assert len([name for name in names if name.startswith("trtexec ")]) == 9
    assert len(set(names)) == len(names)
    assert all(0 < one.limit_s <= 120 for one in steps)


def test_what_is_not_here_is_not_planned() -> None:
    steps = plan_steps(Here(Path("bundles"), Path("out"), ("tensorrt-rtx",)))
    assert {one.kind for one in steps} == {"build", "verify", "bench"}
    assert not any("cuda" in one.command for one in steps)
    assert any("cuda" in one.command for one in plan_steps(HERE) if one.kind == "bench")


def test_every_command_of_deploykit_is_one_that_it_understands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A bundle that is not there is refused after the options were read: 1, where an unknown option gives 2."""
    commands = [list(one.command[3:]) for one in [*plan_steps(HERE), ort_probe(HERE, "resnet50")] if "deploykit" in one.command]
    assert len(commands) > 2 * len(MODELS) * len(PRECISIONS)
    commands += gpu_prepare.commands_of(tmp_path, tmp_path, "resnet50")[1:]
    monkeypatch.chdir(tmp_path)
    assert {run_deploykit(command) for command in commands} == {1}


def test_steps_end_within_their_limits_and_what_is_left_out_is_named() -> None:
    clock = Clock(a=8, slow=99, late=3, never=1)
    outcomes = run_steps([step("a"), step("slow"), step("late", 60), step("never", 6)], 25, run=clock.run, clock=clock)
    assert [(one.name, one.status) for one in outcomes] == [("a", "ok"), ("slow", "timeout"), ("late", "ok"), ("never", "cut")]
    assert clock.limits == {"a": 10, "slow": 10, "late": 7}
    assert (outcomes[1].reason, outcomes[3].reason) == ("ended after 10 s", "4 s were left of 25 s")
    assert clock.now <= 25


def test_a_failure_is_kept_with_what_was_said_and_what_rests_on_it_is_skipped() -> None:
    clock = Clock(bad=1, after=1, other=1)
    lines: list[str] = []
    steps = [step("bad"), step("after", needs=("bad",)), step("other")]
    outcomes = run_steps(steps, 60, run=clock.run, clock=clock, tell=lines.append)
    assert [one.status for one in outcomes] == ["failed", "skipped", "ok"]
    assert outcomes[0].reason == "exit code 1: error: it broke\nhint: x"
    assert outcomes[1].reason == "needs: bad"
    assert outcomes[2].data == {"done": True}
    assert clock.ran == ["bad", "other"]
    assert "error: it broke" in lines[0]


def test_a_command_that_runs_on_is_ended_with_its_children(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    child = f"import time, pathlib; time.sleep(3); pathlib.Path({str(alive)!r}).touch()"
    parent = f"import subprocess, sys; print('begun', flush=True); subprocess.run([sys.executable, '-c', {child!r}])"
    answer = run_command([sys.executable, "-c", parent], 1.5)
    assert (answer.code, answer.stdout) == (None, "begun\n")
    done = run_command([sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"], 30)
    assert (done.code, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert not alive.exists()


def test_a_package_that_is_missing_is_named_with_its_purpose_and_the_way_to_get_it() -> None:
    found = find_needs(lambda module: module in {"numpy", "pycuda", "tensorrt"})
    by = {one.need.module: one.by for one in found}
    assert (by["cuda.core"], by["tensorrt_rtx"], by["onnx"]) == ("pycuda", "tensorrt", None)
    lines = {one.need.module: one.line for one in found}
    assert lines["onnx"].startswith("MISSING  onnx")
    assert "for reading the graphs that plans are built from: pip install 'onnx>=1.20'" in lines["onnx"]
    assert lines["torch"].startswith("missing  torch")
    text = how_to_get([one for one in found if one.need.module == "onnx"])
    assert "with a network: pip install 'onnx>=1.20'" in text
    assert WHEELS_LINE in text
    assert "tensorrt-rtx-cu13>=1.5" in CARRIED
    assert not any(one.startswith("torch") for one in CARRIED)


def test_what_is_here_is_found() -> None:
    here = {one.need.module: one.by for one in find_needs()}
    assert here["tensorrt_rtx"] == "tensorrt_rtx"
    assert here["cuda.core"] == "cuda.core"
    assert not is_installed("no_such_module.inside")
    assert [need.module for need in NEEDS if need.required and here[need.module] is None] == []


def test_wheels_are_installed_one_by_one_and_only_required_ones_are_missed(tmp_path: Path) -> None:
    missing = [one for one in find_needs(lambda module: False) if one.need.module in {"onnx", "pynvml"}]
    assert "holds no wheels; fill it with" in str(install_wheels(tmp_path, missing))
    (tmp_path / "x.whl").touch()
    asked: list[str] = []

    def fail(command: list[str], **_: object) -> None:
        assert {"--no-index", str(tmp_path)} <= set(command)
        asked.append(command[-1])
        raise subprocess.CalledProcessError(1, command)

    reason = install_wheels(tmp_path, missing, fail)
    assert asked == ["onnx>=1.20", "nvidia-ml-py>=12"]
    assert reason is not None
    assert "onnx>=1.20" in reason
    assert "nvidia-ml-py" not in reason
    assert install_wheels(tmp_path, missing, lambda *_, **__: None) is None


FACTS = {"model": "resnet50", "precision": "fp16", "backend": "tensorrt"}


def bench_case(graph: str, backend: str, gpu: float | None) -> dict[str, Any]:
    spans = {} if gpu is None else {"gpu": {"median": gpu}}
    return {
        "graph": graph,
        "backend": backend,
        "batch": 8,
        "latency_ms": {"median": 1.5},
        "spans_ms": spans,
        "throughput": 5333.3,
        "verdict": "stable",
    }


def outcomes() -> list[Outcome]:
    cases = [bench_case("preprocess", "pillow", None), bench_case("predict", "tensorrt 11.4 (NVIDIA H100)", 1.1)]
    file = {"build_s": 20.0, "size_bytes": 50_000_000, "from_cache": False, "multiplying": {"fp16": 54}, "engine": {"fp16": 60}}
    checks = [
        {"name": "fp16/predict", "passed": True, "was_run": True, "found": "1e-3", "hint": None, "parity": None},
        {
            "name": "plans/x/predict",
            "passed": False,
            "was_run": True,
            "found": "2e+0 of the largest logit",
            "hint": None,
            "parity": None,
        },
    ]
    return [
        Outcome(
            "build resnet50 fp16 tensorrt", "ok", 41, None, {"gpu": None, "version": "11.4", "files": {"predict.plan": file}}, FACTS
        ),
        Outcome("verify resnet50", "failed", 9, "exit code 1: error: 1 of 2 checks failed", checks, {"model": "resnet50"}),
        Outcome("bench resnet50 fp16 tensorrt", "ok", 12, None, {"cases": cases}, FACTS),
        Outcome("torch resnet50 fp16", "ok", 30, None, {"torch eager": {"8": 3.25}}, FACTS),
        Outcome("trtexec resnet50 fp16", "ok", 5, None, {"gpu_ms": 1.05, "batch": 8}, FACTS),
        Outcome("bench efficientnet_b3 int8 tensorrt", "cut", 0, "2 s were left of 530 s"),
    ]


HEAD = {
    "gpu": {"name": "NVIDIA H100", "sm": "sm90"},
    "seconds": 90.0,
    "budget_s": 530,
    "missing": ["trtexec: not on the PATH"],
    "machine": {},
}


def test_the_report_has_every_side_of_a_network_in_one_table() -> None:
    report = make_report(HEAD, outcomes())
    rows = {row["backend"]: (row["latency_ms"], row["gpu_ms"]) for row in report["latency"]}
    assert rows == {"tensorrt 11.4 (NVIDIA H100)": (1.5, 1.1), "torch eager": (3.25, None), "trtexec": (None, 1.05)}
    assert report["builds"][0]["files"]["predict.plan"]["engine"] == {"fp16": 60}
    assert [check["passed"] for check in report["verify"]] == [True, False]
    assert not report["is_whole"]
    json.dumps(report)
    assert all("data" not in one for one in report["steps"])


def test_the_summary_names_what_failed_what_was_cut_and_what_was_left_out() -> None:
    text = as_summary(make_report(HEAD, outcomes()))
    for line in (
        "GPU check on NVIDIA H100 (sm90), 90 s of 530 s",
        "verify: 1 of 2 checks hold, 0 could not be run",
        "FAILED resnet50 plans/x/predict: 2e+0 of the largest logit",
        "failed: verify resnet50: exit code 1: error: 1 of 2 checks failed",
        "cut: bench efficientnet_b3 int8 tensorrt: 2 s were left of 530 s",
        "left out: trtexec: not on the PATH",
        "NOT WHOLE",
    ):
        assert line in text
    whole = make_report(HEAD, [one for one in outcomes() if one.status == "ok"])
    assert whole["is_whole"]
    assert as_summary(whole).endswith("whole")
    assert "verify: 0 of 0" in as_summary(make_report(HEAD, []))


def test_trtexec_10_is_told_to_measure_as_11_does_by_default() -> None:
    record = PlanRecord("tensorrt", "10.13.3.9", "sm90", H100, Precision.FP16, BatchRange(1, 8, 32), {})
    command = trtexec_command("trtexec", Path("p.plan"), record, "8", (224, 200))
    assert "--shapes=image:8x224x200x3" in command
    assert {"--noDataTransfers", "--useCudaGraph", "--useSpinWait"} <= set(command)
    eleven = PlanRecord("tensorrt", "11.4.0.106", "sm90", H100, Precision.FP16, BatchRange(1, 8, 32), {})
    assert "--noDataTransfers" not in trtexec_command("trtexec", Path("p.plan"), eleven, "8", (224, 200))
    line = "[I] GPU Compute Time: min = 0.21 ms, max = 0.35 ms, mean = 0.22 ms, median = 0.219 ms, percentile(90%) = 0.22 ms"
    assert read_median(f"[I] Latency: min = 1 ms, median = 9 ms\n{line}\n") == 0.219
    assert read_median("nothing") is None


def test_without_a_gpu_it_ends_with_one_clear_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu_check, "find_gpu", lambda: None)
    assert gpu_check.main([]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: no NVIDIA GPU here")
    assert err.count("error:") == 1


def test_it_starts_on_a_machine_that_has_nothing_installed() -> None:
    """What is missing must be said by deploykit, not by a traceback."""
    heavy = [
        "numpy",
        "PIL",
        "click",
        "rich",
        "onnx",
        "onnxruntime",
        "torch",
        "tensorrt",
        "tensorrt_rtx",
        "pycuda",
        "cuda",
        "skimage",
    ]
    code = (
        f"import sys\nfor name in {heavy}: sys.modules[name] = None\n"
        "from benchmarks import gpu_check, gpu_needs\nfrom deploykit.plan import Gpu\n"
        "gpu_check.find_gpu = lambda: Gpu('NVIDIA H100', 'sm90', 'CUDA 13.0')\n"
        f"found = gpu_needs.find_needs\ngpu_check.find_needs = lambda: found(lambda name: False)\n"
        "sys.exit(gpu_check.main([]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "error: numpy, PIL, click, rich, onnx, onnxruntime, tensorrt_rtx, cuda.core: not installed" in done.stderr
    assert "without: on a machine with one and the same Python, python -m pip download --dest wheels" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def gpu_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with a GPU and prepared bundles; the folder of its results."""
    monkeypatch.setattr(gpu_check, "find_gpu", lambda: H100)
    monkeypatch.setattr(gpu_check, "_torch_sees_gpu", lambda: False)
    monkeypatch.setattr("benchmarks.report.RESULTS", tmp_path)
    (tmp_path / "bundles/resnet50").mkdir(parents=True)
    (tmp_path / "bundles/resnet50/manifest.json").touch()
    return tmp_path


def test_bundles_that_are_not_there_are_asked_for(gpu_here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main(["--bundles", str(gpu_here / "bundles"), "--model", "resnet50", "--model", "efficientnet_b3"]) == 1
    err = capsys.readouterr().err
    assert "holds no bundle of efficientnet_b3" in err
    assert f"python -m benchmarks.gpu_check --prepare {gpu_here / 'bundles'}" in err


@pytest.mark.parametrize(("code", "ends"), [(0, 0), (1, 1)])
def test_a_run_writes_its_report_and_fails_where_a_step_did(
    code: int, ends: int, gpu_here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def answer(command: Sequence[str], limit_s: float) -> Answer:
        ran.append(" ".join(command))
        return Answer(code if "verify" in command else 0, "", "error: it differs")

    monkeypatch.setattr("benchmarks.gpu_run.run_command", answer)
    monkeypatch.setattr(gpu_check, "find_trtexec", lambda: None)
    arguments = ["--bundles", str(gpu_here / "bundles"), "--model", "resnet50", "--name", "here"]
    assert gpu_check.main(arguments) == ends
    report = json.loads((gpu_here / "gpu-here.json").read_text())
    assert report["is_whole"] is (ends == 0)
    assert report["gpu"]["name"] == "NVIDIA H100"
    assert any(line.startswith("trtexec: not on the PATH") for line in report["missing"])
    assert "NVIDIA H100" in (gpu_here / "gpu-here.md").read_text()
    assert any("pytest" in one for one in ran)
    out = capsys.readouterr().out
    assert ("error: it differs" in out) is (ends == 1)


def test_tests_whose_imports_are_missing_are_left_out_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test_a.py").write_text("import numpy\n")
    (tmp_path / "test_b.py").write_text("import numpy\nimport torch\n")
    monkeypatch.setattr(gpu_check, "is_installed", lambda module: module != "torch")
    assert gpu_check.find_tests(tmp_path) == ((str(tmp_path / "test_a.py"),), [f"{tmp_path / 'test_b.py'}: needs torch"])
    monkeypatch.setattr(gpu_check, "is_installed", lambda module: module != "pytest")
    assert gpu_check.find_tests(tmp_path) == ((), [])


def test_preparing_names_the_command_that_failed_and_goes_on_with_the_other_networks(tmp_path: Path) -> None:
    ran: list[list[str]] = []

    def run(command: list[str]) -> int:
        ran.append(command)
        return int("resnet50" in command[-1] or command[1:3] == ["convert", str(tmp_path / "efficientnet_b0")])

    failed = gpu_prepare.prepare_bundles(tmp_path, ["efficientnet_b0", "efficientnet_b3"], run)
    assert failed == [f"deploykit --quiet convert {tmp_path / 'efficientnet_b0'} --precision fp16 --force"]
    assert [command[1] for command in ran] == ["export", "convert", "export", "convert", "quantize"]
    assert len(list((tmp_path / "photos").glob("*.png"))) == gpu_prepare.PHOTOS
