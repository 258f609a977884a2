"""Gradients of convolutions with respect to their data: each is the other, with the same weights."""

from deploykit.graph.rules.emit import Value
from deploykit.graph.rules.step import Rule, Step
from deploykit.graph.rules.window import Window, window_of


def convolution(step: Step) -> Value:
    """y = W * x: dx is the transposed convolution of g with W.

    With stride 1 that is an ordinary convolution with the kernel flipped and its channel axes swapped. Runtimes have far better
    kernels for those; the flip is of constants, so they do it once when they load the graph.
    """
    _refuse_computed_weights(step)
    shape, weights = step.shape(0), step.shape(1)
    axes = range(2, len(shape))
    window = window_of(step, step.sizes(weights, axes), step.sizes(shape, axes), step.sizes(step.out, axes))
    group = step.integer("group", 1)
    if set(window.strides) == {1}:
        return _flipped(step, window, group)
    return window.spread(step, step.g, step.x(1), group)


def transposed_convolution(step: Step) -> Value:
    """y = W^T * x: dx is the convolution of g with W."""
    _refuse_computed_weights(step)
    shape, weights = step.shape(0), step.shape(1)
    axes = range(2, len(shape))
    window = window_of(step, step.sizes(weights, axes), step.sizes(step.out, axes), step.sizes(shape, axes))
    g, pads = _crop_negative(step, step.g, [*window.begin, *window.end])
    attributes = {"strides": list(window.strides), "dilations": list(window.dilations), "pads": pads}
    return step.emit.op("Conv", g, step.x(1), group=step.integer("group", 1), **attributes)


def _flipped(step: Step, window: Window, group: int) -> Value:
    """Stride 1: dx = conv(g, W') with W'[c, m, k] = W[m, c, K - 1 - k] within each group; padding extent - 1 - p."""
    emit, weights = step.emit, step.x(1)
    m, c, *kernel = step.sizes(step.shape(1), range(len(step.shape(1))))
    for axis, taps in enumerate(kernel, start=2):
        if taps > 1:
            weights = emit.op("Gather", weights, emit.ints(range(taps)[::-1]), axis=axis)
    if group == 1:
        weights = emit.transpose(weights, [1, 0, *range(2, 2 + len(kernel))])
    elif (m, c) != (group, 1):
        weights = emit.reshape(weights, [group, m // group, c, *kernel])
        weights = emit.transpose(weights, [0, 2, 1, *range(3, 3 + len(kernel))])
        weights = emit.reshape(weights, [group * c, m // group, *kernel])
    pads = [e - 1 - p for p_side in (window.begin, window.end) for e, p in zip(window.extent, p_side, strict=True)]
    g, pads = _crop_negative(step, step.g, pads)
    return emit.op("Conv", g, weights, dilations=list(window.dilations), pads=pads, group=group)


def _crop_negative(step: Step, g: Value, pads: list[int]) -> tuple[Value, list[int]]:
    """Conv takes no negative padding: crop instead."""
    half, crop = len(pads) // 2, [min(p, 0) for p in pads]
    return step.emit.shift_ends(g, [0, 0, *crop[:half]], [0, 0, *crop[half:]]), [max(p, 0) for p in pads]


def _refuse_computed_weights(step: Step) -> None:
    if step.wanted != {0}:
        raise step.unsupported("its weights depend on the tensor to explain")


RULES: dict[str, Rule] = {"Conv": convolution, "ConvTranspose": transposed_convolution}
