"""The README's charts, drawn from results/ and written beside them: called by figures.py.

Only ratios of sides that were measured in one run are drawn, as in the tables.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.report import RESULTS
from deploykit.palette import GRID, LINES


def draw_runtime(result: Mapping[str, Any]) -> bytes:
    """How many times as long as deploykit the other sides take."""
    cores = result["machine"]["cores"]
    titles = [title for title in result["networks"] if title.endswith(f", {cores} thread{'s' * (cores > 1)}")]
    sides = ("torch eager", "torch compiled", "openvino f32")
    values = {
        side: [result["networks"][title]["times_deploykit"].get(side, {}).get("wall_ms", {}).get("median") for title in titles]
        for side in sides
    }
    named = {"torch eager": "PyTorch eager", "torch compiled": "PyTorch compiled, frozen", "openvino f32": "OpenVINO f32"}
    return draw_bars(
        titles, {named[side]: found for side, found in values.items()}, "time of a run, as a multiple of deploykit's", "deploykit"
    )


def draw_explain(result: Mapping[str, Any]) -> bytes:
    """How many times as long as deploykit's Explainer the other tools take for a prediction with its Grad-CAM."""
    titles = list(result["explain"])
    peers = ("pytorch-grad-cam", "torch-cam", "captum")
    values = {peer: [result["explain"][title]["times_explainer"].get(peer, {}).get("median") for title in titles] for peer in peers}
    return draw_bars(titles, values, "time of a prediction with its Grad-CAM, as a multiple of deploykit's", "deploykit")


def draw_bars(titles: Sequence[str], values: Mapping[str, Sequence[float | None]], label: str, base: str) -> bytes:
    """Horizontal bars in groups, with a line at 1: an SVG whose bytes depend on the figures alone."""
    figure = Figure(figsize=(9, 1.0 + 0.19 * len(titles) * (len(values) + 1)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(values)
    for place, (side, found) in enumerate(values.items()):
        rows = [row + (place - (len(values) - 1) / 2) * height for row in range(len(titles))]
        axes.barh(rows, [value or 0 for value in found], height=height * 0.92, color=LINES[place], label=side, linewidth=0)
        for row, value in zip(rows, found, strict=True):
            text = "absent" if value is None else f"{value:.2f}"
            axes.annotate(text, (value or 0, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.axvline(1, color="#222222", linewidth=1.2)
    axes.annotate(base, (1, -0.75), ha="center", fontsize=8.5, annotation_clip=False)
    axes.set_yticks(range(len(titles)), titles)
    axes.set_ylim(len(titles) - 0.4, -0.6)
    axes.set_xlabel(label)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    data = io.BytesIO()
    with rc_context({"svg.hashsalt": "deploykit", "svg.fonttype": "none"}):
        figure.savefig(data, format="svg", metadata={"Date": None, "Creator": None})
    return data.getvalue()


CHARTS: Mapping[str, Callable[[Mapping[str, Any]], bytes]] = {"runtime.json": draw_runtime, "explain.json": draw_explain}


def chart_path(result: str) -> Path:
    """Where the chart of a result stands."""
    return RESULTS / result.replace(".json", ".svg")
