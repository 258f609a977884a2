"""Where a picture enters a graph from elsewhere, and where the scores leave it.

In: a graph as its file has it. Out: frozen descriptions that fit the file, so it can be asked as it wants to be asked. Nothing is
changed. What the graph does not say (the layout of an unusual shape, which of several outputs) is asked for, never guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from deploykit.errors import GraphError, UsageError
from deploykit.graph.files import tensor_facts
from deploykit.graph.layers import FLOATS
from deploykit.graph.tensors import Shape, Tensors, ancestors, describe_tensors

LAYOUTS = ("nchw", "nhwc")

_DTYPES: Mapping[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.DOUBLE: "float64",
    TensorProto.UINT8: "uint8",
}
_FINAL = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})
# They may stand behind the final activation and change nothing in the values.
_CARRIERS = frozenset({"Identity", "Cast", "Dropout", "Reshape", "Flatten", "Squeeze"})
# The first opset in which softmax works on one axis instead of on all behind it.
_SOFTMAX_OF_ONE_AXIS = 13


@dataclass(frozen=True)
class ForeignInput:
    """The input that takes the picture.

    Args:
        name: as the file calls it.
        dtype: numpy's name. uint8 takes the pixels themselves.
        layout: ``nchw`` or ``nhwc``.
        batch, height, width: None where the graph leaves them open.
    """

    name: str
    dtype: str
    layout: str
    batch: int | None
    height: int | None
    width: int | None

    def feed(self, planes: npt.NDArray[np.float32]) -> npt.NDArray[np.generic]:
        """What the file takes for normalized pictures float32 [n, 3, H, W] whose channels stand in the network's order."""
        moved = planes if self.layout == "nchw" else planes.transpose(0, 2, 3, 1)
        whole = np.rint(moved) if self.dtype == "uint8" else moved
        return np.ascontiguousarray(whole, dtype=self.dtype)


@dataclass(frozen=True)
class ForeignOutput:
    """The output that holds the scores.

    Args:
        name: as the file calls it.
        scores: the tensor before the final activation; the output itself where there is none.
        activation: ``Softmax``, ``LogSoftmax`` or ``Sigmoid``; None where the output holds the logits already.
    """

    name: str
    scores: str
    activation: str | None


def find_input(model: ModelProto, output: str, layout: str | None = None) -> ForeignInput:
    """The one input that the output depends on.

    Args:
        output: a tensor of the graph.
        layout: ``nchw`` or ``nhwc``, where the shape does not tell; must agree where it does.

    Raises:
        GraphError: no input or several, or one that takes no colour picture.
        UsageError: the layout is not clear, or contradicts the shape.
    """
    weights = {t.name for t in model.graph.initializer}
    needed = ancestors(model.graph, [output])
    found = [i for i in model.graph.input if i.name not in weights and i.name in needed]
    if len(found) != 1:
        seen = "; ".join(tensor_facts(i) for i in found) or "none"
        raise GraphError(
            f"the graph has {len(found)} inputs that its scores depend on, expected one picture: {seen}",
            hint="fix the others to constants before importing" if found else None,
        )
    value = found[0]
    kind = value.type.tensor_type
    dims = [int(d.dim_value) if d.dim_value > 0 else None for d in kind.shape.dim]
    if len(dims) != 4 or kind.elem_type not in _DTYPES:
        raise GraphError(
            f"the graph's input is {tensor_facts(value)}, expected a picture of rank 4 in {', '.join(_DTYPES.values())}"
        )
    chosen = _layout(value, dims, layout)
    height, width = dims[2:] if chosen == "nchw" else dims[1:3]
    return ForeignInput(value.name, _DTYPES[kind.elem_type], chosen, dims[0], height, width)


