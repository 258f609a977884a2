"""timm's and torchvision's models behind deploykit: a photo gives the library's own logits, by its own transform, and its map."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from skimage import data as photos
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn

from deploykit.models.initialize import measure_statistics
from deploykit.runtime import Classifier, Explainer
from deploykit.runtime.maps import normalize_map
from tests.conftest import Deploykit

Transform = Callable[[Image.Image], Tensor]


def from_timm(name: str) -> tuple[nn.Module, Transform]:
    model = timm.create_model(name).eval()
    transform = create_transform(**resolve_data_config(model.pretrained_cfg), is_training=False)
    return model, transform


def from_torchvision(name: str) -> tuple[nn.Module, Transform]:
    return torchvision.models.get_model(name).eval(), torchvision.models.get_model_weights(name).DEFAULT.transforms()


MAKERS = {"timm": from_timm, "torchvision": from_torchvision}


@pytest.mark.parametrize("name", ["timm:mobilenetv3_small_050", "torchvision:mnasnet0_5", "torchvision:shufflenet_v2_x0_5"])
def test_a_photo_gives_the_librarys_own_logits_and_grad_cam(name: str, deploykit_here: Deploykit, tmp_path: Path) -> None:
    library, _, model_name = name.partition(":")
    torch.manual_seed(1)
    model, transform = MAKERS[library](model_name)
    measure_statistics(model, torch.randn(4, 3, 128, 128))
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    done = deploykit_here("export", name, "--weights", "weights.pth", "-o", "bundle", cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    photo = Image.fromarray(photos.coffee())
    picture = transform(photo)[None]
    with torch.no_grad():
        expected = model(picture)[0].numpy()
    with Classifier.open(tmp_path / "bundle") as classifier:
        seen = np.array([p.logit for p in sorted(classifier.classify(photo, top=1000), key=lambda p: p.class_index)])
    # One grey level of a few pixels is what the two ways of resizing are apart; in the logits that is below a thousandth.
    spread = float(expected.max() - expected.min())
    assert np.abs(seen - expected).max() < 1e-3 * spread
    assert seen.argmax() == expected.argmax()

    with Explainer.open(tmp_path / "bundle") as explainer:
        explanation = explainer.explain([photo], class_index=7)[0]
        layer = explainer.manifest.layers[0].name
    with GradCAM(model, [model.get_submodule(layer)]) as peer:
        raw = peer(picture, [ClassifierOutputTarget(7)])
    ours = normalize_map(explanation.cam[None], *raw.shape[1:])
    # Through the grey level of the picture, and kinks of the rectifiers behind the layer.
    assert np.abs(ours - raw).max() < 0.01
