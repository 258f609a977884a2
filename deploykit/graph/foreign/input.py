"""The way in: any layout and element type behind ``image`` float32 [N, 3, H, W]."""

from onnx import ModelProto, NodeProto, TensorProto, helper

from deploykit.errors import GraphError
from deploykit.graph.foreign.names import redirect_readers, set_nodes
from deploykit.graph.foreign.ports import ForeignInput
from deploykit.graph.pixels import IMAGE_NAME
from deploykit.spec import ImageSpec

_TYPES = {"float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE, "uint8": TensorProto.UINT8}


def fix_size(model: ModelProto, source: ForeignInput, image: ImageSpec) -> None:
    """Before: batch, height and width fixed or open. After: height and width are the image spec's, and the batch is ``N``, which
    nothing behind the input knows yet (`deploykit.graph.foreign.batch`).

    Raises:
        GraphError: they are fixed, and others.
    """
    if (source.height or image.height, source.width or image.width) != (image.height, image.width):
        raise GraphError(f"the graph takes {source.height} x {source.width} pixels, not {image.height} x {image.width}")
    dims = next(i for i in model.graph.input if i.name == source.name).type.tensor_type.shape.dim
    height, width = (2, 3) if source.layout == "nchw" else (1, 2)
    for axis, size in ((height, image.height), (width, image.width)):
        dims[axis].Clear()
        dims[axis].dim_value = size
    dims[0].Clear()
    dims[0].dim_param = "N"
    channels = dims[1 if source.layout == "nchw" else 3]
    channels.Clear()
    channels.dim_value = 3


def take_image(model: ModelProto, source: ForeignInput, image: ImageSpec) -> None:
    """Before: the input as the file has it, under a free name. After: it is ``image`` float32 [N, 3, H, W], normalized; a Transpose
    and a Cast behind it give the graph what it took before.

    Pixels are whole numbers, so where a uint8 input is cast to float first thing, the cast is left out instead of doubled: TensorRT
    casts nothing to uint8.
    """
    graph = model.graph
    old = next(i for i in graph.input if i.name == source.name)
    nodes: list[NodeProto] = []
    name = IMAGE_NAME
    if source.layout == "nhwc":
        nodes.append(helper.make_node("Transpose", [name], ["image_nhwc"], name="image/Transpose", perm=[0, 2, 3, 1]))
        name = "image_nhwc"
    if source.dtype == "uint8":
        name = _pass_casts(model, source.name, name)
    if source.dtype != "float32" and any(source.name in node.input for node in graph.node):
        nodes.append(helper.make_node("Cast", [name], ["image_cast"], name="image/Cast", to=_TYPES[source.dtype]))
        redirect_readers(graph, source.name, "image_cast")
    redirect_readers(graph, source.name, name)
    set_nodes(graph, [*nodes, *graph.node])
    old.CopyFrom(helper.make_tensor_value_info(IMAGE_NAME, TensorProto.FLOAT, ["N", 3, image.height, image.width]))


def _pass_casts(model: ModelProto, old: str, name: str) -> str:
    """Casts of the uint8 input to float32 read the float tensor, and so become copies; returns that tensor's name."""
    kept = []
    for node in model.graph.node:
        is_cast = node.op_type == "Cast" and node.input[0] == old
        if is_cast and next(a.i for a in node.attribute if a.name == "to") == TensorProto.FLOAT:
            redirect_readers(model.graph, node.output[0], name)
        else:
            kept.append(node)
    set_nodes(model.graph, kept)
    return name
