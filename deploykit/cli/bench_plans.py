"""How a TensorRT plan is measured: answers from host memory to host memory, with the GPU's own times beside them, or what trtexec
times.

A call of a session cannot be taken apart from outside. So beside the calls that are timed as a whole, each burst makes some
prepared ones, whose copies and run the GPU's events time.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

from deploykit.benchmark.timing import Burst, Device, Side, Synchronous, time_callers, time_calls
from deploykit.bundle import Bundle
from deploykit.runtime import opening
from deploykit.runtime.lane import SPANS
from deploykit.runtime.opening import parse_precision
from deploykit.runtime.plans import find_plan
from deploykit.runtime.trt import TrtSession

GPU = "gpu"
TRTEXEC = {"trtexec10": SPANS, "trtexec11": (GPU,)}
"""What each counts: 10 the copies and the run, launched anew each time; 11 the run alone, replayed from a CUDA graph."""

_SHARE = 4
"""One prepared call for so many whole ones."""


class Plan(Protocol):
    """What is needed of a session over a plan; see `deploykit.runtime.trt.TrtSession`."""

    @property
    def backend(self) -> str:
        """What answers."""

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Run once, from host memory to host memory."""

    def prepare(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> AbstractContextManager[Device]:
        """One call to be made many times over."""


def open_plan(bundle: Bundle, graph: str, precision: str, backend: str, like: str, callers: int) -> TrtSession:
    """The plan of a graph that fits this machine, with as many lanes as there are callers.

    Raises:
        BundleError, EngineError, MissingExtraError, SessionError: see `deploykit.runtime.opening.open_session`.
    """
    plan = find_plan(bundle, graph, parse_precision(precision), backend=backend)
    return opening.open_plan(bundle, plan, cuda_graphs=like != "trtexec10", lanes=callers)


def plan_side(plan: Plan, feeds: Mapping[str, Any], outputs: Sequence[str], callers: int, like: str) -> Side:
    """Bursts of a plan's calls.

    Args:
        like: a key of `TRTEXEC`, whose latencies are then sums of what the GPU's events say; anything else times whole calls.
    """
    if like in TRTEXEC:
        return lambda calls: _like_trtexec(_prepared(plan, feeds, outputs, calls), TRTEXEC[like])
    return lambda calls: time_callers([Synchronous(lambda: plan.run(feeds, outputs))] * callers, max(calls, callers))


def add_spans(plan: Plan, feeds: Mapping[str, Any], outputs: Sequence[str], side: Callable[[int], Burst]) -> Side:
    """Bursts of whole calls, and what the GPU's events say of prepared calls right after them."""

    def burst(calls: int) -> Burst:
        whole = side(calls)
        return replace(whole, spans_ms=_prepared(plan, feeds, outputs, max(1, calls // _SHARE)).spans_ms)

    return burst


def gpu_time_ms(plan: Plan, feeds: Mapping[str, Any], outputs: Sequence[str], *, calls: int = 100) -> float:
    """The median time of a plan's run on the GPU, copies left out, after as many calls to warm up."""
    with plan.prepare(feeds, outputs) as call:
        time_calls(call, calls)
        return statistics.median(time_calls(call, calls).spans_ms[GPU])


def _prepared(plan: Plan, feeds: Mapping[str, Any], outputs: Sequence[str], calls: int) -> Burst:
    with plan.prepare(feeds, outputs) as call:
        return time_calls(call, calls)


def _like_trtexec(burst: Burst, spans: Sequence[str]) -> Burst:
    latencies = zip(*(burst.spans_ms[name] for name in spans), strict=True)
    # What lies between two calls is not trtexec's latency, so throughput follows from the latencies too.
    return replace(burst, wall_ms=tuple(map(sum, latencies)), elapsed_ms=0)
