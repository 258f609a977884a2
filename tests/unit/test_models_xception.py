"""Xception as its paper describes it."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from deploykit.errors import WeightsError
from deploykit.models.families.xception import Block, SeparableConv2d, Xception
from deploykit.models.registry import MODELS, load_model
from tests.unit.test_models_definitions import photos


def built() -> Xception:
    with torch.device("meta"):
        return Xception(1000).eval()


def test_xception_has_36_convolution_layers_in_14_modules() -> None:
    model = built()
    # Section 3. A separable convolution counts as one layer; the shortcuts' 1x1 convolutions do not count.
    layers = [path for path, module in model.named_modules() if isinstance(module, SeparableConv2d)] + ["conv1", "conv2"]
    assert len(layers) == 36
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    assert len(blocks) + 2 == 14  # the first module is the two plain convolutions, the last the two separable ones behind
    # Figure 5: residuals round all but the first and the last module; four of them are projected, and stride 2.
    assert [block.has_projection for block in blocks] == [True] * 3 + [False] * 8 + [True]


def test_a_separable_convolution_filters_channels_first_with_nothing_between() -> None:
    for module in built().modules():
        if isinstance(module, SeparableConv2d):
            depthwise, pointwise = module.children()
            assert isinstance(depthwise, nn.Conv2d)
            assert isinstance(pointwise, nn.Conv2d)
            assert (depthwise.kernel_size, depthwise.groups) == ((3, 3), depthwise.in_channels)
            assert depthwise.out_channels == depthwise.in_channels == pointwise.in_channels
            assert (pointwise.kernel_size, pointwise.groups) == ((1, 1), 1)


@torch.no_grad()
def test_a_separable_convolution_is_linear() -> None:
    # Section 4.7 and figure 10: no activation between the two, so the sum of two pictures gives the sum of two answers.
    module = SeparableConv2d(4, 6).double()
    a, b = torch.randn(2, 1, 4, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(module(a + b), module(a) + module(b), rtol=0, atol=1e-12)


def test_maps_are_those_of_figure_5() -> None:
    model = built()
    seen: dict[str, tuple[int, ...]] = {}

    def note(path: str, output: Tensor) -> None:
        seen[path] = tuple(output.shape[1:])

    for path in ("act2", *(f"block{i}" for i in range(1, 13)), "act4", "avgpool"):
        model.get_submodule(path).register_forward_hook(lambda _m, _i, output, path=path: note(path, output))
    model(torch.zeros(1, 3, 299, 299, device="meta"))
    assert list(seen.values()) == [
        (64, 147, 147),
        (128, 74, 74),
        (256, 37, 37),
        *[(728, 19, 19)] * 9,
        (1024, 10, 10),
        (2048, 10, 10),
        (2048, 1, 1),
    ]


@torch.no_grad()
def test_a_middle_module_rectifies_before_each_convolution_and_adds_what_it_was_given() -> None:
    block = Block((6,) * 4, 1).eval()
    kinds = [type(module) for module in block.rep]
    assert kinds == [nn.ReLU, SeparableConv2d, nn.BatchNorm2d] * 3
    x = torch.randn(1, 6, 5, 5, generator=torch.Generator().manual_seed(0))
    kept = x.clone()
    assert torch.equal(block(x), block.rep(x) + kept)
    assert torch.equal(x, kept)  # the first ReLU must not write into what the shortcut reads


def test_the_first_module_with_a_shortcut_starts_without_a_relu_and_strided_ones_end_in_pooling() -> None:
    blocks = [module for module in built().modules() if isinstance(module, Block)]
    starts = [type(block.rep[0]) for block in blocks]
    assert starts == [SeparableConv2d] + [nn.ReLU] * 11
    ends = [type(block.rep[-1]) for block in blocks]
    assert ends == [nn.MaxPool2d] * 3 + [nn.BatchNorm2d] * 8 + [nn.MaxPool2d]
    for block in blocks:
        assert all(a is not nn.ReLU or b is SeparableConv2d for a, b in pairwise(type(module) for module in block.rep))


def test_parameters_are_as_many_as_in_the_paper() -> None:
    # Table 3: 22,855,952.
    assert sum(p.numel() for p in built().parameters()) == MODELS["xception"].parameters == 22_855_952


@torch.no_grad()
def test_random_weights_neither_vanish_nor_explode_and_tell_photos_apart() -> None:
    model = load_model("xception", seed=5).model
    spreads: list[float] = []
    for module in model.modules():
        if isinstance(module, Block):
            module.register_forward_hook(lambda _m, _i, output: spreads.append(float(output.std())))
    logits = model(photos(96))
    assert len(spreads) == 12
    assert min(spreads) > 0.3
    assert max(spreads) < 10
    assert 0.2 < float(logits.std()) < 5
    assert float(logits.std(0).mean()) > 0.05


def test_missing_and_unexpected_tensors_are_errors(tmp_path: Path) -> None:
    state = {key: torch.zeros(()).expand(tensor.shape) for key, tensor in built().state_dict().items()}
    del state["block4.rep.1.pointwise.weight"]
    torch.save(state | {"aux.fc.weight": torch.zeros(8)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"1 missing \(block4.rep.1.pointwise.weight\).*1 unexpected \(aux.fc.weight\)"):
        load_model("xception", weights_file=tmp_path / "w.pth")
