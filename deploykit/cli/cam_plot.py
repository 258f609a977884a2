"""Deletion and insertion curves as a picture: the only place that imports matplotlib."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deploykit.palette import GREY, GRID, LINES
from deploykit.runtime.cam_quality import area_under

Doubles = npt.NDArray[np.float64]

_STYLES = ("-", "--", "-.")
"""In turn, so that a grey print tells them apart. Later curves are thinner: of two on each other both show."""

_MOST_ROWS = 12
"""Of a legend in one column."""

_BASELINE_STYLES = (":", (0, (6, 2, 1, 2, 1, 2)))


@dataclass(frozen=True, eq=False)
class Curves:
    """One side of the comparison.

    Args:
        label: its name in the legend.
        deletion, insertion: mean probability float64 [steps + 1].
        is_baseline: whether it knows nothing of the network; drawn in grey.
    """

    label: str
    deletion: Doubles
    insertion: Doubles
    is_baseline: bool


def draw_curves(sides: Sequence[Curves], title: str, file_format: str) -> bytes:
    """Two panels, deletion and insertion, each above a legend in the order of its areas, best first.

    Args:
        file_format: ``png``, ``svg`` or ``pdf``.
    """
    columns = 1 if len(sides) <= _MOST_ROWS else 2
    figure = Figure(figsize=(12, 5.6 + 0.2 * len(sides) / columns), dpi=150, layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, name, is_deletion in ((left, "deletion: lower is better", True), (right, "insertion: higher is better", False)):
        axes.set(title=name, xlabel=f"part of the pixels {'deleted' if is_deletion else 'inserted'}", xlim=(0, 1))
        axes.grid(color=GRID, linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        _draw_panel(axes, sides, is_deletion=is_deletion)
        axes.legend(title="area under the curve", loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=columns, frameon=False)
    left.set_ylim(bottom=0)  # what curves need at the top; a network of 1,000 classes may never be sure
    left.set_ylabel("mean probability of the explained class")
    data = io.BytesIO()
    figure.savefig(data, format=file_format)
    return data.getvalue()


def _draw_panel(axes: Axes, sides: Sequence[Curves], *, is_deletion: bool) -> None:
    methods = [side for side in sides if not side.is_baseline]
    baselines = [side for side in sides if side.is_baseline]
    curves = [(side.deletion if is_deletion else side.insertion, side) for side in sides]
    ranked = sorted(curves, key=lambda pair: area_under(pair[0]), reverse=not is_deletion)
    for place, (curve, side) in enumerate(ranked):
        if side.is_baseline:
            colour, width, style = GREY, 1.5, _BASELINE_STYLES[baselines.index(side) % len(_BASELINE_STYLES)]
        else:
            index = methods.index(side)
            colour, width = LINES[index % len(LINES)], 3.2 - 1.6 * place / len(ranked)
            style = _STYLES[index % len(_STYLES)]
        part = np.linspace(0, 1, len(curve))
        axes.plot(part, curve, color=colour, linestyle=style, linewidth=width, label=f"{area_under(curve):.3f}  {side.label}")
