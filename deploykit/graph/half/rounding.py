"""What a device that has FP16 computes, as a float32 graph: each tensor is rounded to float16 where it is made.

ONNX Runtime's CPU runs FP16 nodes in float32 and drops the rounding between two of them, so that 2048 + 1 - 2048 gives 1 and
nothing overflows there (tried with 1.32). Casts down and up in a float32 graph are kept. Sums inside of an operator stay in
float32, as in tensor cores.
"""

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from deploykit.graph.scopes import with_outputs
from deploykit.graph.tensors import describe_tensors


def make_rounding_graph(half: ModelProto, *, lay_open: bool = True) -> ModelProto:
    """A float32 graph that gives the numbers of a typed FP16 graph.

    Args:
        lay_open: let it give every tensor that its nodes make, under its own name, too: of a large net gigabytes for a picture.
    """
    types = describe_tensors(half).types
    model = ModelProto()
    model.CopyFrom(half)
    body = model.graph
    source = [NodeProto.FromString(node.SerializeToString()) for node in body.node]
    del body.node[:], body.value_info[:]
    for tensor in body.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in source:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
        rounded = [name for name in node.output if types.get(name) == TensorProto.FLOAT16]
        for i, name in enumerate(node.output):
            if name in rounded:
                node.output[i] = f"{name}/exact"
        body.node.append(node)
        for name in rounded:
            down = f"{name}/float16"
            body.node.append(helper.make_node("Cast", [f"{name}/exact"], [down], name=down, to=TensorProto.FLOAT16))
            body.node.append(helper.make_node("Cast", [down], [name], name=f"{name}/float32", to=TensorProto.FLOAT))
    if not lay_open:
        return model
    floats = {TensorProto.FLOAT, TensorProto.FLOAT16}
    return with_outputs(model, [name for node in source for name in _made(node) if types.get(name) in floats])


def _made(node: NodeProto) -> list[str]:
    return [name.removesuffix("/exact") for name in node.output if name]
