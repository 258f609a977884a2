"""FCN and DeepLabv3 against torchvision's, with the same weights; and what is said of the published files against its tables."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torchvision
from torch import Tensor, nn

from deploykit.bundle import Bundle, sha256_of
from deploykit.cli.main import run
from deploykit.graph.explain import make_explain_graph
from deploykit.models import registry
from deploykit.models.families import dilation
from deploykit.models.labels import VOC_CLASSES
from deploykit.models.registry import MODELS, load_model
from tests.engines import engine_bytes
from tests.oracles.gradient_oracle import as_double, export, pictures, relative, run_double
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


@pytest.mark.parametrize("name", ["dilation8_frontend", "dilation8", "dilation8_large"])
def test_dilation8_of_two_channels_exports_explains_as_autograd_and_builds(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All of its layers, and a 32nd of its width or less: the reflected margin is what no other family has.
    monkeypatch.setattr(dilation, "BLOCKS", tuple((2,) * len(block) for block in dilation.BLOCKS))
    monkeypatch.setattr(dilation, "HIDDEN", 16)
    entry = MODELS[name]
    small = replace(entry, image=replace(entry.image, height=64, width=48))
    monkeypatch.setattr(registry, "find_model", lambda _: small)
    # The export fails where the graph's logits are not torch's or its gradients not autograd's.
    assert run(["export", name, "--num-classes", "3", "--seed", "1", "-o", str(tmp_path / name)]) == 0
    bundle = Bundle.open(tmp_path / name)
    assert bundle.golden().logits.shape == (5, 3, 8, 6)
    assert [(layer.name, layer.height, layer.width) for layer in bundle.manifest.layers] == [("frontend.relu7", 8, 6)]
    for graph in ("predict", "explain", "explain_tail"):
        assert engine_bytes(onnx.load(bundle.file(f"fp32/{graph}.onnx"))) > 0


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_a_classs_pixels_are_autograds_in_float64(name: str) -> None:
    model = load_model(name, num_classes=4, seed=1).model
    graph, images = export(model, 33), pictures(2, 33)
    wide = model.double()
    features = wide.get_submodule("backbone")(torch.from_numpy(images).double()).detach().requires_grad_()
    scores = wide.get_submodule("classifier")(features)
    logits = torch.nn.functional.interpolate(scores, (33, 33), mode="bilinear", align_corners=False)
    classes = torch.tensor([int(row.argmax(0).flatten().mode().values) for row in logits])
    chosen = logits.argmax(1) == classes[:, None, None]
    score = (logits[torch.arange(2), classes] * chosen).sum()
    (gradients,) = torch.autograd.grad(score, features)
    found = run_double(make_explain_graph(as_double(graph), "backbone.layer4"), image=images, class_index=np.array([-1, -1]))
    assert found["explained_class"].tolist() == classes.tolist()
    # As in test_gradient_registry.py: outputs and folded weights are float32.
    assert relative(found["logits"], logits.detach().numpy()) < 1e-5
    assert relative(found["gradients"], gradients.numpy()) < 1e-5
