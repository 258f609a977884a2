"""Random weights for a model that has no checkpoint: how to build it in, a model that answers out.

He et al., "Delving Deep into Rectifiers", ICCV 2015, https://arxiv.org/abs/1502.01852, with the fan of a grouped convolution
counted per group. That alone is made for training, where batch normalization measures its own input. In eval mode, with the
statistics of an untrained layer, torchvision's initialization takes EfficientNet-B7's activations to 1e-14 and gives every
picture the same logits, and ResNet-152's to 3e7: no export of such a model proves anything. So the statistics are measured here.
With the two steps below every block's standard deviation stays between 0.5 and 7 on photos, for all models of the registry.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

# The weight of a residual branch's last normalization. At 1, a branch whose input is a little larger than the noise that was
# measured answers with more than that, and 55 blocks of B7 in a row turn a factor of 1.5 into 1e3.
BRANCH_SCALE = 0.25
# The least variance of a channel, as a share of its layer's mean. Of MobileNet v1's 10,944 channels 142 lie below; a ResNet has
# no such channel.
SILENCE = 0.01


COARSEST = 32
"""Pixels on a side of the coarsest structure in the pictures that statistics are measured on."""


def quieten_branch(branch: nn.Module) -> None:
    """Scale a residual branch down, as a definition does with the last part of its branch.

    The idea is that of Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 5.1, which starts at 0; 0 would leave the
    branches of an untrained model without any effect, and so without a test.

    Args:
        branch: the module whose batch normalization ends the branch.
    """
    for module in branch.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, BRANCH_SCALE)


def initialize_model(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A model with random weights and matching statistics, in eval mode. PyTorch's global generator is left as it was.

    Args:
        build: makes the model, which takes images [N, 3, H, W] of 128 x 128 pixels among others.
        seed: the same seed gives the same weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                _initialize_convolution(module)
        measure_statistics(model, smooth_noise(4, 128))
    return model


def initialize_statistics(model: nn.Module, height: int, width: int, seed: int) -> None:
    """Give a model that somebody else initialized the statistics of its own random weights, in place, and put it in eval mode.

    Args:
        height, width: of pictures that it takes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        side = max(height, width, COARSEST)
        measure_statistics(model, smooth_noise(4, side)[:, :, :height, :width])


def _initialize_convolution(conv: nn.Conv2d) -> None:
    if conv.bias is not None:
        return  # squeeze-and-excitation, which He's rule by fan-out would saturate: PyTorch's own initialization stands
    fan_out = conv.out_channels * math.prod(conv.kernel_size) // conv.groups
    nn.init.normal_(conv.weight, std=math.sqrt(2 / fan_out))


def smooth_noise(count: int, size: int) -> Tensor:
    """Pictures [count, 3, size, size] of unit variance whose energy lies in coarse structure, as a photo's does."""
    octaves = [torch.randn(count, 3, size // step, size // step) for step in (COARSEST, 16, 8, 4, 1)]
    picture = sum((nn.functional.interpolate(octave, size=size, mode="bilinear") for octave in octaves), torch.zeros(()))
    return picture / picture.std()


@torch.no_grad()
def measure_statistics(model: nn.Module, images: Tensor) -> None:
    """Put the model in eval mode and set each normalization's variance to the mean square of its input, in the order of running.

    The mean stays 0. Taking it out would leave the small differences between pictures and blow them up, layer after layer.
    A channel that is silent on these pictures gets a share of the layer's mean instead: in a depthwise network it has nothing but
    its own channel before it, and by 1 / sqrt(epsilon) the rounding of the first picture that wakes it would fill the logits.
    """

    def measure(variance: Tensor, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        measured = inputs[0].square().mean((0, 2, 3))
        variance.copy_(measured.clamp(min=SILENCE * float(measured.mean())))

    hooks = [
        module.register_forward_pre_hook(partial(measure, module.running_var))
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None
    ]
    model.eval()
    if not hooks:
        return
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
