"""Published weights on real photos: what the picture shows is what the model says."""

from pathlib import Path

import pytest
import skimage
import sklearn
import torch

from deploykit.image import load_pixels, normalize
from deploykit.models.registry import load_model

SKIMAGE, SKLEARN = Path(skimage.__path__[0]) / "data", Path(sklearn.__path__[0]) / "datasets" / "images"


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
@torch.no_grad()
def test_published_lites_name_what_photos_show(name: str) -> None:
    loaded = load_model(name, pretrained=True)
    assert loaded.labels is not None
    seen = {}
    for file in (SKIMAGE / "coffee.png", SKIMAGE / "chelsea.png", SKIMAGE / "motorcycle_left.png", SKLEARN / "china.jpg"):
        pixels = load_pixels(file, loaded.image)
        logits = loaded.model(torch.from_numpy(normalize(pixels[None], loaded.image)))
        seen[file.stem] = loaded.labels[int(logits.argmax())]
    assert seen["coffee"] == "espresso"
    assert "cat" in seen["chelsea"]
    assert seen["motorcycle_left"] == "moped"
    assert seen["china"] == "palace"


@torch.no_grad()
def test_lite0_takes_a_dahlia_for_the_nearest_flower_among_its_classes() -> None:
    # ImageNet-1k has two flowers, daisy and yellow lady's slipper; Lite1 and Lite2 see a honeycomb in the same photo.
    loaded = load_model("efficientnet_lite0", pretrained=True)
    assert loaded.labels is not None
    pixels = load_pixels(SKLEARN / "flower.jpg", loaded.image)
    assert loaded.labels[int(loaded.model(torch.from_numpy(normalize(pixels[None], loaded.image))).argmax())] == "daisy"
