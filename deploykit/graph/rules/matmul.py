"""Gradients of matrix products."""

from deploykit.graph.rules.emit import Value
from deploykit.graph.rules.step import Rule, Step


def gemm(step: Step) -> dict[int, Value]:
    """y = alpha A' B' + beta C, where ' may transpose: dA' = alpha g B'^T, dB' = alpha A'^T g, dC = beta g."""
    alpha, beta = step.number("alpha", 1.0), step.number("beta", 1.0)
    across_a, across_b = step.integer("transA", 0), step.integer("transB", 0)
    emit, g, grads = step.emit, step.g, {}
    if 0 in step.wanted and not across_a:
        grads[0] = emit.op("Gemm", g, step.x(1), alpha=alpha, transB=1 - across_b)
    elif 0 in step.wanted:
        grads[0] = emit.op("Gemm", step.x(1), g, alpha=alpha, transA=across_b, transB=1)
    if 1 in step.wanted and not across_b:
        grads[1] = emit.op("Gemm", step.x(0), g, alpha=alpha, transA=1 - across_a)
    elif 1 in step.wanted:
        grads[1] = emit.op("Gemm", g, step.x(0), alpha=alpha, transA=1, transB=across_a)
    if 2 in step.wanted:
        grads[2] = emit.sum_to(g * beta, step.out, step.shape(2))
    return grads


def matmul(step: Step) -> dict[int, Value]:
    """y = A B over the last two axes, the others broadcast: dA = g B^T, dB = A^T g, summed to the operands' shapes."""
    ranks = [len(step.shape(i)) for i in (0, 1)]
    if min(ranks) < 2:
        raise step.unsupported("a product with a vector has no rule; use a matrix of one row or column")
    emit, grads = step.emit, {}
    if 0 in step.wanted:
        da = emit.op("MatMul", step.g, _swap_last(step, step.x(1), ranks[1]))
        grads[0] = emit.sum_to(da, (*step.out[:-2], *step.shape(0)[-2:]), step.shape(0))
    if 1 in step.wanted:
        db = emit.op("MatMul", _swap_last(step, step.x(0), ranks[0]), step.g)
        grads[1] = emit.sum_to(db, (*step.out[:-2], *step.shape(1)[-2:]), step.shape(1))
    return grads


def einsum(step: Step) -> dict[int, Value]:
    """Explicit form, two operands, no letter repeated within one: the gradient is an einsum of g with the other operand."""
    equation = step.text("equation", "").replace(" ", "")
    inputs, _, output = equation.partition("->")
    letters = inputs.split(",")
    plain = len(letters) == 2 and output and "." not in equation and all(len(set(s)) == len(s) for s in letters)
    if not plain or not all(set(letters[i]) <= set(letters[1 - i]) | set(output) for i in step.wanted):
        raise step.unsupported(f"only einsums such as 'bik,bkj->bij' have a rule, not {equation!r}")
    return {
        i: step.emit.op("Einsum", step.g, step.x(1 - i), equation=f"{output},{letters[1 - i]}->{letters[i]}") for i in step.wanted
    }


def _swap_last(step: Step, value: Value, rank: int) -> Value:
    return step.emit.transpose(value, [*range(rank - 2), rank - 1, rank - 2])


RULES: dict[str, Rule] = {"Gemm": gemm, "MatMul": matmul, "Einsum": einsum}
