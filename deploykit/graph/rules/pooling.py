"""Gradients of pooling. No operator with indices or scattering is used: TensorRT has neither MaxPool Indices nor ScatterND(add)."""

import itertools

import numpy as np
import numpy.typing as npt
from onnx import helper

from deploykit.graph.rules.emit import Value
from deploykit.graph.rules.step import Rule, Step
from deploykit.graph.rules.window import Window, window_of

# Padding for max-pooling: below every finite number, and unlike -inf safe to multiply and to store in any engine.
_LOWEST = float(np.finfo(np.float32).min)


def max_pool(step: Step) -> Value:
    """g goes to each window's maximum; among equals to the first in row order, as PyTorch does.

    Tap by tap, the pixels under tap t of all windows are a strided slice of x. Where such a pixel equals y it takes what is left of
    g. The taps' shares return to their pixels by one transposed convolution with a one-hot kernel per tap.
    """
    g, emit, axes = step.g, step.emit, range(2, len(step.shape()))
    kernel = step.integers("kernel_shape", [])
    window = window_of(step, kernel, step.sizes(step.shape(), axes), step.sizes(step.out, axes))
    y = step.y
    if step.y_is_rounded:  # rounded once more than x, it would equal no pixel
        attributes = {a.name: helper.get_attribute_value(a) for a in step.node.attribute}
        y = emit.op("MaxPool", step.x(), **attributes)
    shares, left = [], g
    for pixels in _taps(step, window):
        hit = pixels.equals(y)
        shares.append(emit.where(hit, left, 0.0))
        left = emit.where(hit, 0.0, left)
    (channels,) = step.sizes(step.shape(), [1])
    return _gather_taps(step, window, shares, channels)


def average_pool(step: Step) -> Value:
    """y = A_h x A_w^T with constant matrices, because an average over a rectangle is one along each axis: dx = A_h^T g A_w."""
    dx, rank = step.g, len(step.shape())
    axes = range(2, rank)
    inside, outside = step.sizes(step.shape(), axes), step.sizes(step.out, axes)
    window = window_of(step, step.integers("kernel_shape", []), inside, outside)
    ends: list[int | None] = [None] * len(inside)
    if step.integer("count_include_pad", 0):
        automatic = step.text("auto_pad", "NOTSET") != "NOTSET"
        ends = [*(window.end if automatic else step.integers("pads", [0] * (2 * len(inside)))[len(inside) :])]
    for i, axis in enumerate(axes):
        dx = step.emit.apply_matrix(dx, average_matrix(window, i, ends[i]), axis, rank)
    return dx


def average_matrix(window: Window, i: int, end: int | None) -> npt.NDArray[np.float64]:
    """[outside, inside]: row o averages the pixels of window o along spatial axis i.

    ``end`` None divides by the real pixels alone. A number also counts padding, up to that many pixels behind the last: what
    ceil_mode adds beyond is never counted (PyTorch, and ONNX from opset 19).
    """
    size, begin = window.inside[i], window.begin[i]
    matrix = np.zeros((window.outside[i], size))
    for o in range(window.outside[i]):
        taps = [o * window.strides[i] - begin + k * window.dilations[i] for k in range(window.kernel[i])]
        pixels = [t for t in taps if 0 <= t < size]
        counted = pixels if end is None else [t for t in taps if t < size + max(end, 0)]
        matrix[o, pixels] = 1 / max(len(counted), 1)
    return matrix


def global_average_pool(step: Step) -> Value:
    """y = mean over the spatial axes: dx = g / pixels everywhere."""
    shape = step.shape()
    pixels = int(np.prod(step.sizes(shape, range(2, len(shape)))))
    return step.emit.expand(step.g * (1 / pixels), (1, 1, *shape[2:]))


def global_max_pool(step: Step) -> Value:
    """g goes to the first maximum of each channel."""
    emit, shape = step.emit, step.shape()
    pixels = int(np.prod(step.sizes(shape, range(2, len(shape)))))
    (channels,) = step.sizes(shape, [1])
    flat = emit.reshape(step.x(), [-1, channels, pixels])
    first = emit.op("ArgMax", flat, axis=2, keepdims=1)
    hit = first.equals(emit.ints(range(pixels)))
    return emit.reshape_like(emit.where(hit, emit.reshape(step.g, [-1, channels, 1]), 0.0), step.node.input[0])


def _taps(step: Step, window: Window) -> list[Value]:
    """For each tap in row order, the pixels [N, C, ...outside] that it sees."""
    emit, x, rank = step.emit, step.x(), len(window.kernel)
    end = [max(e, 0) for e in window.end]
    if any(window.begin) or any(end):
        x = emit.op("Pad", x, emit.ints([0, 0, *window.begin, 0, 0, *end]), _LOWEST)
    taps = []
    for tap in itertools.product(*map(range, window.kernel)):
        starts = [t * d for t, d in zip(tap, window.dilations, strict=True)]
        ends = [b + (o - 1) * s + 1 for b, o, s in zip(starts, window.outside, window.strides, strict=True)]
        bounds = (emit.ints(v) for v in (starts, ends, range(2, 2 + rank), window.strides))
        taps.append(emit.op("Slice", x, *bounds))
    return taps


def _gather_taps(step: Step, window: Window, shares: list[Value], channels: int) -> Value:
    """Add every tap's share [N, C, ...outside] back onto its pixels [N, C, ...inside]."""
    emit, taps = step.emit, len(shares)
    rank = len(window.kernel)
    one_hot = np.tile(np.eye(taps).reshape(taps, 1, *window.kernel), (channels, *[1] * (rank + 1)))
    # Channel by channel, its taps side by side: what a grouped convolution reads.
    stacked = emit.op("Concat", *(emit.op("Unsqueeze", s, emit.ints([2])) for s in shares), axis=2)
    stacked = emit.reshape(stacked, [-1, channels * taps, *window.outside])
    return window.spread(step, stacked, emit.constant(one_hot), channels)


RULES: dict[str, Rule] = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
}
