"""``deploykit bench`` as a user runs it. Nothing here judges a time: only what is reported, written and refused."""

import csv
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deploykit.bundle import Bundle
from deploykit.spec import Precision
from tests.conftest import Deploykit
from tests.unit.test_bench_plans import Plan

pytestmark = pytest.mark.alone

QUICK = ("--batch", "1,2", "--seconds", "0.2")


@pytest.fixture(scope="module")
def reports(small: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs of one thing."""
    from deploykit.cli.main import run

    folder = tmp_path_factory.mktemp("bench")
    for name in ("a.json", "b.json"):
        files = ["--json", str(folder / name), "--csv", str(folder / "r.csv"), "--plot", str(folder / "r.png")]
        assert run(["-q", "bench", str(small.path), *QUICK, *files, "--markdown", str(folder / "r.md")]) == 0
    return folder / "a.json", folder / "b.json"


def test_every_combination_is_measured_and_written(reports: tuple[Path, Path]) -> None:
    report = json.loads(reports[0].read_text())
    cases = [(case["graph"], case["precision"], case["batch"]) for case in report["cases"]]
    assert cases == [("preprocess", "", 1)] + [(graph, "fp32", batch) for graph in ("predict", "explain") for batch in (1, 2)]
    assert all(case["latency_ms"]["count"] >= 10 for case in report["cases"])
    assert report["machine"]["packages"]["onnxruntime"]
    assert report["subject"]["graphs"]["fp32/predict.onnx"]
    with (reports[0].parent / "r.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(cases)
    assert (reports[0].parent / "r.md").read_text().count("| predict fp32 b") == 2
    with Image.open(reports[0].parent / "r.png") as plot:
        assert plot.width > 1000


def test_two_runs_are_compared_case_by_case(deploykit_here: Deploykit, reports: tuple[Path, Path]) -> None:
    done = deploykit_here("bench", "--compare", *reports)
    assert done.returncode == 0
    assert done.stdout.startswith("compared: the same thing twice")
    assert done.stdout.count(" ms  ") == 5


def test_a_slower_side_fails_where_that_was_asked(deploykit_here: Deploykit, reports: tuple[Path, Path], tmp_path: Path) -> None:
    slow = json.loads(reports[0].read_text())
    for case in slow["cases"]:
        for burst in case["rounds"]:
            burst["wall_ms"] = [10 * ms for ms in burst["wall_ms"]]
    (tmp_path / "slow.json").write_text(json.dumps(slow))
    done = deploykit_here("bench", "--compare", reports[0], tmp_path / "slow.json", "--fail-above", "20")
    assert done.returncode == 1
    assert "5 of 5 cases are more than 20 % slower" in done.stderr
    assert "10.00x slower" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "a BUNDLE to measure, or --compare"),
        (("BUNDLE", "--batch", "0,4"), "expected 1 or more"),
        (("BUNDLE", "--batch", "four"), "no list of whole numbers such as 1,4,8"),
        (("BUNDLE", "--graph", "guess"), "'guess' is not one of predict, explain"),
        (("BUNDLE", "--plot", "r.gif"), "expected a name that ends in .png, .svg, .pdf"),
        (("BUNDLE", "--like", "trtexec10", "--concurrency", "2"), "has one call in flight, and --concurrency asks for 2"),
        (
            ("BUNDLE", "--like", "trtexec11", "--provider", "cuda"),
            "leaves copies out and replays a CUDA graph, and cuda does neither",
        ),
        (("BUNDLE", "--provider", "gpu"), "'gpu' is not one of cpu, cuda"),
        (("BUNDLE", "--fail-above", "5"), "--fail-above goes with --compare"),
        (("BUNDLE", "--compare", "a.json", "b.json"), "--compare measures nothing, and a BUNDLE was given"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_by_name(
    arguments: tuple[str, ...], says: str, deploykit_here: Deploykit, small: Bundle
) -> None:
    done = deploykit_here("bench", *(str(small.path) if a == "BUNDLE" else a for a in arguments))
    assert done.returncode == 2
    assert says in done.stderr


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """Plans are answered for by a stand-in; what was opened."""
    opened: list[tuple[object, ...]] = []

    class Session(Plan):
        def __init__(self, bundle: Bundle, *wanted: object) -> None:
            super().__init__()
            opened.append(wanted)

        def run(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
            time.sleep(0.002)
            return super().run(feeds, outputs)

        def __enter__(self) -> "Session":
            return self

        def __exit__(self, *_: object) -> None:
            assert self.open == 0

    monkeypatch.setattr("deploykit.cli.bench_cases.open_plan", Session)
    monkeypatch.setattr("deploykit.cli.bench.planned_precisions", lambda *_: [Precision.INT8])
    return opened


def test_plans_are_measured_beside_graphs_with_the_times_of_the_gpu(
    deploykit_here: Deploykit, small: Bundle, plans: list[tuple[object, ...]], tmp_path: Path
) -> None:
    file = tmp_path / "p.json"
    options = ("--graph", "predict", "--batch", "1", "--threads", "1", "--backend", "onnxruntime,tensorrt-rtx", "--seconds", "0.2")
    done = deploykit_here("bench", small.path, *options, "--json", file)
    assert done.returncode == 0, done.stderr
    assert plans == [("predict", "int8", "tensorrt-rtx", "deploykit", 1)]
    cases = {(case["backend"].split()[0], case["precision"]): case for case in json.loads(file.read_text())["cases"]}
    assert set(cases) == {("pillow", ""), ("onnxruntime", "fp32"), ("tensorrt-rtx", "int8")}
    assert set(cases["tensorrt-rtx", "int8"]["spans_ms"]) == {"h2d", "gpu", "d2h"}
    assert cases["onnxruntime", "fp32"]["spans_ms"] == {}


def test_like_trtexec_a_plans_latency_is_that_of_the_gpus_events(
    deploykit_here: Deploykit, small: Bundle, plans: list[tuple[object, ...]], tmp_path: Path
) -> None:
    file = tmp_path / "t.json"
    options = ("--graph", "predict", "--batch", "1", "--backend", "tensorrt-rtx", "--like", "trtexec11", "--seconds", "0.2")
    done = deploykit_here("bench", small.path, *options, "--json", file)
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert report["method"]["includes"] == "of plans, gpu by the GPU's events; of graphs, the whole call"
    (case,) = [case for case in report["cases"] if case["graph"] == "predict"]
    assert case["latency_ms"]["median"] == case["spans_ms"]["gpu"]["median"]


def test_plans_that_are_not_there_or_do_not_run_here_are_refused(deploykit_here: Deploykit, small: Bundle) -> None:
    done = deploykit_here("bench", small.path, "--backend", "tensorrt-rtx")
    assert done.returncode == 1
    assert "has no tensorrt-rtx plans of predict" in done.stderr
    done = deploykit_here("bench", small.path, "--backend", "tensorrt", "--threads", "2")
    assert done.returncode == 2
    assert "--provider and --threads are for onnxruntime, and --backend is tensorrt" in done.stderr


def test_like_trtexec_is_written_down_and_not_compared_with_anything_else(
    deploykit_here: Deploykit, small: Bundle, reports: tuple[Path, Path], tmp_path: Path
) -> None:
    file = tmp_path / "t.json"
    assert deploykit_here("bench", small.path, "--like", "trtexec11", *QUICK, "--graph", "predict", "--json", file).returncode == 0
    assert json.loads(file.read_text())["method"]["like"] == "trtexec11"
    refused = deploykit_here("bench", "--compare", reports[0], file)
    assert refused.returncode == 1
    assert "no measurements of the same kind: method: like" in refused.stderr


def test_several_callers_are_measured_on_one_session(deploykit_here: Deploykit, small: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    options = ("--graph", "predict", "--batch", "1", "--threads", "1", "--concurrency", "1,3", "--seconds", "0.2")
    assert deploykit_here("bench", small.path, *options, "--json", file).returncode == 0
    assert [case["concurrency"] for case in json.loads(file.read_text())["cases"]] == [1, 1, 3]


def test_threads_are_swept_in_one_run(deploykit_here: Deploykit, small: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    options = ("--graph", "predict", "--batch", "1", "--threads", "1,2", "--seconds", "0.2")
    assert deploykit_here("bench", small.path, *options, "--json", file).returncode == 0
    assert [case["threads"] for case in json.loads(file.read_text())["cases"]] == [0, 1, 2]


def test_a_report_that_cannot_be_written_is_one_clear_error(deploykit_here: Deploykit, small: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = deploykit_here("bench", small.path, *QUICK, "--graph", "predict", "--json", tmp_path / "file" / "r.json")
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert "hint: choose another place" in done.stderr
