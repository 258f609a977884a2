"""The operator ``deploykit.ResizeNormalize``: a photo's pixels at its own size in, the network's normalized picture out.

    image uint8 [1, H, W, 3] RGB  ->  normalized float32 [1, 3, height, width]

It is a model-local function whose body is standard operators: every runtime executes it, and TensorRT takes a plugin of that name
instead where one is registered. The attributes are the image spec's numbers (see `resize_normalize_node`).

The body is Pillow's resize (ImagingResample in its Resample.c): two passes, each a product with a matrix of weights that is made in
the graph from H and W, each followed by rounding to whole grey levels and clipping to 0..255. Output row ``j`` weighs the photo's
row ``y`` by the kernel at |(2y + 1) r - (2j + 1) H| / (2 max(H, r)), where r is the height that the whole photo is resized to:
whole numbers up to the division, so no position is rounded. A row's weights sum to 1 and are rounded to 22 bits, as Pillow's are.

The first pass, which reads the whole photo, is summed in float32, where a value on the border between two levels may fall to either
side. The second splits its weights in two, so that every sum is a whole number below 2^24 and the arithmetic is Pillow's own. So
under bilinear, whose weights are shares, the result is at most 1 level from Pillow's, whatever order a runtime sums in; under
bicubic 2 would take several such values side by side.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

from deploykit.graph.versions import DEFAULT_OPSET, FUNCTIONS_IR_VERSION
from deploykit.spec import ImageSpec

DOMAIN = "deploykit"
RESIZE_NORMALIZE = "ResizeNormalize"

_ATTRIBUTES = ["height", "width", "resize_size", "cubic", "channels", "scale", "bias"]
_BITS = 22
"""Behind the point of a weight: PRECISION_BITS in Pillow's Resample.c."""
_ONE = float(1 << _BITS)
_SPLIT = 7
"""Of these, how many go into the lower part of a weight. Its sums stay below 2^24 up to 512 weights, which is a photo 128 times as
long as the picture (256 times under bilinear); those of the upper part always do."""


def resize_normalize_node(image: str, normalized: str, spec: ImageSpec) -> NodeProto:
    """A call of the operator.

    Its attributes: ``height`` and ``width`` of the output; ``resize_size``, the photo's shorter side after the resize, 0 under the
    exact rule; ``cubic``, 1 for bicubic and 0 for bilinear; ``channels``, the photo's channel behind each of the output's;
    ``scale`` and ``bias`` in the output's order: normalized = grey level * scale + bias.
    """
    channels = [0, 1, 2] if spec.colour_order == "rgb" else [2, 1, 0]
    scale, bias = normalization_of(spec)
    return helper.make_node(
        RESIZE_NORMALIZE,
        [image],
        [normalized],
        name=f"pixels/{RESIZE_NORMALIZE}",
        domain=DOMAIN,
        height=spec.height,
        width=spec.width,
        resize_size=spec.resize_size or 0,
        cubic=int(spec.interpolation == "bicubic"),
        channels=channels,
        scale=[float(scale[c]) for c in channels],
        bias=[float(bias[c]) for c in channels],
    )


def make_resize_graph(spec: ImageSpec) -> onnx.ModelProto:
    """The operator alone, without normalization: ``image`` uint8 [1, H, W, 3] -> ``levels`` float32 [1, 3, height, width], RGB."""
    plain = levels_only(spec)
    graph = helper.make_graph(
        [resize_normalize_node("image", "levels", plain)],
        "resize",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, "H", "W", 3])],
        [helper.make_tensor_value_info("levels", TensorProto.FLOAT, [1, 3, spec.height, spec.width])],
    )
    return helper.make_model(
        graph,
        functions=[resize_normalize_function(plain, DEFAULT_OPSET)],
        opset_imports=[helper.make_opsetid("", DEFAULT_OPSET), helper.make_opsetid(DOMAIN, 1)],
        ir_version=FUNCTIONS_IR_VERSION,
    )


def levels_only(spec: ImageSpec) -> ImageSpec:
    """The same resize and crop, whose normalization leaves RGB grey levels as they are."""
    return replace(spec, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255), colour_order="rgb")


def normalization_of(spec: ImageSpec) -> tuple[np.ndarray, np.ndarray]:
    """Scale and bias of grey levels, float32 [3] in RGB order, each rounded once from float64: (pixel / 255 - mean) / std is
    pixel * scale + bias with scale = 1 / (255 std) and bias = -mean / std."""
    mean, std = np.array(spec.mean, np.float64), np.array(spec.std, np.float64)
    return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)


