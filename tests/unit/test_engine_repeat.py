"""Several builds of one engine: which is kept, and what is said of their spread. The builder is a stand-in."""

from pathlib import Path

import pytest

from deploykit.cli.build import _repeats
from deploykit.engine import repeat
from deploykit.engine.build import Engine, Request
from deploykit.engine.repeat import Timing, build_repeatedly
from deploykit.plan import BatchRange, Repeats
from deploykit.spec import Precision
from deploykit.trt import BuildOptions, Flavour

RTX = Flavour("tensorrt-rtx", "1.7.1", None)
REQUEST = Request(Path("predict.onnx"), "0" * 64, Precision.FP32, BuildOptions(BatchRange(1, 2, 4), target="sm86"))


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Plans that the next builds give, in order; each build reports its half and its end."""
    plans: list[bytes] = []

    def build(*_: object, cache: Path | None, progress: object = None, **__: object) -> Engine:
        assert cache is None
        if callable(progress):
            progress(0.5)
            progress(1.0)
        return Engine(plans.pop(0), 1.0, False, {}, {"fp32": 1}, None, "not here")

    monkeypatch.setattr(repeat, "build_engine", build)
    return plans


def test_the_build_with_the_median_time_on_the_gpu_is_kept(builds: list[bytes]) -> None:
    builds += [b"fast", b"slow", b"mid"]
    times = {b"fast": 1.0, b"slow": 3.0, b"mid": 2.0}
    engine = build_repeatedly(RTX, REQUEST, 3, Timing(times.__getitem__, batch=2))
    assert engine.plan == b"mid"
    assert engine.repeats is not None
    assert (engine.repeats.kept, engine.repeats.gpu_time_ms, engine.repeats.timed_batch) == (2, (1.0, 3.0, 2.0), 2)
    assert not engine.repeats.is_identical


def test_without_a_gpu_the_build_of_the_median_size_is_kept_and_the_reason_noted(builds: list[bytes]) -> None:
    builds += [b"abc", b"a", b"ab", b"abcd"]
    engine = build_repeatedly(RTX, REQUEST, 4, Timing(None, reason="no GPU"))
    assert engine.plan == b"ab"  # of an even number the smaller of the two in the middle
    assert engine.repeats is not None
    assert (engine.repeats.gpu_time_ms, engine.repeats.not_timed, engine.repeats.timed_batch) == (None, "no GPU", None)


def test_progress_runs_through_all_builds_without_falling(builds: list[bytes]) -> None:
    builds += [b"a", b"a"]
    shares: list[float] = []
    engine = build_repeatedly(RTX, REQUEST, 2, Timing(None, reason="no GPU"), progress=shares.append)
    assert shares == [0.25, 0.5, 0.75, 1.0]
    assert engine.repeats is not None
    assert engine.repeats.is_identical


def test_the_spread_is_told_in_two_lines() -> None:
    timed = Repeats((1.0, 1.5, 2.0), (1_000_000, 1_000_000, 1_000_000), ("a", "a", "a"), 1, (2.0, 2.1, 2.2), timed_batch=8)
    assert _repeats(timed) == [
        "3 builds: 1.00 MB, 1.00 to 2.00 s, identical bytes; number 2 is kept",
        "2.000 to 2.200 ms on the GPU at batch 8, 9.5% apart",
    ]
    untimed = Repeats((1.0, 1.5), (1_000_000, 2_000_000), ("a", "b"), 0, not_timed="no GPU")
    assert _repeats(untimed) == [
        "2 builds: 1.00 to 2.00 MB, 1.00 to 1.50 s, 2 different plans; number 1 is kept",
        "their latency: not measured (no GPU)",
    ]
