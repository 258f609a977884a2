"""The table of gradient rules: one function per standard ONNX operator, in one file per family."""

from deploykit.graph.rules import (
    activation,
    convolution,
    elementwise,
    matmul,
    normalization,
    pooling,
    quantization,
    reduction,
    resize,
    shape,
)
from deploykit.graph.rules.step import Rule

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **activation.RULES,
    **convolution.RULES,
    **pooling.RULES,
    **normalization.RULES,
    **matmul.RULES,
    **quantization.RULES,
    **reduction.RULES,
    **resize.RULES,
    **shape.RULES,
}

FLAT = frozenset(
    {
        "ArgMax",
        "ArgMin",
        "And",
        "Ceil",
        "Equal",
        "Floor",
        "Greater",
        "GreaterOrEqual",
        "IsInf",
        "IsNaN",
        "Less",
        "LessOrEqual",
        "Not",
        "Or",
        "Round",
        "Shape",
        "Sign",
        "Size",
        "Xor",
    }
)
"""Operators whose output is constant almost everywhere: no gradient passes, and what only they lead to counts as a constant."""
