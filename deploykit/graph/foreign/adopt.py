"""The passes in their order: a graph from elsewhere in, deploykit's predict graph with a float input out."""

from dataclasses import replace

from onnx import ModelProto, helper

from deploykit.graph.describe import check_deterministic, strip_exporter_notes
from deploykit.graph.foreign.batch import free_batch
from deploykit.graph.foreign.input import fix_size, take_image
from deploykit.graph.foreign.names import ENTRANCE, free_reserved_names
from deploykit.graph.foreign.opset import inline_functions, raise_opset, widen_half_precision
from deploykit.graph.foreign.output import cut_final_activation, name_logits
from deploykit.graph.foreign.ports import ForeignInput, ForeignOutput
from deploykit.graph.foreign.shapes import fold_shapes
from deploykit.graph.foreign.simplify import drop_unread, drop_weight_inputs, simplify_graph
from deploykit.graph.versions import opset_of
from deploykit.spec import ImageSpec


def adopt_graph(
    original: ModelProto, source: ForeignInput, output: ForeignOutput, image: ImageSpec, *, takes_pixels: bool = False
) -> tuple[ModelProto, list[str]]:
    """Make the predict graph of a classifier from elsewhere, as far as its float input.

    Args:
        original: as its file has it; not changed.
        source, output: where the picture enters and the scores leave (`find_input`, `find_output`).
        image: its height and width become the graph's.
        takes_pixels: True for a predict graph of deploykit's own, whose uint8 input and normalization stay.

    Returns:
        The graph: input ``image`` float32 [N, 3, H, W] (or uint8 [N, H, W, 3], see ``takes_pixels``), output ``logits`` float32
        [N, K] or [N, K, h, w], float32 throughout, opset 18 at least. And what was changed that a user should know, in sentences.

    Raises:
        GraphError: a pass cannot do its part; nothing is silently left out.
    """
    notes: list[str] = []
    model = _standardize(original, output, notes)
    source = _free_names(model, source, output, notes, keep=ENTRANCE if takes_pixels else frozenset())
    fix_size(model, source, image)
    fold_shapes(model)
    _open_batch(model, source.batch, notes)
    if not takes_pixels:
        take_image(model, source, image)
    if name_logits(model, output, source.layout):
        notes.append("its one score z became the logits of two classes, -z/2 and z/2: class 1 is what the sigmoid spoke for")
    elif output.activation == "Sigmoid":
        notes.append("probabilities will be a softmax over the logits; in the file each class has a probability of its own")
    simplify_graph(model)
    return model, notes


def _standardize(original: ModelProto, output: ForeignOutput, notes: list[str]) -> ModelProto:
    """A copy with the scores as its one output, in operators that deploykit knows, float32 throughout."""
    model = ModelProto()
    model.CopyFrom(original)
    strip_exporter_notes(model)
    helper.set_model_props(model, _kept_metadata(original))
    drop_weight_inputs(model)
    model = inline_functions(model)
    cut_final_activation(model, output)
    if output.activation is not None:
        notes.append(f"the final {output.activation} is cut off: logits are {output.scores!r}, and gradients are taken of them")
    drop_unread(model)
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        notes.append("the file is quantized: its graphs stand under fp32 in the bundle, and answer as the quantized file does")
    before = opset_of(model)
    model = raise_opset(model)
    if opset_of(model) != before:
        notes.append(f"converted from opset {before} to {opset_of(model)}")
    if widen_half_precision(model):
        notes.append("float16 weights are kept as float32 of the same values, and computed with in float32")
    simplify_graph(model)
    check_deterministic(model)
    return model


def _free_names(
    model: ModelProto, source: ForeignInput, output: ForeignOutput, notes: list[str], keep: frozenset[str]
) -> ForeignInput:
    """Rename what is called like a tensor of deploykit's; returns the input as it is now, float16 having become float32."""
    renamed = free_reserved_names(model, keep)
    known = (source.name, output.name, output.scores)
    if inner := [f"{old} is now {new}" for old, new in renamed.items() if old not in known]:
        notes.append(f"tensors renamed, because deploykit needs their names: {', '.join(inner)}")
    dtype = "float32" if source.dtype == "float16" else source.dtype
    return replace(source, name=renamed.get(source.name, source.name), dtype=dtype)


def _open_batch(model: ModelProto, batch: int | None, notes: list[str]) -> None:
    if freed := free_batch(model, batch):
        more = f" and {len(freed) - 1} more" if len(freed) > 1 else ""
        notes.append(f"the batch was fixed to {batch or 1} and is now dynamic: changed are {freed[0]}{more}")
    elif batch is not None:
        notes.append(f"the batch was fixed to {batch} and is now dynamic: only the input's shape said so")


def _kept_metadata(original: ModelProto) -> dict[str, str]:
    """What the file's author wrote about it, such as a licence; an exporter's own notes have paths of its machine."""
    return {p.key: p.value for p in original.metadata_props if not p.key.startswith(("pkg.", "deploykit."))}
