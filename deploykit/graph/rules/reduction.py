"""Gradients of reductions: g is stretched over the reduced axes and weighted by each element's part in the result."""

import numpy as np

from deploykit.graph.rules.emit import Value
from deploykit.graph.rules.step import Rule, Step


def reduce_sum(step: Step) -> Value:
    """dx = g over the reduced axes."""
    return step.emit.expand(_kept(step, step.g), step.shape())


def reduce_mean(step: Step) -> Value:
    """dx = g / count over the reduced axes."""
    count = int(np.prod(step.sizes(step.shape(), _axes(step))))
    return step.emit.expand(_kept(step, step.g) * (1 / count), step.shape())


def reduce_extremum(step: Step) -> Value:
    """Maximum or minimum: g shared equally among the elements that tie for it, as torch.amax does."""
    emit, x = step.emit, step.x()
    y = step.y
    if step.y_is_rounded:  # rounded once more than x, it would equal no element
        y = emit.op(step.node.op_type, x, *_axes_argument(step), keepdims=step.integer("keepdims", 1), **_axes_attribute(step))
    hit = emit.where(x.equals(_kept(step, y)), 1.0, 0.0)
    return hit * (_kept(step, step.g) / emit.sum(hit, _axes(step)))


def reduce_l1(step: Step) -> Value:
    """y = sum |x|: dx = g sign(x)."""
    return _kept(step, step.g) * step.emit.op("Sign", step.x())


def reduce_l2(step: Step) -> Value:
    """y = sqrt(sum x^2): dx = g x / y, and 0 where y is 0."""
    emit, y = step.emit, _kept(step, step.y)
    return step.x() * emit.where(y > 0.0, _kept(step, step.g) / emit.where(y > 0.0, y, 1.0), 0.0)


def reduce_sum_square(step: Step) -> Value:
    """y = sum x^2: dx = 2 g x."""
    return step.x() * (_kept(step, step.g) * 2.0)


def reduce_log_sum_exp(step: Step) -> Value:
    """y = log sum exp x: dx = g exp(x - y)."""
    return _kept(step, step.g) * step.emit.op("Exp", step.x() - _kept(step, step.y))


def _axes(step: Step) -> list[int]:
    """The reduced axes; all of them where none is named, unless ``noop_with_empty_axes`` says none."""
    rank = len(step.shape())
    named = step.axes(1)
    if named:
        return sorted(a % rank for a in named)
    return [] if step.integer("noop_with_empty_axes", 0) else list(range(rank))


def _kept(step: Step, value: Value) -> Value:
    """A value of the output's shape with the reduced axes put back as 1."""
    if step.integer("keepdims", 1) or not _axes(step):
        return value
    return step.emit.op("Unsqueeze", value, step.emit.ints(_axes(step)))


def _axes_argument(step: Step) -> list[Value]:
    """Axes as the second input, where the forward node has them there (opset 18; ReduceSum 13)."""
    return [Value(step.node.input[1], step.emit)] if step.has(1) else []


def _axes_attribute(step: Step) -> dict[str, list[int]]:
    return {} if step.has(1) or not step.integers("axes", []) else {"axes": step.integers("axes", [])}


RULES: dict[str, Rule] = {
    "ReduceSum": reduce_sum,
    "ReduceMean": reduce_mean,
    "ReduceMax": reduce_extremum,
    "ReduceMin": reduce_extremum,
    "ReduceL1": reduce_l1,
    "ReduceL2": reduce_l2,
    "ReduceSumSquare": reduce_sum_square,
    "ReduceLogSumExp": reduce_log_sum_exp,
}
