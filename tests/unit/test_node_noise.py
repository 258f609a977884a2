"""How far nodes are from float32: the record, and what is beyond it."""

import json

import numpy as np
import onnx
import pytest

from deploykit.cli.node_noise import NodeNoise, first_beyond, nodes_name, to_text
from deploykit.graph.scopes import with_outputs
from deploykit.quantization.stored import dequantized_weights, first_unlike
from deploykit.quantization.twin import make_cpu_twin
from deploykit.spec import Precision
from tests.oracles.gradient_oracle import run
from tests.unit.quantized_graphs import DENSE, INCEPTION, RESIDUAL, SQUEEZE_EXCITE, quantized

RECORDED = NodeNoise(noise=0.04, shift=0.01, values=5000)


@pytest.mark.parametrize(
    ("noise", "shift", "says"),
    [
        (0.06, 0.01, None),  # 1.5 times
        (0.062, 0.01, "noise of 0.062 of its values, 0.04 was recorded, 0.061 is allowed"),
        (0.04, 0.022, None),  # 0.3 of the noise, and a floor of 0.001
        (0.04, -0.004, "its mean is off by -0.004 of its values, 0.01 was recorded, 0.013 more or less is allowed"),
        (float("nan"), 0.01, "noise of nan"),
    ],
)
def test_a_node_may_have_half_more_noise_and_a_mean_that_moved_by_a_third_of_it(
    noise: float, shift: float, says: str | None
) -> None:
    found = NodeNoise(noise, shift, 5000).beyond(RECORDED, Precision.INT8)
    assert (found is None) if says is None else (found is not None and says in found)


def test_the_mean_of_few_values_is_not_held_and_weights_are_held_closely() -> None:
    assert NodeNoise(0.04, -0.03, 20).beyond(NodeNoise(0.04, 0.01, 20), Precision.INT8) is None
    weight = NodeNoise(0.04, 0.0, 5000, is_weight=True)
    assert NodeNoise(0.0405, 0.0, 5000, is_weight=True).beyond(weight, Precision.INT8) is None
    assert NodeNoise(0.042, 0.0, 5000, is_weight=True).beyond(weight, Precision.INT8) is not None


def test_nodes_that_hold_infinity_are_not_in_the_record() -> None:
    text = to_text({"a": RECORDED, "mask": NodeNoise(float("nan"), 0.0, 10), "b": NodeNoise(float("inf"), 0.0, 10)})
    assert json.loads(text)["nodes"] == {"a": [0.04, 0.01, 5000, False]}


def test_the_first_node_in_graph_order_is_named_and_a_weight_by_its_reader() -> None:
    nodes = [onnx.parser.parse_node("c = Conv (x, w_dequantized)"), onnx.parser.parse_node("r = Relu (c)")]
    graph = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], []))
    quiet, loud = NodeNoise(0.01, 0.0, 5000), NodeNoise(0.3, 0.0, 5000)
    recorded = {"w_dequantized": NodeNoise(0.01, 0.0, 27, is_weight=True), "c": quiet, "r": quiet}
    assert first_beyond(graph, recorded, recorded, Precision.INT8) is None
    assert "They part at node r (Relu): " in str(first_beyond(graph, recorded | {"r": loud}, recorded, Precision.INT8))
    seen = recorded | {"w_dequantized": NodeNoise(0.3, 0.0, 27, is_weight=True), "r": loud}
    assert "They part at node c (Conv), weight w: " in str(first_beyond(graph, seen, recorded, Precision.INT8))


def test_a_predict_graph_and_what_explains_it_share_a_record() -> None:
    assert nodes_name("int8/predict_cpu.onnx") == nodes_name("int8/explain_cpu.onnx") == "int8/nodes_cpu.json"


@pytest.mark.parametrize("floats", [RESIDUAL, DENSE, SQUEEZE_EXCITE, INCEPTION], ids=["residual", "dense", "gate", "inception"])
def test_weights_are_read_back_as_onnxruntime_reads_them_and_the_twin_holds_the_same(floats: onnx.ModelProto) -> None:
    signed = quantized(floats)
    read = dict(dequantized_weights(floats, signed.graph))
    assert len(read) > 2
    image = np.zeros((1, 3, 12, 12), np.float32)
    shown = run(with_outputs(signed.graph, list(read)), image=image)
    for name, (numbers, reference) in read.items():
        np.testing.assert_array_equal(numbers, shown[name])
        assert np.abs(numbers - reference).max() < 0.01 * np.abs(reference).max()
    assert first_unlike(signed.graph, make_cpu_twin(signed)) is None
    assert first_unlike(signed.graph, make_cpu_twin(signed, exact=True)) is None
