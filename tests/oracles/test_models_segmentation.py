"""FCN and DeepLabv3 against torchvision's, with the same weights; and what is said of the published files against its tables."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from deploykit.bundle import sha256_of
from deploykit.models import registry
from deploykit.models.labels import VOC_CLASSES
from deploykit.models.registry import MODELS, load_model
from tests.oracles.test_models_oracles import assert_same_logits, randomize

NAMES = ["fcn_resnet50", "deeplabv3_resnet50"]


class Out(nn.Module):
    """torchvision's dictionary reduced to its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)["out"]
        return logits


def theirs_with(name: str, source: nn.Module, classes: int) -> nn.Module:
    """torchvision's model, its training head left as it is made, with our model's weights."""
    made: nn.Module = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=classes, aux_loss=True)
    found = made.load_state_dict(source.state_dict(), strict=False)
    assert not found.unexpected_keys
    assert all(key.startswith("aux_classifier.") for key in found.missing_keys)
    return made.eval()


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_torchvisions_with_its_whole_checkpoint(name: str, tmp_path: Path) -> None:
    source = load_model(name, num_classes=5, seed=1).model
    randomize(source, seed=2)
    theirs = theirs_with(name, source, 5)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    loaded = load_model(name, weights_file=tmp_path / "weights.pth")
    assert loaded.num_classes == 5
    assert loaded.labels is None
    assert not [key for key in loaded.model.state_dict() if key.startswith("aux_classifier")]
    # An odd size: the features' size is rounded up, and the logits come back at the picture's own.
    assert_same_logits(loaded.model, Out(theirs), 65)
    assert loaded.model.double()(torch.zeros(1, 3, 65, 65, dtype=torch.float64)).shape == (1, 5, 65, 65)


@pytest.mark.parametrize("name", NAMES)
def test_published_weights_are_torchvisions(name: str) -> None:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    (ours,) = MODELS[name].weights
    transform = weights.transforms()
    assert (ours.name, ours.url, ours.top1) == (weights.name, weights.url, None)
    assert ours.mean_iou == weights.meta["_metrics"]["COCO-val2017-VOC-labels"]["miou"]
    assert (tuple(transform.mean), tuple(transform.std)) == (ours.image.mean, ours.image.std)
    assert transform.interpolation.value == ours.image.interpolation
    # torchvision's own rule keeps the picture's shape, which no fixed graph can; the length is the same.
    assert transform.resize_size == [ours.image.height] == [ours.image.width]
    assert (ours.image.resize_rule, ours.image.resize_size) == ("exact", None)
    auxiliary = torchvision.models.segmentation.fcn.FCNHead(1024, 21)
    assert MODELS[name].parameters == weights.meta["num_params"] - sum(p.numel() for p in auxiliary.parameters())
    assert list(VOC_CLASSES) == ["background", *weights.meta["categories"][1:]]


def test_a_published_file_answers_with_the_names_of_pascal_voc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = MODELS["fcn_resnet50"]
    torch.save(load_model(entry.name).model.state_dict(), tmp_path / "fcn.pth")
    known = replace(entry, weights=(replace(entry.weights[0], sha256=sha256_of(tmp_path / "fcn.pth")),))
    assert load_model(entry.name, weights_file=tmp_path / "fcn.pth").labels is None  # 21 classes may be any
    monkeypatch.setattr(registry, "find_model", lambda _: known)
    loaded = load_model(entry.name, weights_file=tmp_path / "fcn.pth")
    assert loaded.labels == VOC_CLASSES
    assert loaded.labels_source == "Pascal VOC"
    assert loaded.notes == ()
