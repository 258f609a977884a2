"""A report as a picture: how long calls take, and what throughput costs in latency. The only place here that imports matplotlib."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deploykit.benchmark.machine import one_line
from deploykit.benchmark.report import CaseResult, Report
from deploykit.palette import BLUE, GREEN, GREY, GRID, VERMILLION

_COLOURS = {"fp32": BLUE, "fp16": GREEN, "int8": VERMILLION}
_MARKERS = {"predict": "o", "explain": "s"}
_STYLES = {"predict": "-", "explain": "--"}
_TAIL = ("p90", "p95", "p99")


def draw_report(report: Report, file_format: str) -> bytes:
    """Two panels: the latency of every case with its tail, and latency against throughput as the batch grows.

    Args:
        file_format: ``png``, ``svg`` or ``pdf``.
    """
    results = [result for result in report.results if result.case.graph != "preprocess"]
    figure = Figure(figsize=(13, max(4.4, 1.9 + 0.42 * len(results))), dpi=150, layout="constrained")
    size = "x".join(map(str, report.subject["image"]))
    figure.suptitle(f"{report.subject['model']}, image {size}", fontsize=14, fontweight="bold")
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    _draw_latencies(left, results)
    _draw_trade(right, results)
    unstable = sorted({result.verdict.partition(":")[0] for result in results} - {"stable"})
    note = one_line(report.machine) + (f". Read with care: {', '.join(unstable)}." if unstable else "")
    figure.text(0.01, -0.03, note, fontsize=8, color=GREY, va="top")
    data = io.BytesIO()
    figure.savefig(data, format=file_format, bbox_inches="tight")
    return data.getvalue()


def _draw_latencies(axes: Axes, results: Sequence[CaseResult]) -> None:
    """A bar to the median of each case; a line on to the last percentile that its samples give; a tick at the least."""
    for place, result in enumerate(results):
        latency, colour = result.latency_ms, _COLOURS.get(result.case.precision, GREY)
        faded = 0.9 if result.case.graph == "predict" else 0.5
        axes.barh(place, latency["median"], height=0.62, color=colour, alpha=faded, linewidth=0)
        tails = _tails(result)
        axes.plot([latency["median"], tails[-1][1]], [place, place], color="#222222", linewidth=1.4)
        axes.plot([value for _, value in tails], [place] * len(tails), "|", color="#222222", markersize=9)
        axes.plot(latency["min"], place, "|", color="white", markersize=9)
        text = f"{latency['median']:.1f} ms   {tails[-1][0]} {tails[-1][1]:.1f}"
        axes.annotate(text, (tails[-1][1], place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.set_yticks(range(len(results)), [_name(result) for result in results])
    axes.invert_yaxis()
    longest = max((_tails(result)[-1][1] for result in results), default=1)
    axes.set(title="latency of a call: median (bar) and tail (line)", xlabel="milliseconds", xlim=(0, longest * 1.45))
    _clean(axes, "x")


def _draw_trade(axes: Axes, results: Sequence[CaseResult]) -> None:
    """Images per second over the median latency; the batch, or the number of callers, stands at each point."""
    lines: dict[tuple[str, str, str], list[CaseResult]] = {}
    for result in results:
        case = result.case
        sweep = "callers" if case.concurrency > 1 else "batch"
        lines.setdefault((case.graph, case.precision, sweep), []).append(result)
    for (graph, precision, sweep), points in lines.items():
        points = sorted(points, key=lambda result: (result.case.batch, result.case.concurrency))
        x, y = [point.latency_ms["median"] for point in points], [point.throughput for point in points]
        axes.plot(
            x,
            y,
            _STYLES.get(graph, ":"),
            marker=_MARKERS.get(graph, "^"),
            color=_COLOURS.get(precision, GREY),
            markersize=6,
            label=f"{graph} {precision}" + (" (callers)" if sweep == "callers" else ""),
        )
        for point, at in zip(points, zip(x, y, strict=True), strict=True):
            text = str(point.case.concurrency if sweep == "callers" else point.case.batch)
            axes.annotate(text, at, xytext=(5, 5), textcoords="offset points", fontsize=8.5)
    axes.set(title="throughput against latency; numbers: images of a call", xlabel="median latency in milliseconds")
    axes.set_ylabel("images per second")
    axes.set_ylim(bottom=0, top=1.15 * max((result.throughput for result in results), default=1))
    times = np.array([result.latency_ms["median"] for result in results] or [1.0])
    if times.max() > 8 * times.min():
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:g}"[0] in "25" else "")
    else:
        axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    _clean(axes, "both")


def _tails(result: CaseResult) -> list[tuple[str, float]]:
    """The percentiles above the median that the samples give; the upper quartile where they give none."""
    latency = result.latency_ms
    return [(name, latency[name]) for name in _TAIL if name in latency] or [("p75", latency["p75"])]


def _name(result: CaseResult) -> str:
    case = result.case
    callers = f", {case.concurrency} callers" if case.concurrency > 1 else ""
    threads = f", {case.threads} thread{'s' * (case.threads > 1)}" if case.threads else ""
    return f"{case.name}, batch {case.batch}{threads}{callers}"


def _clean(axes: Axes, grid: str) -> None:
    axes.grid(axis="x" if grid == "x" else "both", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