def resize_normalize_function(spec: ImageSpec, opset: int) -> FunctionProto:
    """The operator's body for specs of this resize rule and interpolation; the numbers are read from the attributes.

    A pass over columns comes first, except where Pillow 13 begins with the rows: where the photo loses rows, and more than twice as
    many of them as columns. Values are rounded in between, so the order shows.
    """
    body = _Body()
    axes = _axes(body, spec.resize_rule)
    weights = [_weights(body, axis, is_cubic=spec.interpolation == "bicubic") for axis in axes]
    # TensorRT moves no uint8: Cast must come before Transpose.
    levels = body("Cast", "image", to=TensorProto.FLOAT)
    photo = body("Transpose", levels, perm=[0, 3, 1, 2])
    lost_rows, lost_columns = (body("Sub", axis.size, axis.resized) for axis in axes)
    rows_first = body("Greater", lost_rows, body("Max", body("Mul", lost_columns, 2), [0]))
    picture = body(
        "If",
        body("Squeeze", rows_first),
        then_branch=_passes("rows_first", photo, [(True, weights[0]), (False, weights[1])]),
        else_branch=_passes("columns_first", photo, [(False, weights[1]), (True, weights[0])]),
    )
    ordered = body("Gather", picture, body.attribute("channels", "value_ints"), axis=1)
    scale, bias = (body("Reshape", body.attribute(name, "value_floats"), [1, 3, 1, 1]) for name in ("scale", "bias"))
    body("Add", body("Mul", ordered, scale), bias, output="normalized")
    return helper.make_function(
        DOMAIN,
        RESIZE_NORMALIZE,
        ["image"],
        ["normalized"],
        body.nodes,
        [helper.make_opsetid("", opset)],
        attributes=_ATTRIBUTES,
        doc_string=f"{spec.interpolation} antialiased resize ({spec.resize_rule}), centre crop, normalization",
    )


class _Axis:
    """Rows or columns: tensors int64 [1] with the photo's size along it, that of the whole photo resized, and the crop's.

    ``inputs`` and ``outputs`` are the axes of the weights: rows are multiplied from the left, columns from the right.
    """

    def __init__(self, size: str, resized: str, length: str, *, is_left: bool) -> None:
        self.size, self.resized, self.length = size, resized, length
        self.inputs, self.outputs = ([1], [0]) if is_left else ([0], [1])


class _Body:
    """Collects the nodes of a function or of a branch. Numbers become constants: int64, or float32; lists int64 [n]."""

    def __init__(self, prefix: str = "") -> None:
        self.nodes: list[NodeProto] = []
        self._prefix = prefix
        self._constants: dict[str, str] = {}

    def __call__(self, operator: str, *inputs: str | float | Sequence[int], output: str | None = None, **attributes: Any) -> str:
        """Append a node and return its output's name."""
        names = [i if isinstance(i, str) else self._constant(i) for i in inputs]
        output = output or f"{self._prefix}{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [output], name=output, **attributes))
        return output

    def attribute(self, name: str, kind: str) -> str:
        """The value of one of the function's attributes as a tensor; ``kind`` is that of Constant: ``value_int`` and so on."""
        output = self("Constant", output=name)
        kinds = {"value_int": AttributeProto.INT, "value_ints": AttributeProto.INTS, "value_floats": AttributeProto.FLOATS}
        self.nodes[-1].attribute.append(AttributeProto(name=kind, ref_attr_name=name, type=kinds[kind]))
        return output

    def _constant(self, value: float | Sequence[int]) -> str:
        key = repr(value)
        if key not in self._constants:
            array = np.array(value, np.float32 if isinstance(value, float) else np.int64)
            self._constants[key] = self("Constant", value=numpy_helper.from_array(array))
        return self._constants[key]


def _axes(body: _Body, rule: str) -> tuple[_Axis, _Axis]:
    """Rows and columns. Under ``shorter`` the longer side is rounded down, as in torchvision."""
    sizes = [body("Shape", "image", start=start, end=start + 1) for start in (1, 2)]
    lengths = [body("Reshape", body.attribute(name, "value_int"), [1]) for name in ("height", "width")]
    resized = lengths
    if rule == "shorter":
        shorter, asked = body("Min", *sizes), body.attribute("resize_size", "value_int")
        resized = [body("Div", body("Mul", asked, size), shorter) for size in sizes]
    rows, columns = zip(sizes, resized, lengths, strict=True)
    return _Axis(*rows, is_left=True), _Axis(*columns, is_left=False)


