"""Plans in a bundle: the graphs that they are built from, and putting them there in one step. For ``build`` and ``refit``."""

from collections.abc import Mapping
from dataclasses import replace

from deploykit.bundle import Bundle, extend_bundle
from deploykit.bundle.manifest import ANSWERING_GRAPHS, SIDE_FILE_SUFFIX
from deploykit.errors import BundleError
from deploykit.plan import PLAN_NAME, PlanRecord
from deploykit.spec import Precision

Parts = Mapping[str, str]
"""The files that a graph consists of, with their digests."""

_MAKE = {Precision.FP16: "deploykit convert {} --precision fp16", Precision.INT8: "deploykit quantize {} --images FOLDER"}


def find_graphs(bundle: Bundle, precision: Precision) -> dict[str, dict[str, str]]:
    """Graph name -> the files that it consists of, with their digests. All are whole and none is stale.

    Raises:
        BundleError: otherwise.
    """
    files = bundle.manifest.files
    found = {name: f"{precision}/{name}.onnx" for name in ANSWERING_GRAPHS if f"{precision}/{name}.onnx" in files}
    if "predict" not in found:
        has = ", ".join(bundle.precisions) or "none"
        make = _MAKE.get(precision, "deploykit export MODEL --force").format(bundle.path)
        raise BundleError(f"{bundle.path} has no {precision} graphs; it has {has}", hint=f"make them with: {make}")
    graphs: dict[str, dict[str, str]] = {}
    for name, graph in found.items():
        graphs[name] = {}
        for part in (graph, graph + SIDE_FILE_SUFFIX):
            if part not in files:
                continue
            bundle.whole_file(part)
            graphs[name][part] = files[part].sha256
    return graphs


def plan_folders(bundle: Bundle) -> list[str]:
    """The folders of plans that a bundle lists, such as ``plans/tensorrt-rtx-1.7.1.116-sm86-fp16-b1-8-32``."""
    return sorted(name.removesuffix(f"/{PLAN_NAME}") for name in bundle.manifest.files if name.endswith(f"/{PLAN_NAME}"))


def write_plans(bundle: Bundle, record: PlanRecord, plans: Mapping[str, bytes], graphs: Mapping[str, Parts]) -> None:
    """Put plans and their plan.json into the bundle in one step, in place of those that are there.

    Args:
        plans: by file name, such as ``predict.plan``. graphs: of each, by ``predict`` or ``explain``.

    Raises:
        BundleError: the bundle was changed since it was opened.
    """
    made_with = {record.backend: record.version}
    with extend_bundle(bundle.path) as stage:
        if stage.manifest.files != bundle.manifest.files:
            raise BundleError(f"{bundle.path} was changed by another process meanwhile", hint="run the command again")
        kept = {n: r for n, r in stage.manifest.files.items() if not n.startswith(f"{record.folder}/")}
        for name in stage.manifest.files.keys() - kept.keys():
            (stage.folder / name).unlink(missing_ok=True)
        stage.manifest = replace(stage.manifest, files=kept)
        origin: dict[str, str] = {}
        for name, data in plans.items():
            plan, parts = f"{record.folder}/{name}", graphs[name.removesuffix(".plan")]
            stage.add(plan, data, made_from=parts, made_with=made_with)
            origin |= {**parts, plan: stage.manifest.files[plan].sha256}
        stage.add(f"{record.folder}/{PLAN_NAME}", record.to_text().encode(), made_from=origin, made_with=made_with)
