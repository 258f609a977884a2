"""Graphs from elsewhere made into predict graphs: the batch, constants, sizes and names."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.errors import GraphError
from deploykit.graph.foreign import count_weights
from deploykit.graph.layers import default_layer
from deploykit.graph.tensors import tensor_names
from tests.unit.foreign_graphs import BODY, RNG, adopt, assert_same_answers, graph


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(
    "flatten",
    [
        "v = Flatten(p)",
        "s = Constant <value_ints = [BATCH, 4]> () v = Reshape(p, s)",
        "s = Constant <value_ints = [BATCH, -1]> () v = Reshape(p, s)",
        "s = Constant <value_ints = [BATCH, 4]> () m = Reshape(p, s) "
        "t = Constant <value_ints = [BATCH, 2, 2]> () n = Reshape(m, t) v = Reshape(n, s)",
        "e = Constant <value_ints = [BATCH, 4, 3, 3]> () m = Expand(p, e) q = GlobalAveragePool(m) v = Flatten(q)",
        # As a ViT joins its class token to the patches, and MobileViT folds patches into the batch.
        "s = Constant <value_ints = [BATCH, 1, 4]> () m = Reshape(p, s) j = Concat <axis = 1> (token, m) "
        "a = Constant <value_ints = [1]> () v = ReduceMean <keepdims = 0> (j, a)",
        "s = Constant <value_ints = [BATCH, -1]> () m = Reshape(p, s) v = LayerNormalization <axis = -1> (m, b)",
    ],
)
def test_a_batch_that_constants_repeat_becomes_dynamic(batch: int, flatten: str) -> None:
    body = f"c = Conv(x, w, b) p = GlobalAveragePool(c) {flatten.replace('BATCH', str(batch))} y = MatMul(v, f)"
    model = graph(body, f"{batch},3,8,8")
    token = np.repeat(np.array([[[1, -2, 3, -4]]], np.float32), batch, 0)
    model.graph.initializer.append(numpy_helper.from_array(token, "token"))
    adopted, notes = adopt(model)
    assert any(f"the batch was fixed to {batch} and is now dynamic" in note for note in notes)
    assert_same_answers(model, adopted)


def test_a_batch_that_only_the_declaration_calls_dynamic_is_freed_too() -> None:
    body = "c = Conv(x, w, b) p = GlobalAveragePool(c) s = Constant <value_ints = [1, -1]> () v = Reshape(p, s) y = MatMul(v, f)"
    model = graph(body)
    adopted, notes = adopt(model)
    assert "the batch was fixed to 1" in notes[0]
    assert_same_answers(graph(body, "1,3,8,8"), adopted)


def test_a_batch_that_cannot_be_freed_is_refused_by_the_name_of_the_node() -> None:
    for how in ("m = ReduceMean <keepdims = 1> (v, zero) d = Sub(v, m)", "d = Slice(v, zero, one, zero)"):
        model = graph(f"c = Conv(x, w, b) p = GlobalAveragePool(c) v = Flatten(p) {how} y = MatMul(d, f)", "1,3,8,8")
        model.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "zero"))
        model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "one"))
        node = model.graph.node[3]
        node.name = "culprit"
        with pytest.raises(GraphError, match=rf"only takes batches of 1: node 'culprit' \({node.op_type}\)"):
            adopt(model)


def test_constants_copies_and_arithmetic_on_constants_are_gone_and_other_names_stay() -> None:
    model = graph(
        "k = Identity(b) two = Constant <value_float = 2.0> () half = Reciprocal(two) scaled = Mul(w, half) "
        "i = Cast <to = 1> (x) c = Conv(i, scaled, k) r = Relu(c) d = Dropout(r) p = GlobalAveragePool(d) v = Flatten(p) "
        "z = MatMul(v, f) unread = Relu(z) y = Identity(z)"
    )
    adopted, _ = adopt(model)
    assert [node.op_type for node in adopted.graph.node] == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "MatMul"]
    assert {"c", "r", "p", "v"} <= tensor_names(adopted)
    assert {t.name for t in adopted.graph.initializer} == {"scaled", "b", "f"}
    assert count_weights(adopted) == 4 * 3 * 9 + 4 + 4 * 5
    assert_same_answers(model, adopted)


def test_quantized_weights_are_not_folded_back_to_floats() -> None:
    model = graph(f"w2 = DequantizeLinear(wq, scale) {BODY.replace('w,', 'w2,')} y = Identity(z)")
    model.graph.initializer.append(numpy_helper.from_array(RNG.integers(-99, 99, (4, 3, 3, 3)).astype(np.int8), "wq"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.01, np.float32), "scale"))
    adopted, _ = adopt(model)
    assert adopted.graph.node[0].op_type == "DequantizeLinear"


def test_sizes_that_a_graph_asks_itself_for_become_constants() -> None:
    model = graph(
        "s = Shape(x) h = Gather(s, two) one = Constant <value_int = 1> () side = Sub(h, one) u = Unsqueeze(side, nought) "
        "c = Conv(x, w, b) t = Shape(c) n = Slice(t, nought, first) k = Constant <value_ints = [-1]> () "
        "to = Concat <axis = 0> (n, k) p = GlobalAveragePool(c) v = Reshape(p, to) g = Cast <to = 1> (u) "
        "m = MatMul(v, f) y = Mul(m, g)",
        "N,3,H,W",
    )
    for name, value in (("two", np.array(2)), ("nought", np.array([0])), ("first", np.array([1]))):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    adopted, _ = adopt(model)
    constants = {t.name: numpy_helper.to_array(t).tolist() for t in adopted.graph.initializer}
    assert constants["g"] == [7.0]  # height 8, less 1
    assert constants["v/shape"] == [-1, 4]
    assert not [n.op_type for n in adopted.graph.node if n.op_type in ("Shape", "Slice", "Gather", "Concat")]
    assert_same_answers(model, adopted)


def test_tensors_called_like_deploykits_own_are_renamed_and_said_so() -> None:
    model = graph(
        "image = Conv(x, w, b) cam = Relu(image) p = GlobalAveragePool(cam) logits = Flatten(p) z = MatMul(logits, f) y = Neg(z)"
    )
    adopted, notes = adopt(model)
    assert {"inner/image", "inner/cam", "inner/logits"} <= tensor_names(adopted)
    assert "cam is now inner/cam" in notes[-1]
    assert_same_answers(model, adopted)


def test_weights_listed_as_inputs_and_unread_outputs_are_no_obstacle() -> None:
    model = graph(f"{BODY} y = Softmax(z)", opset=9)
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    model.graph.output.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, None))
    adopted, _ = adopt(model, "y")
    assert len(adopted.graph.input) == 1


def test_live_dropout_is_refused_as_at_export() -> None:
    model = graph(f"{BODY} t = Constant <value_int = 1> () on = Cast <to = 9> (t) d = Dropout(z, , on) y = Identity(d)")
    with pytest.raises(GraphError, match="Dropout"):
        adopt(model)


def test_the_default_layer_of_a_channels_last_graph_is_its_last_feature_map_too() -> None:
    model = graph(
        "t = Transpose <perm = [0, 3, 1, 2]> (x) c = Conv(t, w) l = Transpose <perm = [0, 2, 3, 1]> (c) a = Add(l, b) r = Relu(a) "
        "axes = Constant <value_ints = [1, 2]> () v = ReduceMean <keepdims = 0> (r, axes) y = MatMul(v, f)",
        "N,8,8,3",
    )
    layer = default_layer(adopt(model)[0])
    assert (layer.tensor, layer.channels, layer.channels_last) == ("r", 4, True)


def test_what_the_author_wrote_stays_and_the_exporters_notes_go() -> None:
    model = graph(f"{BODY} y = Identity(z)")
    helper.set_model_props(model, {"licence": "MIT", "pkg.torch.export.graph": "/home/me", "deploykit.image": "{}"})
    adopted, _ = adopt(model)
    assert {p.key: p.value for p in adopted.metadata_props} == {"licence": "MIT"}
