"""FP16 graphs: what is kept in float32 and why, types and casts, and that the graphs run and build."""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from deploykit.errors import GraphError, SessionError, UsageError
from deploykit.graph.explain import make_explain_graph
from deploykit.graph.half import (
    HalfGraph,
    TensorRange,
    convert_to_half,
    expose_floats,
    float_tensors,
    make_rounding_graph,
    measure_ranges,
    read_apart,
    require_finite,
)
from deploykit.graph.tensors import describe_tensors
from deploykit.graph.versions import check_readable
from deploykit.runtime.classifier import rank_logits
from tests.engines import engine_bytes
from tests.oracles.gradient_oracle import Array, export, pictures, randomize, relative, run, session
from tests.unit.quantized_graphs import images, net, quantized

SIZE = 24


class Overflows(nn.Sequential):
    """Case O19: large inside, ordinary outside."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
        super().__init__(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU(), *head)
        with torch.no_grad():
            self.get_parameter("0.weight").mul_(3e5).clamp_(-6e4, 6e4)
            self.get_parameter("2.weight").mul_(1e-5)


class Mixed(nn.Module):
    """What real nets have: folded and unfolded normalization, a residual, a gate, a concat, pooling, softmax inside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6(), nn.MaxPool2d(2))
        self.norm = nn.BatchNorm2d(8)
        self.block = nn.Conv2d(8, 8, 3, padding=1)
        self.squeeze = nn.Conv2d(8, 8, 1)
        self.last = nn.Sequential(nn.Conv2d(16, 12, 3, padding=1), nn.SiLU())
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.block(torch.relu(self.norm(x))) + x
        y = y * torch.sigmoid(self.squeeze(y.mean((2, 3), keepdim=True)))
        y = self.last(torch.cat([x, torch.softmax(y, 1)], 1))
        return torch.as_tensor(self.head(y.mean((2, 3))))


@pytest.fixture(scope="module")
def mixed() -> onnx.ModelProto:
    torch.manual_seed(0)
    return export(randomize(Mixed()), SIZE)


def ranges_of(graph: onnx.ModelProto, *batches: Array) -> dict[str, TensorRange]:
    opened = session(expose_floats(graph))
    return measure_ranges(lambda feeds: run(opened, **feeds), float_tensors(graph), [{"image": b} for b in batches])


def half_of(graph: onnx.ModelProto, *batches: Array, keep: tuple[str, ...] = ()) -> HalfGraph:
    return convert_to_half(graph, ranges_of(graph, *(batches or (pictures(4, SIZE),))), keep=keep)


def dark_and_bright() -> tuple[Array, Array]:
    random = np.random.default_rng(0)
    return random.random((1, 3, SIZE, SIZE), np.float32) * np.float32(0.02), random.random((1, 3, SIZE, SIZE), np.float32)


def node_types(graph: onnx.ModelProto) -> dict[str, set[int]]:
    """Operator -> the types of what its nodes give."""
    tensors = describe_tensors(graph)
    found: dict[str, set[int]] = {}
    for node in graph.graph.node:
        found.setdefault(node.op_type, set()).add(tensors.types[node.output[0]])
    return found


def test_a_net_that_overflows_keeps_the_nodes_in_float32_names_them_and_answers_as_before() -> None:
    graph = export(Overflows().eval(), SIZE)
    dark, bright = dark_and_bright()
    half = half_of(graph, dark, bright)
    overflow = [problem for problem in half.report.problems if problem.kind == "overflow"]
    assert [(p.operator, p.module, p.limit) for p in overflow] == [("Conv", "0", 65504.0), ("Relu", "1", 65504.0)]
    assert all(p.value > 65504 for p in overflow)
    assert {"Conv", "Relu"} <= {kept.operator for kept in half.report.kept if "overflow" in kept.reason}
    for image in (dark, bright):
        seen, expected = (run(g, image=image)["logits"] for g in (half.graph, graph))
        assert np.isfinite(seen).all()
        # One rounding to 11 bits per layer behind.
        assert relative(seen, expected) < 5e-3


