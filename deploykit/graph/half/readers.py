"""Reading an FP16 graph's tensors in float32 without changing what the graph itself computes.

ONNX Runtime's CPU computes FP16 nodes in float32 and drops the rounding between two of them, but not where a cast of the graph's
own reads the tensor too: then both readers get the rounded one, and logits change in the seventh digit (tried with 1.32). Behind a
Sum of one term, which is computed like any other node, the added reader takes the rounding with it.
"""

from onnx import ModelProto, NodeProto, TensorProto, helper

from deploykit.graph.tensors import describe_tensors


def read_apart(model: ModelProto, source: ModelProto) -> None:
    """Put a Sum of one term between the FP16 tensors of a graph and the casts to float32 that were added to it, in place.

    Args:
        model: ``source`` with nodes added.
        source: the graph as it was.
    """
    known = {name for node in source.graph.node for name in node.output}
    types = describe_tensors(source).types
    copies: dict[str, str] = {}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        added = node.op_type == "Cast" and node.output[0] not in known
        name = node.input[0] if added else ""
        if name in known and types.get(name) == TensorProto.FLOAT16:
            if name not in copies:
                copies[name] = f"{name}/apart"
                nodes.append(helper.make_node("Sum", [name], [copies[name]], name=copies[name]))
            node.input[0] = copies[name]
        nodes.append(node)
    if copies:
        kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del model.graph.node[:]
        model.graph.node.extend(kept)
