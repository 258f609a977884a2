"""Dilation8: image [N, 3, H, W] in, logits [N, K, H / 8, W / 8] out, for semantic segmentation.

Sources:
    Yu & Koltun, "Multi-Scale Context Aggregation by Dilated Convolutions", ICLR 2016, https://arxiv.org/abs/1511.07122:
    section 2 (dilated convolution), section 3 and table 1 (the context module, basic and large; equations 4 and 5, its identity
    initialization), section 4 (the front end: VGG-16 without pool4 and pool5, whose convolutions behind them are dilated by 2 and
    4; padding taken out; reflection round the picture).
    The release, https://github.com/fyu/dilation: models/dilation8_pascal_voc_deploy.prototxt has the names of the layers, the 33
    pixels of zeros in front of the context module, and, as does network.py, the margin of 186 pixels.

Alignment. As in the paper no convolution of the front end pads: it takes a picture with a margin of 186 pixels, filled by
reflection, of which the convolutions use up exactly 186 on every side; so logit (i, j) is centred on pixels 8 i to 8 i + 7 and 8 j
to 8 j + 7 of the picture. The release adds the margin while it prepares the picture; here ``forward`` does, with the same result.
H and W are multiples of 8. Maps before fc6 still have a margin and so do not lie on the picture: explain at relu6 or behind it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploykit.errors import UsageError

STRIDE = 8
MARGIN = 186
CONTEXT_MARGIN = 33  # what the context module's convolutions use up on every side: the sum of their dilations

# Section 4: VGG-16's blocks, and the dilation of the convolutions behind the pools that are gone. Pooling ends blocks 1 to 3.
BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
BLOCK_DILATIONS = (1, 1, 1, 1, 2)
POOLED_BLOCKS = 3
HIDDEN = 4096

# Table 1: dilation and width of the context module's layers, the width in multiples of C = K. The eighth is 1x1, without ReLU.
CONTEXT_DILATIONS = (1, 1, 2, 4, 8, 16, 1)
CONTEXT_WIDTHS = {"basic": (1, 1, 1, 1, 1, 1, 1), "large": (2, 2, 4, 8, 16, 32, 32)}
CONTEXT_NAMES = ("conv1_1", "conv1_2", "conv2_1", "conv3_1", "conv4_1", "conv5_1", "fc1")

NOISE = 1e-3
"""Equation 5's sigma, as a part of the weights on the identity's path; the paper says only that it is much smaller than those."""


def reflect(x: Tensor, margin: int) -> Tensor:
    """The picture [N, C, H, W], at least 2 x 2, with ``margin`` pixels on every side, mirrored at the edge pixels.

    A small picture is mirrored several times. Each mirror but the last shows all of it, so its new edge is a place to mirror at.
    """
    rows = columns = margin
    while rows or columns:
        down, across = min(rows, x.shape[2] - 1), min(columns, x.shape[3] - 1)
        x = F.pad(x, (across, across, down, down), mode="reflect")
        rows, columns = rows - down, columns - across
    return x


def rectified(channels_in: int, channels_out: int, kernel: int, dilation: int = 1) -> nn.Conv2d:
    """An unpadded convolution whose random weights keep the signal through a ReLU (He et al. 2015, equation 10), bias 0."""
    convolution = nn.Conv2d(channels_in, channels_out, kernel, dilation=dilation)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    nn.init.zeros_(convolution.bias if convolution.bias is not None else torch.empty(0))
    return convolution


class FrontEnd(nn.Sequential):
    """Section 4: VGG-16 adapted to dense prediction, picture with its margin [N, 3, H + 372, W + 372] to [N, K, H / 8, W / 8]."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        channels = 3
        for block, (widths, dilation) in enumerate(zip(BLOCKS, BLOCK_DILATIONS, strict=True), 1):
            for layer, width in enumerate(widths, 1):
                self.add_module(f"conv{block}_{layer}", rectified(channels, width, 3, dilation))
                self.add_module(f"relu{block}_{layer}", nn.ReLU())
                channels = width
            if block <= POOLED_BLOCKS:
                self.add_module(f"pool{block}", nn.MaxPool2d(2, 2))
        self.fc6 = rectified(channels, HIDDEN, 7, dilation=4)  # two pools are gone before it: 2 * 2
        self.relu6 = nn.ReLU()
        self.drop6 = nn.Dropout()
        self.fc7 = rectified(HIDDEN, HIDDEN, 1)
        self.relu7 = nn.ReLU()
        self.drop7 = nn.Dropout()
        self.final = nn.Conv2d(HIDDEN, num_classes, 1)


