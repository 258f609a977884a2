"""Tensor names: renaming one everywhere, and freeing those that deploykit's graphs need.

Before: any graph. After: no inner tensor is called as a tensor that deploykit adds or reads by name.
"""

import itertools
from collections.abc import Iterable

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from deploykit.graph.tensors import tensor_names

ENTRANCE = frozenset(
    {
        *("image", "logits", "normalized", "normalize_scale", "normalize_bias", "bgr_from_rgb"),
        *("pixels_float", "pixels_planes", "pixels_scaled", "pixels_normalized_rgb"),
    }
)
"""Tensors of a predict graph (`deploykit.graph.pixels`)."""

RESERVED = ENTRANCE | {
    *("class_index", "explained_class", "mask", "activations", "gradients", "cam", "guided_backprop", "deconvnet"),
    *(f"{name}_{i}" for name in ("activations", "gradients", "cam") for i in range(2, 10)),
    *("image_nhwc", "image_cast"),
}
"""And those that the explain graphs (`deploykit.graph.explain`) and the passes here add."""


def free_reserved_names(model: ModelProto, keep: frozenset[str] = frozenset()) -> dict[str, str]:
    """Rename every tensor that is called like one of `RESERVED`, save those to keep.

    Returns:
        The new name by the old one.
    """
    taken = tensor_names(model)
    renamed: dict[str, str] = {}
    for old in sorted((RESERVED - keep) & taken):
        new = next(name for n in itertools.count(1) if (name := f"inner/{old}" + (f"_{n}" if n > 1 else "")) not in taken)
        rename_tensor(model.graph, old, new)
        taken.add(new)
        renamed[old] = new
    return renamed


def rename_tensor(graph: GraphProto, old: str, new: str) -> None:
    """Call a tensor by another name wherever it is made, read or described, in the bodies of If, Loop and Scan too."""
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                rename_tensor(attribute.g, old, new)
    for value in [*graph.input, *graph.output, *graph.value_info]:
        if value.name == old:
            value.name = new
    for tensor in graph.initializer:
        if tensor.name == old:
            tensor.name = new


def redirect_readers(graph: GraphProto, old: str, new: str) -> None:
    """Have every node that reads a tensor read another one instead, in the bodies of If, Loop and Scan too."""
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                redirect_readers(attribute.g, old, new)


def set_nodes(graph: GraphProto, nodes: Iterable[NodeProto]) -> None:
    """Give a graph these nodes in this order. Protobuf lists have no insert."""
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)