def _layout(value: ValueInfoProto, dims: list[int | None], asked: str | None) -> str:
    channels = {"nchw": dims[1], "nhwc": dims[3]}
    possible = [name for name in LAYOUTS if channels[name] in (3, None)]
    if not possible:
        raise GraphError(f"the graph's input is {tensor_facts(value)}, expected 3 colour channels in second or in last place")
    certain = [name for name in possible if channels[name] == 3]
    if asked is None:
        if len(certain) != 1:
            raise UsageError(
                f"the graph's input is {tensor_facts(value)}, which does not tell where its channels stand",
                hint="say it with --layout nchw (channels first, as PyTorch, Paddle and Caffe) or nhwc (last, as TensorFlow)",
            )
        return certain[0]
    if asked not in possible:
        raise UsageError(f"layout {asked} was asked for, and the graph's input is {tensor_facts(value)}")
    return asked


def find_output(model: ModelProto, name: str | None = None) -> ForeignOutput:
    """The scores: the graph's one output, or the tensor of that name, seen through a final activation.

    Raises:
        UsageError: several outputs and no name, or a name that no tensor has.
        GraphError: an output that holds no numbers to rank.
    """
    outputs = [o.name for o in model.graph.output]
    listed = "; ".join(tensor_facts(o) for o in model.graph.output)
    if name is None and len(outputs) > 1:
        raise UsageError(f"the graph has {len(outputs)} outputs: {listed}", hint="name the one that holds the scores with --scores")
    tensors = describe_tensors(model)
    chosen = name or outputs[0]
    if chosen not in tensors.producers:
        raise UsageError(f"no tensor of the graph is named {chosen!r}; its outputs are {listed}")
    if tensors.types.get(chosen, TensorProto.FLOAT) not in FLOATS:
        made_by = tensors.producers[chosen].op_type
        raise GraphError(
            f"{chosen} holds whole numbers (made by {made_by}), expected one score per class",
            hint="name the tensor before it with --scores; it may be an inner one",
        )
    final = _final_activation(model, tensors, chosen)
    if final is None:
        return ForeignOutput(chosen, chosen, None)
    return ForeignOutput(chosen, final.input[0], final.op_type)


def _final_activation(model: ModelProto, tensors: Tensors, name: str) -> NodeProto | None:
    """The activation over the classes that the output is made by, seen through nodes that only carry values."""
    node = tensors.producers.get(name)
    while node is not None and node.op_type in _CARRIERS:
        node = tensors.producers.get(node.input[0])
    if node is None or node.op_type not in _FINAL:
        return None
    shape = tensors.shapes.get(node.input[0], ())
    return node if _is_over_classes(node, shape, _opset(model)) else None


def _is_over_classes(node: NodeProto, shape: Shape, opset: int) -> bool:
    """Is this one score per class and image? A softmax over pixels is an attention map and stays, as does one per pixel's score."""
    if node.op_type == "Sigmoid":
        return len(shape) == 2 or (len(shape) == 4 and sum(d == 1 for d in shape[1:]) >= 2)
    axis = next((a.i for a in node.attribute if a.name == "axis" and a.type == AttributeProto.INT), None)
    if axis is None:
        axis = -1 if opset >= _SOFTMAX_OF_ONE_AXIS else 1
    axis = axis + len(shape) if axis < 0 else axis
    others = [d for i, d in enumerate(shape) if i not in (0, axis)]
    if axis == 1:
        # Before opset 13 everything behind axis 1 counts as classes.
        return opset >= _SOFTMAX_OF_ONE_AXIS or all(d == 1 for d in others)
    return axis >= 1 and bool(shape) and all(d == 1 for d in others)


def _opset(model: ModelProto) -> int:
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def final_activation(name: str | None, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What a file with this final activation says for these logits [n, K, ...], computed in float64."""
    z = logits.astype(np.float64)
    if name == "Sigmoid":
        z = 1 / (1 + np.exp(-z))
    elif name in {"Softmax", "LogSoftmax"}:
        z = z - z.max(axis=1, keepdims=True)
        z = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        z = np.exp(z) if name == "Softmax" else z
    return z.astype(np.float32)
