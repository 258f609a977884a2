"""Graphs from elsewhere made into predict graphs: the way in, the way out, and the operators; the answers before and after."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser, version_converter

from deploykit.errors import GraphError
from deploykit.graph.foreign import final_activation, stored_dtype
from deploykit.graph.versions import opset_of
from tests.unit.foreign_graphs import BODY, RNG, adopt, assert_same_answers, graph, run


@pytest.mark.parametrize(
    ("shape", "dtype", "before"),
    [
        ("N,8,8,3", "float", "t = Transpose <perm = [0, 3, 1, 2]> (x)"),
        ("1,8,8,3", "float", "t = Transpose <perm = [0, 3, 1, 2]> (x)"),
        ("N,3,H,W", "float", "t = Identity(x)"),
    ],
)
def test_the_picture_enters_as_float_planes_whatever_the_layout(shape: str, dtype: str, before: str) -> None:
    model = graph(f"{before} {BODY.replace('Conv(x', 'Conv(t')} y = Identity(z)", shape, dtype)
    adopted, _ = adopt(model)
    assert helper.printable_value_info(adopted.graph.input[0]) == "%image[FLOAT, Nx3x8x8]"
    assert helper.printable_value_info(adopted.graph.output[0]) == "%logits[FLOAT, Nx5]"
    assert_same_answers(model, adopted)


@pytest.mark.parametrize(
    ("before", "casts"),
    [
        ("t = Transpose <perm = [0, 3, 1, 2]> (x) k = Cast <to = 1> (t)", 2),
        ("s = Cast <to = 1> (x) k = Transpose <perm = [0, 3, 1, 2]> (s)", 0),
    ],
)
def test_a_uint8_input_takes_the_pixels_as_floats_and_a_cast_that_came_first_is_left_out(before: str, casts: int) -> None:
    model = graph(f"{before} {BODY.replace('Conv(x', 'Conv(k')} y = Identity(z)", "N,8,8,3", "uint8")
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    adopted, _ = adopt(model)
    assert sum(node.op_type == "Cast" for node in adopted.graph.node) == casts
    assert_same_answers(model, adopted, atol=1e-3)  # logits of hundreds


def test_float16_becomes_float32_of_the_same_weights() -> None:
    model = graph(f"{BODY} y = Softmax(z)", dtype="float16")
    adopted, notes = adopt(model)
    kinds = {t.data_type for t in adopted.graph.initializer}
    assert TensorProto.FLOAT16 not in kinds
    assert any("float16" in note for note in notes)
    assert stored_dtype(model) == "float16"
    assert_same_answers(model, adopted, atol=2e-3)  # half a unit in the last place of a probability, a few times


@pytest.mark.parametrize("opset", [9, 11, 13, 17])
def test_older_opsets_are_raised_to_18_and_newer_ones_stay(opset: int) -> None:
    model = graph(f"{BODY} s = Sqrt(z) q = Mul(z, z) y = Softmax <axis = 1> (q)", opset=opset)
    adopted, notes = adopt(model)
    assert (opset_of(adopted), adopted.ir_version) == (18, 8)
    assert f"converted from opset {opset} to 18" in notes
    assert_same_answers(model, adopted)
    newer = graph(f"{BODY} y = Identity(z)", opset=21)
    assert opset_of(adopt(newer)[0]) == 21


def test_an_operator_that_the_converter_does_not_know_the_way_for_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> onnx.ModelProto:
        raise RuntimeError("/there/convert.cc:9: convert: Assertion `a` failed: no adapter for Upsample")

    monkeypatch.setattr(version_converter, "convert_version", refuse)
    with pytest.raises(GraphError, match=r"opset 9 and does not convert to 18: no adapter for Upsample"):
        adopt(graph(f"{BODY} y = Identity(z)", opset=9))


@pytest.mark.parametrize(("domain", "operator"), [("com.microsoft", "FastRelu"), ("", "ImageScaler")])
def test_operators_that_are_not_onnx_s_are_refused_by_the_name_of_the_node(domain: str, operator: str) -> None:
    model = graph(f"{BODY} y = Identity(z)")
    node = model.graph.node[1]
    node.name, node.op_type, node.domain = "bad", operator, domain
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    with pytest.raises(GraphError, match=rf"node 'bad' \({domain and domain + '.'}{operator}\) is no operator of ONNX"):
        adopt(model)


def test_functions_of_the_file_are_inlined() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18, "my" : 1]> g (float[N,3,8,8] x) => (float[N,3] y) { y = my.head(x) }
              <opset_import: ["" : 18], domain: "my"> head (a) => (b) { p = GlobalAveragePool(a) b = Flatten(p) }"""
    inlined = parser.parse_model(text)
    adopted, _ = adopt(inlined)
    assert not adopted.functions
    assert [node.op_type for node in adopted.graph.node] == ["GlobalAveragePool", "Flatten"]
    assert_same_answers(inlined, adopted)


def test_a_final_softmax_goes_and_its_input_is_the_logits_also_from_behind_copies() -> None:
    for tail, opset in (("y = Softmax(z)", 18), ("s = Softmax(z) y = Identity(s)", 11), ("y = LogSoftmax(z)", 18)):
        model = graph(f"{BODY} {tail}", opset=opset)
        adopted, notes = adopt(model)
        assert not {"Softmax", "LogSoftmax", "Identity"} & {node.op_type for node in adopted.graph.node}
        assert "logits are 'z'" in notes[0]
        assert_same_answers(model, adopted)


def test_one_score_before_a_sigmoid_becomes_two_classes_whose_softmax_is_the_sigmoid() -> None:
    model = graph(f"{BODY.replace('f)', 'f1)')} y = Sigmoid(z)")
    adopted, notes = adopt(model)
    planes = RNG.random((3, 3, 8, 8), np.float32)
    seen = final_activation("Softmax", run(adopted, {"image": planes}))
    assert seen[:, 1] == pytest.approx(run(model, {"x": planes})[:, 0], abs=1e-6)
    assert "two classes" in notes[-1]
    with pytest.raises(GraphError, match="one number each without a sigmoid"):
        adopt(graph(f"{BODY.replace('f)', 'f1)')} y = Identity(z)"))


def test_scores_of_rank_four_with_one_pixel_are_flattened_and_other_ranks_refused() -> None:
    model = graph("c = Conv(x, w, b) y = GlobalAveragePool(c)")
    adopted, _ = adopt(model)
    assert helper.printable_value_info(adopted.graph.output[0]) == "%logits[FLOAT, Nx4]"
    assert_same_answers(model, adopted)
    with pytest.raises(GraphError, match=r"scores 'y' have shape \['N', 4, 36\], expected \[N, K\]"):
        adopt(graph("c = Conv(x, w, b) s = Constant <value_ints = [0, 4, 36]> () y = Reshape(c, s)"))


def test_maps_of_scores_are_understood_with_channels_first_alone() -> None:
    adopted, _ = adopt(graph("y = Conv(x, w, b)"))
    assert helper.printable_value_info(adopted.graph.output[0]) == "%logits[FLOAT, Nx4x6x6]"
    model = graph("t = Transpose <perm = [0, 3, 1, 2]> (x) c = Conv(t, w, b) y = Transpose <perm = [0, 2, 3, 1]> (c)", "N,8,8,3")
    with pytest.raises(GraphError, match=r"scores 'y' have shape \['N', 6, 6, 4\], expected \[N, K\]"):
        adopt(model)
