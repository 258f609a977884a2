"""Calls of a device, each timed alone: a device in, milliseconds out.

A call is over when the device has finished it. Timing the launch alone makes a GPU look many times as fast as it is
(https://github.com/NVIDIA/TensorRT/issues/3493), so every call is synchronized, and in the end the device is asked whether it
is idle.
"""

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from deploykit.errors import MeasurementError

LEAST_SAMPLES = {90: 100, 95: 200, 99: 1000}
"""A percentile needs ten samples above it; below that it is a handful of accidents."""

Call = Callable[[], object]


class Device(Protocol):
    """What is measured."""

    def enqueue(self) -> object:
        """Start one call. May return before it is done."""

    def synchronize(self) -> None:
        """Wait until everything that was started is done."""

    def is_idle(self) -> bool:
        """Whether nothing that was started is still running."""

    def spans_ms(self) -> Mapping[str, float]:
        """Parts of the last call as the device itself timed them, such as ``gpu``, ``h2d`` and ``d2h``; empty if it does not."""


@dataclass(frozen=True)
class Synchronous:
    """A device whose calls are done when they return: ONNX Runtime on a CPU, or any function."""

    call: Call

    def enqueue(self) -> object:
        """Make the call."""
        return self.call()

    def synchronize(self) -> None:
        """Nothing is left to wait for."""

    def is_idle(self) -> bool:
        """Always: the call has returned."""
        return True

    def spans_ms(self) -> Mapping[str, float]:
        """None: the call is one piece."""
        return {}


@dataclass(frozen=True)
class Burst:
    """Calls made one after the other.

    Args:
        wall_ms: of each call, from before it was started until it was done, by the wall clock.
        cpu_ms: CPU time of the process meanwhile, all threads together.
        enqueue_ms: the part of `wall_ms` until the start returned; empty where the two are the same.
        elapsed_ms: of the whole burst; with several callers at once less than the sum of `wall_ms`. 0 where it was not taken.
        spans_ms: of each call, what the device timed itself, by name.
    """

    wall_ms: tuple[float, ...]
    cpu_ms: tuple[float, ...]
    enqueue_ms: tuple[float, ...] = ()
    elapsed_ms: float = 0
    spans_ms: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


Side = Callable[[int], Burst]
"""Makes that many calls in a row."""


def in_process(call: Call) -> Side:
    """A function as a side that runs here."""
    return lambda calls: run_burst(call, calls)


def run_burst(call: Call, calls: int) -> Burst:
    """Call a function that is done when it returns, and time each call alone."""
    return time_calls(Synchronous(call), calls)


def time_calls(device: Device, calls: int) -> Burst:
    """Make calls one after the other; each is timed alone, from before it starts until the device is done with it.

    Raises:
        MeasurementError: the device still runs after it was synchronized.
    """
    wall, cpu, enqueue = [], [], []
    spans: dict[str, list[float]] = {}
    start = time.perf_counter_ns()
    for _ in range(calls):
        wall_start, cpu_start = time.perf_counter_ns(), time.process_time_ns()
        device.enqueue()
        started = time.perf_counter_ns()
        device.synchronize()
        done = time.perf_counter_ns()
        cpu.append((time.process_time_ns() - cpu_start) / 1e6)
        wall.append((done - wall_start) / 1e6)
        enqueue.append((started - wall_start) / 1e6)
        for name, milliseconds in device.spans_ms().items():
            spans.setdefault(name, []).append(milliseconds)
    elapsed = (time.perf_counter_ns() - start) / 1e6
    _check_idle(device)
    launches = () if isinstance(device, Synchronous) else tuple(enqueue)
    return Burst(tuple(wall), tuple(cpu), launches, elapsed, {name: tuple(values) for name, values in spans.items()})


def time_callers(devices: Sequence[Device], calls: int) -> Burst:
    """The same with one thread per device, all at once: `calls` in all, shared out evenly.

    The CPU time of a call cannot be told when several run, so each gets its share of the burst's.

    Raises:
        MeasurementError: a device still runs after it was synchronized. What a call itself raises is raised here.
    """
    if len(devices) == 1:
        return time_calls(devices[0], calls)
    shares = [calls // len(devices) + (i < calls % len(devices)) for i in range(len(devices))]
    bursts: list[Burst | None] = [None] * len(devices)
    failures: list[BaseException] = []
    ready = threading.Barrier(len(devices) + 1)

    def work(i: int) -> None:
        ready.wait()
        try:
            bursts[i] = time_calls(devices[i], shares[i])
        except BaseException as error:  # it is raised again below, in the thread that can handle it
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(devices))]
    for thread in threads:
        thread.start()
    ready.wait()
    start, cpu_start = time.perf_counter_ns(), time.process_time_ns()
    for thread in threads:
        thread.join()
    elapsed, cpu = (time.perf_counter_ns() - start) / 1e6, (time.process_time_ns() - cpu_start) / 1e6
    if failures:
        raise failures[0]
    done = [burst for burst in bursts if burst is not None]
    names = {name for burst in done for name in burst.spans_ms}
    return Burst(
        tuple(ms for burst in done for ms in burst.wall_ms),
        (cpu / max(1, calls),) * calls,
        tuple(ms for burst in done for ms in burst.enqueue_ms),
        elapsed,
        {name: tuple(ms for burst in done for ms in burst.spans_ms[name]) for name in names},
    )


def _check_idle(device: Device) -> None:
    if not device.is_idle():
        raise MeasurementError(
            "the device was still busy after it was synchronized, so the times are those of launches and not of the work",
            hint="synchronize() must wait for everything that enqueue() started",
        )


def summarize(samples: Sequence[float]) -> dict[str, float]:
    """Quartiles, extremes, mean and number; the percentiles 90, 95 and 99 where there are samples enough (`LEAST_SAMPLES`)."""
    row = quartiles(samples) | {"min": round(min(samples), 4), "max": round(max(samples), 4), "count": len(samples)}
    for percentile, least in LEAST_SAMPLES.items():
        if len(samples) >= least:
            row[f"p{percentile}"] = round(statistics.quantiles(samples, n=100, method="inclusive")[percentile - 1], 4)
    return row | {"mean": round(statistics.fmean(samples), 4)}


def quartiles(samples: Sequence[float]) -> dict[str, float]:
    """The median and what lies a quarter of the samples below and above it."""
    p25, p50, p75 = statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else [samples[0]] * 3
    return {"p25": round(p25, 4), "median": round(p50, 4), "p75": round(p75, 4)}
