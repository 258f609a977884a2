"""Which of a bundle's graphs or plans a Triton repository serves: found, whole, and described by what can open them.

A graph is opened once by ONNX Runtime, so names, types and shapes are the file's own. A plan cannot be opened without its GPU; its
tensors are those of the graph that it was built from.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath

from deploykit.bundle import Bundle
from deploykit.bundle.manifest import ANSWERING_GRAPHS
from deploykit.errors import EngineError, UsageError
from deploykit.integrations.triton import GraphSource
from deploykit.plan import PLAN_NAME, PlanRecord, check_content, read_content, read_header
from deploykit.runtime.opening import graph_name
from deploykit.runtime.ort import OrtSession
from deploykit.runtime.plans import plan_records
from deploykit.spec import Precision


@dataclass(frozen=True)
class Sources:
    """What answers.

    Args:
        graphs: by ``predict`` and, where the bundle has it, ``explain``.
        plan: of plans, their record.
    """

    graphs: dict[str, GraphSource]
    plan: PlanRecord | None = None


def find_graphs(bundle: Bundle, precision: Precision, backend: str, device: str) -> Sources:
    """The graphs at a precision; of INT8 on a CPU the twin.

    Args:
        backend: ``python``, which keeps the graph's name, or ``onnxruntime``, whose graphs are all called model.onnx.

    Raises:
        BundleError: no such graphs, or they are not as they were written.
        SessionError: ONNX Runtime does not load one.
    """
    files = bundle.manifest.files
    found = {}
    for graph in ANSWERING_GRAPHS:
        if graph == "explain" and f"{precision}/{graph}.onnx" not in files:
            continue
        name = graph_name(bundle, precision, graph, provider="cpu" if device == "cpu" else "cuda")
        parts = [part for part in files if part == name or part.startswith(f"{name}.")]
        for part in parts:
            bundle.whole_file(part)
        # A side file keeps its name, by which the graph refers to it.
        targets = {"model.onnx" if backend == "onnxruntime" and p == name else PurePosixPath(p).name: p for p in [name, *parts]}
        with OrtSession(bundle.file(name), threads=1) as session:
            found[graph] = GraphSource(name, {t: bundle.file(p) for t, p in targets.items()}, session.inputs, session.outputs)
    return Sources(found)


def find_plans(bundle: Bundle, precision: Precision, folder: str | None) -> Sources:
    """The plans of a precision that Triton's TensorRT backend can load.

    Args:
        folder: which of several, by its name below plans/.

    Raises:
        UsageError: none, or several and none was chosen.
        BundleError, EngineError: they are not as they were written.
    """
    record = _choose(bundle, precision, folder)
    found = {}
    for graph in ANSWERING_GRAPHS:
        name, file = f"{record.folder}/{graph}.plan", record.files.get(f"{graph}.plan")
        if file is None:
            continue
        bundle.whole_file(file.graph)
        path = bundle.whole_file(name)
        data = read_content(path)
        check_content(path, data, file)
        header = read_header(data)
        if header is None or (header.backend, header.version) != (record.backend, record.version):
            seen = f"{header.backend} {header.version}" if header else "no TensorRT"
            raise EngineError(f"{path} was written by {seen}, {PLAN_NAME} says {record.backend} {record.version}")
        with OrtSession(bundle.file(file.graph), threads=1) as session:
            found[graph] = GraphSource(name, {"model.plan": path}, session.inputs, session.outputs, record.batch)
    if "predict" not in found:
        raise EngineError(f"{bundle.path / record.folder} has no predict.plan", hint=_build_hint(bundle, precision))
    return Sources(found, record)


def _choose(bundle: Bundle, precision: Precision, folder: str | None) -> PlanRecord:
    records = _records(bundle)
    if folder is not None:
        records = {name: record for name, record in records.items() if PurePosixPath(name).name == PurePosixPath(folder).name}
        if not records:
            raise UsageError(f"{bundle.path} has no plans {folder}; it has {', '.join(_records(bundle)) or 'none'}")
    loadable = {name: r for name, r in records.items() if r.backend == "tensorrt" and (folder or r.precision == precision)}
    if not loadable:
        raise UsageError(_no_plan(bundle, precision, records), hint=_build_hint(bundle, precision))
    if len(loadable) > 1:
        raise UsageError(f"{bundle.path} has several: {', '.join(loadable)}", hint="choose one with --plan FOLDER")
    (record,) = loadable.values()
    if record.stripped:
        raise UsageError(f"{record.folder} holds plans without weights, and Triton puts none in", hint="build them without --strip")
    return record


def _records(bundle: Bundle) -> dict[str, PlanRecord]:
    """By folder, as the bundle names it."""
    return {place.relative_to(bundle.path).as_posix(): record for place, record in sorted(plan_records(bundle).items())}


def _no_plan(bundle: Bundle, precision: Precision, records: dict[str, PlanRecord]) -> str:
    others = [name for name, record in records.items() if record.backend != "tensorrt"]
    seen = f"{', '.join(others)}: Triton loads no plans of {records[others[0]].backend}" if others else ", ".join(records) or "none"
    return f"{bundle.path} has no {precision} plans of TensorRT; it has {seen}"


def _build_hint(bundle: Bundle, precision: Precision) -> str:
    return f"build them: deploykit build {bundle.path} --backend tensorrt --precision {precision}"
