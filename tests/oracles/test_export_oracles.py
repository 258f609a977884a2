"""An exported bundle against torchvision's own model and preprocessing, with the same weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from deploykit.image import decode, normalize
from deploykit.parity import sample_pictures
from deploykit.runtime import Classifier
from deploykit.spec import ImageSpec
from tests.conftest import Deploykit


def with_statistics(model: torch.nn.Module, seen: torch.Tensor) -> torch.nn.Module:
    """Give every BatchNorm the statistics of what it sees, as training would, and scales that differ from channel to channel.

    The photos that are asked about later belong into ``seen``: far from its statistics a random network explodes, and float32
    itself is off by a percent.
    """
    generator = torch.Generator().manual_seed(0)
    for module in model.eval().modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data = torch.rand(module.weight.shape, generator=generator) * 0.4 + 0.8
            module.momentum = 1.0
            module.train()
    with torch.no_grad():
        model(seen)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("efficientnet_b3", torchvision.models.EfficientNet_B3_Weights.IMAGENET1K_V1),
        ("resnet50", torchvision.models.ResNet50_Weights.IMAGENET1K_V2),
    ],
)
def test_a_bundle_of_torchvisions_weights_gives_torchvisions_logits(
    deploykit_here: Deploykit, name: str, published: torchvision.models.WeightsEnum, tmp_path: Path, coffee: Path, chelsea: Path
) -> None:
    photos = [decode(coffee), decode(chelsea)]
    # torchvision's own transform keeps its resized picture in Pillow, as deploykit does.
    transform = published.transforms()
    asked = torch.stack([transform(photo) for photo in photos])
    size = asked.shape[-1]
    pictures = torch.from_numpy(normalize(sample_pictures(4, size, size), ImageSpec(size, size, size)))
    torch.manual_seed(0)
    model = with_statistics(getattr(torchvision.models, name)(weights=None), torch.cat([asked, pictures]))
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    done = deploykit_here("export", name, "--weights", "weights.pth", "-o", "bundle", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = model(asked).numpy()
    with Classifier.open(tmp_path / "bundle") as classifier:
        ranked = classifier.classify_batch([coffee, chelsea], top=1000)
    logits = np.zeros_like(expected)
    for row, predictions in zip(logits, ranked, strict=True):
        row[[p.class_index for p in predictions]] = [p.logit for p in predictions]
    assert logits == pytest.approx(expected, abs=1e-4 * float(np.abs(expected).max()))


def test_the_photos_are_what_the_oracle_sees(coffee: Path) -> None:
    with Image.open(coffee) as photo:
        assert np.array_equal(np.asarray(photo.convert("RGB")), np.asarray(decode(coffee)))
