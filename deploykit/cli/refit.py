"""``deploykit refit``: weights into plans that were built without them."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from deploykit.bundle import Bundle, sha256_of
from deploykit.bundle.manifest import MANIFEST_NAME
from deploykit.cli import console
from deploykit.cli.plan_files import Parts, find_graphs, plan_folders, write_plans
from deploykit.engine.build import inspect_engine
from deploykit.errors import BundleError, EngineError, UsageError
from deploykit.plan import PLAN_NAME, PlanFile, PlanRecord, graph_digest, read_plan, read_record
from deploykit.trt import Flavour, count_precisions, find_gpu, load_flavour, refit_plan


@click.command(name="refit")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), metavar="LIBRARY",
              help="Shared library with plugins. May be repeated.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the new plan.json and where it is.")
def command(path: Path, plugins: tuple[Path, ...], as_json: bool) -> None:
    """Put a bundle's weights into plans that were built with --strip.

    PATH is a bundle, or one folder of plans in it (or a file there) where the bundle has several without weights. The graphs that
    the plans were built from give the weights, and they must be the very same. Needs the GPU that the plans are for.
    """
    bundle, folder = _find(path)
    record = refit_plans(bundle, folder, plugins)
    if as_json:
        facts = {"bundle": str(bundle.path), "folder": record.folder, **json.loads(record.to_text())}
        console.result(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    lines = [f"{folder}: weights put in"]
    console.result("\n".join([*lines, *(f"  {name:<14} {file.size_bytes / 1e6:.1f} MB" for name, file in record.files.items())]))


def refit_plans(bundle: Bundle, folder: Path, plugins: tuple[Path, ...] = ()) -> PlanRecord:
    """Write every plan of a folder anew, with its weights, in one step.

    Returns:
        The new record.

    Raises:
        EngineError: the plans have their weights, are damaged or for another machine, or TensorRT refuses.
        BundleError: a graph is damaged, or is not the one that a plan was built from.
    """
    record = read_record(folder)
    if record is None:
        raise EngineError(f"{folder} has no {PLAN_NAME}", hint="build plans with: deploykit build BUNDLE --strip")
    if not record.stripped:
        raise EngineError(f"{folder}: these plans were built with their weights (without --strip), nothing is to be put in")
    graphs = find_graphs(bundle, record.precision)
    _check_graphs(bundle, folder, record, graphs)
    flavour, gpu = load_flavour(record.backend), find_gpu()
    names = tuple(path.name for path in plugins)
    read = partial(read_plan, backend=flavour.backend, version=flavour.version, gpu=gpu, plugins=names, may_be_stripped=True)
    stripped = {name: read(folder / name) for name in record.files}
    plans = {}
    with console.progress(f"putting weights into {folder}", len(stripped)) as advance:
        for name, data in stripped.items():
            graph = bundle.file(record.files[name].graph)
            plans[name] = refit_plan(flavour, data, graph, plugins=plugins, version_compatible=record.version_compatible)
            advance()
    files = {name: _describe(flavour, record, record.files[name], plan) for name, plan in plans.items()}
    whole = replace(record, stripped=False, files=files)
    write_plans(bundle, whole, plans, graphs)
    return whole


def _find(path: Path) -> tuple[Bundle, Path]:
    """The bundle, and the one folder of plans that is meant.

    Raises:
        BundleError: no bundle. EngineError: no plans without weights. UsageError: several folders of them.
    """
    if not (path / MANIFEST_NAME).is_file() and (path.is_file() or (path / PLAN_NAME).is_file()):
        folder = (path if path.is_dir() else path.parent).resolve()
        return Bundle.open(folder.parent.parent), folder
    bundle = Bundle.open(path)
    folders = [bundle.path / name for name in plan_folders(bundle)]
    stripped = [folder for folder in folders if (record := read_record(folder)) and record.stripped]
    if not stripped:
        seen = "its plans have their weights" if folders else "it has no plans"
        raise EngineError(f"{path}: nothing is to be put in, {seen}", hint="deploykit build --strip makes plans without weights")
    if len(stripped) > 1:
        raise UsageError(
            f"{path} has {len(stripped)} folders of plans without weights: {', '.join(folder.name for folder in stripped)}",
            hint=f"name one: deploykit refit {stripped[0]}",
        )
    return bundle, stripped[0]


def _check_graphs(bundle: Bundle, folder: Path, record: PlanRecord, graphs: dict[str, dict[str, str]]) -> None:
    """Refuse graphs that are not those of the build: their weights would be wrong, or of another shape."""
    for name, file in record.files.items():
        parts: Parts | None = graphs.get(name.removesuffix(".plan"))
        if parts is None or file.graph not in parts or graph_digest(parts.values()) != file.graph_sha256:
            raise BundleError(
                f"{bundle.path / file.graph} is not the graph that {folder / name} was built from",
                hint="build the plans again with: deploykit build --force",
            )


def _describe(flavour: Flavour, record: PlanRecord, before: PlanFile, plan: bytes) -> PlanFile:
    """What is known of a plan, now that it can run: its bytes, and what the inspector says."""
    layers, reason = inspect_engine(flavour, plan, record.sm, version_compatible=record.version_compatible)
    return replace(
        before,
        sha256=sha256_of(plan),
        size_bytes=len(plan),
        engine=count_precisions(layers),
        not_inspected=reason,
        layers=layers,
    )
