"""The clock itself, on devices of known cost: asynchronous ones, slow first calls, hidden tails, several callers."""

import statistics
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deploykit.benchmark.energy import Metered, processor_meter
from deploykit.benchmark.rounds import measure_sides
from deploykit.benchmark.timing import Burst, Synchronous, summarize, time_callers, time_calls
from deploykit.errors import MeasurementError

pytestmark = [pytest.mark.alone, pytest.mark.usefixtures("idle_process")]


@dataclass
class AsynchronousDevice:
    """enqueue() returns at once; the work takes 20 ms more, the very first call 300 ms, as a build or lazy loading does.

    Args:
        waits: whether synchronize() does what it says.
    """

    waits: bool = True
    calls: int = 0
    synchronized: int = 0
    worker: threading.Thread = field(default_factory=lambda: threading.Thread(target=time.sleep, args=(0,)))

    def enqueue(self) -> None:
        self.calls += 1
        self.worker = threading.Thread(target=time.sleep, args=(0.3 if self.calls == 1 else 0.02,))
        self.worker.start()

    def synchronize(self) -> None:
        self.synchronized += 1
        if self.waits:
            self.worker.join()

    def is_idle(self) -> bool:
        return not self.worker.is_alive()

    def spans_ms(self) -> Mapping[str, float]:
        return {"gpu": 20.0, "h2d": 0.5}


def spin(milliseconds: float) -> None:
    """Keep a core busy, by the clock of this thread's CPU time, which other processes do not advance."""
    end = time.thread_time_ns() + milliseconds * 1e6
    while time.thread_time_ns() < end:
        pass


def test_an_asynchronous_device_is_timed_until_its_work_is_done_and_its_first_call_is_warm_up() -> None:
    device = AsynchronousDevice()
    measured = measure_sides({"device": lambda calls: time_calls(device, calls)}, rounds=10)
    row = summarize(measured.samples("device"))
    # The work sleeps 20 ms; starting and joining a thread adds to it, on a busy machine some milliseconds.
    assert 20 <= row["median"] < 30
    assert row["max"] < 300
    assert device.synchronized == device.calls
    assert row["count"] == 10


def test_a_device_that_is_still_busy_after_it_was_synchronized_is_caught() -> None:
    device = AsynchronousDevice(waits=False)
    with pytest.raises(MeasurementError, match="still busy after it was synchronized"):
        time_calls(device, 2)
    device.worker.join()


def test_the_launch_and_the_devices_own_spans_stand_beside_the_whole() -> None:
    burst = time_calls(AsynchronousDevice(calls=1), 3)
    assert max(burst.enqueue_ms) < min(burst.wall_ms)
    assert burst.spans_ms == {"gpu": (20.0,) * 3, "h2d": (0.5,) * 3}
    assert burst.elapsed_ms >= sum(burst.wall_ms)


def test_a_slow_call_in_a_hundred_shows_in_p99_and_not_in_p50() -> None:
    calls = iter(range(1, 5000))

    def mostly_quick() -> None:
        spin(1.0 if next(calls) % 66 == 0 else 0.02)

    row = summarize(time_calls(Synchronous(mostly_quick), 2000).cpu_ms)
    assert row["p99"] >= 1.0
    assert row["median"] < 0.1
    assert row["p95"] < 1.0


@pytest.mark.parametrize(("samples", "shown"), [(99, ()), (100, ("p90",)), (200, ("p90", "p95")), (1000, ("p90", "p95", "p99"))])
def test_a_percentile_is_given_from_ten_samples_above_it_on(samples: int, shown: tuple[str, ...]) -> None:
    row = summarize([float(k) for k in range(samples)])
    assert tuple(name for name in ("p90", "p95", "p99") if name in row) == shown
    if "p90" in row:
        assert row["p90"] == pytest.approx(0.9 * (samples - 1))


def test_a_call_through_the_harness_takes_what_a_bare_loop_takes() -> None:
    bare = []
    for _ in range(60):
        start = time.process_time_ns()
        spin(2)
        bare.append((time.process_time_ns() - start) / 1e6)
    harness = time_callers([Synchronous(lambda: spin(2))], 60).cpu_ms
    # By CPU time, which neighbours do not advance: 3 % of 2 ms is 60 us, a hundred times what two looks at a clock take.
    assert statistics.median(harness) == pytest.approx(statistics.median(bare), rel=0.03)


def test_callers_at_once_share_the_calls_and_the_burst_is_shorter_than_their_sum() -> None:
    burst = time_callers([Synchronous(lambda: time.sleep(0.01))] * 4, 10)
    assert len(burst.wall_ms) == len(burst.cpu_ms) == 10
    assert burst.elapsed_ms < 0.7 * sum(burst.wall_ms)


def test_what_a_caller_raises_is_raised_and_no_thread_is_left() -> None:
    def fail() -> None:
        raise OSError("the session died")

    before = threading.active_count()
    with pytest.raises(OSError, match="the session died"):
        time_callers([Synchronous(fail)] * 3, 6)
    assert threading.active_count() == before


def test_every_side_is_warmed_up_for_as_long_as_was_asked() -> None:
    start, bursts = time.perf_counter(), []

    def side(calls: int) -> Burst:
        bursts.append(time.perf_counter() - start)
        return time_calls(Synchronous(lambda: time.sleep(0.002)), calls)

    steps: list[int] = []
    measure_sides({"side": side}, rounds=3, burst_ms=10, warm_up_ms=80, on_step=lambda: steps.append(1))
    assert bursts[-3] >= 0.08
    assert len(steps) == 1 + 3


def test_energy_is_images_over_joules_and_unknown_where_a_counter_wraps() -> None:
    counter = iter([1000.0, 3000.0, 5000.0, 6000.0])
    side = Metered(lambda calls: Burst((1.0,) * calls, (1.0,) * calls), 4, lambda: next(counter))
    side(5)
    side(1)
    assert side.images_per_joule == pytest.approx(24 / 3)
    wrapped = iter([3000.0, 10.0])
    side = Metered(lambda calls: Burst((1.0,) * calls, (1.0,) * calls), 4, lambda: next(wrapped))
    side(5)
    assert side.images_per_joule is None


def test_a_processor_that_does_not_tell_its_energy_gives_none(tmp_path: Path) -> None:
    assert processor_meter(tmp_path)() is None
    (tmp_path / "intel-rapl:0").mkdir()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("2500000\n")
    assert processor_meter(tmp_path)() == 2500
