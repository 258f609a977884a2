"""Gradient of Resize. Every interpolation is linear and separable: y = A x B^T with constant A, B, so dx = A^T g B.

The matrices follow the Resize page of the ONNX operator specification (opset 11 to 19: coordinate modes, nearest modes, cubic
coefficient, exclude_outside, antialias).
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploykit.graph.rules.emit import Value
from deploykit.graph.rules.step import Rule, Step

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interpolation:
    """How Resize finds one output pixel; the attributes of the node by their ONNX names."""

    mode: str
    coordinates: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    cubic_coefficient: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False


def resize(step: Step) -> Value:
    """dx = A^T g B along each axis whose size or position changes."""
    if step.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise step.unsupported("keep_aspect_ratio_policy has no rule; give the sizes instead")
    how = Interpolation(
        step.text("mode", "nearest"),
        step.text("coordinate_transformation_mode", "half_pixel"),
        step.text("nearest_mode", "round_prefer_floor"),
        step.number("cubic_coeff_a", -0.75),
        bool(step.integer("exclude_outside", 0)),
        bool(step.integer("antialias", 0)),
    )
    if how.coordinates == "tf_crop_and_resize":
        raise step.unsupported("tf_crop_and_resize has no rule")
    shape, out = step.shape(), step.out
    rank, dx = len(shape), step.g
    axes = [a % rank for a in step.integers("axes", range(rank))]
    scales = step.constant(2).reshape(-1) if step.has(2) else np.zeros(0)
    for i, axis in enumerate(axes):
        if (len(scales) and scales[i] == 1) or not isinstance(shape[axis], int):
            continue
        inside, outside = step.sizes((shape[axis], out[axis]), [0, 1])
        scale = float(scales[i]) if len(scales) else outside / inside
        if scale != 1 or inside != outside:
            dx = step.emit.apply_matrix(dx, interpolation_matrix(how, inside, outside, scale), axis, rank)
    return dx


def interpolation_matrix(how: Interpolation, inside: int, outside: int, scale: float) -> Matrix:
    """A [outside, inside] with y = A x along one axis."""
    matrix = np.zeros((outside, inside))
    for o in range(outside):
        x = _coordinate(how.coordinates, o, inside, outside, scale)
        if how.mode == "nearest":
            matrix[o, min(max(_round(how.nearest, x), 0), inside - 1)] = 1
            continue
        for pixel, weight in _taps(how, x, min(scale, 1.0) if how.antialias else 1.0):
            if 0 <= pixel < inside or not how.exclude_outside:
                matrix[o, min(max(pixel, 0), inside - 1)] += weight
        if how.exclude_outside or how.antialias:
            matrix[o] /= matrix[o].sum()
    return matrix


def _coordinate(mode: str, o: int, inside: int, outside: int, scale: float) -> float:
    """Where output pixel o lies on the input (``coordinate_transformation_mode``)."""
    if mode == "align_corners":
        return o * (inside - 1) / (outside - 1) if outside > 1 else 0.0
    if mode == "asymmetric":
        return o / scale
    if mode == "pytorch_half_pixel" and outside == 1:
        return 0.0
    if mode == "half_pixel_symmetric":
        # The adjustment keeps the picture centred when scale * inside is not whole.
        adjustment = outside / (scale * inside)
        return inside / 2 * (1 - adjustment) + (o + 0.5) / scale - 0.5
    return (o + 0.5) / scale - 0.5


def _round(mode: str, x: float) -> int:
    """``nearest_mode``."""
    if mode == "floor":
        return math.floor(x)
    if mode == "ceil":
        return math.ceil(x)
    return math.ceil(x - 0.5) if mode == "round_prefer_floor" else math.floor(x + 0.5)


def _taps(how: Interpolation, x: float, shrink: float) -> list[tuple[int, float]]:
    """Pixels and weights round x. When antialiasing, the filter is stretched by 1 / shrink so that every pixel counts."""
    radius = (1.0 if how.mode == "linear" else 2.0) / shrink
    pixels = range(math.floor(x - radius) + 1, math.ceil(x + radius))
    return [(p, _kernel(how, (p - x) * shrink)) for p in pixels]


def _kernel(how: Interpolation, t: float) -> float:
    """The hat function, or Keys' cubic with coefficient a."""
    t, a = abs(t), how.cubic_coefficient
    if how.mode == "linear":
        return max(0.0, 1 - t)
    if t <= 1:
        return ((a + 2) * t - (a + 3)) * t * t + 1
    return (((t - 5) * t + 8) * t - 4) * a if t < 2 else 0.0


RULES: dict[str, Rule] = {"Resize": resize}
