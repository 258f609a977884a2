"""Gradients of activation functions: y = f(x) element by element, so dx = g f'(x).

Where f' can be written with y alone it is, so that a runtime may still fuse the activation into the operator before it. At a kink
the value is PyTorch's: 0 for ReLU at 0 and for a clipped value at its bound.
"""

import math

from onnx import NodeProto

from deploykit.graph.rules.emit import Value
from deploykit.graph.rules.step import Rule, Step
from deploykit.graph.tensors import Tensors


def relu(step: Step) -> Value:
    """standard: g [y > 0].

    guided: g [y > 0] [g > 0] (Springenberg et al. 2014, section 3.4); deconvnet: g [g > 0] (Zeiler & Fergus 2013, section 2.1).
    """
    return gate(step, step.y > 0.0)


def gate(step: Step, is_open: Value) -> Value:
    """ReLU's backward pass under the rule in force, the gate being open where x > 0."""
    g = step.g if step.relu_rule == "standard" else step.emit.op("Relu", step.g)
    return g if step.relu_rule == "deconvnet" else step.emit.where(is_open, g, 0.0)


def leaky_relu(step: Step) -> Value:
    """g where x > 0, alpha g elsewhere."""
    return step.emit.where(step.x() > 0.0, step.g, step.g * step.number("alpha", 0.01))


def prelu(step: Step) -> dict[int, Value]:
    """g where x > 0, slope g elsewhere; dslope = g x where x <= 0, summed to the slope's shape."""
    emit, x, grads = step.emit, step.x(), {}
    if 0 in step.wanted:
        grads[0] = emit.where(x > 0.0, step.g, step.g * step.x(1))
    if 1 in step.wanted:
        grads[1] = emit.sum_to(emit.where(x > 0.0, 0.0, step.g * x), step.out, step.shape(1))
    return grads


def elu(step: Step) -> Value:
    """f' = 1 where x > 0, alpha exp(x) = y + alpha elsewhere."""
    return step.emit.where(step.y > 0.0, step.g, step.g * (step.y + step.number("alpha", 1.0)))


def celu(step: Step) -> Value:
    """f' = 1 where x > 0, exp(x / alpha) = y / alpha + 1 elsewhere."""
    return step.emit.where(step.y > 0.0, step.g, step.g * (step.y / step.number("alpha", 1.0) + 1.0))


def selu(step: Step) -> Value:
    """f' = gamma where x > 0, gamma alpha exp(x) = y + gamma alpha elsewhere."""
    alpha, gamma = step.number("alpha", 1.6732632), step.number("gamma", 1.0507010)
    return step.emit.where(step.y > 0.0, step.g * gamma, step.g * (step.y + gamma * alpha))


def clip(step: Step) -> Value:
    """g where min < y < max, as PyTorch's hardtanh; behind a Q/DQ pair the bounds are rounded as y is.

    A clip at 0 from below is a rectifier (ReLU6) and follows the rule in force, as `relu` does: under ``guided`` only positive g
    passes, under ``deconvnet`` that alone decides.
    """
    mask, emit, y = step.g, step.emit, step.y
    if step.relu_rule != "standard" and is_rectifier(step.node, step.emit.tensors):
        mask = emit.op("Relu", mask)
        if step.relu_rule == "deconvnet":
            return mask
    for i in (1, 2):
        if step.has(i):
            bound = _rounded_like_output(step, step.x(i))
            mask = emit.where(y > bound if i == 1 else y < bound, mask, 0.0)
    return mask


def is_rectifier(node: NodeProto, tensors: Tensors) -> bool:
    """Whether a node follows the guided and deconvnet rules: a Relu, or a Clip whose lower bound is the constant 0 (ReLU6)."""
    if node.op_type != "Clip":
        return node.op_type == "Relu"
    lower = tensors.constant(node.input[1]) if len(node.input) > 1 else None
    return lower is not None and not lower.any()


def sigmoid(step: Step) -> Value:
    """f' = y (1 - y)."""
    return step.g * (step.y * (1.0 - step.y))


