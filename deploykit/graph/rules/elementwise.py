"""Gradients of elementwise arithmetic. Operands broadcast as in numpy, so each gradient is summed back to its operand's shape."""

import math

from deploykit.graph.rules.emit import Value
from deploykit.graph.rules.step import Rule, Step


def add(step: Step) -> dict[int, Value]:
    """y = a + b + ...: every operand receives g."""
    return _to_operands(step, dict.fromkeys(step.wanted, step.g))


def subtract(step: Step) -> dict[int, Value]:
    """y = a - b: da = g, db = -g."""
    return _to_operands(step, {i: step.g if i == 0 else -step.g for i in step.wanted})


def multiply(step: Step) -> dict[int, Value]:
    """y = a b: da = g b, db = g a."""
    return _to_operands(step, {i: step.g * step.x(1 - i) for i in step.wanted})


def divide(step: Step) -> dict[int, Value]:
    """y = a / b: da = g / b, db = -g y / b."""
    grads = {i: step.g / step.x(1) if i == 0 else -(step.g * step.x(0)) / (step.x(1) * step.x(1)) for i in step.wanted}
    return _to_operands(step, grads)


def mean(step: Step) -> dict[int, Value]:
    """y = (a + b + ...) / n: every operand receives g / n."""
    return _to_operands(step, {i: step.g * (1 / len(step.node.input)) for i in step.wanted})


def extremum(step: Step) -> dict[int, Value]:
    """y = max(a, b, ...) or min: g to the operand that won, shared equally among operands that tie, as torch.maximum does."""
    emit, y = step.emit, step.y
    if step.y_is_rounded:  # rounded once more than its operands, it would equal none of them
        y = emit.op(step.node.op_type, *(step.x(i) for i in range(len(step.node.input))))
    hits = [emit.where(step.x(i).equals(y), 1.0, 0.0) for i in range(len(step.node.input))]
    share = step.g / sum(hits[1:], hits[0])
    return _to_operands(step, {i: share * hits[i] for i in step.wanted})


def power(step: Step) -> dict[int, Value]:
    """y = a^b: da = g b a^(b-1), db = g y log(a)."""
    emit, grads = step.emit, {}
    if 0 in step.wanted:
        exponent = emit.tensors.constant(step.node.input[1])
        if exponent is not None and exponent.size == 1:
            b = float(exponent.reshape(())[()])
            # a^1 and a^0 as products: Pow of a negative base is not exact everywhere.
            slope = step.x(0) * 2.0 if b == 2 else emit.op("Pow", step.x(0), b - 1) * b
        else:
            slope = step.x(1) * emit.op("Pow", step.x(0), step.x(1) - 1.0)
        grads[0] = step.g * slope
    if 1 in step.wanted:
        grads[1] = step.g * step.y * emit.op("Log", step.x(0))
    return _to_operands(step, grads)


def where(step: Step) -> dict[int, Value]:
    """y = a where the condition holds, b elsewhere: each receives g where it was taken."""
    emit, condition = step.emit, Value(step.node.input[0], step.emit)
    grads = {i: emit.where(condition, *((step.g, 0.0) if i == 1 else (0.0, step.g))) for i in step.wanted}
    return _to_operands(step, grads)


def negate(step: Step) -> Value:
    """y = -x: dx = -g."""
    return -step.g


def absolute(step: Step) -> Value:
    """y = |x|: dx = g sign(x), 0 at 0."""
    return step.g * step.emit.op("Sign", step.x())


def exponential(step: Step) -> Value:
    """y = exp x: dx = g y."""
    return step.g * step.y


def logarithm(step: Step) -> Value:
    """y = log x: dx = g / x."""
    return step.g / step.x()


def square_root(step: Step) -> Value:
    """y = sqrt x: dx = g / (2 y)."""
    return step.g * 0.5 / step.y


def reciprocal(step: Step) -> Value:
    """y = 1 / x: dx = -g y^2."""
    return -(step.g * (step.y * step.y))


def error_function(step: Step) -> Value:
    """y = erf x: dx = g 2 / sqrt(pi) exp(-x^2)."""
    x = step.x()
    return step.g * (step.emit.op("Exp", -(x * x)) * (2 / math.sqrt(math.pi)))


def sine(step: Step) -> Value:
    """y = sin x: dx = g cos x."""
    return step.g * step.emit.op("Cos", step.x())


def cosine(step: Step) -> Value:
    """y = cos x: dx = -g sin x."""
    return -(step.g * step.emit.op("Sin", step.x()))


def straight(step: Step) -> Value:
    """dx = g: operators that pass numbers on, perhaps in another floating-point type."""
    return step.g


def dropout(step: Step) -> Value:
    """y = x when not training: dx = g."""
    if step.has(2) and bool(step.constant(2).any()):
        raise step.unsupported("it is in training mode")
    return step.g


def _to_operands(step: Step, grads: dict[int, Value]) -> dict[int, Value]:
    return {i: step.emit.sum_to(g, step.out, step.shape(i)) for i, g in grads.items()}


RULES: dict[str, Rule] = {
    "Add": add,
    "Sum": add,
    "Sub": subtract,
    "Mul": multiply,
    "Div": divide,
    "Mean": mean,
    "Max": extremum,
    "Min": extremum,
    "Pow": power,
    "Where": where,
    "Neg": negate,
    "Abs": absolute,
    "Exp": exponential,
    "Log": logarithm,
    "Sqrt": square_root,
    "Reciprocal": reciprocal,
    "Erf": error_function,
    "Sin": sine,
    "Cos": cosine,
    "Identity": straight,
    "Cast": straight,
    "CastLike": straight,
    "Dropout": dropout,
}
