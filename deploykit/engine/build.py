"""A graph becomes an engine of the precision that was asked for, or an error: built or taken from the cache, looked into, judged.

In: a flavour, a graph and how to build it. Out: `Engine`. What a strongly typed network multiplies in is counted on every machine;
what the finished engine runs in can be looked into only where a driver loads it, and elsewhere that is said.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deploykit.engine.cache import Entry, cache_key, get_or_build, replace_file
from deploykit.errors import EngineError
from deploykit.plan import Gpu, Repeats
from deploykit.spec import Precision
from deploykit.trt import BuildOptions, EngineLayer, Flavour, build_plan, count_precisions, find_gpu, inspect_plan


@dataclass(frozen=True, eq=False)
class Engine:
    """A plan and what is known of it. Fields as in `deploykit.plan.PlanFile`."""

    plan: bytes = field(repr=False)
    build_s: float
    from_cache: bool
    network: Mapping[str, int]
    multiplying: Mapping[str, int]
    engine: Mapping[str, int] | None
    not_inspected: str | None
    layers: tuple[tuple[str, str], ...] = ()
    repeats: Repeats | None = None


@dataclass(frozen=True)
class Request:
    """What is to be built.

    Args:
        graph: an ONNX file; its side file, if any, stands beside it.
        graph_sha256: of all its files.
        precision: what it must multiply in.
        options: see their type.
        allow_fallback: accept an engine of another precision.
    """

    graph: Path
    graph_sha256: str
    precision: Precision
    options: BuildOptions
    allow_fallback: bool = False


def build_engine(
    flavour: Flavour,
    request: Request,
    *,
    cache: Path | None,
    timing_cache: Path | None = None,
    progress: Callable[[float], None] | None = None,
    on_wait: Callable[[], None] | None = None,
    modules: Callable[[], Mapping[str, str]] | None = None,
) -> Engine:
    """Build an engine, or take it from the cache.

    Args:
        cache: the cache's folder; None builds in any case and keeps nothing.
        timing_cache: a file of kernel timings, read before and written after a build.
        modules: gives node name -> torch module path, for the messages; called when something is built.

    Raises:
        EngineError: see `deploykit.trt.build_plan`; or the precision was not delivered.
    """

    def build() -> Entry:
        before = _read(timing_cache)
        built = build_plan(
            flavour, request.graph, request.options, timing_cache=before, progress=progress, modules=modules() if modules else None
        )
        if timing_cache is not None and built.timing_cache is not None:
            _write(timing_cache, built.timing_cache)
        sm = target_sm(request.options.target)
        layers, reason = inspect_engine(flavour, built.data, sm, version_compatible=request.options.version_compatible)
        facts = {
            "build_s": round(built.build_s, 3),
            "network": dict(built.network.layers),
            "multiplying": dict(built.network.multiplying),
            "engine": count_precisions(layers),
            "not_inspected": reason,
            "layers": layers,
        }
        return built.data, facts

    if cache is None:
        (plan, facts), found = build(), False
    else:
        (plan, facts), found = get_or_build(cache, cache_key(_key(flavour, request)), build, on_wait=on_wait)
    # A cache entry comes out of JSON, which has no tuples.
    layers = tuple((name, precision) for name, precision in facts.pop("layers"))
    engine = Engine(plan, from_cache=found, layers=layers, **facts)
    if not request.allow_fallback:
        require_delivered(request.precision, engine)
    return engine


def require_delivered(precision: Precision, engine: Engine) -> None:
    """Refuse an engine that does not compute in the precision that was asked for.

    Raises:
        EngineError: no convolution or matrix product of the typed network multiplies in it, or no layer of the engine does.
    """
    hint = "accept it with --allow-fallback, or look at what the graph holds: deploykit inspect"
    if not engine.multiplying.get(precision):
        seen = ", ".join(f"{count} in {name}" for name, count in engine.multiplying.items()) or "none"
        raise EngineError(f"{precision} was asked for, and no convolution or matrix product multiplies in it ({seen})", hint=hint)
    if engine.engine is not None and not engine.engine.get(precision):
        seen = ", ".join(f"{count} in {name}" for name, count in engine.engine.items())
        raise EngineError(f"{precision} was asked for, and no layer of the built engine runs in it ({seen})", hint=hint)


def target_sm(target: str) -> str:
    """The compute capability of a target.

    Raises:
        EngineError: ``current`` on a machine without a GPU.
    """
    if target != "current":
        return target
    gpu = find_gpu()
    if gpu is None:
        raise EngineError(
            "--target current is the GPU of this machine, and there is none",
            hint="name the GPU that the plan is for, with --target",
        )
    return gpu.sm


def inspect_engine(
    flavour: Flavour, plan: bytes, sm: str, *, version_compatible: bool
) -> tuple[tuple[EngineLayer, ...], str | None]:
    """The layers of an engine for ``sm``, or why their precisions could not be told."""
    gpu: Gpu | None = find_gpu()
    if gpu is None:
        return (), "no CUDA driver here that could load the engine"
    if gpu.sm != sm:
        return (), f"the GPU here is {gpu.sm}, the engine is for {sm}"
    layers = inspect_plan(flavour, plan, version_compatible=version_compatible)
    return layers, None if count_precisions(layers) is not None else "the Engine Inspector tells no precision of any layer"


def _key(flavour: Flavour, request: Request) -> dict[str, Any]:
    options = request.options
    # A target that is named is built alike whatever GPU is here; the GPU at hand decides by what it measures.
    gpu = find_gpu() if options.target == "current" else None
    return {
        "graph": request.graph_sha256,
        "precision": str(request.precision),
        "backend": flavour.backend,
        "version": flavour.version,
        "gpu": asdict(gpu) if gpu else None,
        "options": {**asdict(options), "plugins": [hashlib.sha256(path.read_bytes()).hexdigest() for path in options.plugins]},
    }


def _read(timing_cache: Path | None) -> bytes | None:
    if timing_cache is None:
        return None
    try:
        return timing_cache.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise EngineError(f"timing cache {timing_cache} cannot be read: {error.strerror or error}") from error


def _write(timing_cache: Path, data: bytes) -> None:
    try:
        replace_file(timing_cache, data)
    except OSError as error:
        raise EngineError(f"timing cache {timing_cache} cannot be written: {error.strerror or error}") from error
