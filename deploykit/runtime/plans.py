"""Which of a bundle's plans runs here. In: a bundle, a graph's name, a precision, a backend. Out: a plan's path, or an error that
says of every plan why it does not.
"""

from pathlib import Path

from deploykit.bundle import Bundle
from deploykit.bundle.manifest import ANSWERING_GRAPHS, SIDE_FILE_SUFFIX
from deploykit.errors import BundleError, EngineError, UsageError
from deploykit.plan import ON_CPU, PLAN_NAME, Gpu, PlanRecord, check_fit, graph_digest, read_record
from deploykit.spec import Precision
from deploykit.trt import find_gpu, load_flavour


def find_plan(
    bundle: Bundle,
    graph: str,
    precision: Precision,
    *,
    backend: str | None = None,
    folder: Path | None = None,
    plugins: tuple[str, ...] = (),
    device: int = 0,
) -> Path:
    """The plan of a graph that runs on this machine; among several the one for the largest batch, and of those the newest.

    Args:
        graph: such as ``predict``.
        backend: ``tensorrt`` or ``tensorrt-rtx``; None only where a folder is named, which says it.
        folder: take the plan in this folder, in the bundle or elsewhere, and no other.
        plugins: names of the plugin libraries that will be loaded.
        device: the GPU, as ``CUDA_VISIBLE_DEVICES`` counts.

    Raises:
        UsageError: the folder's plans are of another precision or backend.
        BundleError: a graph of which there are no plans, or no plan of it at this precision and backend.
        EngineError: none that fits this machine, or one of another graph.
        MissingExtraError: the backend is not installed.
    """
    if graph not in ANSWERING_GRAPHS:
        raise BundleError(f"there are no plans of {graph}; TensorRT runs {' and '.join(ANSWERING_GRAPHS)}", hint=ON_CPU)
    gpu = find_gpu(device)
    if folder is not None:
        place, record = _read_folder(bundle, folder)
        _check_asked(place, record, graph, precision, backend)
        _check_graph(bundle, place, record, graph)
        return place / f"{graph}.plan"
    records = plan_records(bundle)
    asked = {p: r for p, r in records.items() if r.backend == backend and r.precision == precision and f"{graph}.plan" in r.files}
    if not asked:
        raise _none_of(bundle, records, graph, precision, backend or "", gpu)
    refused: dict[Path, EngineError] = {}
    version = load_flavour(backend or "").version if gpu is not None else None
    for place, record in sorted(asked.items(), key=lambda item: _rank(item[1]), reverse=True):
        plan = place / f"{graph}.plan"
        try:
            check_fit(plan, record, backend=record.backend, version=version or record.version, gpu=gpu, plugins=plugins)
            _check_graph(bundle, place, record, graph)
        except EngineError as error:
            refused[plan] = error
        else:
            return plan
    first = next(iter(refused.values()))
    if len(refused) == 1 or gpu is None:
        raise first
    raise EngineError(
        f"none of {bundle.path}'s {len(refused)} {backend} {precision} plans of {graph} runs here: "
        + "; ".join(str(error) for error in refused.values()),
        hint=first.hint,
    )


def planned_precisions(bundle: Bundle, graph: str, backend: str | None = None, folder: Path | None = None) -> list[Precision]:
    """The precisions that a graph has plans of: a backend's, or those of one folder. Whether they run here is another matter.

    Raises:
        UsageError: the folder holds no plans.
        BundleError: there is none.
    """
    records = dict([_read_folder(bundle, folder)]) if folder is not None else plan_records(bundle)
    found = {r.precision for r in records.values() if backend in (None, r.backend) and f"{graph}.plan" in r.files}
    if not found:
        raise BundleError(
            f"{bundle.path} has no {backend or ''} plans of {graph}", hint=f"build them with: deploykit build {bundle.path}"
        )
    return [p for p in Precision if p in found]


def plan_records(bundle: Bundle) -> dict[Path, PlanRecord]:
    """Folder -> record, of all plans that the bundle lists."""
    found = {}
    for name in bundle.manifest.files:
        if name.startswith("plans/") and name.endswith(f"/{PLAN_NAME}"):
            place = bundle.file(name).parent
            record = read_record(place)
            if record is not None:
                found[place] = record
    return found


def _read_folder(bundle: Bundle, folder: Path) -> tuple[Path, PlanRecord]:
    places = [place for place in (bundle.path / folder, bundle.path / "plans" / folder, folder) if (place / PLAN_NAME).is_file()]
    if not places:
        here = ", ".join(sorted(place.name for place in plan_records(bundle))) or "no plans"
        raise UsageError(f"{folder} is no folder with a {PLAN_NAME}; {bundle.path} has {here}")
    record = read_record(places[0])
    if record is None:
        raise EngineError(f"{places[0] / PLAN_NAME} is gone")
    return places[0], record


def _check_asked(place: Path, record: PlanRecord, graph: str, precision: Precision, backend: str | None) -> None:
    if record.precision != precision:
        raise UsageError(
            f"{place} holds {record.precision} plans, {precision} is asked for", hint=f"add --precision {record.precision}"
        )
    if backend not in (None, record.backend):
        raise UsageError(f"{place} holds plans of {record.backend}, {backend} is asked for", hint="leave --backend out")
    if f"{graph}.plan" not in record.files:
        raise BundleError(f"{place} has no plan of {graph}; it has {', '.join(record.files) or 'none'}", hint=ON_CPU)


def _check_graph(bundle: Bundle, place: Path, record: PlanRecord, graph: str) -> None:
    """Refuse a plan of another graph than the bundle has now: it would answer with other weights."""
    file, files = record.files[f"{graph}.plan"], bundle.manifest.files
    digests = [files[name].sha256 for name in (file.graph, file.graph + SIDE_FILE_SUFFIX) if name in files]
    if graph_digest(digests) != file.graph_sha256:
        raise EngineError(
            f"{place / graph}.plan was built from another graph than the bundle's {file.graph}",
            hint=f"build it again: deploykit build BUNDLE --backend {record.backend} --precision {record.precision} --force",
        )


def _none_of(
    bundle: Bundle, records: dict[Path, PlanRecord], graph: str, precision: Precision, backend: str, gpu: Gpu | None
) -> BundleError:
    here = (
        ", ".join(sorted({f"{r.backend} {r.precision} {name.removesuffix('.plan')}" for r in records.values() for name in r.files}))
        or "none at all"
    )
    build = f"build it: deploykit build {bundle.path} --backend {backend} --precision {precision}"
    return BundleError(
        f"{bundle.path} has no {backend} {precision} plan of {graph}; it has {here}", hint=build if gpu is not None else ON_CPU
    )


def _rank(record: PlanRecord) -> tuple[int, list[int]]:
    return record.batch.max, [int(part) for part in record.version.split(".") if part.isdigit()]
