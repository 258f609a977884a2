"""Explain graphs of INT8 and FP16 graphs: the logits stay those of the served graph, the backward part computes in float32."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import Tensor, nn

from deploykit.graph.explain import make_explain_graph
from deploykit.graph.layers import list_layers
from deploykit.graph.tail import make_tail_graph
from tests.oracles.gradient_oracle import autograd_at, export, pictures, randomize, relative, run

SIZE = 24


class Clipped(nn.Module):
    """ReLU6 and ReLU, a residual, max-pooling: what Q/DQ pairs stand between in a real net."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6(), nn.MaxPool2d(2))
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU6(), nn.Conv2d(8, 8, 3, padding=1))
        self.last = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.block(x))
        return torch.as_tensor(self.head(self.last(x).mean((2, 3))))


class Images(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.rows: Iterator[Any] = iter([{"image": row[None]} for row in pictures(8, SIZE, seed=5)])

    def get_next(self) -> Any:
        return next(self.rows, None)


@pytest.fixture(scope="module")
def clipped() -> tuple[nn.Module, onnx.ModelProto]:
    torch.manual_seed(0)
    model = randomize(Clipped())
    return model, export(model, SIZE)


@pytest.fixture(scope="module", params=["symmetric int8", "uint8 that takes ReLU in"])
def quantized(
    clipped: tuple[nn.Module, onnx.ModelProto], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> onnx.ModelProto:
    symmetric = request.param == "symmetric int8"
    folder: Path = tmp_path_factory.mktemp("int8")
    onnx.save(clipped[1], folder / "fp32.onnx")
    quantize_static(
        folder / "fp32.onnx",
        folder / "int8.onnx",
        Images(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True},
    )
    return onnx.load(folder / "int8.onnx")


def integer_kernels(graph: onnx.ModelProto, folder: Path) -> Counter[str]:
    """How many operators ONNX Runtime runs in integers."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(graph.SerializeToString(), options)
    operators = Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)
    return Counter({name: operators[name] for name in ("QLinearConv", "QLinearAdd")})


@pytest.mark.parametrize("layer", ["last", "stem", "stem.2"])
def test_the_backward_part_costs_no_integer_kernel(
    clipped: tuple[nn.Module, onnx.ModelProto], quantized: onnx.ModelProto, layer: str, tmp_path: Path
) -> None:
    predict = integer_kernels(quantized, tmp_path)
    assert predict["QLinearConv"] > 0
    assert integer_kernels(make_explain_graph(quantized, feature_tensors(clipped[1])[layer]), tmp_path) == predict


def feature_tensors(graph: onnx.ModelProto) -> dict[str, str]:
    """Module -> tensor of the float graph; quantization keeps the tensors' names."""
    return {layer.modules[0]: layer.tensor for layer in list_layers(graph) if layer.modules}


@pytest.mark.parametrize("layer", ["last", "stem", "stem.2"])
def test_logits_of_an_int8_explain_graph_are_those_of_the_int8_predict_graph_to_the_last_bit(
    clipped: tuple[nn.Module, onnx.ModelProto], quantized: onnx.ModelProto, layer: str
) -> None:
    images = pictures(4, SIZE)
    explain = make_explain_graph(quantized, feature_tensors(clipped[1])[layer])
    answer = run(explain, image=images, class_index=[-1] * 4)
    np.testing.assert_array_equal(answer["logits"], run(quantized, image=images)["logits"])


@pytest.mark.parametrize("layer", ["last", "stem"])
def test_the_gradient_of_an_int8_graph_passes_straight_through_the_rounding(
    clipped: tuple[nn.Module, onnx.ModelProto], quantized: onnx.ModelProto, layer: str
) -> None:
    images, classes = pictures(4, SIZE), np.array([0, 1, 2, 3])
    explain = make_explain_graph(quantized, feature_tensors(clipped[1])[layer])
    answer = run(explain, image=images, class_index=classes)
    _, activations, gradients = autograd_at(clipped[0], layer, images, classes)
    cosine = float((answer["gradients"] * gradients).sum() / np.linalg.norm(answer["gradients"]) / np.linalg.norm(gradients))
    # Weights are rounded to 1 in 127 and some gates near zero flip; the direction stays.
    assert cosine > 0.97
    assert relative(answer["activations"], activations) < 0.05


def test_the_tail_of_an_int8_graph_explains_as_the_explain_graph_does(
    clipped: tuple[nn.Module, onnx.ModelProto], quantized: onnx.ModelProto
) -> None:
    layer = feature_tensors(clipped[1])["stem"]
    full = run(make_explain_graph(quantized, layer), image=pictures(2, SIZE), class_index=[1, 2])
    answer = run(make_tail_graph(quantized, layer), activations=full["activations"], class_index=[1, 2])
    assert relative(answer["logits"], full["logits"]) < 1e-5
    assert relative(answer["gradients"], full["gradients"]) < 1e-5


def half(array: Any, name: str) -> TensorProto:
    return numpy_helper.from_array(np.asarray(array, np.float16), name)


def test_the_backward_part_of_a_float16_graph_is_float32_and_keeps_gradients_that_float16_would_lose() -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["image"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["half", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["a"]),
        helper.make_node("Conv", ["a", "v"], ["d"]),
        helper.make_node("Sigmoid", ["d"], ["e"]),
        helper.make_node("GlobalAveragePool", ["e"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "u"], ["o"]),
        helper.make_node("Cast", ["o"], ["logits"], to=TensorProto.FLOAT),
    ]
    weights = {"w": rng.normal(size=(4, 3, 3, 3)), "v": rng.normal(size=(6, 4, 3, 3)) * 1e-3, "u": rng.normal(size=(6, 5)) * 1e-3}
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])],
        [half(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    images = pictures(2, SIZE)
    answer = run(make_explain_graph(model, "a"), image=images, class_index=[0, 4])
    w, v, u = (torch.from_numpy(weights[name].astype(np.float16).astype(np.float64)) for name in "wvu")
    a = torch.relu(nn.functional.conv2d(torch.from_numpy(images).double(), w)).detach().requires_grad_()
    logits = torch.sigmoid(nn.functional.conv2d(a, v)).mean((2, 3)) @ u
    (expected,) = torch.autograd.grad(logits[[0, 1], [0, 4]].sum(), a)
    assert all(answer[name].dtype == np.float32 for name in ("logits", "activations", "gradients", "cam"))
    # Smaller than the smallest float16, 6e-8: a backward part in float16 would be all zeros.
    assert 0 < float(expected.abs().max()) < 6e-8
    assert relative(answer["gradients"], expected.numpy()) < 2e-3
