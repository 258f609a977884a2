"""A graph becomes a plan: parsed, checked, built strongly typed with a profile for every dynamic batch.

In: a graph's path or bytes and `BuildOptions`. Out: `BuiltPlan`. The builder does not raise: it logs and returns None, so the log's
own lines become the error.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploykit.errors import EngineError
from deploykit.plan import BatchRange, SideRange
from deploykit.trt.flavour import Flavour, load_plugins, require
from deploykit.trt.log import find_log, plain
from deploykit.trt.monitor import Progress, cancel_on_interrupt, make_monitor
from deploykit.trt.network import NetworkSummary, summarize

_SHOWN = 5
# A process has one logger of TensorRT's, so only one build at a time can tell which errors are its own.
_ONE_AT_A_TIME = threading.Lock()
_OUT_OF_ROOM = ("workspace", "out of memory", "allocat", "OutOfMemory")


@dataclass(frozen=True)
class BuildOptions:
    """How a plan is built.

    Args:
        batch: the batch sizes it takes.
        target: ``current``, or a compute capability such as ``sm86``.
        workspace_bytes: scratch memory that the builder's kernels may use; None leaves it to TensorRT.
        compat: ``none``, ``same-cc`` or ``ampere+``.
        version_compatible, strip: see `deploykit.plan.PlanRecord`.
        optimization_level: 0 to 5; None leaves it to TensorRT.
        tf32: whether float32 may be multiplied as TF32, with 10 bits of mantissa, as TensorRT does unless told otherwise.
        plugins: shared libraries with plugins.
        sides: the photos it takes, where the graph resizes them; otherwise None.
    """

    batch: BatchRange
    target: str = "current"
    workspace_bytes: int | None = None
    compat: str = "none"
    version_compatible: bool = False
    strip: bool = False
    optimization_level: int | None = None
    tf32: bool = False
    plugins: tuple[Path, ...] = ()
    sides: SideRange | None = None

    def __post_init__(self) -> None:
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise EngineError(f"workspace is {self.workspace_bytes} bytes, expected at least 1")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise EngineError(f"optimization level is {self.optimization_level}, expected 0 to 5")


@dataclass(frozen=True, eq=False)
class BuiltPlan:
    """A plan and how it came about. ``timing_cache`` is what the next build can start from; None where the flavour has none."""

    data: bytes = field(repr=False)
    build_s: float
    network: NetworkSummary
    timing_cache: bytes | None = field(default=None, repr=False)


def build_plan(
    flavour: Flavour,
    graph: Path | bytes,
    options: BuildOptions,
    *,
    timing_cache: bytes | None = None,
    progress: Progress | None = None,
    modules: Mapping[str, str] | None = None,
) -> BuiltPlan:
    """Build a plan, strongly typed.

    Args:
        graph: an ONNX file (with its side file, if any), or a serialized graph.
        timing_cache: of an earlier build; ``b""`` starts one; None keeps none.
        progress: called with the share that is done, 0 to 1, which never falls; from TensorRT's threads.
        modules: node name -> torch module path, for the messages.

    Raises:
        EngineError: this flavour cannot do what is asked; the parser or the builder refuses, with its own reason.
        KeyboardInterrupt: Ctrl-C, after the builder has stopped.
    """
    require(
        flavour,
        target=options.target,
        compat=options.compat,
        version_compatible=options.version_compatible,
        strip=options.strip,
        timing_cache=timing_cache is not None,
    )
    with _ONE_AT_A_TIME:
        return _build(flavour, graph, options, timing_cache, progress, modules or {})


def _build(
    flavour: Flavour,
    graph: Path | bytes,
    options: BuildOptions,
    timing_cache: bytes | None,
    progress: Progress | None,
    modules: Mapping[str, str],
) -> BuiltPlan:
    api, log = flavour.api, find_log(flavour.api)
    log.errors.clear()
    load_plugins(flavour, options.plugins)
    builder = api.Builder(log)
    network = builder.create_network(1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = api.OnnxParser(network, log)
    _parse(flavour, parser, log, graph, modules)
    config = builder.create_builder_config()
    _configure(api, config, options)
    _add_profile(flavour, builder, network, config, log, options)
    cache = _set_timing_cache(flavour, config, timing_cache)
    summary = summarize(network)
    start = time.perf_counter()
    with cancel_on_interrupt() as cancelled:
        config.progress_monitor = monitor = make_monitor(api, progress, cancelled)
        memory = builder.build_serialized_network(network, config)
    build_s = time.perf_counter() - start
    if cancelled.is_set():
        raise KeyboardInterrupt
    if monitor.error is not None:
        raise monitor.error
    if memory is None:
        raise _refused(flavour, log.errors, options)
    return BuiltPlan(bytes(memory), build_s, summary, bytes(cache.serialize()) if cache is not None else None)


def _parse(flavour: Flavour, parser: Any, log: Any, graph: Path | bytes, modules: Mapping[str, str]) -> None:
    """Parse a graph; from its path where it has one, because weights may stand in a file beside it."""
    if isinstance(graph, Path) and not graph.is_file():
        raise EngineError(f"{graph} does not exist, expected an ONNX graph")
    if flavour.has_plugin_override:
        parser.set_flag(flavour.api.OnnxParserFlag.ENABLE_PLUGIN_OVERRIDE)
    if parser.parse(graph) if isinstance(graph, bytes) else parser.parse_from_file(str(graph)):
        return
    lines = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        name, operator = error.node_name(), error.node_operator()
        module = modules.get(name)
        where = f" of module {module}" if module else ""
        node = f"node {name} ({operator}){where}: " if name else ""
        # Some checks of the parser say no more than which condition did not hold ("false").
        reason = plain(error.desc())
        code = error.code().name.lower().replace("_", " ")
        lines.append(f"{node}{code}{'' if reason in ('', 'false') else ': ' + reason}")
    lines = list(dict.fromkeys(lines)) or log.errors or ["no reason given"]
    more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    what = f"a graph of {len(graph):,} bytes" if isinstance(graph, bytes) else str(graph)
    raise EngineError(
        f"{flavour} does not take {what}: {'; '.join(lines[:_SHOWN])}{more}",
        hint="an operator that TensorRT lacks needs a plugin (--plugin) or another model; check the graph with: deploykit verify",
    )


def _configure(api: Any, config: Any, options: BuildOptions) -> None:
    # Without the layers' details the Engine Inspector cannot say in which precision they run.
    config.profiling_verbosity = api.ProfilingVerbosity.DETAILED
    if options.target != "current":
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(api.ComputeCapability, options.target.upper()), 0)
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.compat == "same-cc":
        config.hardware_compatibility_level = api.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
    elif options.compat == "ampere+":
        config.hardware_compatibility_level = api.HardwareCompatibilityLevel.AMPERE_PLUS
    if not options.tf32:
        config.clear_flag(api.BuilderFlag.TF32)
    if options.version_compatible:
        config.set_flag(api.BuilderFlag.VERSION_COMPATIBLE)
    if options.strip:
        config.set_flag(api.BuilderFlag.STRIP_PLAN)
        config.set_flag(api.BuilderFlag.REFIT_IDENTICAL)


def _add_profile(flavour: Flavour, builder: Any, network: Any, config: Any, log: Any, options: BuildOptions) -> None:
    """One profile for all inputs: the first dimension is the batch. Nothing else may be open but the sides of photos.

    Raises:
        EngineError: an input whose height, width or the like is dynamic, or whose fixed batch is outside of the range.
    """
    profile = builder.create_optimization_profile()
    batch, sides = options.batch, options.sides
    is_dynamic = False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = [int(d) for d in tensor.shape]
        is_photo = sides is not None and len(shape) == 4 and shape[1] < 0 and shape[2] < 0 and shape[3] >= 0
        if (open_ones := [i for i, d in enumerate(shape) if d < 0 and i > 0]) and not is_photo:
            shown = ", ".join("?" if d < 0 else str(d) for d in shape)
            dims = f"dimension{'s' if len(open_ones) > 1 else ''} {' and '.join(map(str, open_ones))}"
            raise EngineError(
                f"input {tensor.name} is [{shown}], dynamic in {dims}; only its first dimension, the batch, may be dynamic",
                hint="fix height and width when exporting: deploykit import or export gives such graphs",
            )
        if shape and shape[0] >= 0:
            if not batch.min == batch.opt == batch.max == shape[0]:
                raise EngineError(
                    f"input {tensor.name} takes a batch of {shape[0]} and no other; {batch} was asked for",
                    hint=f"take --batch {shape[0]}, or export the graph with a dynamic batch",
                )
            if not is_photo:
                continue
        is_dynamic = is_dynamic or bool(shape)
        ends = zip(("min", "opt", "max"), (batch.min, batch.opt, batch.max), strict=True)
        ranges = [(n, getattr(sides, end), getattr(sides, end), *shape[3:]) if is_photo else (n, *shape[1:]) for end, n in ends]
        profile.set_shape(tensor.name, *ranges)
    if is_dynamic and config.add_optimization_profile(profile) < 0:
        photos = f" and photos of {sides}" if sides else ""
        raise EngineError(f"{flavour} takes no profile of batch {batch}{photos}: {'; '.join(log.errors) or 'no reason given'}")


def _set_timing_cache(flavour: Flavour, config: Any, timing_cache: bytes | None) -> Any:
    if timing_cache is None:
        return None
    cache = config.create_timing_cache(timing_cache)
    # False: a cache of another device or version is refused rather than mixed in.
    if cache is None or not config.set_timing_cache(cache, False):
        raise EngineError(
            f"{flavour} does not take the timing cache ({len(timing_cache):,} bytes): it is of another version or GPU, or damaged",
            hint="delete the file, or name another with --timing-cache",
        )
    return cache


def _refused(flavour: Flavour, errors: list[str], options: BuildOptions) -> EngineError:
    """The builder returned nothing: its own last lines are the reason."""
    reason = "; ".join(dict.fromkeys(errors)) or "it gave no plan and no reason"
    room = f"{options.workspace_bytes:,} bytes" if options.workspace_bytes is not None else "TensorRT's default"
    message = f"{flavour} cannot build for {options.target}, batch {options.batch}: {reason}"
    if any(word in reason for word in _OUT_OF_ROOM):
        return EngineError(f"{message} (workspace: {room})", hint="give it more with --workspace, or lower the largest --batch")
    return EngineError(message, hint="see all of its log with --debug")
