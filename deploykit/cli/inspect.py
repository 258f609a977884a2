"""``deploykit inspect``: what a bundle or a graph holds, in a few lines or as JSON."""

import json
from pathlib import Path
from typing import Any

import click

from deploykit.bundle import Bundle
from deploykit.cli import console


@click.command(name="inspect")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--layers", is_flag=True, help="List the layers that Grad-CAM can look at, deepest last.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(path: Path, layers: bool, as_json: bool) -> None:
    """Show what a bundle or an ONNX graph holds."""
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
        f"            mean {_numbers(image.mean)}, std {_numbers(image.std)}, input {manifest.input}",
        f"  labels    {manifest.labels_source or 'none'}",
        f"  made by   deploykit {manifest.deploykit_version}",
    ]
    stale = set(manifest.stale_files())
    width = max(map(len, manifest.files), default=0)
    for name, record in sorted(manifest.files.items()):
        mark = "  STALE" if name in stale else ""
        lines.append(
            f"  {name:<{width}}  {record.size_bytes:>12,} bytes  sha256 {record.sha256[:12]}{_parity(record.parity)}{mark}"
        )
    return "\n".join(lines)


def _parity(parity: Any) -> str:
    if not parity or parity["relative_difference"] is None:
        return ""
    return f"  {parity['relative_difference']:.1e} from {parity['reference']}"


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{v:.4g}" for v in values)