def test_ranges_of_dark_pictures_alone_pass_and_the_bright_one_is_then_refused_by_the_node_that_overflows() -> None:
    graph = export(Overflows().eval(), SIZE)
    dark, bright = dark_and_bright()
    half = half_of(graph, dark)
    assert half.report.half_nodes > 2
    opened = session(make_rounding_graph(half.graph))
    require_finite(half.graph, run(opened, image=dark), "fp16")
    with pytest.raises(GraphError, match=r"NaN or infinite, first at node 0/Conv \(Conv\) in module 0") as caught:
        require_finite(half.graph, run(opened, image=bright), "fp16")
    assert "--keep" in str(caught.value.hint)


def test_naming_the_module_that_overflows_keeps_it_in_float32() -> None:
    graph = export(Overflows().eval(), SIZE)
    dark, bright = dark_and_bright()
    half = half_of(graph, dark, keep=("0", "1"))
    assert [kept.reason for kept in half.report.kept][:2] == ["asked for: 0", "asked for: 1"]
    # What the kept nodes give is read in FP16, so the convolution behind must be kept as well.
    half = half_of(graph, dark, keep=("0", "1", "2"))
    assert relative(run(half.graph, image=bright)["logits"], run(graph, image=bright)["logits"]) < 5e-3


def test_what_comes_within_two_bits_of_the_limit_is_kept_too() -> None:
    graph = export(Overflows().eval(), SIZE)
    image = dark_and_bright()[0] * 3
    assert [p.kind for p in half_of(graph, image).report.problems][:2] == ["near overflow"] * 2


