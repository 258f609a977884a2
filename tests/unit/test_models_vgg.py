"""VGG-16 as its paper describes it, and VGGnet-GAP, on which class activation mapping and Grad-CAM are one."""

import numpy as np
import pytest
import torch
from torch import nn

from deploykit.errors import WeightsError
from deploykit.graph.explain import make_explain_graph
from deploykit.models.families.vgg import VGG16, VGG16GAP
from deploykit.models.initialize import initialize_model
from deploykit.models.registry import MODELS, load_model
from deploykit.runtime.cam import METHODS
from tests.oracles.gradient_oracle import export, pictures, run


def built(name: str) -> nn.Module:
    with torch.device("meta"):
        return MODELS[name].build(1000, MODELS[name].conventions).eval()


def test_vgg16_is_column_d_of_table_1() -> None:
    model = built("vgg16")
    assert isinstance(model, VGG16)
    layers: list[str | int] = []
    for module in model.features:
        if isinstance(module, nn.Conv2d):
            assert (module.kernel_size, module.stride, module.padding) == ((3, 3), (1, 1), (1, 1))
            layers.append(module.out_channels)
        elif isinstance(module, nn.MaxPool2d):
            layers.append("pool")
    assert layers == [64, 64, "pool", 128, 128, "pool", *[256] * 3, "pool", *[512] * 3, "pool", *[512] * 3, "pool"]
    linear = [(m.in_features, m.out_features) for m in model.classifier if isinstance(m, nn.Linear)]
    assert linear == [(25088, 4096), (4096, 4096), (4096, 1000)]
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == 16


def test_vgg16_bn_normalizes_behind_every_convolution_and_is_else_the_same() -> None:
    plain, normalized = built("vgg16"), built("vgg16_bn")
    assert isinstance(plain, VGG16)
    assert isinstance(normalized, VGG16)
    assert [type(m) for m in normalized.features if not isinstance(m, nn.BatchNorm2d)] == [type(m) for m in plain.features]
    for module, after in zip(normalized.features, list(normalized.features)[1:], strict=False):
        assert isinstance(after, nn.BatchNorm2d) == isinstance(module, nn.Conv2d)


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn", "vgg16_cam"])
def test_the_layer_is_the_last_relu_before_pooling_at_14_x_14(name: str) -> None:
    model = built(name)
    shapes: list[tuple[int, ...]] = []
    layer = model.get_submodule(MODELS[name].cam_layer)
    layer.register_forward_hook(lambda _m, _i, output: shapes.append(tuple(output.shape[1:])))
    model(torch.zeros(1, 3, 224, 224, device="meta"))
    assert isinstance(layer, nn.ReLU)
    assert shapes == [(1024 if name == "vgg16_cam" else 512, 14, 14)]


def test_vgg_pools_other_sizes_to_7_x_7() -> None:
    model = built("vgg16")
    for size in (64, 224, 320):
        assert model(torch.zeros(1, 3, size, size, device="meta")).shape == (1, 1000)


def test_vggnet_gap_replaces_what_is_behind_conv5_3() -> None:
    whole, model = built("vgg16"), built("vgg16_cam")
    assert isinstance(whole, VGG16)
    assert isinstance(model, VGG16GAP)
    shared = [key for key in whole.state_dict() if key.startswith("features.")]
    assert [key for key in model.state_dict() if key.startswith("features.")] == shared
    assert sum(isinstance(m, nn.MaxPool2d) for m in model.modules()) == 4  # pool5 is gone
    conv = model.cam_conv
    assert (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding) == (512, 1024, (3, 3), (1, 1), (1, 1))
    assert (model.classifier.in_features, model.classifier.out_features) == (1024, 1000)


def test_vgg16_cam_has_no_published_weights_and_says_so() -> None:
    with pytest.raises(WeightsError, match="no weights are published for vgg16_cam"):
        load_model("vgg16_cam", pretrained=True)


def test_on_vggnet_gap_the_class_activation_map_is_the_weighted_sum_of_zhou_and_grad_cam_up_to_scale() -> None:
    size, rows, classes = 64, 3, 6
    model = initialize_model(lambda: VGG16GAP(classes), seed=2)
    assert isinstance(model, VGG16GAP)
    chosen = np.array([4, 0, 2])
    answer = run(make_explain_graph(export(model, size), "cam_relu"), image=pictures(rows, size), class_index=chosen)
    activations, gradients = answer["activations"], answer["gradients"]
    assert activations.shape == (rows, 1024, 4, 4)
    cam = METHODS["cam"].compute(activations, gradients)
    # Zhou 2016, equation 2: M_c = sum_k w_k^c f_k.
    weights = model.classifier.weight.detach().numpy()[chosen]
    expected = np.maximum(np.einsum("nk,nkhw->nhw", weights, activations), 0)
    assert (expected > 0).any((1, 2)).all()
    np.testing.assert_allclose(cam / cam.max((1, 2), keepdims=True), expected / expected.max((1, 2), keepdims=True), atol=1e-5)
    # Selvaraju 2017, section 3.1: Grad-CAM's weights are CAM's but for 1 / Z, the number of pixels.
    np.testing.assert_allclose(answer["cam"], expected / 16, rtol=1e-4, atol=1e-6)
