"""How much of a graph may be laid open at once. In: a graph and tensors. Out: images per run, and parts of the tensors.

Every tensor that a run gives stays in memory until it ends. A batch keeps them small; where one image alone has too many (a
picture of EfficientNet-B7, 600 x 600, has 3.8 GB) the graph runs once for each part of them, which takes time and not memory.
"""

import math
from collections.abc import Sequence

from onnx import ModelProto, TensorProto

from deploykit.graph.tensors import describe_tensors

ACTIVATION_BYTES = 128 * 2**20
"""The activations of a batch stay below this, unless one image alone has more. EfficientNet-B0 has 86 MB an image."""

PART_BYTES = 512 * 2**20
"""What one run gives stays below this, unless one tensor of one image has more."""

MOST_IMAGES = 32


def batch_size_for(
    graph: ModelProto, tensors: Sequence[str], activation_bytes: int = ACTIVATION_BYTES, *, at_most: int = MOST_IMAGES
) -> int:
    """How many images may run at once, so that the tensors take at most ``activation_bytes``; at least 1."""
    return max(1, min(at_most, activation_bytes // max(sum(bytes_per_image(graph, tensors)), 1)))


def split(graph: ModelProto, tensors: Sequence[str], *, copies: int = 1) -> tuple[tuple[str, ...], ...]:
    """The tensors in parts that one run of one image may give, in their order.

    Args:
        copies: as how many tensors of its size each is given.
    """
    parts: list[list[str]] = [[]]
    left = PART_BYTES
    for name, size in zip(tensors, bytes_per_image(graph, tensors), strict=True):
        left -= copies * size
        if left < 0 and parts[-1]:
            parts.append([])
            left = PART_BYTES - copies * size
        parts[-1].append(name)
    return tuple(tuple(part) for part in parts)


def bytes_per_image(graph: ModelProto, tensors: Sequence[str]) -> list[int]:
    """What each tensor takes for one image; dimensions that cannot be told without running the graph count as one."""
    facts = describe_tensors(graph)
    return [
        math.prod(d for d in facts.shapes.get(name, ())[1:] if isinstance(d, int))
        * (2 if facts.types.get(name) == TensorProto.FLOAT16 else 4)
        for name in tensors
    ]
