"""Reports: what they say of their samples, their file, and whether two of them differ by more than noise."""

import csv
import io
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploykit.benchmark.compare import compare_reports
from deploykit.benchmark.report import Case, CaseResult, Report, read_report
from deploykit.benchmark.tables import as_csv, as_markdown, as_text, comparison_text
from deploykit.benchmark.timing import Burst
from deploykit.errors import MeasurementError, UsageError

SUBJECT = {"model": "resnet18", "trained": True, "weights_sha256": "ab", "image": [224, 224]}
MACHINE = {"cpu": "a processor", "cores": 2, "system": "Linux", "gpu": None}
METHOD = {"like": "deploykit", "includes": "the run", "rounds": 12}


def result_of(
    median_ms: float, *, seed: int = 0, noise: float = 0.02, rounds: int = 12, calls: int = 20, **case: Any
) -> CaseResult:
    """Rounds whose medians scatter by `noise` (a standard deviation, as a share) round a median."""
    draw = random.Random(seed)  # noqa: S311
    bursts = []
    for _ in range(rounds):
        level = median_ms * (1 + draw.gauss(0, noise))
        wall = tuple(level * (1 + draw.gauss(0, 0.001)) for _ in range(calls))
        bursts.append(Burst(wall, wall, (), sum(wall)))
    made = Case(**{"graph": "predict", "backend": "onnxruntime 1.32.0 (CPU)", "precision": "fp32", **case})
    return CaseResult(made, tuple(bursts), (0.0,) * rounds, tuple(range(rounds)), True, True)


def report_of(*results: CaseResult) -> Report:
    return Report(SUBJECT, MACHINE, METHOD, results)


def test_the_same_thing_twice_is_no_difference_beyond_the_noise() -> None:
    # A hundred pairs of runs of one thing: a verdict that cries wolf would do so in some of them.
    for seed in range(100):
        first, second = (report_of(result_of(10, seed=2 * seed + k)) for k in (0, 1))
        found = compare_reports(first, second)
        assert found.varied == {}
        assert "no difference beyond the noise" in found.differences[0].verdict, found.differences[0]


def test_a_difference_larger_than_the_noise_is_named_with_its_interval() -> None:
    first, second = report_of(result_of(10, seed=1)), report_of(result_of(5, seed=2, precision="int8"))
    found = compare_reports(first, second)
    assert found.varied == {"precision": ("fp32", "int8")}
    difference = found.differences[0]
    assert difference.is_beyond_noise
    assert difference.low < 0.5 < difference.high
    assert difference.ratio == pytest.approx(0.5, rel=0.05)
    assert "faster (95 %: " in difference.verdict
    assert "precision: fp32 against int8" in comparison_text(found)


def test_a_difference_inside_of_the_rounds_own_scatter_is_noise() -> None:
    first, second = (report_of(result_of(ms, seed=k, noise=0.2)) for k, ms in ((3, 10), (4, 11)))
    assert not compare_reports(first, second).differences[0].is_beyond_noise


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"method": METHOD | {"like": "trtexec10"}}, "method: like"),
        ({"method": METHOD | {"includes": "copies"}}, "method: includes"),
        ({"machine": MACHINE | {"cpu": "another"}}, "machine: cpu"),
        ({"machine": MACHINE | {"gpu": ["H100"]}}, "machine: gpu"),
        ({"subject": SUBJECT | {"image": [300, 300]}}, "image size"),
    ],
)
def test_unlike_measurements_are_refused(change: dict[str, Any], says: str) -> None:
    first = report_of(result_of(10))
    with pytest.raises(MeasurementError, match=says):
        compare_reports(first, replace(first, **change))


def test_reports_without_a_common_case_are_refused_and_say_what_they_have() -> None:
    with pytest.raises(MeasurementError, match=r"no case in common: predict fp32, batch 1, .*predict fp32, batch 8"):
        compare_reports(report_of(result_of(10)), report_of(result_of(10, batch=8)))


def test_too_few_rounds_say_nothing_about_noise() -> None:
    with pytest.raises(MeasurementError, match="4 and 12 rounds, expected at least 5"):
        compare_reports(report_of(result_of(10, rounds=4)), report_of(result_of(10)))


def test_cases_that_one_side_lacks_are_listed() -> None:
    both = report_of(result_of(10), result_of(40, batch=8))
    assert compare_reports(both, report_of(result_of(10))).unmatched == (both.results[1].case.title,)


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    burst = Burst((1.5, 1.25), (1.0, 1.0), (0.5, 0.25), 2.75, {"gpu": (1.0, 0.75)})
    case = Case("explain", "tensorrt 10.12", "int8", 8, 0, 2)
    report = Report(SUBJECT, MACHINE, METHOD, (CaseResult(case, (burst,), (None,), (0,), True, False, 12.5),))
    (tmp_path / "r.json").write_text(report.to_text())
    assert read_report(tmp_path / "r.json") == report


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 9, "cases": []}', '{"schema_version": 1, "cases": [{}]}'])
def test_a_file_that_is_no_report_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(MeasurementError, match=r"r\.json"):
        read_report(tmp_path / "r.json")


