"""Reverse-mode differentiation of an ONNX graph: nodes in, nodes out, without the framework that made it.

``add_gradient`` walks the nodes between a tensor and an output backwards and appends, for each, the standard ONNX operators that
carry the gradient through it (``rules/``, one function per operator). What does not depend on the tensor is a constant. The forward
nodes are not touched and their weights are shared, so the outputs they give do not change by a bit.

The sweep is the adjoint mode of Griewank & Walther, "Evaluating Derivatives" (2nd ed., chapter 3.2): the gradient of a tensor is
the sum over its readers, formed once, when all of them have been passed.
"""

from collections.abc import Sequence

from onnx import ModelProto, NodeProto, TensorProto, helper

from deploykit.errors import GraphError, UsageError
from deploykit.graph.layers import FLOATS, list_layers, read_by
from deploykit.graph.rules import FLAT, RULES
from deploykit.graph.rules.emit import Emitter, Value
from deploykit.graph.rules.step import Step, describe_node
from deploykit.graph.tensors import Tensors, ancestors, describe_tensors, tensor_names
from deploykit.graph.versions import opset_of

RELU_RULES = ("standard", "guided", "deconvnet")

OLDEST_OPSET = 13
"""From here on ReduceSum, Squeeze, Unsqueeze and Split take their axes as inputs, as the nodes made here do."""


def add_gradient(
    model: ModelProto,
    at: Sequence[str],
    output: str,
    seed: str,
    *,
    relu_rule: str = "standard",
    tensors: Tensors | None = None,
) -> dict[str, str]:
    """Append to a graph the gradient of sum(seed * output) with respect to some of its tensors.

    The backward part computes in float32, or in float64 where the output is float64. Dimension 0 may be dynamic; the others are
    fixed.

    Args:
        model: changed in place: nodes and small constants are added, weights are shared.
        at: the tensors to differentiate with respect to.
        output: the tensor to differentiate, of any shape.
        seed: a tensor of the graph of the output's shape, in the type that the backward part computes in.
        relu_rule: ``standard``, the derivative; ``guided`` (Springenberg et al. 2014) or ``deconvnet`` (Zeiler & Fergus 2013)
            replace that of Relu nodes and of Clip nodes at 0 (ReLU6), and of these alone.
        tensors: facts about the graph, where the caller already has them.

    Returns:
        For each tensor of ``at`` the name of its gradient, which has the tensor's shape.

    Raises:
        GraphError: an operator between the two has no rule, a shape is not fixed, or the output does not depend on a tensor of
        ``at``. UsageError: the ReLU rule does not exist.
    """
    if relu_rule not in RELU_RULES:
        raise UsageError(f"relu_rule is {relu_rule!r}, expected one of {', '.join(RELU_RULES)}")
    opset = opset_of(model)
    if opset < OLDEST_OPSET:
        raise GraphError(
            f"the graph is written in opset {opset}; differentiating needs {OLDEST_OPSET} or later",
            hint="convert it first, for instance with onnx.version_converter.convert_version(model, 18)",
        )
    tensors = tensors or describe_tensors(model)
    active = _depending_on(model, at)
    path = _path(model, active, output)
    _require_rules(model, path, output, tensors)
    dtype = TensorProto.DOUBLE if tensors.types.get(output) == TensorProto.DOUBLE else TensorProto.FLOAT
    emit = Emitter(tensors, dtype, _free_prefix(model))
    gradients = _sweep(path, active, output, seed, emit, relu_rule, opset)
    missing = [name for name in at if name not in gradients]
    if missing:
        raise GraphError(f"{output!r} does not depend on {', '.join(map(repr, missing))}: no gradient leads there")
    model.graph.node.extend(emit.nodes)
    model.graph.initializer.extend(emit.initializers)
    return {name: gradients[name].name for name in at}


def backward_type(tensors: Tensors, output: str) -> int:
    """The element type that the gradient of an output is computed in, and that its seed must have."""
    return int(TensorProto.DOUBLE if tensors.types.get(output) == TensorProto.DOUBLE else TensorProto.FLOAT)


