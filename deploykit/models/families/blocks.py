"""Blocks that several families share: a convolution with its normalization and activation, padded in either of two ways, and what
the Inceptions are made of."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deploykit.models.initialize import quieten_branch
from deploykit.models.layouts import Conventions

Size = int | tuple[int, int]
INCEPTION_BN_EPS = 1e-3  # of the Inceptions' published weights, which were TensorFlow's
# Convolutions from which on a branch is quietened where weights are random. Each convolution makes the relative difference of two
# pictures that are nearly the same a little larger: in Inception v4 from 3e-4 behind the first to 7e-2 behind the last module, so
# that FP16's rounding was 3 % of the logits. Quietened it is 3e-3; the short branches beside them tell pictures apart.
LONG_BRANCH = 3


class SamePadConv2d(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: an odd pixel of padding goes to the bottom and the right.

    The amount follows from the input's height and width, which are Python integers, so an export at a fixed size holds
    constants and keeps the batch dynamic.
    """

    def forward(self, x: Tensor) -> Tensor:
        (top, bottom), (left, right) = (
            same_padding(x.shape[axis + 2], self.kernel_size[axis], self.stride[axis]) for axis in (0, 1)
        )
        if (top, left) == (bottom, right):  # no separate Pad node where the convolution can pad by itself
            return F.conv2d(x, self.weight, self.bias, self.stride, (top, left), self.dilation, self.groups)
        x = F.pad(x, (left, right, top, bottom))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Pixels of padding (before, after) that make the output ``ceil(size / stride)`` long."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def conv_bn(
    channels_in: int,
    channels_out: int,
    kernel: int,
    conventions: Conventions,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: nn.Module | None = None,
) -> nn.Sequential:
    """Convolution, batch normalization and, where one is given, an activation: modules 0, 1 and 2."""
    # With stride 1 and an odd kernel both conventions pad alike; only strided convolutions need the other class.
    conv = SamePadConv2d if conventions.padding == "same" and stride > 1 else nn.Conv2d
    padding = 0 if conv is SamePadConv2d else kernel // 2
    layers: list[nn.Module] = [
        conv(channels_in, channels_out, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(channels_out, eps=conventions.bn_eps),
    ]
    return nn.Sequential(*layers, *([] if activation is None else [activation]))


class ConvBn(nn.Module):
    """Convolution, batch normalization and ReLU, under the names that torchvision's and timm's Inceptions share."""

    def __init__(self, channels_in: int, channels_out: int, kernel: Size, stride: int = 1, padding: Size = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels_out, eps=INCEPTION_BN_EPS)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.relu(self.bn(self.conv(x)))
        return result


def wide(channels_in: int, channels_out: int, length: int) -> ConvBn:
    """A convolution of 1 x length that keeps the size (https://arxiv.org/abs/1512.00567, section 3.2)."""
    return ConvBn(channels_in, channels_out, (1, length), 1, (0, length // 2))


def tall(channels_in: int, channels_out: int, length: int) -> ConvBn:
    """A convolution of length x 1 that keeps the size (section 3.2 again)."""
    return ConvBn(channels_in, channels_out, (length, 1), 1, (length // 2, 0))


class Branches(nn.Module):
    """Modules that read the same maps, their answers put side by side: [N, C, H, W] to [N, the sum of their channels, h, w].

    Args:
        branches: named branch0, branch1 and so on, in the order of their channels.
    """

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        for i, branch in enumerate(branches):
            self.add_module(f"branch{i}", branch)
            if isinstance(branch, nn.Sequential) and len(branch) >= LONG_BRANCH:
                quieten_branch(branch[-1])

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.children()], 1)
