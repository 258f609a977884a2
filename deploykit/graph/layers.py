"""The tensors of a graph that Grad-CAM can explain at, and how a user names one.

A layer is a feature map: a rank-4 tensor with more than one pixel, one image per row, between the first learned operator and the
logits. It is named by its ONNX tensor or by the path of the torch module that returned it, which torch's exporter leaves in the
nodes' metadata (``pkg.torch.onnx.name_scopes``).
"""

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper

from deploykit.errors import UsageError
from deploykit.graph.scopes import module_tensors
from deploykit.graph.tensors import Shape, Tensors, ancestors, describe_tensors

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16})

_LEARNED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# They repeat the tensor before them.
_COPIES = frozenset({"Cast", "DequantizeLinear", "Dropout", "Identity", "QuantizeLinear"})
# They keep the order of axes, so a channels-last input makes a channels-last output.
_AXES_MOVE = frozenset(
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Conv", "MaxPool", "AveragePool", "Gather", "Expand"}
)
_MOST_LISTED = 12
_NO_LAYER = "this graph has no layer to explain: no rank-4 tensor with more than one pixel leads to its logits"


@dataclass(frozen=True)
class LayerCandidate:
    """One feature map.

    Args:
        tensor: its ONNX name.
        channels, height, width: its size per image.
        channels_last: True where the tensor is [N, h, w, C], as in ConvNeXt and Swin; explain graphs give [N, C, h, w] all the
            same.
        operator: the type of the node that makes it.
        modules: paths of the torch modules that return it, outermost first; empty where the metadata names none.
    """

    tensor: str
    channels: int
    height: int
    width: int
    channels_last: bool
    operator: str
    modules: tuple[str, ...] = ()

    def __str__(self) -> str:
        path = f"{self.modules[0]} = " if self.modules else ""
        return f"{path}{self.tensor} [{self.channels}, {self.height}, {self.width}]"


def list_layers(model: ModelProto, output: str = "logits", tensors: Tensors | None = None) -> list[LayerCandidate]:
    """Every layer that the output depends on, in graph order, so the deepest comes last.

    Args:
        model: any graph of deploykit, or one from elsewhere.
        output: the scores; others than the named tensor's ancestors are left out.
        tensors: facts about the graph, where the caller already has them.
    """
    tensors = tensors or describe_tensors(model)
    needed = ancestors(model.graph, [output]) - {output}
    last = _channels_last(model, tensors)
    returned = _returned_by_modules(model, needed)
    learned: set[str] = set()
    layers: list[LayerCandidate] = []
    for node in model.graph.node:
        if node.op_type in _LEARNED or learned.intersection(node.input):
            learned.update(node.output)
        for name in learned.intersection(node.output) & needed:
            if not _repeats(node, tensors) or name in returned:
                layers += _candidate(tensors, name, node.op_type, name in last, tuple(returned.get(name, ())))
    return layers


def resolve_layer(model: ModelProto, name: str, output: str = "logits", tensors: Tensors | None = None) -> LayerCandidate:
    """The layer that a user means by a torch module's path or by a tensor's name; a path means the last tensor of that module.

    Paths come first: torch's exporter calls a tensor ``permute`` where Swin has a module of that name elsewhere.

    Raises:
        UsageError: there is no such layer; the message shows the nearest names and the hint lists layers with their shapes.
    """
    tensors = tensors or describe_tensors(model)
    layers = list_layers(model, output, tensors)
    named = [layer for layer in layers if name in layer.modules] or [layer for layer in layers if name == layer.tensor]
    if named:
        return named[0]
    node = tensors.producers.get(name)
    if node is not None and name in ancestors(model.graph, [output]):
        found = list(_candidate(tensors, name, node.op_type, name in _channels_last(model, tensors), ()))
        if found:
            return found[0]
    if not layers:
        raise UsageError(_NO_LAYER, hint="leave explaining out with --no-explain")
    known = [key for layer in layers for key in (layer.tensor, *layer.modules)]
    close = difflib.get_close_matches(name, known, n=3)
    shape = f" of shape {list(tensors.shapes[name])}, which is no feature map" if name in tensors.shapes else ""
    seen = f"{name!r} is a tensor{shape}" if shape else f"no layer is named {name!r}"
    raise UsageError(
        f"{seen}{'; close: ' + ', '.join(close) if close else ''}",
        hint="layers, deepest first: " + "; ".join(str(layer) for layer in layers[: -_MOST_LISTED - 1 : -1]),
    )


