"""Pillow's antialiased resize and a centre crop out of standard operators: grey levels of a photo in, those of the picture out.

The reference is ImagingResample in Pillow's Resample.c: two passes, each a product with a matrix of weights, each followed by
rounding to whole grey levels and clipping to 0..255. The weights are made in the graph from the photo's own H and W. Output row
``j`` weighs the photo's row ``y`` by the kernel at |(2y + 1) r - (2j + 1) H| / (2 max(H, r)), where r is the height that the whole
photo is resized to. A row's weights sum to 1 and are rounded to 22 bits behind the point.

All of it is arithmetic of whole numbers. Weights are made in int64; each is then split in two, so that every sum of products is
below 2^24, which float32 holds whatever order a runtime sums in. So the result is Pillow's to the bit, on every runtime.

Of the photo only what the crop needs is read, and each part of the first pass reads its own piece of that: a pixel of the picture
sees a few of the photo's, so most of a full product would be zeros.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

from deploykit.spec import ImageSpec

_BITS = 22
"""Behind the point of a weight: PRECISION_BITS in Pillow's Resample.c."""
_LOWER_BITS = 7
"""Of these, how many go into the lower part of a weight. Its sums stay below 2^24 up to 512 weights, which is a photo 128 times as
long as the picture (256 times under bilinear); those of the upper part always do."""
_PARTS = 8
"""Of the first pass. A photo of 12 megapixels to 224 x 224 takes 203 ms of one core in one part, 108 in 4, 87 in 8, 81 in 16."""
_REACH = {"bilinear": 1, "bicubic": 2}
"""Of the kernel, in pixels of the coarser side."""


@dataclass(frozen=True)
class _Axis:
    """Rows or columns.

    Args:
        size, resized, length: tensors int64 [1]: of the photo along it, of the whole photo once resized, of the crop.
        corner: where the crop begins, in the resized photo's pixels.
        unit: twice the coarser of size and resized.
        is_rows: rows are weighed from the left, columns from the right.
    """

    size: str
    resized: str
    length: str
    corner: str
    unit: str
    is_rows: bool

    @property
    def inputs(self) -> list[int]:
        """The axis of the weights that counts the photo's pixels."""
        return [1] if self.is_rows else [0]

    @property
    def outputs(self) -> list[int]:
        """The axis of the weights that counts the picture's."""
        return [0] if self.is_rows else [1]

    @property
    def planes(self) -> list[int]:
        """The axis of levels [1, 3, H, W]."""
        return [2] if self.is_rows else [3]


class Body:
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


def resized_levels(body: Body, photo: str, image: str, spec: ImageSpec) -> str:
    """Append the resize and crop of a photo.

    A pass over columns comes first, except where Pillow 13 begins with the rows: where the photo loses rows, and more than twice as
    many of them as columns. Values are rounded in between, so the order shows.

    Args:
        photo: float32 [1, 3, H, W], whole grey levels.
        image: the same as [1, H, W, 3], for its shape.
        spec: whose size, resize rule and interpolation it is; numbers are read from the function's attributes.

    Returns:
        The name of the picture, float32 [1, 3, height, width].
    """
    rows, columns = axes = _axes(body, image, spec.resize_rule)
    kernel = _bicubic if spec.interpolation == "bicubic" else _bilinear
    weights = {axis: _shares(body, kernel(body, _distance(body, axis), axis), axis) for axis in axes}
    reach = _REACH[spec.interpolation]
    lost_rows, lost_columns = (body("Sub", axis.size, axis.resized) for axis in axes)
    rows_first = body("Greater", lost_rows, body("Max", body("Mul", lost_columns, 2), [0]))
    return body(
        "If",
        body("Squeeze", rows_first),
        then_branch=_passes("rows_first", photo, (rows, columns), weights, reach, min(_PARTS, spec.height)),
        else_branch=_passes("columns_first", photo, (columns, rows), weights, reach, min(_PARTS, spec.width)),
    )


def _axes(body: Body, image: str, rule: str) -> tuple[_Axis, _Axis]:
    """Rows and columns. Under ``shorter`` the longer side is rounded down, as in torchvision."""
    sizes = [body("Shape", image, start=start, end=start + 1) for start in (1, 2)]
    lengths = [body("Reshape", body.attribute(name, "value_int"), [1]) for name in ("height", "width")]
    resized = lengths
    if rule == "shorter":
        shorter, asked = body("Min", *sizes), body.attribute("resize_size", "value_int")
        resized = [body("Div", body("Mul", asked, size), shorter) for size in sizes]
    rows, columns = (
        _Axis(size, whole, length, _corner(body, whole, length), body("Mul", body("Max", size, whole), 2), is_rows)
        for size, whole, length, is_rows in zip(sizes, resized, lengths, (True, False), strict=True)
    )
    return rows, columns


def _corner(body: Body, resized: str, length: str) -> str:
    """Half of what the crop leaves out; a half goes to the even neighbour, as in torchvision's CenterCrop."""
    margin = body("Sub", resized, length)
    half = body("Div", margin, 2)
    is_odd = body("Sub", half, body("Mul", body("Div", margin, 4), 2))
    return body("Div", body("Add", margin, is_odd), 2)


