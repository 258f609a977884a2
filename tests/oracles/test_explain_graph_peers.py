"""The explain graphs against other implementations: pytorch-grad-cam, Captum, onnx-ad; and against TensorRT's builder."""

import numpy as np
import onnx
import onnx_ad
import pytest
import torch
from captum.attr import Deconvolution, GuidedBackprop, LayerGradCam
from onnx.utils import Extractor
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from deploykit.graph.explain import make_explain_graph
from deploykit.graph.input_gradients import make_input_gradients_graph
from deploykit.graph.tail import make_tail_graph
from tests.engines import engine_bytes
from tests.oracles.gradient_oracle import export, pictures, relative, run
from tests.oracles.test_gradient_torchvision import NETS, made

CLASSES = [3, 1, 0, 5]


class ReluModules(nn.Module):
    """Captum's hooks change the rule of nn.ReLU modules that run once and not in place; so this net has only such."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(12, 8, 3),
            nn.ReLU(),
        )
        self.head = nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.head(self.features(x).mean((2, 3))))


def module_at(model: nn.Module, layer: str) -> nn.Module:
    return model.get_submodule(layer)


@pytest.mark.parametrize(
    ("name", "layer"), [("resnet18", "layer4"), ("densenet", "features.denseblock3"), ("efficientnet_b0", "features")]
)
def test_the_map_is_pytorch_grad_cams(name: str, layer: str) -> None:
    model, graph = made(name)
    images = pictures(4, NETS[name][1])
    with GradCAM(model, [module_at(model, layer)]) as peer:
        expected = peer(torch.from_numpy(images), [ClassifierOutputTarget(c) for c in CLASSES])
    cam = run(make_explain_graph(graph, layer), image=images, class_index=CLASSES)["cam"]
    # Its own steps behind the map: scale to [0, 1], enlarge, clip, scale again.
    size = images.shape[-2:]
    scaled = scale_cam_image(np.maximum(scale_cam_image(cam, size), 0))
    np.testing.assert_allclose(scaled, expected, atol=1e-4)


@pytest.mark.parametrize(("name", "layer"), [("resnet18", "layer4"), ("mobilenet_v2", "features"), ("densenet", "features")])
def test_the_raw_map_is_captums(name: str, layer: str) -> None:
    """With DenseNet's ``features``, whose output is changed in place by the ReLU behind it (case O25)."""
    model, graph = made(name)
    images = pictures(4, NETS[name][1])
    peer = LayerGradCam(model, module_at(model, layer))
    expected = peer.attribute(torch.from_numpy(images), CLASSES, relu_attributions=True).detach().numpy()[:, 0]
    cam = run(make_explain_graph(graph, layer), image=images, class_index=CLASSES)["cam"]
    assert relative(cam, expected) < 1e-5
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations")
@pytest.mark.parametrize(("rule", "peer"), [("guided", GuidedBackprop), ("deconvnet", Deconvolution)])
def test_guided_backpropagation_and_the_deconvnet_are_captums(rule: str, peer: type) -> None:
    torch.manual_seed(0)
    model, images = ReluModules().eval(), pictures(4, 24)
    expected = peer(model).attribute(torch.from_numpy(images).requires_grad_(), CLASSES).detach().numpy()
    answer = run(make_input_gradients_graph(export(model, 24), {"gradients": rule}), image=images, class_index=CLASSES)
    assert relative(answer["gradients"], expected) < 1e-5


def with_batch_of_one(model: onnx.ModelProto) -> onnx.ModelProto:
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]
    return model


@pytest.mark.parametrize(("name", "layer"), [("efficientnet_b0", "features.6"), ("densenet", "features.denseblock3")])
def test_gradients_are_onnx_ads(name: str, layer: str) -> None:
    """onnx-ad differentiates with respect to graph inputs of fixed shape, so it is given the tail at a batch of one."""
    _, graph = made(name)
    image = pictures(1, NETS[name][1])
    explained = run(make_explain_graph(graph, layer), image=image, class_index=[2])
    forward = with_batch_of_one(Extractor(make_tail_graph(graph, layer)).extract_model(["activations"], ["logits"]))
    adjoint = onnx_ad.reverse(forward, inputs=["activations"], outputs=["logits"], layout="onnx")
    seed = np.zeros((*explained["logits"].shape, 1), np.float32)
    seed[0, 2] = 1
    answer = run(adjoint, activations=explained["activations"], adj_logits=seed)
    assert relative(explained["gradients"], answer["adj_activations"][..., 0]) < 1e-5


@pytest.mark.parametrize("name", NETS)
def test_tensorrt_builds_the_explain_graph_of_every_net(name: str) -> None:
    _, graph = made(name)
    assert engine_bytes(make_explain_graph(graph, NETS[name][2][1])) > 100_000


def test_tensorrt_builds_tail_and_input_gradient_graphs() -> None:
    _, graph = made("resnet18")
    assert engine_bytes(make_tail_graph(graph, "layer3")) > 100_000
    assert engine_bytes(make_input_gradients_graph(graph)) > 100_000
