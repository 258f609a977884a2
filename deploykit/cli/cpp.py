"""``deploykit cpp``: a bundle as a small CMake project that a service in C++ takes in."""

import json
from pathlib import Path
from typing import Any

import click
import numpy.typing as npt

from deploykit.bundle import Bundle, Golden, sha256_of
from deploykit.bundle.manifest import MANIFEST_NAME
from deploykit.bundle.reader import GOLDEN_NAME, LABELS_NAME
from deploykit.cli import console
from deploykit.cli.cpp_fixtures import Arrays, make_fixtures
from deploykit.cli.options import bundle_argument, warn_if_untrained
from deploykit.cli.plan_files import find_graphs, plan_folders
from deploykit.errors import EngineError, UsageError
from deploykit.integrations.cpp import (
    GraphFacts,
    ModelFacts,
    PlanFolder,
    Project,
    check_namespace,
    check_place,
    identifier,
    write_project,
)
from deploykit.integrations.cpp.arrays import pack_arrays
from deploykit.integrations.cpp.names import DEFAULT_NAMESPACE
from deploykit.plan import PLAN_NAME, check_content, graph_digest, read_content, read_record
from deploykit.runtime.colours import colour_table
from deploykit.spec import Precision


@click.command(name="cpp")
@bundle_argument
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Where the project goes.")
@click.option("--precision", type=click.Choice([str(p) for p in Precision]), default=str(Precision.FP32), show_default=True)
@click.option("--plan", "plans", multiple=True, metavar="FOLDER",
              help="Plans to take: a folder of the bundle's plans/, or any with a plan.json. May be repeated. "
                   "[default: all of the bundle's at this precision]")  # fmt: skip
@click.option("--namespace", metavar="NAMES", help=f"Of the constants. [default: {DEFAULT_NAMESPACE}::NAME]")
@click.option("--force", is_flag=True, help="Replace the project that deploykit wrote there; other files in it are kept.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def command(
    bundle: Path, output: Path, precision: str, plans: tuple[str, ...], namespace: str | None, force: bool, as_json: bool
) -> None:
    """Write a CMake project that runs a bundle's plans from C++.

    C++17: a header with tensors, image spec, labels and digests as constants; a runner of TensorRT plans; preprocessing, maps and
    ranking that equal deploykit's; an example, a self-test over the golden vectors, and tests that need no TensorRT. README.md in
    DIR says how to build and use it.
    """
    opened = Bundle.open(bundle)
    check_place(output, replace=force)
    name = identifier(opened.manifest.model.name)
    namespace = check_namespace(namespace) if namespace is not None else f"{DEFAULT_NAMESPACE}::{name}"
    warn_if_untrained(opened)
    project = _project(opened, Precision(precision), plans, name, namespace)
    write_project(output, project, replace=force)
    if as_json:
        console.result(json.dumps(_as_json(output, project), indent=2, ensure_ascii=False))
    else:
        console.result(_as_text(output, project))
    if not project.facts.plans:
        console.note(
            f"no {precision} plans: the header has the graphs' facts, and the runner loads any plan of them. Build one where it "
            f"runs with: deploykit build {bundle} --precision {precision}, then write the project again with --force"
        )


def _project(bundle: Bundle, precision: Precision, plans: tuple[str, ...], name: str, namespace: str) -> Project:
    """Everything that is written, checked.

    Raises:
        UsageError: a task or a kind of input that the C++ code does not have.
        BundleError: see `find_graphs`; labels or golden vectors are missing or damaged.
        EngineError: plans that do not belong.
    """
    manifest = bundle.manifest
    if manifest.model.task != "classification":
        raise UsageError(f"{bundle.path} holds a {manifest.model.task} model, the C++ project is for classifiers")
    if manifest.input not in ("pixels", "float"):
        raise UsageError(
            f"{bundle.path} takes {manifest.input} inputs, the C++ runner feeds pixels or float",
            hint="export it again without --embed-resize: the project resizes photos itself, bit for bit as deploykit does",
        )
    graphs = {
        kind: GraphFacts(f"{precision}/{kind}.onnx", graph_digest(p.values())) for kind, p in find_graphs(bundle, precision).items()
    }
    for file in (GOLDEN_NAME, LABELS_NAME):
        if file in manifest.files:
            bundle.whole_file(file)
    golden = bundle.golden()
    golden_data = pack_arrays(_golden_arrays(golden))
    manifest_data = (bundle.path / MANIFEST_NAME).read_bytes()
    facts = ModelFacts(
        manifest,
        precision,
        bundle.labels(),
        graphs["predict"],
        graphs.get("explain"),
        _plan_folders(bundle, precision, plans, graphs),
        sha256_of(manifest_data),
        sha256_of(golden_data),
    )
    return Project(name, namespace, facts, manifest_data, golden_data, make_fixtures(manifest, golden), colour_table())