def _weights(body: _Body, axis: _Axis, *, is_cubic: bool) -> str:
    """Float32 [length, size] of rows, [size, length] of columns: whole multiples of 2^-22, times 2^22."""
    # The crop begins at half the margin; a half goes to the even neighbour, as in torchvision's CenterCrop.
    margin = body("Sub", axis.resized, axis.length)
    half = body("Div", margin, 2)
    is_odd = body("Sub", half, body("Mul", body("Div", margin, 4), 2))
    corner = body("Div", body("Add", margin, is_odd), 2)
    outputs = body("Add", body("Range", 0, body("Squeeze", axis.length), 1), corner)
    inputs = body("Range", 0, body("Squeeze", axis.size), 1)
    centres = body("Mul", body("Add", body("Mul", outputs, 2), 1), axis.size)
    places = body("Mul", body("Add", body("Mul", inputs, 2), 1), axis.resized)
    distance = body("Abs", body("Sub", body("Unsqueeze", places, axis.outputs), body("Unsqueeze", centres, axis.inputs)))
    unit = body("Mul", body("Max", axis.size, axis.resized), 2)
    return (_bicubic if is_cubic else _bilinear)(body, distance, unit, axis.inputs)


def _bilinear(body: _Body, distance: str, unit: str, inputs: list[int]) -> str:
    """max(0, 1 - distance / unit) as a share of its sum, in whole numbers."""
    kernel = body("Max", body("Sub", unit, distance), 0)
    total = body("ReduceSum", kernel, inputs, keepdims=1)
    rounded = body("Div", body("Add", body("Mul", kernel, 2 << _BITS), total), body("Mul", total, 2))
    return body("Cast", rounded, to=TensorProto.FLOAT)


def _bicubic(body: _Body, distance: str, unit: str, inputs: list[int]) -> str:
    """Keys' kernel with a = -0.5, as a share of its sum: (1.5 t - 2.5) t^2 + 1 up to t = 1, -0.5 (((t - 5) t + 8) t - 4) up to 2.

    Each piece is 0 where it ends, so the kernel is the sum of both, each at t clipped to its own range.
    """
    t = body("Div", body("Cast", distance, to=TensorProto.FLOAT), body("Cast", unit, to=TensorProto.FLOAT))
    near, far = body("Clip", t, 0.0, 1.0), body("Clip", t, 1.0, 2.0)
    first = body("Add", body("Mul", body("Sub", body("Mul", near, 1.5), 2.5), body("Mul", near, near)), 1.0)
    cubic = body("Sub", body("Mul", body("Add", body("Mul", body("Sub", far, 5.0), far), 8.0), far), 4.0)
    kernel = body("Sub", first, body("Mul", cubic, 0.5))
    share = body("Div", kernel, body("ReduceSum", kernel, inputs, keepdims=1))
    return body("Floor", body("Add", body("Mul", share, float(1 << _BITS)), 0.5))


def _passes(name: str, photo: str, order: Sequence[tuple[bool, str]]) -> GraphProto:
    """A branch that gives the picture's levels float32 [1, 3, height, width].

    Args:
        order: of the two passes: whether it weighs rows, and its weights.
    """
    body = _Body(f"{name}_")
    (first_is_rows, first), (second_is_rows, second) = order
    between = _clip(body, body("Floor", body("Add", _product(body, photo, body("Div", first, _ONE), first_is_rows), 0.5)))
    upper = body("Floor", body("Div", second, float(1 << _SPLIT)))
    lower = body("Sub", second, body("Mul", upper, float(1 << _SPLIT)))
    # Whole levels are taken off before the two sums meet, so nothing is rounded: what is left of either has 22 bits.
    high = body("Add", body("Div", _product(body, between, upper, second_is_rows), float(1 << (_BITS - _SPLIT))), 0.5)
    whole = body("Floor", high)
    low = body("Div", _product(body, between, lower, second_is_rows), _ONE)
    carry = body("Floor", body("Add", body("Sub", high, whole), low))
    picture = _clip(body, body("Add", whole, carry))
    return helper.make_graph(body.nodes, name, [], [onnx.ValueInfoProto(name=picture)])


def _product(body: _Body, levels: str, weights: str, is_rows: bool) -> str:
    return body("MatMul", weights, levels) if is_rows else body("MatMul", levels, weights)


def _clip(body: _Body, levels: str) -> str:
    return body("Clip", levels, 0.0, 255.0)
