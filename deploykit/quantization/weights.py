"""Weights as INT8: one symmetric scale per output channel, -127 to 127, and never a scale that a parser refuses.

-128 is left out so that a weight and its negative are rounded alike (NVIDIA TensorRT documentation, "Explicit Quantization").
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploykit.errors import GraphError

STEPS = 127
"""The largest integer of a symmetric INT8 value."""

SMALLEST_SCALE = 1e-30
"""Below this a scale counts as zero: float32 loses digits below 1.2e-38, and products of two scales must stay above that."""

# What is added to 32-bit sums must fit in them; a bit is left for the sums themselves.
_LARGEST_BIAS_STEPS = 2.0**30


@dataclass(frozen=True, eq=False)
class Int8Weight:
    """A weight as integers.

    Args:
        values: int8, the weight's shape.
        scales: float32 [C] along ``axis``, or of shape [] where one scale serves all.
        axis: of the output channels; None where one scale serves all.
        zero_filters: channels that are zero, or so small beside the others that they cannot be told from it; their integers are 0.
    """

    values: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]
    axis: int | None
    zero_filters: tuple[int, ...]


def quantize_weight(
    weight: npt.NDArray[np.float32], axis: int | None, name: str, bias_steps: npt.NDArray[np.float64] | None = None
) -> Int8Weight:
    """Round a weight to integers.

    Args:
        weight: any shape.
        axis: of the output channels; None takes one scale for all, which is what breaks depthwise networks.
        name: for the error.
        bias_steps: [C], |bias| / scale of the layer's input. Filters that are tiny beside their bias (a folded BatchNorm whose
            gamma is almost zero) get a scale at which the bias is at most 2^30 steps, because integer kernels add it to 32-bit
            sums. What a weight loses by it is at most 2^-31 of the bias per step of the input.

    Raises:
        GraphError: the weight has NaN or infinite values.
    """
    if not np.isfinite(weight).all():
        raise GraphError(f"weight {name} has {int((~np.isfinite(weight)).sum())} NaN or infinite values; it cannot be quantized")
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others if axis is not None else None).astype(np.float64)
    scales = np.atleast_1d(largest) / STEPS
    is_zero = scales < SMALLEST_SCALE
    usual = scales[~is_zero].max() if not is_zero.all() else 1.0 / STEPS
    scales = np.where(is_zero, usual, scales)
    if bias_steps is not None:
        scales = np.maximum(scales, (bias_steps.max() if axis is None else bias_steps) / _LARGEST_BIAS_STEPS)
    scales32 = scales.astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    values = np.clip(np.rint(weight / scales32.reshape(shape).astype(np.float64)), -STEPS, STEPS).astype(np.int8)
    zero = tuple(int(i) for i in np.flatnonzero(is_zero))
    return Int8Weight(values, scales32 if axis is not None else scales32.reshape(()), axis, zero)
