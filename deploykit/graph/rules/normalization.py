"""Gradients of normalization layers as they compute in inference."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from deploykit.graph.rules.emit import Value
from deploykit.graph.rules.step import Rule, Step


def batch_normalization(step: Step) -> Value:
    """y = gamma (x - mean) / sqrt(var + eps) + beta, all four constants per channel: dx = g gamma / sqrt(var + eps)."""
    if step.integer("training_mode", 0):
        raise step.unsupported("it is in training mode and takes its statistics from the batch")
    scale = step.x(1) / step.emit.op("Sqrt", step.x(4) + step.number("epsilon", 1e-5))
    return step.g * step.emit.reshape(scale, [-1, *[1] * (len(step.shape()) - 2)])


def instance_normalization(step: Step) -> Value:
    """Normalized over the spatial axes of each image and channel, then scaled per channel."""
    rank = len(step.shape())
    scale = step.emit.reshape(step.x(1), [-1, *[1] * (rank - 2)])
    return _through_standardization(step, step.x(), step.g * scale, range(2, rank), step.shape())


def layer_normalization(step: Step) -> Value:
    """Normalized over all axes from ``axis`` on, then scaled elementwise over them."""
    rank = len(step.shape())
    axes = range(step.integer("axis", -1) % rank, rank)
    return _through_standardization(step, step.x(), step.g * step.x(1), axes, step.shape())


def rms_normalization(step: Step) -> Value:
    """y = x r scale with r = 1 / sqrt(mean(x^2) + eps): with u = g scale, dx = r u - x r^3 mean(x u)."""
    emit, x, rank = step.emit, step.x(), len(step.shape())
    axes = list(range(step.integer("axis", -1) % rank, rank))
    share = 1 / int(np.prod(step.sizes(step.shape(), axes)))
    r = 1.0 / emit.op("Sqrt", emit.sum(x * x, axes) * share + step.number("epsilon", 1e-5))
    u = step.g * step.x(1)
    return r * u - x * (r * r * r) * (emit.sum(x * u, axes) * share)


def group_normalization(step: Step) -> Value:
    """Normalized over each group of channels; the scale is per channel from opset 21, per group before."""
    emit, shape = step.emit, step.shape()
    groups = step.integer("num_groups", 1)
    channels, *spatial = step.sizes(shape, range(1, len(shape)))
    per_channel = [1, channels, *[1] * len(spatial)]
    scale = step.x(1)
    if step.opset < 21:
        scale = emit.op("Expand", emit.reshape(scale, [groups, 1]), emit.ints([groups, channels // groups]))
    size = int(channels // groups * np.prod(spatial))
    grouped = [-1, groups, size]
    u = emit.reshape(step.g * emit.reshape(scale, per_channel), grouped)
    dx = _through_standardization(step, emit.reshape(step.x(), grouped), u, [2], (None, groups, size))
    return emit.reshape_like(dx, step.node.input[0])


def local_response_normalization(step: Step) -> Value:
    """y = x D^-beta with D = bias + alpha / size S x^2, S the sum over neighbouring channels.

    dx = g D^-beta - 2 alpha beta / size x S^T(g x D^(-beta - 1)) (Krizhevsky et al. 2012, 3.3). S is a constant band matrix.
    """
    emit, x, shape = step.emit, step.x(), step.shape()
    size, rank = step.integer("size", 1), len(shape)
    alpha, beta = step.number("alpha", 1e-4) / size, step.number("beta", 0.75)
    (channels,) = step.sizes(shape, [1])
    window = _neighbours(channels, size)
    d = _sum_channels(step, x * x, window, rank) * alpha + step.number("bias", 1.0)
    inner = step.g * x * emit.op("Pow", d, -beta - 1)
    return step.g * emit.op("Pow", d, -beta) - x * (_sum_channels(step, inner, window.T, rank) * (2 * alpha * beta))


def _through_standardization(step: Step, x: Value, u: Value, axes: Sequence[int], shape: Sequence[int | str | None]) -> Value:
    """x^ = (x - mean) r with r = 1 / sqrt(var + eps), the moments over some axes: dx = r (u - mean(u) - x^ mean(u x^))."""
    emit, axes = step.emit, list(axes)
    share = 1 / int(np.prod(step.sizes(tuple(shape), axes)))
    centred = x - emit.sum(x, axes) * share
    r = 1.0 / emit.op("Sqrt", emit.sum(centred * centred, axes) * share + step.number("epsilon", 1e-5))
    standard = centred * r
    return r * (u - emit.sum(u, axes) * share - standard * (emit.sum(u * standard, axes) * share))


def _neighbours(channels: int, size: int) -> npt.NDArray[np.float64]:
    """[c, i] is 1 where channel i counts for channel c: from c - (size - 1) // 2 to c + size // 2 (ONNX LRN)."""
    offset = np.arange(channels)[None, :] - np.arange(channels)[:, None]
    return np.asarray((offset >= -((size - 1) // 2)) & (offset <= size // 2), dtype=np.float64)


def _sum_channels(step: Step, value: Value, window: npt.NDArray[np.float64], rank: int) -> Value:
    """window @ value along the channel axis of [N, C, ...]."""
    return step.emit.apply_matrix(value, window.T, 1, rank)


RULES: dict[str, Rule] = {
    "BatchNormalization": batch_normalization,
    "InstanceNormalization": instance_normalization,
    "LayerNormalization": layer_normalization,
    "RMSNormalization": rms_normalization,
    "GroupNormalization": group_normalization,
    "LRN": local_response_normalization,
}
