"""What ``deploykit build`` does: a bundle's graphs at a precision become plans in it, in one step.

The graphs are those in TensorRT's shape; an INT8 bundle's ``_cpu`` twins are for ONNX Runtime alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from deploykit.bundle import Bundle, sha256_of
from deploykit.cli import console
from deploykit.cli.plan_files import Parts, find_graphs, write_plans
from deploykit.engine.build import Engine, Request, build_engine, target_sm
from deploykit.engine.cache import default_cache
from deploykit.engine.repeat import build_repeatedly
from deploykit.errors import BundleError, EngineError
from deploykit.graph.files import read_structure
from deploykit.graph.scopes import scopes_of
from deploykit.plan import PLAN_NAME, PlanFile, PlanRecord, graph_digest
from deploykit.spec import Precision
from deploykit.trt import BuildOptions, Flavour, find_gpu, load_flavour
from deploykit.trt.flavour import require


@dataclass(frozen=True)
class Wishes:
    """What was asked for.

    Args:
        backend, precision, options: see their types.
        timing_cache: a file, or None.
        allow_fallback: accept another precision. use_cache: take what this machine has built. replace: plans that are there.
        repeat: how often each plan is built; the median one is kept, and the cache takes no part from 2 on.
    """

    backend: str
    precision: Precision
    options: BuildOptions
    timing_cache: Path | None = None
    allow_fallback: bool = False
    use_cache: bool = True
    replace: bool = False
    repeat: int = 1

    @property
    def keeps_what_is_there(self) -> bool:
        """Whether plans of the same graphs and options are left as they are."""
        return not self.replace and self.repeat == 1


@dataclass(frozen=True)
class BuiltPlans:
    """The record of the plans, and whether the bundle had the very same already."""

    record: PlanRecord
    were_there: bool = False


def build_plans(bundle: Bundle, wishes: Wishes) -> BuiltPlans:
    """Build a bundle's plans and add them to it; plans of the same graphs and options that are there are left as they are.

    Raises:
        BundleError: no graphs of this precision; they are damaged or stale; other plans are there.
        EngineError, MissingExtraError: see `deploykit.engine.build.build_engine`.
    """
    graphs = find_graphs(bundle, wishes.precision)
    flavour = load_flavour(wishes.backend)
    options = wishes.options
    require(
        flavour,
        target=options.target,
        compat=options.compat,
        version_compatible=options.version_compatible,
        strip=options.strip,
        timing_cache=wishes.timing_cache is not None,
    )
    empty = _record(flavour, wishes, {})
    if wishes.keeps_what_is_there and (there := _find_there(bundle, empty, graphs)) is not None:
        return BuiltPlans(there, were_there=True)
    if not wishes.replace and f"{empty.folder}/{PLAN_NAME}" in bundle.manifest.files:
        others = "" if wishes.repeat > 1 else " of other graphs or options, or damaged ones"
        raise BundleError(f"{bundle.path / empty.folder} holds plans{others}", hint="replace them with --force")
    engines = {name: _build(bundle, name, made_from, flavour, wishes, empty) for name, made_from in graphs.items()}
    files = {f"{name}.plan": _describe(engines[name], wishes, name, graphs[name]) for name in engines}
    record = replace(empty, files=files)
    try:
        write_plans(bundle, record, {f"{name}.plan": engine.plan for name, engine in engines.items()}, graphs)
    except BundleError:
        # Another process may have added the very same meanwhile; then there is nothing left to do.
        there = _find_there(Bundle.open(bundle.path), empty, graphs) if wishes.keeps_what_is_there else None
        if there is None:
            raise
        return BuiltPlans(there, were_there=True)
    return BuiltPlans(record)


def _record(flavour: Flavour, wishes: Wishes, files: Mapping[str, PlanFile]) -> PlanRecord:
    options = wishes.options
    return PlanRecord(
        flavour.backend,
        flavour.version,
        target_sm(options.target),
        find_gpu() if options.target == "current" else None,
        wishes.precision,
        options.batch,
        files,
        compat=options.compat,
        version_compatible=options.version_compatible,
        stripped=options.strip,
        workspace_bytes=options.workspace_bytes,
        optimization_level=options.optimization_level,
        tf32=options.tf32,
        plugins=tuple(path.name for path in options.plugins),
        sides=options.sides,
    )


def _find_there(bundle: Bundle, wanted: PlanRecord, graphs: Mapping[str, Mapping[str, str]]) -> PlanRecord | None:
    """The record of whole plans of these very graphs and options; None where there are none."""
    name = f"{wanted.folder}/{PLAN_NAME}"
    path = bundle.path / name
    if name not in bundle.manifest.files or not path.is_file():
        return None
    try:
        record = PlanRecord.from_text(path.read_text(encoding="utf-8"), path)
    except (EngineError, UnicodeDecodeError):
        return None
    made = {f"{graph}.plan": graph_digest(parts.values()) for graph, parts in graphs.items()}
    if replace(record, files={}) != wanted or {n: f.graph_sha256 for n, f in record.files.items()} != made:
        return None
    plans = [(bundle.path / record.folder / n, f.sha256) for n, f in record.files.items()]
    return record if all(plan.is_file() and sha256_of(plan) == digest for plan, digest in plans) else None


def _build(bundle: Bundle, name: str, parts: Parts, flavour: Flavour, wishes: Wishes, record: PlanRecord) -> Engine:
    graph = bundle.file(f"{wishes.precision}/{name}.onnx")
    request = Request(graph, graph_digest(parts.values()), wishes.precision, wishes.options, wishes.allow_fallback)
    times = f" {wishes.repeat} times" if wishes.repeat > 1 else ""
    label = f"building {name} in {wishes.precision} for {target_sm(wishes.options.target)}{times}"
    with console.progress(label, total=1.0) as advance:
        if wishes.repeat > 1:
            # Imported here because it needs a runtime, which a machine that only builds does not have.
            from deploykit.cli.build_timing import plan_timing

            return build_repeatedly(
                flavour,
                request,
                wishes.repeat,
                plan_timing(bundle, record, name, wishes.options.plugins),
                timing_cache=wishes.timing_cache,
                progress=lambda share: advance(to=share, total=1.0),
                modules=partial(_modules, graph),
            )
        return build_engine(
            flavour,
            request,
            cache=default_cache() if wishes.use_cache else None,
            timing_cache=wishes.timing_cache,
            progress=lambda share: advance(to=share, total=1.0),
            on_wait=partial(console.note, "another process builds the same engine; waiting for it"),
            modules=partial(_modules, graph),
        )


def _modules(graph: Path) -> dict[str, str]:
    """Node name -> the innermost torch module it came from."""
    return {node.name: scopes[-1] for node in read_structure(graph).graph.node if (scopes := scopes_of(node))}


def _describe(engine: Engine, wishes: Wishes, name: str, parts: Mapping[str, str]) -> PlanFile:
    return PlanFile(
        sha256_of(engine.plan),
        len(engine.plan),
        f"{wishes.precision}/{name}.onnx",
        graph_digest(parts.values()),
        engine.build_s,
        engine.from_cache,
        engine.network,
        engine.multiplying,
        engine.engine,
        engine.not_inspected,
        engine.repeats,
        engine.layers,
    )
