"""Layers by tensor name, by module path, and by default."""

import onnx
import pytest
import torch
from torch import Tensor, nn

from deploykit.errors import UsageError
from deploykit.graph.explain import make_explain_graph
from deploykit.graph.layers import default_layer, list_layers, resolve_layer
from tests.oracles.gradient_oracle import export


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU())
        self.stage = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.SiLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.pool(self.stage(self.stem(x))).flatten(1)))


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    torch.manual_seed(0)
    return export(Net().eval(), 16, input_kind="pixels")


def test_layers_are_the_feature_maps_behind_the_first_convolution_with_their_modules(graph: onnx.ModelProto) -> None:
    layers = list_layers(graph)
    assert [(layer.channels, layer.height, layer.width, layer.operator, layer.modules) for layer in layers] == [
        (4, 8, 8, "Conv", ("stem.0",)),
        (4, 8, 8, "Relu", ("stem", "stem.1")),
        (8, 4, 4, "Conv", ("stage.0",)),
        (8, 4, 4, "Sigmoid", ()),
        (8, 4, 4, "Mul", ("stage", "stage.1")),
    ]
    assert str(layers[-1]) == f"stage = {layers[-1].tensor} [8, 4, 4]"


def test_a_layer_is_found_by_its_tensor_and_by_each_module_that_returns_it(graph: onnx.ModelProto) -> None:
    stage = list_layers(graph)[-1]
    assert resolve_layer(graph, "stage") == resolve_layer(graph, "stage.1") == resolve_layer(graph, stage.tensor) == stage


def test_the_default_layer_is_the_last_feature_map_before_global_pooling(graph: onnx.ModelProto) -> None:
    assert default_layer(graph).modules == ("stage", "stage.1")
    assert list_layers(make_explain_graph(graph)) == list_layers(graph)


def test_a_wrong_name_gets_the_nearest_and_the_list_with_shapes(graph: onnx.ModelProto) -> None:
    with pytest.raises(UsageError, match=r"no layer is named 'stages'; close: stage") as info:
        resolve_layer(graph, "stages")
    assert info.value.hint is not None
    assert info.value.hint.startswith("layers, deepest first: stage = ")
    assert "[8, 4, 4]" in info.value.hint
    assert info.value.exit_code == 2


def test_a_tensor_that_is_no_feature_map_is_refused_with_its_shape(graph: onnx.ModelProto) -> None:
    with pytest.raises(UsageError, match=r"'logits' is a tensor of shape \['N', 5\], which is no feature map"):
        resolve_layer(graph, "logits")


def test_a_graph_without_feature_maps_says_so() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)).eval()
    with pytest.raises(UsageError, match="no layer to explain"):
        default_layer(export(model, 16))


def test_a_module_goes_before_a_tensor_of_the_same_name(graph: onnx.ModelProto) -> None:
    early, *_, stage = list_layers(graph)
    renamed = onnx.ModelProto()
    renamed.CopyFrom(graph)
    for node in renamed.graph.node:
        node.input[:] = ["stage" if name == early.tensor else name for name in node.input]
        node.output[:] = ["stage" if name == early.tensor else name for name in node.output]
    assert resolve_layer(renamed, "stage").tensor == stage.tensor


class Separable(nn.Module):
    """Two convolutions in one module, of which the exporter folds the second into the BatchNormalization behind, as in Xception."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.Conv2d(3, 8, 1))
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.head(torch.relu(self.norm(self.pair(x))).mean((2, 3))))


def test_a_module_whose_output_was_folded_away_is_refused_rather_than_explained_at_an_inner_tensor() -> None:
    graph = export(Separable().eval(), 16)
    assert resolve_layer(graph, "norm").channels == 8
    assert resolve_layer(graph, "pair.0").channels == 3
    with pytest.raises(UsageError, match=r"no layer is named 'pair'; close: pair\.0"):
        resolve_layer(graph, "pair")
