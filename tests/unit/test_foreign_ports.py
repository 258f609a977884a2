"""Where a picture enters a graph from elsewhere, and where the scores leave it."""

import numpy as np
import onnx
import pytest
from onnx import parser

from deploykit.errors import GraphError, UsageError
from deploykit.graph.foreign import ForeignOutput, final_activation, find_input, find_output

Y = "y"


def parse(text: str, opset: int = 18) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {text}')


def echo(shape: str, dtype: str = "float") -> onnx.ModelProto:
    """A graph that gives whatever it is given."""
    return parse(f"({dtype}[{shape}] x) => ({dtype}[{shape}] y) {{ y = Identity(x) }}")


def scored(body: str, opset: int = 18, shape: str = "N,K") -> onnx.ModelProto:
    """A graph whose tensor ``z`` [N, 4, 1, 1] or [N, 4] is followed by ``body``."""
    flat = "z = Flatten <axis = 1> (p)" if shape == "N,K" else "z = Identity(p)"
    return parse(
        f"(float[N,3,8,8] x, float[4,3,1,1] w) => (float y) {{ c = Conv(x, w) p = GlobalAveragePool(c) {flat} {body} }}", opset
    )


@pytest.mark.parametrize(
    ("shape", "layout", "batch", "size"),
    [
        ("N,3,8,6", "nchw", None, (8, 6)),
        ("1,3,8,6", "nchw", 1, (8, 6)),
        ("4,8,6,3", "nhwc", 4, (8, 6)),
        ("N,3,H,W", "nchw", None, (None, None)),
        ("N,H,W,3", "nhwc", None, (None, None)),
        ("0,3,8,8", "nchw", None, (8, 8)),  # some converters write 0 for any
    ],
)
def test_layout_batch_and_size_are_read_from_the_shape(
    shape: str, layout: str, batch: int | None, size: tuple[int | None, int | None]
) -> None:
    found = find_input(echo(shape), Y)
    assert (found.layout, found.batch, (found.height, found.width)) == (layout, batch, size)


@pytest.mark.parametrize("shape", ["N,3,8,3", "N,C,H,W"])
def test_a_shape_that_does_not_tell_the_layout_asks_for_it(shape: str) -> None:
    with pytest.raises(UsageError, match="where its channels stand") as caught:
        find_input(echo(shape), Y)
    assert "--layout" in str(caught.value.hint)
    assert find_input(echo(shape), Y, "nhwc").layout == "nhwc"


def test_a_layout_that_contradicts_the_shape_is_refused() -> None:
    with pytest.raises(UsageError, match=r"layout nhwc was asked for, and the graph's input is x float32 \[N, 3, 8, 8\]"):
        find_input(echo("N,3,8,8"), Y, "nhwc")


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        ("N,1,8,8", "float", "expected 3 colour channels"),
        ("N,192", "float", "expected a picture of rank 4"),
        ("N,3,8,8", "int32", "expected a picture of rank 4 in float32, float16, float64, uint8"),
    ],
)
def test_an_input_that_takes_no_colour_picture_is_refused(shape: str, dtype: str, reason: str) -> None:
    with pytest.raises(GraphError, match=reason):
        find_input(echo(shape, dtype), Y)


def test_a_second_input_is_refused_by_name_only_where_the_scores_depend_on_it() -> None:
    two = parse("(float[N,3,8,8] x, float[1] k) => (float y, float b) { y = Identity(x) b = Mul(x, k) }")
    assert find_input(two, "y").name == "x"
    with pytest.raises(GraphError, match=r"2 inputs .* x float32 \[N, 3, 8, 8\]; k float32 \[1\]"):
        find_input(two, "b")


def test_what_the_file_takes_is_made_of_normalized_planes() -> None:
    planes = np.arange(2 * 3 * 2 * 2, dtype=np.float32).reshape(2, 3, 2, 2) + np.float32(0.4)
    nhwc = find_input(echo("N,2,2,3", "uint8"), Y)
    fed = nhwc.feed(planes)
    assert fed.dtype == np.uint8
    assert fed.shape == (2, 2, 2, 3)
    assert fed[1, 0, 1].tolist() == [13, 17, 21]  # channels of picture 1, row 0, column 1, rounded
    assert find_input(echo("N,3,2,2", "float16"), Y).feed(planes).dtype == np.float16


def test_of_several_outputs_one_must_be_named_and_an_inner_tensor_may_be() -> None:
    graph = parse("(float[N,3,8,8] x) => (float y, int64 top) { z = Flatten(x) y = Softmax(z) top = ArgMax <axis = 1> (z) }")
    with pytest.raises(UsageError, match=r"2 outputs: y float32 .*; top int64") as caught:
        find_output(graph)
    assert "--scores" in str(caught.value.hint)
    assert find_output(graph, "y") == ForeignOutput("y", "z", "Softmax")
    assert find_output(graph, "z") == ForeignOutput("z", "z", None)
    with pytest.raises(GraphError, match="top holds whole numbers"):
        find_output(graph, "top")
    with pytest.raises(UsageError, match="no tensor of the graph is named 'nothing'"):
        find_output(graph, "nothing")


@pytest.mark.parametrize(
    ("body", "opset", "shape", "activation"),
    [
        ("y = Softmax(z)", 18, "N,K", "Softmax"),
        ("y = Softmax(z)", 11, "N,K", "Softmax"),
        ("y = Softmax <axis = 1> (z)", 18, "N,K", "Softmax"),
        ("s = Softmax(z) i = Identity(s) y = Cast <to = 1> (i)", 18, "N,K", "Softmax"),
        ("s = Softmax <axis = 1> (z) y = Flatten(s)", 18, "N,K,1,1", "Softmax"),
        ("y = LogSoftmax(z)", 18, "N,K", "LogSoftmax"),
        ("y = Sigmoid(z)", 18, "N,K", "Sigmoid"),
        ("s = Sigmoid(z) y = Flatten(s)", 18, "N,K,1,1", "Sigmoid"),
        ("y = Identity(z)", 18, "N,K", None),
        ("y = Relu(z)", 18, "N,K", None),
        # Over images instead of classes: not what a final softmax is.
        ("y = Softmax <axis = 0> (z)", 18, "N,K", None),
        ("y = Softmax <axis = 3> (z)", 18, "N,K,1,1", None),
        # An attention inside of the network stays.
        ("s = Sigmoid(z) y = Mul(s, z)", 18, "N,K", None),
    ],
)
def test_a_final_activation_over_the_classes_is_seen_and_no_other(
    body: str, opset: int, shape: str, activation: str | None
) -> None:
    found = find_output(scored(body, opset, shape))
    assert found == ForeignOutput("y", "z" if activation else "y", activation)


def test_activations_of_logits_are_what_their_formulas_say() -> None:
    logits = np.array([[1000.0, 1001.0]], np.float32)
    assert final_activation("Softmax", logits)[0] == pytest.approx([0.26894142, 0.7310586])
    assert final_activation("LogSoftmax", logits)[0] == pytest.approx([-1.3132617, -0.31326166])
    assert final_activation("Sigmoid", logits - 1000)[0] == pytest.approx([0.5, 0.7310586])
    assert (final_activation(None, logits) == logits).all()
