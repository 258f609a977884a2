"""The rules of Q/DQ placement, each with its reason; shown to users and written out in PLACEMENT.md.

Sources: NVIDIA TensorRT documentation, "Working with Quantized Types" (Q/DQ placement recommendations); NVIDIA TensorRT
pytorch-quantization, ``quant_resnet50.rst``; NVIDIA Model Optimizer, ``modelopt/onnx/quantization``; and own measurements.
"""

from collections.abc import Mapping

RULES: Mapping[str, str] = {
    "layer input": (
        "a convolution or linear layer reads its input through a pair: with INT8 in both operands it runs on integer units; its "
        "output gets none of its own, because the activation behind it is computed inside the same kernel, before the rounding"
    ),
    "weights": (
        "one symmetric scale per output channel, stored as INT8 behind a DequantizeLinear: folding BatchNorm leaves filters that "
        "differ in size by orders of magnitude, and depthwise networks collapse under one scale for all; the factor is constant "
        "per accumulator, so it costs nothing"
    ),
    "bias": "float32: it is added to 32-bit sums inside the kernel, where a rounded one would save nothing",
    "depthwise": (
        "as every convolution: it is bound by memory, which INT8 quarters; in float it would force its neighbours, the two 1x1 "
        "convolutions of a block, to convert their output and input"
    ),
    "first layer": (
        "as every convolution: a picture has 256 grey levels to begin with, and in float the stem, which has the most pixels, "
        "would be the slowest layer"
    ),
    "last layer": ("INT8 weights and input, float logits: nothing follows that could use integers, and rounded logits would tie"),
    "residual": (
        "of the two tensors of an addition the identity gets a pair and the one computed last, the convolution's own output, does "
        "not: so convolution, addition and activation are one kernel that reads and writes INT8, and the sum is rounded once"
    ),
    "concat": (
        "all parts and the whole share one scale: the concatenation is then a copy of bytes, or no work at all where the parts are "
        "written in place; with scales of their own every part would be rounded again"
    ),
    "max pooling": "its output is some of its input's values, so it passes the input's scale through and works on bytes",
    "average pooling": (
        "reads INT8, a quarter of the memory; its output has a scale of its own, because averages are smaller than what they are "
        "made of"
    ),
    "global pooling": (
        "reads INT8, so the convolution before it writes INT8: the rounding errors of a whole feature map average out"
    ),
    "gated tensor": (
        "the feature map that a squeeze-excite gate multiplies is read through the pair that the gate's own pooling reads, so it "
        "is stored once, in INT8; the product is rounded where the next layer reads it"
    ),
    "gate": (
        "the layers of a squeeze-excite gate see one pixel per image: they take no measurable time, and an error of theirs scales "
        "a whole channel; they compute in float, with weights stored as INT8"
    ),
    "silu": (
        "x * sigmoid(x) gets no pair inside: it is one pointwise step in the convolution's kernel, and its small negative part "
        "would suffer from being rounded twice; the result is rounded where the next layer reads it"
    ),
    "resize": (
        "nearest neighbour passes its input's scale through, as max pooling does; bilinear makes new values and stays in float, as "
        "do the enlarged logits of a segmentation"
    ),
    "shared pair": "a tensor has one pair, whoever reads it: it is stored once, in INT8",
    "kept": "asked for with keep: this layer computes in float",
    "no constant weight": "both operands are computed: what is stored as INT8 per channel are weights",
    "grouped transposed": (
        "no axis of this weight has one scale per output channel; one scale for several would break networks with few channels "
        "per group"
    ),
    "single": "the tensor has a scale of its own",
}
"""Rule -> why. Keys stand in `Edge.rule`, `ScaleGroup.rule` and `FloatNode.rule`."""
