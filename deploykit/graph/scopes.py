"""Which node and which tensor of a graph belong to which torch module, from the exporter's notes on each node."""

import ast
from collections.abc import Collection, Iterator, Sequence

import onnx

from deploykit.graph.describe import NAME_SCOPES


def module_tensors(graph: onnx.ModelProto, needed: Collection[str] | None = None) -> dict[str, str]:
    """The tensor that each module returns, by module path, in the order in which the modules finish.

    A module whose own weights are read by a node outside of it has lost its output: its last convolution was folded into the
    BatchNormalization behind. What is left of it ends earlier and is another tensor, so such a module is not in it.

    Args:
        needed: tensors to count; None counts all.
    """
    last: dict[str, str] = {}
    folded: set[str] = set()
    weights = {tensor.name for tensor in graph.graph.initializer}
    for node in graph.graph.node:
        scopes = scopes_of(node)
        if node.output and (needed is None or node.output[0] in needed):
            for path in scopes:
                last.pop(path, None)
                last[path] = node.output[0]
        if scopes and node.op_type in {"Conv", "ConvTranspose"}:
            owners = {path for name in weights.intersection(node.input) for path in _prefixes(name)}
            folded |= owners.difference(scopes)
    return {path: tensor for path, tensor in last.items() if path not in folded}


def _prefixes(name: str) -> Iterator[str]:
    """``a``, ``a.b`` of ``a.b.weight``."""
    parts = name.split(".")
    yield from (".".join(parts[:i]) for i in range(1, len(parts)))


def scopes_of(node: onnx.NodeProto) -> list[str]:
    """Paths of the modules that enclose a node, outermost first, without the model itself. Empty where there is no note."""
    note = next((p.value for p in node.metadata_props if p.key == NAME_SCOPES), "[]")
    try:
        scopes = ast.literal_eval(note)
    except (ValueError, SyntaxError):
        return []
    # The last entry is the operator, the first the model.
    return [s for s in scopes[:-1] if s] if isinstance(scopes, list) else []


def name_nodes(graph: onnx.ModelProto) -> None:
    """Call every node after the innermost module it came from and its operator, such as ``features.1.0.block.0.0/Conv``.

    Verdicts, plots, TensorRT's layer lists and its messages then speak of the user's modules. What reads a module's weight is that
    module's, whatever was folded into it. A module that runs an operator several times numbers them: ``relu/Relu_2``.
    """
    owners = {
        tensor.name: tensor.name.removesuffix(".weight") for tensor in graph.graph.initializer if tensor.name.endswith(".weight")
    }
    seen: dict[str, int] = {}
    for node in graph.graph.node:
        module = next((owners[name] for name in node.input if name in owners), None)
        name = "/".join([*([module] if module else scopes_of(node)[-1:]), node.op_type])
        seen[name] = count = seen.get(name, 0) + 1
        node.name = name if count == 1 else f"{name}_{count}"


def with_outputs(graph: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of a graph that also gives these inner tensors, for looking into it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    present = {o.name for o in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in present)
    return copy


def with_only_outputs(graph: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of a graph that gives these tensors, inner ones too, and nothing else. Inputs among them are known without that."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    inputs, known = {i.name for i in graph.graph.input}, {o.name: o for o in graph.graph.output}
    del copy.graph.output[:]
    wanted = [name for name in dict.fromkeys(names) if name not in inputs]
    copy.graph.output.extend(known.get(name) or onnx.ValueInfoProto(name=name) for name in wanted)
    return copy
