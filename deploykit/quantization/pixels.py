"""The pixel input in integers: from 256 grey levels per channel to the integers of the first convolution, with nothing in between.

In: a graph that begins with Cast, Transpose, Mul, Add (`deploykit.graph.pixels`). Normalizing and rounding maps each grey level to
one integer, and a 1x1 convolution with one weight of 127 per channel computes the same map on bytes. It is the same for every one
of the 3 x 256 levels or it is not used: whether a level lies on the border of two integers is tried out, not estimated.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, numpy_helper

from deploykit.graph.pixels import IMAGE_NAME
from deploykit.quantization.weights import STEPS

_LEVELS = np.arange(256, dtype=np.float32)
_WIDEST = 1.01
_STRIDE = 2.5e-5


@dataclass(frozen=True, eq=False)
class PixelInput:
    """The nodes that normalize pixels, and what they compute: pixel * scale + bias, channel by channel.

    Args:
        scale, bias: float32 [3].
        nodes: Cast, Transpose, Mul and Add.
        output: the normalized tensor.
    """

    scale: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    nodes: tuple[NodeProto, ...]
    output: str


def find_pixel_input(graph: ModelProto) -> PixelInput | None:
    """The pixel input of a graph; None where it begins in another way, for example with a float input or with BGR order."""
    constants = {t.name: t for t in graph.graph.initializer}
    name, nodes = IMAGE_NAME, []
    for operator in ("Cast", "Transpose", "Mul", "Add"):
        readers = [node for node in graph.graph.node if name in node.input]
        if len(readers) != 1 or readers[0].op_type != operator or readers[0].input[0] != name:
            return None
        nodes.append(readers[0])
        name = readers[0].output[0]
    factors = [constants.get(node.input[1]) for node in nodes[2:]]
    if any(tensor is None or list(tensor.dims) != [1, 3, 1, 1] for tensor in factors):
        return None
    scale, bias = (numpy_helper.to_array(tensor).reshape(3) for tensor in factors if tensor is not None)
    return PixelInput(scale, bias, tuple(nodes), name) if (scale > 0).all() else None


def widen_scale(pixels: PixelInput, scale: float) -> float:
    """The smallest scale from the given one up, by 1 % at most, at which the integer form is exact; the given one if there is none.

    For ImageNet's mean and std 0.5 % was enough for each of 40 scales tried, and mostly less than 0.1 %.
    """
    tried = (float(np.float32(scale * factor)) for factor in np.arange(1, _WIDEST, _STRIDE))
    return next((wider for wider in tried if integer_bias(pixels, wider) is not None), scale)


def integer_bias(pixels: PixelInput, scale: float) -> npt.NDArray[np.int32] | None:
    """The bias [3] of the integer form, in steps of pixel scale / 127; None where a grey level would become another integer.

    Both ways are computed in float32, as runtimes do.
    """
    step = (pixels.scale / np.float32(STEPS)).astype(np.float32)
    bias = np.rint(pixels.bias.astype(np.float64) / step)
    for channel in range(3):
        normalized = _LEVELS * pixels.scale[channel] + pixels.bias[channel]
        sums = np.float32(STEPS) * _LEVELS + np.float32(bias[channel])
        multiplier = np.float32(step[channel] / np.float32(scale))
        if not np.array_equal(_clip(normalized / np.float32(scale)), _clip(sums * multiplier)):
            return None
    return bias.astype(np.int32)


def _clip(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.clip(np.rint(values), -STEPS - 1, STEPS)
