"""One engine built several times over: how far apart the builds are, and the median one kept.

TensorRT chooses kernels by timing them, so two builds of one graph may differ in size and speed
(https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/advanced.html#algorithm-selection-and-reproducible-builds).
In: what is to be built, how often, and how a plan is timed. Out: an `Engine` with its `Repeats`. The cache takes no part.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from deploykit.engine.build import Engine, Request, build_engine
from deploykit.plan import Repeats
from deploykit.trt import Flavour


@dataclass(frozen=True)
class Timing:
    """How plans are timed.

    Args:
        gpu_time_ms: gives a plan's median time on the GPU; None where no plan can run here.
        batch: images of a timed call. reason: why none can run.
    """

    gpu_time_ms: Callable[[bytes], float] | None
    batch: int | None = None
    reason: str | None = None


def build_repeatedly(
    flavour: Flavour,
    request: Request,
    count: int,
    timing: Timing,
    *,
    timing_cache: Path | None = None,
    progress: Callable[[float], None] | None = None,
    modules: Callable[[], Mapping[str, str]] | None = None,
) -> Engine:
    """Build an engine ``count`` times and keep the one in the middle: by its time on the GPU, elsewhere by size and build time.

    Raises:
        EngineError: see `deploykit.engine.build.build_engine`.
    """
    engines = []
    for i in range(count):
        advance = _part(progress, i, count) if progress else None
        engines.append(build_engine(flavour, request, cache=None, timing_cache=timing_cache, progress=advance, modules=modules))
    times = tuple(timing.gpu_time_ms(engine.plan) for engine in engines) if timing.gpu_time_ms else None
    keys = list(times) if times else [(len(engine.plan), engine.build_s) for engine in engines]
    kept = sorted(range(count), key=keys.__getitem__)[(count - 1) // 2]
    repeats = Repeats(
        build_s=tuple(engine.build_s for engine in engines),
        size_bytes=tuple(len(engine.plan) for engine in engines),
        sha256=tuple(hashlib.sha256(engine.plan).hexdigest() for engine in engines),
        kept=kept,
        gpu_time_ms=times,
        not_timed=timing.reason if times is None else None,
        timed_batch=timing.batch if times is not None else None,
    )
    return replace(engines[kept], repeats=repeats)


def _part(progress: Callable[[float], None], i: int, count: int) -> Callable[[float], None]:
    """The share of one build as a share of all."""
    return lambda share: progress((i + share) / count)