def _distance(body: Body, axis: _Axis) -> str:
    """How far every output's centre is from every input's, int64 in halves of (size x resized)."""
    outputs = body("Add", body("Range", 0, body("Squeeze", axis.length), 1), axis.corner)
    inputs = body("Range", 0, body("Squeeze", axis.size), 1)
    centres = body("Unsqueeze", body("Mul", body("Add", body("Mul", outputs, 2), 1), axis.size), axis.inputs)
    places = body("Unsqueeze", body("Mul", body("Add", body("Mul", inputs, 2), 1), axis.resized), axis.outputs)
    return body("Abs", body("Sub", places, centres))


def _bilinear(body: Body, distance: str, axis: _Axis) -> str:
    """max(0, 1 - t), times the unit: t is the distance in units."""
    return body("Max", body("Sub", axis.unit, distance), 0)


def _bicubic(body: Body, distance: str, axis: _Axis) -> str:
    """Keys' kernel with a = -0.5, times 2 unit^3: (1.5 t - 2.5) t^2 + 1 up to t = 1, -0.5 (((t - 5) t + 8) t - 4) up to t = 2.

    Each piece is 0 where it ends, so the kernel is the sum of both, each at a distance clipped to its own range.
    """
    unit = axis.unit
    square = body("Mul", unit, unit)
    cube, double = body("Mul", square, unit), body("Mul", unit, 2)
    near, far = body("Min", distance, unit), body("Max", body("Min", distance, double), unit)
    slope = body("Mul", body("Sub", body("Mul", near, 3), body("Mul", unit, 5)), near)
    first = body("Add", body("Mul", slope, near), body("Mul", cube, 2))
    bend = body("Sub", body("Mul", body("Sub", body("Mul", unit, 5), far), far), body("Mul", square, 8))
    return body("Add", first, body("Add", body("Mul", bend, far), body("Mul", cube, 4)))


def _shares(body: Body, kernel: str, axis: _Axis) -> str:
    """Weights times 2^22, float32 [length, size] of rows, [size, length] of columns: each of a row's share of their sum, rounded, a
    half away from zero. By long division, because a product with 2^22 would leave int64: kernel and sum stay below 2^51."""
    total = body("ReduceSum", kernel, axis.inputs, keepdims=1)
    rest = body("Abs", kernel)
    quotient = ""
    for bits in (_BITS // 2, _BITS // 2, 1):
        shifted = body("Mul", rest, 1 << bits)
        digit = body("Div", shifted, total)
        rest = body("Sub", shifted, body("Mul", digit, total))
        quotient = body("Add", body("Mul", quotient, 1 << bits), digit) if quotient else digit
    rounded = body("Div", body("Add", quotient, 1), 2)
    return body("Cast", body("Mul", rounded, body("Sign", kernel)), to=TensorProto.FLOAT)


def _passes(name: str, photo: str, order: tuple[_Axis, _Axis], weights: dict[_Axis, str], reach: int, parts: int) -> GraphProto:
    """A branch that gives the picture's levels float32 [1, 3, height, width].

    Args:
        order: of the two passes. weights: of each. reach: see `_REACH`. parts: of the first pass.
    """
    body = Body(f"{name}_")
    first, second = order
    start, end = _window(body, second, [0], second.length, reach)
    photo = body("Slice", photo, start, end, second.planes)
    edges = [body("Div", body("Mul", first.length, k), parts) for k in range(parts + 1)]
    between = []
    for low, high in itertools.pairwise(edges):
        part = _window(body, first, low, high, reach)
        some = body("Slice", body("Slice", weights[first], low, high, first.outputs), *part, first.inputs)
        between.append(_weighed(body, body("Slice", photo, *part, first.planes), some, first))
    levels = body("Concat", *between, axis=first.planes[0])
    picture = _weighed(body, levels, body("Slice", weights[second], start, end, second.inputs), second)
    return helper.make_graph(body.nodes, name, [], [onnx.ValueInfoProto(name=picture)])


def _window(body: Body, axis: _Axis, low: str | list[int], high: str, reach: int) -> tuple[str, str]:
    """The photo's pixels that outputs from ``low`` up to ``high`` see: where they begin and end, int64 [1]."""
    side = body("Mul", axis.unit, reach)
    numerators = [
        body("Mul", body("Add", body("Mul", body("Add", axis.corner, edge), 2), odd), axis.size)
        for edge, odd in ((low, 1), (high, -1))
    ]
    span = body("Mul", axis.resized, 2)
    start = body("Div", body("Sub", numerators[0], side), span)  # towards zero, which is where a negative one belongs
    end = body("Add", body("Div", body("Add", numerators[1], side), span), 1)
    return body("Max", start, 0), body("Min", end, axis.size)


def _weighed(body: Body, levels: str, weights: str, axis: _Axis) -> str:
    """Weighed sums rounded to whole levels, a half upwards, and clipped; exact, see above.

    Whole levels are taken off the sums of the upper parts before those of the lower parts are added: what is left has 22 bits.
    """

    def product(some: str) -> str:
        return body("MatMul", some, levels) if axis.is_rows else body("MatMul", levels, some)

    upper = body("Floor", body("Div", weights, float(1 << _LOWER_BITS)))
    lower = body("Sub", weights, body("Mul", upper, float(1 << _LOWER_BITS)))
    high = body("Add", body("Div", product(upper), float(1 << (_BITS - _LOWER_BITS))), 0.5)
    whole = body("Floor", high)
    carry = body("Floor", body("Add", body("Sub", high, whole), body("Div", product(lower), float(1 << _BITS))))
    return body("Clip", body("Add", whole, carry), 0.0, 255.0)
