"""The verdict as a picture: signal to noise layer by layer, and what each way to quantize keeps of FP32's answers at which size."""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from deploykit.agreement import Share
from deploykit.palette import BLUE, GREEN, GREY, GRID, VERMILLION
from deploykit.quantization.sensitivity import LayerNoise
from deploykit.quantization.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_NAMED = 3
_CAP_DB = 80.0
"""Layers that lose next to nothing are drawn at this height."""


def draw_verdict(
    model: str, verdict: Verdict, alone: Mapping[str, LayerNoise], together: Mapping[str, LayerNoise], file_format: str
) -> bytes:
    """Two panels: layers in graph order; and every trial with the interval of its agreement.

    Args:
        alone, together: by node, see `deploykit.quantization.sensitivity`.
        file_format: ``png``, ``svg`` or ``pdf``.
    """
    from matplotlib.figure import Figure  # an extra of its own, and 0.3 s

    figure = Figure(figsize=(13, 6), dpi=150, layout="constrained")
    fp32 = verdict.sizes["fp32/predict.onnx"] / 1e6
    size = f"{verdict.size_ratio:.2f} of FP32's size ({verdict.size_ratio * fp32:.1f} of {fp32:.1f} MB)"
    figure.suptitle(f"{model} in INT8: {size}, {verdict.agreement.top1.share:.1%} of its answers")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_layers(left, verdict, alone, together)
    _draw_trials(right, verdict)
    data = io.BytesIO()
    figure.savefig(data, format=file_format)
    return data.getvalue()


def _draw_layers(axes: "Axes", verdict: Verdict, alone: Mapping[str, LayerNoise], together: Mapping[str, LayerNoise]) -> None:
    axes.set(title="what INT8 costs each layer", xlabel="layer, in graph order", ylabel="signal to noise, dB")
    axes.grid(color=GRID, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    place = {node: i for i, node in enumerate(alone)}
    for noise, colour, label, style in (
        (alone, BLUE, "the layer alone in INT8", "o-"),
        (together, VERMILLION, "as quantized, errors from before included", "s--"),
    ):
        named = [node for node in noise if node in place]
        values = [min(noise[node].snr_db, _CAP_DB) for node in named]
        axes.plot([place[n] for n in named], values, style, color=colour, label=label, markersize=3.5, linewidth=1.3)
    kept = [layer.node for layer in verdict.kept if layer.node in place]
    if kept:
        heights = [min(alone[node].snr_db, _CAP_DB) for node in kept]
        axes.scatter(
            [place[n] for n in kept], heights, s=90, facecolors="none", edgecolors=GREEN, linewidths=1.8, label="kept in float32"
        )
    for node in sorted(alone, key=lambda n: alone[n].snr_db)[:_MOST_NAMED]:
        is_late = place[node] > 0.7 * len(place)
        at, side = (place[node], min(alone[node].snr_db, _CAP_DB)), "right" if is_late else "left"
        axes.annotate(node, at, xytext=(-7 if is_late else 7, -9), textcoords="offset points", fontsize=7.5, color=GREY, ha=side)
    axes.margins(y=0.12)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False)


def _draw_trials(axes: "Axes", verdict: Verdict) -> None:
    rows: list[tuple[str, Share, str]] = [
        (t.method if t.repair == "none" else f"{t.method}, {t.repair}", t.agreement.top1, GREY) for t in verdict.trials
    ]
    layers = f", {len(verdict.kept)} layers in float32" if verdict.kept else ""
    megabytes = max(size for name, size in verdict.sizes.items() if name.startswith("int8/")) / 1e6
    rows.append((f"written{layers}: {megabytes:.1f} MB", verdict.agreement.top1, GREEN))
    rows.append(
        (
            f"FP32: {verdict.sizes['fp32/predict.onnx'] / 1e6:.1f} MB",
            Share(verdict.agreement.answers, verdict.agreement.answers),
            BLUE,
        )
    )
    axes.set(title="answers that are FP32's own", xlabel="share of held-out pictures, 95 % interval")
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    for y, (_, share, colour) in enumerate(rows[:-1]):
        low, high = share.interval
        axes.plot([low, high], [y, y], color=colour, linewidth=2, solid_capstyle="round")
        axes.plot(share.share, y, "o", color=colour, markersize=7)
    axes.plot(1.0, len(rows) - 1, "D", color=BLUE, markersize=6)
    axes.axvline(verdict.min_agreement, color=VERMILLION, linestyle="--", linewidth=1.2)
    axes.annotate(
        "asked for",
        (verdict.min_agreement, -0.75),
        xytext=(-4, 0),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color=VERMILLION,
    )
    axes.set_yticks(np.arange(len(rows)), [name for name, _, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -1)