def test_throughput_counts_images_over_the_time_of_the_burst_and_not_over_the_sum_of_its_callers() -> None:
    burst = Burst((10.0,) * 4, (1.0,) * 4, (), 20.0)  # two callers, two calls of 10 ms each, of 8 images
    result = CaseResult(Case("predict", "b", "fp32", 8, 0, 2), (burst,), (None,), (0,), True, True)
    assert result.throughput == pytest.approx(4 * 8 / 0.020)


def test_a_case_that_slows_down_while_it_is_measured_is_drifting() -> None:
    steady, slower = result_of(10, rounds=6, noise=0), result_of(12, rounds=6, noise=0)
    drifting = replace(steady, rounds=steady.rounds + slower.rounds, kept=tuple(range(12)), other_cores=(0.0,) * 12)
    assert drifting.verdict == "drifting: the second half is +20% from the first"
    assert steady.verdict == "stable"


def test_disturbed_rounds_and_a_warm_up_that_did_not_settle_are_said() -> None:
    result = replace(result_of(10), is_quiet=False, other_cores=(1.0,) * 12, is_warm=False)
    assert result.verdict == "disturbed: other processes kept 1.0 cores busy; warm-up did not settle"


def test_the_table_has_no_percentile_that_its_samples_cannot_give() -> None:
    header = ["case", "min", "mean", "p50", "p90", "p95", "p99", "n"]

    def shown(calls: int) -> dict[str, str]:
        lines = as_text(report_of(result_of(10, calls=calls))).splitlines()
        titles = next(line for line in lines if line.startswith("case")).split()
        assert titles[: len(header)] == header
        row = next(line for line in lines if line.startswith("predict fp32 b1")).removeprefix("predict fp32 b1").split()
        return dict(zip(titles[1:], row, strict=False))

    few, many = shown(20), shown(100)  # in 12 rounds: 240 and 1,200 samples
    assert [few[name] == "-" for name in ("p50", "p90", "p95", "p99")] == [False, False, False, True]
    assert [many[name] == "-" for name in ("p50", "p90", "p95", "p99")] == [False] * 4
    assert "p99 from 1,000" in as_text(report_of(result_of(10, calls=20)))
    assert "p99 from 1,000" not in as_text(report_of(result_of(10, calls=100)))


def test_backends_stand_in_the_table_where_there_are_several() -> None:
    one = result_of(10)
    both = report_of(
        one, result_of(20, backend="onnxruntime 1.32.0 (CUDA)"), result_of(8, backend="onnxruntime 1.32.0 (CUDA)", precision="fp16")
    )
    assert "(CPU)" not in as_text(report_of(one))
    assert as_text(both).count("onnxruntime 1.32.0 (CUDA)") == 2
    # fp16 is held against fp32 on its own backend: 8 ms against 20, not against 10.
    assert re.search(r"predict fp16, batch 1 against fp32: 2\.[45]\dx faster", as_text(both))


def test_precisions_of_one_run_are_held_against_fp32() -> None:
    text = as_text(report_of(result_of(10, seed=1), result_of(4, seed=2, precision="int8")))
    assert re.search(r"predict int8, batch 1 against fp32: 2\.\d\dx faster", text)


def test_csv_has_a_line_per_case_and_markdown_a_row() -> None:
    report = report_of(result_of(10), result_of(40, batch=8))
    rows = list(csv.DictReader(io.StringIO(as_csv(report))))
    assert [row["batch"] for row in rows] == ["1", "8"]
    assert float(rows[0]["median_ms"]) == pytest.approx(10, rel=0.05)
    assert rows[0]["p99_ms"] == ""
    assert as_markdown(report).count("\n| predict fp32 b") == 2


def test_a_gpu_that_held_its_clocks_back_or_had_company_is_named() -> None:
    calm = {"name": "NVIDIA L4", "throttled_by": ["applications' clocks"], "other_processes": 0}
    hot = {"name": "NVIDIA L4", "throttled_by": ["hardware thermal slowdown"], "other_processes": 2}
    said = [as_text(replace(report_of(result_of(10)), machine=MACHINE | {"gpus_after": [gpu]})) for gpu in (calm, hot)]
    assert "clocks back" not in said[0]
    assert "other processes" not in said[0]
    assert "NVIDIA L4 held its clocks back: hardware thermal slowdown" in said[1]
    assert "NVIDIA L4 ran 2 other processes" in said[1]


def test_a_case_checks_itself() -> None:
    with pytest.raises(UsageError, match="batch 0"):
        Case("predict", "b", "fp32", 0)