def _sweep(
    path: list[NodeProto], active: set[str], output: str, seed: str, emit: Emitter, relu_rule: str, opset: int
) -> dict[str, Value]:
    """Pass the nodes in reverse order; the result holds the gradient of every active tensor that the output depends on."""
    parts: dict[str, list[Value]] = {output: [Value(seed, emit)]}
    totals: dict[str, Value] = {}

    def total(name: str) -> Value | None:
        if name not in totals and name in parts:
            given = parts[name]
            totals[name] = given[0] if len(given) == 1 else emit.op("Sum", *given)
        return totals.get(name)

    for node in reversed(path):
        grads = tuple(total(name) for name in node.output)
        if all(g is None for g in grads):
            continue
        wanted = frozenset(i for i, name in enumerate(node.input) if name in active)
        step = Step(node, grads, wanted, emit, relu_rule, opset)
        result = RULES[node.op_type](step)
        by_input = {0: result} if isinstance(result, Value) else result
        if not wanted <= by_input.keys():
            names = ", ".join(node.input[i] for i in sorted(wanted - by_input.keys()))
            raise step.unsupported(f"its input {names} depends on the tensor to explain, and only its data may")
        for i in sorted(wanted):
            parts.setdefault(node.input[i], []).append(by_input[i])
    for name in parts:
        total(name)
    return totals


def _depending_on(model: ModelProto, at: Sequence[str]) -> set[str]:
    """The tensors that change smoothly with those of ``at``, which are among them."""
    active = set(at)
    for node in model.graph.node:
        if not _is_flat(node) and not active.isdisjoint(read_by(node)):
            active.update(name for name in node.output if name)
    return active


def _path(model: ModelProto, active: set[str], output: str) -> list[NodeProto]:
    """The nodes through which the output depends on active tensors, in graph order."""
    needed = ancestors(model.graph, [output]) & active
    return [
        n for n in model.graph.node if not needed.isdisjoint(n.output) and not _is_flat(n) and not active.isdisjoint(read_by(n))
    ]


def _is_flat(node: NodeProto) -> bool:
    """True where no gradient passes: comparisons, rounding, shapes, and casts to integers."""
    if node.op_type == "Cast":
        return next(helper.get_attribute_value(a) for a in node.attribute if a.name == "to") not in FLOATS
    return node.op_type in FLAT


def _require_rules(model: ModelProto, path: list[NodeProto], output: str, tensors: Tensors) -> None:
    """Refuse nodes without a rule before anything is built, and name the first layer behind the last of them."""
    bad = [node for node in path if node.domain not in {"", "ai.onnx"} or node.op_type not in RULES]
    if not bad:
        return
    order = {name: i for i, node in enumerate(model.graph.node) for name in node.output}
    behind = [layer for layer in list_layers(model, output, tensors) if order[layer.tensor] > order[bad[-1].output[0]]]
    reached = [layer for layer in behind if not any(n in path for n in bad if _reaches(model, layer.tensor, n))]
    raise GraphError(
        f"{describe_node(bad[0])} cannot be differentiated: there is no gradient rule for this operator"
        + (f" (nor for {len(bad) - 1} more nodes on the way)" if len(bad) > 1 else ""),
        hint=f"explain at a layer behind it: {'; '.join(map(str, reached[:3]))}" if reached else "no layer lies behind it",
    )


def _reaches(model: ModelProto, tensor: str, node: NodeProto) -> bool:
    return not _depending_on(model, [tensor]).isdisjoint(node.output)


def _free_prefix(model: ModelProto) -> str:
    """A beginning of names that the graph does not use yet, so that a graph can be differentiated more than once."""
    names = tensor_names(model)
    prefix, n = "gradient/", 1
    while any(name.startswith(prefix) for name in names):
        n += 1
        prefix = f"gradient{n}/"
    return prefix
