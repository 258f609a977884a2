"""Explain graphs of torchvision's architectures against torch autograd, three layers each, four images of different classes.

Each net runs twice: in float64, where both sides do the same sums and only a wrong rule could make a difference, and on ONNX
Runtime in float32, where a gate of a ReLU net flips now and then because a sum near zero was rounded the other way. One flip moves
single gradient elements by percents (torch's own float32 does the same), so there early layers are judged by the map.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np
import onnx
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import ConvNeXt, DenseNet, SwinTransformer, segmentation
from torchvision.models.convnext import CNBlockConfig

from deploykit.graph.explain import make_explain_graph
from tests.oracles.gradient_oracle import (
    as_double,
    autograd_at,
    export,
    grad_cam,
    pictures,
    randomize,
    relative,
    run,
    run_double,
)

CLASSES = np.array([1, 0, 4, 2])


class Out(nn.Module):
    """A segmentation net's logits, their mean per class taken so that autograd and the graph have one score per class."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.net(x)["out"]).mean((2, 3))


def zoo(name: str, **options: object) -> nn.Module:
    model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return model


def deeplab() -> nn.Module:
    return Out(segmentation.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=6))


def lraspp() -> nn.Module:
    return Out(segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=6))


def vgg() -> nn.Module:
    net: nn.Module = torchvision.models.vgg11_bn(num_classes=6)
    net.classifier = nn.Sequential(nn.Linear(512 * 4, 8), nn.ReLU(), nn.Linear(8, 6))
    net.avgpool = nn.AdaptiveAvgPool2d(2)
    return net


def densenet() -> nn.Module:
    model: nn.Module = DenseNet(growth_rate=8, block_config=(2, 3, 2, 2), num_init_features=16, num_classes=6)
    return model


def convnext() -> nn.Module:
    stages = [CNBlockConfig(16, 32, 2), CNBlockConfig(32, 64, 2), CNBlockConfig(64, None, 2)]
    model: nn.Module = ConvNeXt(stages, num_classes=6, layer_scale=0.5)
    return model


def swin() -> nn.Module:
    model: nn.Module = SwinTransformer([4, 4], 16, [2, 2, 2], [2, 2, 4], [4, 4], stochastic_depth_prob=0.0, num_classes=6)
    return model


Net = tuple[Callable[[], nn.Module], int, Sequence[str]]

NETS: dict[str, Net] = {
    "resnet18": (partial(zoo, "resnet18"), 64, ["layer4", "layer2", "relu"]),
    "densenet": (densenet, 64, ["features", "features.denseblock3", "features.transition1"]),
    "efficientnet_b0": (partial(zoo, "efficientnet_b0"), 64, ["features", "features.6", "features.3"]),
    "mobilenet_v2": (partial(zoo, "mobilenet_v2"), 64, ["features", "features.14", "features.4"]),
    "mobilenet_v3_small": (partial(zoo, "mobilenet_v3_small"), 64, ["features", "features.9", "features.3"]),
    "googlenet": (partial(zoo, "googlenet", init_weights=True, aux_logits=False), 64, ["inception5b", "inception4c", "maxpool1"]),
    "inception_v3": (partial(zoo, "inception_v3", init_weights=True), 96, ["Mixed_6e", "Mixed_6a", "Mixed_5d"]),
    "squeezenet1_1": (partial(zoo, "squeezenet1_1"), 64, ["features", "features.8", "features.4"]),
    "shufflenet_v2_x0_5": (partial(zoo, "shufflenet_v2_x0_5"), 64, ["conv5", "stage4", "stage2"]),
    "regnet_y_400mf": (partial(zoo, "regnet_y_400mf"), 64, ["trunk_output", "trunk_output.block3", "stem"]),
    "vgg11_bn": (vgg, 64, ["features", "features.20", "features.7"]),
    "convnext": (convnext, 32, ["features", "features.3", "features.1"]),
    "swin": (swin, 32, ["permute", "features.3", "features.1"]),
    "deeplabv3_mobilenet": (deeplab, 64, ["net.backbone.16", "net.backbone.12", "net.backbone.6"]),
    "lraspp_mobilenet": (lraspp, 64, ["net.backbone.16", "net.backbone.12", "net.backbone.4"]),
}


@cache
def made(name: str) -> tuple[nn.Module, onnx.ModelProto]:
    torch.manual_seed(0)
    model = randomize(NETS[name][0]())
    return model, export(model, NETS[name][1])


@pytest.mark.parametrize(("name", "depth"), [(name, depth) for name in NETS for depth in range(3)])
def test_activations_gradients_and_cam_agree_with_autograd(name: str, depth: int) -> None:
    _, size, layers = NETS[name]
    model, graph = made(name)
    layer, images = layers[depth], pictures(4, size)
    logits, activations, gradients = autograd_at(model, layer, images, CLASSES)
    found = run_double(make_explain_graph(as_double(graph), layer), image=images, class_index=CLASSES)
    if found["activations"].shape != activations.shape:  # torch's own layer is channels-last
        activations, gradients = activations.transpose(0, 3, 1, 2), gradients.transpose(0, 3, 1, 2)
    cam = grad_cam(activations, gradients)
    # The outputs are float32, and folding BatchNorm into a convolution rounds its weights to float32.
    assert relative(found["logits"], logits) < 1e-5
    assert relative(found["activations"], activations) < 1e-5
    assert relative(found["gradients"], gradients) < 1e-5

    for rows in (1, 4):
        explain = make_explain_graph(graph, layer)
        single = run(explain, image=images[:rows], class_index=CLASSES[:rows])
        assert relative(single["logits"], logits[:rows]) < 1e-4
        assert relative(single["activations"], activations[:rows]) < 1e-4
        if depth == 0:
            assert relative(single["gradients"], gradients[:rows]) < 1e-4
        brightest = float(np.abs((gradients.mean((2, 3), keepdims=True) * activations).sum(1)).max())
        assert float(np.abs(single["cam"] - cam[:rows]).max()) < 2e-2 * brightest