class ContextModule(nn.Sequential):
    """Section 3 and table 1: C maps in, C maps of the same size out, each seeing 67 x 67 of the input.

    The zeros round the input stand in front of the first layer, as in the release; none of the others pads.

    Args:
        channels: C, which is K.
        size: ``basic`` or ``large``.
        noise: sigma of equation 5, as a part of the weights on the identity's path.
    """

    def __init__(self, channels: int, size: str, noise: float = NOISE) -> None:
        super().__init__()
        before = channels
        for name, dilation, factor in zip(CONTEXT_NAMES, CONTEXT_DILATIONS, CONTEXT_WIDTHS[size], strict=True):
            margin = CONTEXT_MARGIN if name == "conv1_1" else 0
            convolution = nn.Conv2d(before, factor * channels, 3, padding=margin, dilation=dilation)
            start_as_identity(convolution, channels, noise)
            self.add_module(name, convolution)
            self.add_module(f"{name}_relu", nn.ReLU())
            before = factor * channels
        self.final = nn.Conv2d(before, channels, 1)
        start_as_identity(self.final, channels, noise)


@torch.no_grad()
def start_as_identity(convolution: nn.Conv2d, channels: int, noise: float) -> None:
    """Weights with which the layer passes its input through: equation 5, of which equation 4 is the case of C maps in and out.

    With c_in and c_out maps in and out, both multiples of C, each map belongs to one of C groups. A weight at the kernel's centre
    from a map to a map of the same group is C / c_out; any other is drawn from a normal distribution around 0. So c_out maps carry
    C / c_out of what their group's maps carried together, and behind the last layer every group is one map again.

    Equation 4 (the basic module) has no noise: there is no symmetry between maps to break.

    Args:
        convolution: its weight is set; its bias becomes 0.
        channels: C.
        noise: sigma, as a part of C / c_out.
    """
    c_out, c_in = convolution.weight.shape[:2]
    share = channels / c_out
    if c_in == c_out == channels:
        nn.init.zeros_(convolution.weight)
    else:
        nn.init.normal_(convolution.weight, std=noise * share)
    same_group = torch.eye(channels, dtype=torch.bool, device=convolution.weight.device)
    same_group = same_group.repeat_interleave(c_out // channels, 0).repeat_interleave(c_in // channels, 1)
    centre = tuple(k // 2 for k in convolution.kernel_size)
    at_centre = convolution.weight[:, :, centre[0], centre[1]]
    at_centre.copy_(torch.where(same_group, torch.full_like(at_centre, share), at_centre))
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)


class Dilation8(nn.Module):
    """Front end and, where asked for, context module.

    Args:
        num_classes: K, the number of logits per place.
        context: ``basic``, ``large`` or None for the front end alone.
    """

    def __init__(self, num_classes: int, context: str | None) -> None:
        super().__init__()
        self.frontend = FrontEnd(num_classes)
        self.context = None if context is None else ContextModule(num_classes, context)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] % STRIDE or x.shape[3] % STRIDE:
            raise UsageError(f"picture is {x.shape[2]} x {x.shape[3]}, expected multiples of {STRIDE} for dilation8")
        logits: Tensor = self.frontend(reflect(x, MARGIN))
        return logits if self.context is None else self.context(logits)
