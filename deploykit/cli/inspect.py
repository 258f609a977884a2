"""``deploykit inspect``: what a bundle, a graph or a plan holds, in a few lines or as JSON."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from deploykit.bundle import Bundle
from deploykit.cli import console
from deploykit.cli.inspect_plan import is_plan, plan_facts, plan_text
from deploykit.errors import BundleError
from deploykit.runtime.opening import TWIN_SUFFIX
from deploykit.spec import Precision

RANGES_NAME = f"{Precision.FP16}/ranges.json"
"""What `deploykit convert` found: see `deploykit.cli.convert`."""

_SHOWN = 5
_INPUTS = {"pixels": "pixels", "float": "float", "photo": "photo: one at its own size, resized in the graph"}


@click.command(name="inspect")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--layers", is_flag=True, help="List the layers that Grad-CAM can look at, deepest last; of a plan, the engine's layers."
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(path: Path, layers: bool, as_json: bool) -> None:
    """Show what a bundle, an ONNX graph or a TensorRT plan holds.

    For plans: the folder, its plan.json, or one .plan file. No plan is loaded, so none of this needs a GPU.
    """
    if is_plan(path):
        facts = plan_facts(path)
        console.result(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else plan_text(facts, with_layers=layers))
        return
    if layers:
        from deploykit.cli.inspect_graph import layer_facts, layer_text

        found = layer_facts(path if path.suffix == ".onnx" else Bundle.open(path).file("fp32/predict.onnx"))
        console.result(json.dumps(found, indent=2) if as_json else layer_text(found))
        return
    if path.suffix == ".onnx":
        # Imported here, as above, because it needs onnx, which a machine that only serves bundles does not have.
        from deploykit.cli.inspect_graph import graph_facts, graph_text

        facts = graph_facts(path)
        console.result(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else graph_text(facts))
        return
    bundle = Bundle.open(path)
    console.result(bundle.manifest.to_text().rstrip() if as_json else _bundle_text(bundle))


def _bundle_text(bundle: Bundle) -> str:
    manifest = bundle.manifest
    model, weights, image = manifest.model, manifest.weights, manifest.image
    resize = "exactly" if image.resize_size is None else f"shorter side to {image.resize_size}, centre crop"
    lines = [
        f"{bundle.path}",
        f"  model     {model.name} ({model.family}), {model.task}, {model.parameters:,} parameters, {model.num_classes:,} classes",
        f"  weights   {weights.source}, {weights.layout} layout, stored as {weights.stored_dtype}, sha256 {weights.sha256[:12]}"
        + ("" if weights.trained else ", UNTRAINED"),
        f"  image     {image.height} x {image.width}, {resize}, {image.interpolation}, {image.colour_order.upper()}",
        f"            mean {_numbers(image.mean)}, std {_numbers(image.std)}, input {_INPUTS[manifest.input]}",
        f"  labels    {manifest.labels_source or 'none'}",
        f"  made by   deploykit {manifest.deploykit_version}",
    ]
    lines += _precisions(bundle)
    stale = set(manifest.stale_files())
    width = max(map(len, manifest.files), default=0)
    for name, record in sorted(manifest.files.items()):
        mark = "  STALE" if name in stale else ""
        lines.append(
            f"  {name:<{width}}  {record.size_bytes:>12,} bytes  sha256 {record.sha256[:12]}{_parity(record.parity)}{mark}"
        )
    return "\n".join(lines)


def _parity(parity: Any) -> str:
    """How far a file was from what it was compared with; of a further precision's explain graph, how far its maps were."""
    if not parity:
        return ""
    if parity.get("map_difference") is not None:
        return f"  maps {parity['map_difference']:.1e} from the golden ones"
    if parity.get("relative_difference") is None:
        return ""
    return f"  {parity['relative_difference']:.1e} from {parity['reference']}"


def _precisions(bundle: Bundle) -> Iterator[str]:
    """For each precision the size of its predict graph, and what FP16 keeps in float32 and why."""
    files = bundle.manifest.files
    largest = files[f"{Precision.FP32}/predict.onnx"].size_bytes if Precision.FP32 in bundle.precisions else 0
    for precision in bundle.precisions:
        size = files[f"{precision}/predict.onnx"].size_bytes
        ratio = f", {size / largest:.2f} of {Precision.FP32}" if largest and precision != Precision.FP32 else ""
        twin = ", with a twin for CPUs" if f"{precision}/predict{TWIN_SUFFIX}.onnx" in files else ""
        kept = f"; {_kept(bundle)}" if precision == Precision.FP16 and RANGES_NAME in files else ""
        yield f"  {precision!s:<8}  {size / 1e6:.1f} MB{ratio}{twin}{kept}"


def _kept(bundle: Bundle) -> str:
    """What stayed in float32, by reason, the most frequent first."""
    path = bundle.file(RANGES_NAME)
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        nodes, problems = report["kept"], report["problems"]
        seen = [f"{p['kind']} at {p['node']}" for p in problems]
        text = f"{len(nodes)} nodes in float32 ({', '.join(dict.fromkeys(n['operator'] for n in nodes))})"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} is not a range report: {error}", hint="make it again: deploykit convert --force") from error
    shown = ", ".join(seen[:_SHOWN]) + (f" and {len(seen) - _SHOWN} more" if len(seen) > _SHOWN else "")
    return f"{text}, {shown or 'every value seen fits FP16'}"


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{v:.4g}" for v in values)
