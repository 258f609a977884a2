"""MobileNet v1 and v2 as their papers describe them."""

import torch
from torch import Tensor, nn

from deploykit.graph.multiply_adds import count_multiply_adds
from deploykit.models.export import export_graph
from deploykit.models.families.mobilenet_v1 import DepthwiseSeparableConv, MobileNetV1
from deploykit.models.families.mobilenet_v2 import InvertedResidual, MobileNetV2, Stage
from deploykit.models.layouts import PYTORCH
from deploykit.models.registry import MODELS, load_model


def activations(module: nn.Module) -> list[type[nn.Module]]:
    return [type(m) for m in module.modules() if isinstance(m, nn.ReLU | nn.ReLU6 | nn.SiLU)]


def test_a_depthwise_separable_convolution_filters_per_channel_and_then_combines() -> None:
    block = DepthwiseSeparableConv(32, 64, 2)
    assert (block.conv_dw.groups, block.conv_dw.kernel_size, block.conv_dw.stride) == (32, (3, 3), (2, 2))
    assert (block.conv_pw.groups, block.conv_pw.kernel_size, block.conv_pw.stride) == (1, (1, 1), (1, 1))
    # Howard 2017, section 3.1: against a full convolution, 1/N + 1/D^2 of the products, here of the weights.
    separable = block.conv_dw.weight.numel() + block.conv_pw.weight.numel()
    assert separable / (64 * 32 * 9) == 1 / 64 + 1 / 9
    assert activations(block) == [nn.ReLU6, nn.ReLU6]


@torch.no_grad()
def test_a_depthwise_convolution_keeps_channels_apart() -> None:
    block = DepthwiseSeparableConv(4, 8, 1).eval()
    x = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    moved = x.clone()
    moved[:, 2] += 1
    changed = (block.conv_dw(x) != block.conv_dw(moved)).any(dim=(0, 2, 3))
    assert changed.tolist() == [False, False, True, False]


def test_mobilenet_v1s_maps_are_those_of_table_1() -> None:
    with torch.device("meta"):
        model = MobileNetV1(1000).eval()
        x = model.act1(model.bn1(model.conv_stem(torch.zeros(1, 3, 224, 224))))
        shapes = []
        for block in (module for module in model.modules() if isinstance(module, DepthwiseSeparableConv)):
            x = block(x)
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [
        (64, 112, 112),
        *[(128, 56, 56)] * 2,
        *[(256, 28, 28)] * 2,
        *[(512, 14, 14)] * 6,
        *[(1024, 7, 7)] * 2,
    ]


def test_mobilenets_take_the_multiply_adds_of_their_papers() -> None:
    # Howard 2017, table 8: 569 million; Sandler 2018, table 4: 300 million.
    for name, millions in (("mobilenet_v1", 569), ("mobilenet_v2", 300)):
        loaded = load_model(name)
        counted = count_multiply_adds(export_graph(loaded.model, loaded.image, input_kind="float"))
        assert abs(counted / 1e6 - millions) < 1


def blocks() -> list[InvertedResidual]:
    with torch.device("meta"):
        model = MobileNetV2(1000, PYTORCH)
    return [module for module in model.modules() if isinstance(module, InvertedResidual)]


def test_mobilenet_v2_has_the_blocks_of_table_2() -> None:
    with torch.device("meta"):
        x = MobileNetV2(1000, PYTORCH).eval().features[0](torch.zeros(1, 3, 224, 224))
        shapes = []
        for block in blocks():
            x = block.eval()(x)
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [
        (16, 112, 112),
        *[(24, 56, 56)] * 2,
        *[(32, 28, 28)] * 3,
        *[(64, 14, 14)] * 4,
        *[(96, 14, 14)] * 3,
        *[(160, 7, 7)] * 3,
        (320, 7, 7),
    ]


def test_the_bottleneck_is_linear_and_six_times_narrower_than_what_is_filtered() -> None:
    first, *others = blocks()
    assert activations(first) == [nn.ReLU6]  # t = 1: nothing is expanded
    for block in others:
        expand, depthwise, project, norm = block.conv
        assert isinstance(expand, nn.Sequential)
        assert isinstance(depthwise, nn.Sequential)
        assert isinstance(norm, nn.BatchNorm2d)  # and nothing behind it
        widths = [
            (conv.in_channels, conv.out_channels) for conv in (expand[0], depthwise[0], project) if isinstance(conv, nn.Conv2d)
        ]
        narrow = widths[0][0]
        assert widths[:2] == [(narrow, 6 * narrow), (6 * narrow, 6 * narrow)]
        assert activations(block) == [nn.ReLU6, nn.ReLU6]


@torch.no_grad()
def test_a_block_adds_its_input_only_where_stride_and_width_allow() -> None:
    assert [block.is_residual for block in blocks()].count(True) == 10  # table 2: n - 1 of each row
    x = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    block = InvertedResidual(8, Stage(6, 8, 1, 1), 1, PYTORCH).eval()
    projection = block.conv[2]
    assert isinstance(projection, nn.Conv2d)
    nn.init.zeros_(projection.weight)  # the branch then gives 0
    assert torch.equal(block(x), x)
    wider = InvertedResidual(8, Stage(6, 12, 1, 1), 1, PYTORCH).eval()
    assert wider(x).shape == (2, 12, 6, 6)
    assert not wider.is_residual


def test_random_mobilenets_have_no_channel_that_rounding_could_wake() -> None:
    model = load_model("mobilenet_v1").model
    variances: list[Tensor] = [
        m.running_var for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.running_var is not None
    ]
    assert len(variances) == 27
    # As measured, 142 of 10,944 lie below a hundredth of their layer's mean, some at 0, where 1 / sqrt(epsilon) is 316.
    assert min(float(variance.min() / variance.mean()) for variance in variances) > 0.009


def test_both_belong_to_one_family_and_say_where_their_weights_are() -> None:
    v1, v2 = MODELS["mobilenet_v1"], MODELS["mobilenet_v2"]
    assert v1.family == v2.family == "mobilenet"
    assert (v1.image.mean, v1.image.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert v1.weights[0].url is None
    assert v1.weights[0].source.startswith("https://huggingface.co/timm/")
    assert v2.weights[0].url is not None