def _golden_arrays(golden: Golden) -> Arrays:
    arrays: dict[str, npt.NDArray[Any] | None] = {
        "image": golden.image,
        "logits": golden.logits,
        "explained_class": golden.explained_class,
        "cam": golden.cam,
    }
    return {name: array for name, array in arrays.items() if array is not None}


def _plan_folders(bundle: Bundle, precision: Precision, wanted: tuple[str, ...], graphs: dict[str, GraphFacts]) -> list[PlanFolder]:
    """The folders of plans that were asked for, or all that the bundle has and that run as they are."""
    listed = [bundle.path / name for name in plan_folders(bundle)]
    if wanted:
        named = {path.name: path for path in listed}
        folders = [_open_folder(named.get(name.removeprefix("plans/"), Path(name)), listed) for name in wanted]
    else:
        folders = [folder for folder in (_open_folder(path, listed) for path in listed) if folder.record.precision == precision]
        for folder in [folder for folder in folders if folder.record.stripped]:
            console.note(f"{folder.path} is left out: its weights are to be put in first (deploykit refit {bundle.path})")
            folders.remove(folder)
    for folder in folders:
        _check_folder(folder, precision, graphs)
    names = [folder.name for folder in folders]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{twice[0]} is asked for twice, under --plan")
    return folders


def _open_folder(path: Path, listed: list[Path]) -> PlanFolder:
    record = read_record(path) if path.is_dir() else None
    if record is None:
        has = ", ".join(one.name for one in listed) or "none"
        raise EngineError(
            f"{path} is no folder of plans with its {PLAN_NAME}; the bundle has {has}", hint="deploykit build makes them"
        )
    return PlanFolder(path, record)


def _check_folder(folder: PlanFolder, precision: Precision, graphs: dict[str, GraphFacts]) -> None:
    """Refuse plans that the runner would refuse, and those of other graphs than the header's.

    Raises:
        EngineError: with what was found.
    """
    record = folder.record
    if record.precision != precision:
        raise EngineError(
            f"{folder.path} holds {record.precision} plans, expected {precision}", hint=f"--precision {record.precision}"
        )
    if record.stripped:
        raise EngineError(
            f"{folder.path} was built without its weights (--strip)", hint="put them in first: deploykit refit BUNDLE"
        )
    for kind, graph in graphs.items():
        file = record.files.get(f"{kind}.plan")
        if file is None:
            raise EngineError(f"{folder.path} has no {kind}.plan", hint="build the plans again: deploykit build BUNDLE --force")
        if file.graph_sha256 != graph.sha256:
            raise EngineError(
                f"{folder.path / kind}.plan was built from a graph of sha256 {file.graph_sha256[:12]}…, "
                f"the bundle's {graph.file} has {graph.sha256[:12]}…",
                hint="build the plans again: deploykit build BUNDLE --force",
            )
    for name, file in record.files.items():
        check_content(folder.path / name, read_content(folder.path / name), file)


def _as_json(output: Path, project: Project) -> dict[str, object]:
    facts = project.facts
    return {
        "project": str(output),
        "header": f"include/{project.name}.h",
        "namespace": project.namespace,
        "target": f"deploykit_{project.name}",
        "precision": str(facts.precision),
        "graphs": {graph.file: graph.sha256 for graph in (facts.predict, facts.explain) if graph is not None},
        "plans": [folder.name for folder in facts.plans],
    }


def _as_text(output: Path, project: Project) -> str:
    """What was written, in a few lines."""
    facts = project.facts
    explains = "predict and explain" if facts.explain is not None else "predict"
    lines = [
        f"{output}",
        f"  header   include/{project.name}.h, namespace {project.namespace}, {facts.precision}: {explains}",
        f"  target   deploykit_{project.name}; with the runner deploykit_{project.name}_runner",
        *(f"  plans    plans/{folder.name}: {', '.join(folder.record.files)}" for folder in facts.plans),
        f"  build    cmake -S {output} -B {output}/build && cmake --build {output}/build && ctest --test-dir {output}/build",
    ]
    return "\n".join(lines)