def test_the_rounding_graph_rounds_between_nodes_which_onnx_runtime_leaves_out_of_the_graph_itself() -> None:
    nodes = [
        helper.make_node("Cast", ["image"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Add", ["half", "one"], ["more"], name="add"),
        helper.make_node("Sub", ["more", "half"], ["less"], name="sub"),
        helper.make_node("Cast", ["less"], ["logits"], to=TensorProto.FLOAT),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 1]) for name in ("image", "logits")]
    one = numpy_helper.from_array(np.ones((1, 1), np.float16), "one")
    graph = helper.make_model(
        helper.make_graph(nodes, "g", values[:1], values[1:], [one]), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    image = np.full((1, 1), 2048, np.float32)
    # 2049 is no float16: 11 bits hold 2048 and 2050.
    assert run(make_rounding_graph(graph), image=image)["logits"] == [[0]]
    assert run(graph, image=image)["logits"] == [[1]]


def test_a_row_of_nan_is_never_given_a_class() -> None:
    logits = np.array([[0.0, 1.0], [np.nan, 0.0], [np.inf, 0.0]], np.float32)
    with pytest.raises(SessionError, match="2 of 3 rows, first in row 1"):
        rank_logits(logits, None, 1)


def test_nan_in_float32_is_named_and_no_picture_is_refused(mixed: onnx.ModelProto) -> None:
    image = pictures(1, SIZE)
    image[0, 0, 0, 0] = np.nan
    with pytest.raises(GraphError, match="holds NaN or infinity in float32"):
        ranges_of(mixed, image)
    with pytest.raises(UsageError, match="no picture"):
        measure_ranges(lambda feeds: feeds, [], [])


def test_ranges_are_those_of_all_pictures_however_they_are_batched(mixed: onnx.ModelProto) -> None:
    images = pictures(4, SIZE)
    whole, parts = ranges_of(mixed, images), ranges_of(mixed, images[:1], images[1:])
    assert whole.keys() == parts.keys()
    for name, seen in whole.items():
        assert parts[name].subnormal_share == pytest.approx(seen.subnormal_share, abs=1e-3)
        # Runtimes add in another order for another batch.
        assert (parts[name].least, parts[name].greatest) == pytest.approx((seen.least, seen.greatest), rel=1e-5, abs=1e-6)


def test_layers_compute_in_float16_and_reductions_softmax_and_the_edges_in_float32(mixed: onnx.ModelProto) -> None:
    half = half_of(mixed)
    types = node_types(half.graph)
    for operator in ("Conv", "Gemm", "BatchNormalization", "MaxPool", "Concat", "Sigmoid"):
        assert types[operator] == {TensorProto.FLOAT16}
    for operator in ("ReduceMean", "Softmax"):
        assert types[operator] == {TensorProto.FLOAT}
    edges = [*half.graph.graph.input, *half.graph.graph.output]
    assert [value.type.tensor_type.elem_type for value in edges] == [TensorProto.FLOAT, TensorProto.FLOAT]
    assert half.report.problems == ()
    assert half.report.float_weights == 0
    image = pictures(4, SIZE, seed=3)
    assert relative(run(half.graph, image=image)["logits"], run(mixed, image=image)["logits"]) < 5e-3


def test_the_graph_is_valid_strictly_typed_and_read_by_the_oldest_runtime(mixed: onnx.ModelProto) -> None:
    half = half_of(mixed).graph
    onnx.checker.check_model(half, full_check=True)
    check_readable(half, "1.18")
    assert half.opset_import == mixed.opset_import


def test_no_cast_follows_a_cast_and_none_is_made_twice(mixed: onnx.ModelProto) -> None:
    graph = half_of(mixed).graph.graph
    casts = [node for node in graph.node if node.op_type == "Cast"]
    made = {node.output[0] for node in casts}
    assert casts
    assert not made.intersection(node.input[0] for node in casts)
    to = [(node.input[0], node.attribute[0].i) for node in casts]
    assert len(set(to)) == len(to)
    weights = {t.name: t.data_type for t in graph.initializer}
    assert not made.intersection(weights)
    assert weights["head.weight"] == TensorProto.FLOAT16


def test_a_source_graph_is_not_changed(mixed: onnx.ModelProto) -> None:
    before = mixed.SerializeToString(deterministic=True)
    half_of(mixed)
    assert mixed.SerializeToString(deterministic=True) == before


def convolution(weight: Array, bias: Array | None = None) -> onnx.ModelProto:
    names = ["w"] if bias is None else ["w", "b"]
    arrays = dict(zip(names, (weight, bias), strict=False))
    nodes = [
        helper.make_node("Conv", ["image", *names], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["a"], name="relu"),
        helper.make_node("GlobalAveragePool", ["a"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["logits"], name="flat"),
    ]
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(weight)])],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_weights_that_overflow_or_whose_channel_vanishes_keep_their_node_in_float32() -> None:
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    assert half_of(convolution(weight)).report.problems == ()
    large, vanishing = weight.copy(), weight.copy()
    large[1, 0, 0, 0] = 1e5
    vanishing[2] *= 1e-7
    for array, kind in ((large, "weight overflow"), (vanishing, "weight underflow")):
        half = half_of(convolution(array))
        assert [(p.node, p.kind, p.tensor) for p in half.report.problems if p.kind.startswith("weight")] == [("conv", kind, "w")]
        assert node_types(half.graph)["Conv"] == {TensorProto.FLOAT}


def test_a_dead_channel_that_gives_its_bias_alone_needs_no_float32() -> None:
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    weight[2] *= 1e-9
    assert half_of(convolution(weight, np.ones(4))).report.problems == ()


def test_tensors_below_the_smallest_normal_float16_stay_in_float32() -> None:
    weight = np.full((4, 3, 1, 1), 1e-4, np.float32)
    half = half_of(convolution(weight), pictures(2, SIZE) * np.float32(1e-2))
    assert ("conv", "underflow") in {(p.node, p.kind) for p in half.report.problems}
    assert node_types(half.graph)["Conv"] == {TensorProto.FLOAT}


