"""How plans are measured: whole calls with the GPU's times beside them, or what trtexec counts. A stand-in keeps the time."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from deploykit.benchmark.timing import Burst
from deploykit.cli.bench_plans import add_spans, gpu_time_ms, plan_side


class Call:
    """A prepared call: its copies and its run take 1, 2, 3 ms by the GPU's clock, the run a millisecond more each time."""

    def __init__(self, plan: "Plan") -> None:
        self.plan = plan

    def enqueue(self) -> None:
        self.plan.prepared += 1

    def synchronize(self) -> None:
        pass

    def is_idle(self) -> bool:
        return True

    def spans_ms(self) -> Mapping[str, float]:
        return {"h2d": 1.0, "gpu": 1.0 + self.plan.prepared, "d2h": 3.0}


class Plan:
    backend = "tensorrt-rtx 1.7 (stand-in)"

    def __init__(self) -> None:
        self.runs, self.prepared, self.open = 0, 0, 0

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        self.runs += 1
        return {}

    @contextlib.contextmanager
    def prepare(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> Iterator[Call]:
        self.open += 1
        yield Call(self)
        self.open -= 1


@pytest.mark.parametrize(("like", "latencies"), [("trtexec10", (6.0, 7.0, 8.0)), ("trtexec11", (2.0, 3.0, 4.0))])
def test_trtexecs_latency_is_what_the_gpu_says_with_the_copies_or_without(like: str, latencies: tuple[float, ...]) -> None:
    plan = Plan()
    burst = plan_side(plan, {}, ("logits",), 1, like)(3)
    assert burst.wall_ms == latencies
    assert burst.elapsed_ms == 0  # throughput follows from the latencies
    assert (plan.runs, plan.prepared, plan.open) == (0, 3, 0)


def test_whole_calls_are_timed_and_shared_out_to_callers() -> None:
    plan = Plan()
    burst = plan_side(plan, {}, ("logits",), 2, "deploykit")(6)
    assert (plan.runs, len(burst.wall_ms), burst.spans_ms) == (6, 6, {})


def test_spans_come_from_prepared_calls_and_leave_the_whole_calls_as_they_are() -> None:
    plan, whole = Plan(), Burst((5.0,) * 8, (1.0,) * 8, elapsed_ms=40)
    burst = add_spans(plan, {}, ("logits",), lambda calls: whole)(8)
    assert (burst.wall_ms, burst.elapsed_ms) == (whole.wall_ms, 40)
    assert burst.spans_ms == {"h2d": (1.0, 1.0), "gpu": (2.0, 3.0), "d2h": (3.0, 3.0)}
    add_spans(plan, {}, ("logits",), lambda calls: whole)(1)
    assert (plan.prepared, plan.open) == (3, 0)


def test_the_time_of_a_plan_is_the_median_run_after_a_warm_up() -> None:
    plan = Plan()
    assert gpu_time_ms(plan, {}, ("logits",), calls=3) == 1 + 5  # calls 4, 5 and 6 count