def hard_sigmoid(step: Step) -> Value:
    """y = clip(alpha x + beta, 0, 1): f' = alpha where 0 < y < 1."""
    emit, y = step.emit, step.y
    slope = step.g * step.number("alpha", 0.2)
    upper = _rounded_like_output(step, emit.constant(1.0))
    return emit.where(y > 0.0, emit.where(y < upper, slope, 0.0), 0.0)


def hard_swish(step: Step) -> Value:
    """y = x clip(x / 6 + 1/2, 0, 1): f' = 0 below -3, x / 3 + 1/2 between, 1 above 3."""
    emit, x, g = step.emit, step.x(), step.g
    return emit.where(x > -3.0, emit.where(x < 3.0, g * (x * (1 / 3) + 0.5), g), 0.0)


def tanh(step: Step) -> Value:
    """f' = 1 - y^2."""
    return step.g * (1.0 - step.y * step.y)


def softplus(step: Step) -> Value:
    """y = log(1 + exp x): f' = sigmoid(x)."""
    return step.g * step.emit.op("Sigmoid", step.x())


def softsign(step: Step) -> Value:
    """y = x / (1 + |x|): f' = (1 - |y|)^2."""
    slope = 1.0 - step.emit.op("Abs", step.y)
    return step.g * (slope * slope)


def swish(step: Step) -> Value:
    """y = x s with s = sigmoid(alpha x): f' = s + alpha x s (1 - s)."""
    x, alpha = step.x(), step.number("alpha", 1.0)
    s = step.emit.op("Sigmoid", x * alpha)
    return step.g * (s * (1.0 + x * alpha * (1.0 - s)))


def mish(step: Step) -> Value:
    """y = x t with t = tanh(softplus(x)): f' = t + x sigmoid(x) (1 - t^2)."""
    emit, x = step.emit, step.x()
    t = emit.op("Tanh", emit.op("Softplus", x))
    return step.g * (t + x * emit.op("Sigmoid", x) * (1.0 - t * t))


def gelu(step: Step) -> Value:
    """y = x P(x), P the normal distribution function: f' = P + x p.

    ``approximate`` tanh replaces P by (1 + tanh u) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3).
    """
    emit, x = step.emit, step.x()
    if step.text("approximate", "none") == "tanh":
        c = math.sqrt(2 / math.pi)
        t = emit.op("Tanh", (x + x * x * x * 0.044715) * c)
        inner = (1.0 + x * x * (3 * 0.044715)) * c
        return step.g * ((1.0 + t) * 0.5 + x * 0.5 * (1.0 - t * t) * inner)
    cumulative = (1.0 + emit.op("Erf", x * math.sqrt(0.5))) * 0.5
    density = emit.op("Exp", x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
    return step.g * (cumulative + x * density)


def softmax(step: Step) -> Value:
    """dx = y (g - sum(g y)), the sum along the axis."""
    return step.y * (step.g - step.emit.sum(step.g * step.y, [step.integer("axis", -1)]))


def log_softmax(step: Step) -> Value:
    """dx = g - exp(y) sum(g), the sum along the axis."""
    return step.g - step.emit.op("Exp", step.y) * step.emit.sum(step.g, [step.integer("axis", -1)])


def _rounded_like_output(step: Step, bound: Value) -> Value:
    """A saturation bound as it looks behind the output's Q/DQ pair: a ReLU6 that stores 6 as 5.98 saturates at 5.98."""
    if not step.y_is_rounded:
        return bound
    emit = step.emit
    scale_and_zero = [Value(name, emit) for name in step.emit.tensors.consumers[step.node.output[0]][0].input[1:]]
    bound = emit.op("QuantizeLinear", bound, *scale_and_zero)
    return emit.op("DequantizeLinear", bound, *scale_and_zero)


RULES: dict[str, Rule] = {
    "Relu": relu,
    "LeakyRelu": leaky_relu,
    "PRelu": prelu,
    "Elu": elu,
    "Celu": celu,
    "Selu": selu,
    "Clip": clip,
    "Sigmoid": sigmoid,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "Tanh": tanh,
    "Softplus": softplus,
    "Softsign": softsign,
    "Swish": swish,
    "Mish": mish,
    "Gelu": gelu,
    "Softmax": softmax,
    "LogSoftmax": log_softmax,
}