def test_a_variance_that_vanishes_in_float16_is_folded_before_it_is_rounded() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.ReLU(),
        nn.BatchNorm2d(3, eps=1e-12),
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()
    norm = net[1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.running_var = torch.full((3,), 1e-9)
    norm.weight.data.fill_(3e-5)
    graph, image = export(net, SIZE), pictures(2, SIZE)
    half = half_of(graph, image)
    assert node_types(half.graph)["BatchNormalization"] == {TensorProto.FLOAT16}
    assert relative(run(half.graph, image=image)["logits"], run(graph, image=image)["logits"]) < 5e-3


def test_a_name_that_does_not_exist_is_refused_with_those_that_are_close(mixed: onnx.ModelProto) -> None:
    with pytest.raises(UsageError, match=r"no node or module is named 'blok'; close: block"):
        half_of(mixed, keep=("blok",))


def test_a_module_that_is_kept_computes_in_float32(mixed: onnx.ModelProto) -> None:
    half = half_of(mixed, keep=("last",))
    assert {kept.module for kept in half.report.kept if kept.reason == "asked for: last"} >= {"last.0"}
    assert node_types(half.graph)["Conv"] == {TensorProto.FLOAT, TensorProto.FLOAT16}


def test_the_logits_of_the_explain_graph_are_those_of_the_predict_graph_to_the_bit(mixed: onnx.ModelProto) -> None:
    half = half_of(mixed).graph
    image = pictures(4, SIZE)
    for layer in ("last", "stem", "stem.1", "stem.2", "norm", "block"):
        explain = make_explain_graph(half, layer)
        read_apart(explain, half)
        answer = run(explain, image=image, class_index=[-1] * 4)
        np.testing.assert_array_equal(answer["logits"], run(half, image=image)["logits"])
        exact = run(make_explain_graph(mixed, layer), image=image, class_index=answer["explained_class"])
        # The backward part is float32; only the activations that it reads are rounded.
        assert relative(answer["gradients"], exact["gradients"]) < 2e-2


def test_predict_and_explain_build_strongly_typed(mixed: onnx.ModelProto) -> None:
    half = half_of(mixed).graph
    assert engine_bytes(half) > 10_000
    for layer in ("last", "stem"):
        explain = make_explain_graph(half, layer)
        read_apart(explain, half)
        assert engine_bytes(explain) > 10_000


@pytest.mark.parametrize("opset", [18, 19])
def test_a_quantized_graph_becomes_float16_beside_its_pairs_and_builds(opset: int) -> None:
    torch.manual_seed(0)
    source = export(randomize(Mixed()), SIZE, opset=opset)
    pairs = quantized(source).graph
    half = half_of(pairs)
    types = node_types(half.graph)
    counted = [Counter(node.op_type for node in graph.graph.node)["QuantizeLinear"] for graph in (half.graph, pairs)]
    assert counted[0] == counted[1] > 0
    if opset == 18:
        assert types["DequantizeLinear"] == {TensorProto.FLOAT}
    else:
        assert TensorProto.FLOAT16 in types["DequantizeLinear"]
        assert half.report.half_nodes > 10
    onnx.checker.check_model(half.graph, full_check=True)
    image = pictures(4, SIZE)
    # One step of 255 in a pair may fall to the other side where float16 rounds its input.
    assert relative(run(half.graph, image=image)["logits"], run(pairs, image=image)["logits"]) < 5e-2
    assert engine_bytes(half.graph) > 10_000


def test_a_rounding_graph_lays_its_tensors_open_only_where_that_is_wanted() -> None:
    half = convert_to_half(net("resnet18"), {}).graph
    plain = make_rounding_graph(half, lay_open=False)
    assert [output.name for output in plain.graph.output] == ["logits"]
    image = images(half, 2)
    np.testing.assert_array_equal(run(plain, image=image)["logits"], run(make_rounding_graph(half), image=image)["logits"])
