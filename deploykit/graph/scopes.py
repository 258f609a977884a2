"""Which tensor of a graph is the output of which torch module, from the exporter's notes on each node."""

import ast

import onnx

from deploykit.graph.describe import NAME_SCOPES


def module_tensors(graph: onnx.ModelProto) -> dict[str, str]:
    """The tensor that each module gives, by module path, in the order in which the modules finish.

    A module whose last node was fused into a later one (a convolution into the BatchNorm behind it) is not in it.
    """
    tensors: dict[str, str] = {}
    for node in graph.graph.node:
        for path in scopes_of(node):
            tensors.pop(path, None)
            tensors[path] = node.output[0]
    return tensors


def scopes_of(node: onnx.NodeProto) -> list[str]:
    """Paths of the modules that enclose a node, outermost first, without the model itself. Empty where there is no note."""
    note = next((p.value for p in node.metadata_props if p.key == NAME_SCOPES), "[]")
    try:
        scopes = ast.literal_eval(note)
    except (ValueError, SyntaxError):
        return []
    # The last entry is the operator, the first the model.
    return [s for s in scopes[:-1] if s] if isinstance(scopes, list) else []


def with_outputs(graph: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """A copy of a graph that also gives these inner tensors, for looking into it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    present = {o.name for o in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in present)
    return copy