def default_layer(model: ModelProto, output: str = "logits", tensors: Tensors | None = None) -> LayerCandidate:
    """The last feature map: before global pooling in a classifier; in a segmentation net, the last of those with the most channels,
    which is the backbone's, because its head ends in one map per class. Average pooling to several pixels, as in VGG, is passed
    over.

    Raises:
        UsageError: the graph has no feature map.
    """
    tensors = tensors or describe_tensors(model)
    layers = list_layers(model, output, tensors)
    if not layers:
        raise UsageError(_NO_LAYER, hint="leave explaining out with --no-explain")
    maps = [layer for layer in layers if layer.operator != "AveragePool"] or layers
    if len(tensors.shape(output)) == 4:
        most = max(layer.channels for layer in maps)
        maps = [layer for layer in maps if layer.channels == most]
    return maps[-1]


def _candidate(
    tensors: Tensors, name: str, operator: str, channels_last: bool, modules: tuple[str, ...]
) -> Iterator[LayerCandidate]:
    """The layer of that name, or nothing where the tensor is no feature map."""
    shape = tensors.shapes.get(name, ())
    if len(shape) != 4 or tensors.types.get(name) not in FLOATS or not _is_batch(shape, tensors):
        return
    sizes = [d for d in shape[1:] if isinstance(d, int)]
    if len(sizes) == 3:
        channels, height, width = (sizes[2], sizes[0], sizes[1]) if channels_last else sizes
        if height > 1 and width > 1:
            yield LayerCandidate(name, channels, height, width, channels_last, operator, modules)


def _repeats(node: NodeProto, tensors: Tensors) -> bool:
    """Does a node give the tensor before it again? Not where integers were clipped between the pair: that is a rectifier."""
    maker = tensors.producers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
    return node.op_type in _COPIES and not (maker is not None and maker.op_type == "Clip")


def _is_batch(shape: Shape, tensors: Tensors) -> bool:
    """Does dimension 0 count images? Attention over windows folds others into it: [N * windows, heads, 49, 49]."""
    batches = {tensors.shapes[name][:1] for name in tensors.outputs if tensors.shapes.get(name)}
    return not isinstance(shape[0], int) if any(not isinstance(d, int) for b in batches for d in b) else shape[:1] in batches


def _channels_last(model: ModelProto, tensors: Tensors) -> set[str]:
    """Tensors laid out [N, h, w, C]: behind a move of axes, a normalization or linear layer over the last one, and what follows."""
    last: set[str] = set()
    for node in model.graph.node:
        rank = len(tensors.shapes.get(node.output[0], ())) if node.output else 0
        if rank != 4:
            continue
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        moved = node.op_type == "Transpose" and list(attributes.get("perm", [])) == [0, 2, 3, 1]
        normalized = node.op_type == "LayerNormalization" and attributes.get("axis", -1) in {-1, 3}
        linear = node.op_type == "MatMul" and len(tensors.shapes.get(node.input[1], ())) == 2
        if moved or normalized or linear or (node.op_type not in _AXES_MOVE and last.intersection(node.input)):
            last.add(node.output[0])
    return last


def _returned_by_modules(model: ModelProto, needed: set[str]) -> dict[str, list[str]]:
    """Tensor -> paths of the modules whose last tensor it is, outermost first."""
    last = module_tensors(model, needed)
    returned: dict[str, list[str]] = {}
    for path in sorted(last, key=lambda p: (p.count("."), p)):
        returned.setdefault(last[path], []).append(path)
    return returned


def read_by(node: NodeProto) -> Iterable[str]:
    """The tensors that a node reads; for If, Loop and Scan also those that their bodies take from outside."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            for inner in attribute.g.node:
                yield from read_by(inner)
            yield from (o.name for o in attribute.g.output)
