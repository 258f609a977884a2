"""Pictures through graphs, for ``deploykit quantize``: what calibrates, what judges, and what compares layers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from deploykit.agreement import Agreement, add_logits
from deploykit.bundle import Bundle
from deploykit.cli import console
from deploykit.cli.explain_graphs import open_graphs
from deploykit.errors import ParityError, UsageError
from deploykit.graph.exposure import batch_size_for, split
from deploykit.graph.scopes import with_only_outputs
from deploykit.quantization.calibrate import Batch, Histograms, collect, expose
from deploykit.quantization.pictures import HELD_OUT_SHARE, Photo, Pictures, find_pictures, read_batches
from deploykit.quantization.qdq import QuantizedGraph
from deploykit.quantization.sensitivity import LayerNoise, measure_layers, side_by_side
from deploykit.spec import ImageSpec

if TYPE_CHECKING:
    from onnx import ModelProto

MOST_JUDGED = 512
"""Held-out pictures that judge every trial; they are kept decoded (77 MB at 224 x 224)."""

MOST_COMPARED = 64
"""Calibration pictures that compare layers: means of thousands of values per picture settle long before."""

MOST_WEIGHED = 16
"""Calibration pictures that weigh single layers against each other, once per layer."""

_JUDGED_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Pictures, and the float graph's logits for them."""

    batches: tuple[Batch, ...]
    logits: tuple[npt.NDArray[Any], ...]


def gather(images: Sequence[Path], spec: ImageSpec, *, holdout: str | None, count: int | None, crops: int | None) -> Pictures:
    """Find and read the pictures to calibrate with and those to judge by.

    Args:
        holdout: a directory or file of pictures to judge by, or the share of ``images`` to set apart; None takes `HELD_OUT_SHARE`.

    Raises:
        ImageError: see `find_pictures`.
        UsageError: none to judge by; or pictures that are in both.
    """
    share = _share(holdout)
    with console.progress("reading the pictures", total=None) as advance:
        pictures = find_pictures(
            images,
            spec,
            at_most=count,
            crops=crops,
            held_out_share=0.0 if share is None else share,
            on_file=lambda done, total: advance(to=done, total=total),
        )
        if share is None and holdout is not None:
            judged = find_pictures([holdout], spec, held_out_share=0.0)
            pictures = replace(pictures, held_out=judged.calibration, skipped=(*pictures.skipped, *judged.skipped))
    for skipped in pictures.skipped:
        console.warn(f"{skipped.name} is not used: {skipped.reason}")
    for line in pictures.warnings:
        console.warn(line)
    if not pictures.held_out:
        raise UsageError(
            "no picture is left to judge INT8 by: calibration needs at least two",
            hint="name more pictures with --images, or others to judge by with --holdout DIR",
        )
    return pictures


def _share(holdout: str | None) -> float | None:
    """The share that --holdout names; None where it names a place."""
    if holdout is None:
        return HELD_OUT_SHARE
    try:
        share = float(holdout)
    except ValueError:
        return None
    if not 0 < share < 1:
        raise UsageError(f"--holdout is {holdout}, expected a share between 0 and 1, or a directory of pictures")
    return share


def calibrate(graph: "ModelProto", tensors: Sequence[str], pictures: Pictures, bundle: Bundle) -> Histograms:
    """Histograms of every tensor over the calibration pictures."""
    manifest = bundle.manifest
    total = len(pictures.calibration) * pictures.views
    size, parts = batch_size_for(graph, tensors), split(graph, tensors)
    histograms: Histograms = {}
    with console.progress(f"calibrating {len(tensors)} tensors with {total:,} pictures", total * len(parts)) as advance:
        for part in parts:
            batches = read_batches(pictures.calibration, manifest.image, size, views=pictures.views, input_kind=manifest.input)
            with open_graphs({"exposed.onnx": expose(graph, part)}) as sessions:
                histograms |= collect(sessions["exposed.onnx"].run, part, batches, on_batch=advance)
    return histograms


def hear_reference(graph: "ModelProto", pictures: Pictures, bundle: Bundle) -> HeldOut:
    """The float graph's answers to the held-out pictures; of more than `MOST_JUDGED` so many, evenly spread."""
    return _hear(graph, *_at_most(pictures.held_out, pictures.views, MOST_JUDGED), bundle, "held-out")


def hear_calibrated(graph: "ModelProto", pictures: Pictures, bundle: Bundle) -> HeldOut:
    """The same of at most `MOST_WEIGHED` calibration pictures."""
    return _hear(graph, *_at_most(pictures.calibration, pictures.views, MOST_WEIGHED), bundle, "calibration")


def _hear(graph: "ModelProto", photos: Sequence[Photo], views: int, bundle: Bundle, kind: str) -> HeldOut:
    manifest = bundle.manifest
    batches = tuple(read_batches(photos, manifest.image, _JUDGED_AT_ONCE, views=views, input_kind=manifest.input))
    with (
        console.progress(f"asking FP32 about {sum(len(b.names) for b in batches):,} {kind} pictures", len(batches)) as advance,
        open_graphs({"predict.onnx": graph}) as sessions,
    ):
        logits = []
        for batch in batches:
            logits.append(sessions["predict.onnx"].run(batch.feeds, ["logits"])["logits"])
            advance()
    return HeldOut(batches, tuple(logits))


def judge(graph: "ModelProto", held_out: HeldOut) -> Agreement:
    """How far a quantized graph's answers are from FP32's.

    Raises:
        ParityError: NaN or infinite logits.
    """
    agreement = Agreement()
    with open_graphs({"predict.onnx": graph}) as sessions:
        for batch, reference in zip(held_out.batches, held_out.logits, strict=True):
            try:
                agreement = add_logits(agreement, reference, sessions["predict.onnx"].run(batch.feeds, ["logits"])["logits"])
            except FloatingPointError as error:  # noqa: PERF203 a run costs more
                raise ParityError(f"{batch.names[0]}: {error}", hint="check the float graph with: deploykit verify") from error
    return agreement


def compare_layers(
    graph: "ModelProto", quantized: QuantizedGraph, pictures: Pictures, bundle: Bundle, *, alone: bool = True
) -> dict[str, LayerNoise]:
    """Signal and noise of every INT8 layer over some of the calibration pictures, by node."""
    both, layers = side_by_side(graph, quantized, alone=alone)
    photos, views = _at_most(pictures.calibration, pictures.views, MOST_COMPARED)
    tensors = [layer.tensor for layer in layers]
    manifest, found = bundle.manifest, dict[str, LayerNoise]()
    size, parts = max(1, batch_size_for(graph, tensors) // 2), split(graph, tensors, copies=2)
    what = "each layer alone" if alone else "all layers together"
    with console.progress(f"comparing {len(layers)} layers with FP32, {what}", len(photos) * views * len(parts)) as advance:
        for part in parts:
            some = [layer for layer in layers if layer.tensor in part]
            batches = read_batches(photos, manifest.image, size, views=views, input_kind=manifest.input)
            shown = [name for layer in some for name in (layer.tensor, layer.candidate)]
            with open_graphs({"both.onnx": with_only_outputs(both, shown)}) as sessions:
                found |= measure_layers(sessions["both.onnx"].run, some, batches, on_batch=advance)
    return found


def _at_most(photos: Sequence[Photo], views: int, most: int) -> tuple[Sequence[Photo], int]:
    """Fewer views, then fewer photos, evenly spread."""
    if len(photos) * views <= most:
        return photos, views
    if len(photos) <= most:
        return photos, math.floor(most / len(photos))
    return [photos[i * len(photos) // most] for i in range(most)], 1
