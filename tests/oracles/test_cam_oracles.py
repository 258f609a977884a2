"""The maps that users get, against pytorch-grad-cam and Captum with the same torch weights, layer, class and pixels."""

import copy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import pytorch_grad_cam
import torch
from captum.attr import Deconvolution, GuidedBackprop, LayerGradCam
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
from torch import Tensor, nn

from deploykit.bundle import Bundle
from deploykit.image import load_pixels, normalize
from deploykit.models.registry import load_model
from deploykit.runtime import Explainer
from deploykit.runtime.cam import grad_cam_plus_plus
from deploykit.runtime.maps import normalize_map
from deploykit.runtime.ort import OrtSession
from deploykit.spec import ImageSpec
from tests.oracles.gradient_oracle import export, randomize
from tests.unit.bright_bundle import make_bundle

Floats = npt.NDArray[np.float32]

PEERS = {
    "grad-cam": pytorch_grad_cam.GradCAM,
    "xgrad-cam": pytorch_grad_cam.XGradCAM,
    "layer-cam": pytorch_grad_cam.LayerCAM,
    "hires-cam": pytorch_grad_cam.HiResCAM,
    "cam": pytorch_grad_cam.GradCAM,  # the same map where CAM exists
}

# Both compute in float32 with their own order of sums: measured 4e-6 at most, at the last layer and one stage earlier.
TOLERANCE = 1e-4

LITE0_CLASSES = [967, 281, 968, 904]  # espresso, tabby, cup, window screen
RESNET_CLASSES = [0, 5, 2, 3]


class Turns(nn.Module):
    """A ReLU of its own for every call: the peers hook modules, and mistake the second call of a shared one for the first."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.each = nn.ModuleList(nn.ReLU() for _ in range(calls))
        self.call = 0

    def forward(self, x: Tensor) -> Tensor:
        self.call += 1
        return torch.as_tensor(self.each[(self.call - 1) % len(self.each)](x))


@pytest.fixture(scope="module")
def lite0_model() -> nn.Module:
    return load_model("efficientnet_lite0", pretrained=True).model.eval()


@pytest.fixture(scope="module")
def lite0_explainer(lite0: Bundle) -> Iterator[Explainer]:
    with Explainer.open(lite0) as opened:
        yield opened


@pytest.fixture(scope="module")
def resnet_model() -> nn.Module:
    """Random weights, and normalization statistics that matter."""
    return randomize(load_model("resnet18", num_classes=6).model)


@pytest.fixture(scope="module")
def resnet_explainer(resnet_model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explainer]:
    bundle = make_bundle(
        tmp_path_factory.mktemp("resnet") / "resnet18",
        export(resnet_model, 224, "pixels"),
        spec=ImageSpec(224, 224, 224),
        labels=None,
        layers=("layer4", "layer3"),
        input_gradients=True,
        classes=6,
    )
    with Explainer.open(bundle) as opened:
        yield opened


def feed(explainer: Explainer, photos: list[Path]) -> Tensor:
    pixels = np.stack([load_pixels(photo, explainer.manifest.image) for photo in photos])
    return torch.from_numpy(normalize(pixels, explainer.manifest.image))


class Peer:
    """pytorch-grad-cam at one layer: one backward pass, from which its methods make their maps with their own code."""

    def __init__(self, model: nn.Module, layer: str, images: Tensor, classes: list[int]) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.images = images
        self.layer = self.model.get_submodule(layer).requires_grad_(True)  # nothing in front of it is differentiated
        self.targets = [ClassifierOutputTarget(c) for c in classes]
        run = pytorch_grad_cam.GradCAM(model=self.model, target_layers=[self.layer])
        self.whole = np.asarray(run(images, self.targets))
        kept = run.activations_and_grads
        self.kept = SimpleNamespace(activations=list(kept.activations), gradients=list(kept.gradients), release=lambda: None)

    def maps(self, method: Any) -> Floats:
        cam = method(model=self.model, target_layers=[self.layer])
        cam.activations_and_grads.release()
        cam.activations_and_grads = self.kept
        return np.asarray(cam.aggregate_multi_layers(cam.compute_cam_per_layer(self.images, self.targets, False)))


def shown(explainer: Explainer, photos: list[Path], classes: list[int], layer: str | None = None) -> tuple[Floats, Floats]:
    """Activations and gradients as the explain graph gives them."""
    pixels = np.stack([load_pixels(photo, explainer.manifest.image) for photo in photos])
    with OrtSession(explainer.graphs.bundle.file("fp32/explain.onnx")) as session:
        found = session.run({"image": pixels, "class_index": np.array(classes)})
    suffix = "" if layer is None else "_2"
    return found[f"activations{suffix}"], found[f"gradients{suffix}"]


@pytest.fixture(scope="module")
def lite0_peer(lite0_model: nn.Module, lite0_explainer: Explainer, coffee: Path, chelsea: Path) -> Peer:
    images = feed(lite0_explainer, [coffee, chelsea, coffee, chelsea])
    return Peer(lite0_model, lite0_explainer.manifest.layers[0].name, images, LITE0_CLASSES)


@pytest.fixture(scope="module", params=["layer4", "layer3"])
def resnet_peer(
    request: pytest.FixtureRequest, resnet_model: nn.Module, resnet_explainer: Explainer, coffee: Path, chelsea: Path
) -> tuple[str, Peer]:
    images = feed(resnet_explainer, [coffee, chelsea, coffee, chelsea])
    return request.param, Peer(resnet_model, request.param, images, RESNET_CLASSES)


@pytest.mark.parametrize("method", PEERS)
def test_maps_of_published_weights_equal_pytorch_grad_cam(
    lite0_peer: Peer, lite0_explainer: Explainer, coffee: Path, chelsea: Path, method: str
) -> None:
    expected = lite0_peer.maps(PEERS[method])
    found = lite0_explainer.explain([coffee, chelsea, coffee, chelsea], LITE0_CLASSES, method)
    for f, row in zip(found, expected, strict=True):
        assert np.abs(f.map - row).max() < TOLERANCE
    (alone,) = lite0_explainer.explain([chelsea], LITE0_CLASSES[1], method)
    assert np.abs(alone.map - expected[1]).max() < TOLERANCE


def test_one_call_of_pytorch_grad_cam_gives_what_its_methods_are_compared_by(lite0_peer: Peer) -> None:
    np.testing.assert_array_equal(lite0_peer.whole, lite0_peer.maps(pytorch_grad_cam.GradCAM))


@pytest.mark.parametrize("method", ["grad-cam", "xgrad-cam", "layer-cam", "hires-cam"])
def test_maps_of_a_relu_network_equal_pytorch_grad_cam(
    resnet_peer: tuple[str, Peer], resnet_explainer: Explainer, coffee: Path, chelsea: Path, method: str
) -> None:
    layer, peer = resnet_peer
    found = resnet_explainer.explain([coffee, chelsea, coffee, chelsea], RESNET_CLASSES, method, layer)
    assert np.abs(np.stack([f.map for f in found]) - peer.maps(PEERS[method])).max() < TOLERANCE


def test_eigen_cam_equals_pytorch_grad_cam_up_to_the_rule_for_its_sign(
    lite0_peer: Peer, lite0_explainer: Explainer, coffee: Path, chelsea: Path
) -> None:
    found = lite0_explainer.explain([coffee, chelsea], method="eigen-cam")
    projections = get_2d_projection(shown(lite0_explainer, [coffee, chelsea], [0, 0])[0])
    by_peer = lite0_peer.maps(pytorch_grad_cam.EigenCAM)
    for f, projection, whole in zip(found, projections, by_peer[:2], strict=True):
        is_turned = -projection.min() > projection.max()
        expected = normalize_map(np.maximum(-projection if is_turned else projection, 0)[None], *f.map.shape)[0]
        assert np.abs(f.map - expected).max() < TOLERANCE
        # Where the SVD's own sign is the one that the rule takes, the peer's whole map is ours, and nowhere else.
        assert (np.abs(f.map - whole).max() < TOLERANCE) == (not is_turned)


def test_grad_cam_plus_plus_differs_from_pytorch_grad_cam_by_the_peer_s_epsilon_alone(
    lite0_peer: Peer, lite0_explainer: Explainer, coffee: Path, chelsea: Path
) -> None:
    photos = [coffee, chelsea, coffee, chelsea]
    activations, gradients = shown(lite0_explainer, photos, LITE0_CLASSES)
    a, g = activations.astype(np.float64), gradients.astype(np.float64)
    total = a.sum((2, 3), keepdims=True)

    def by_formula(epsilon: float) -> Floats:
        alpha = np.divide(g**2, 2 * g**2 + total * g**3 + epsilon, out=np.zeros_like(g), where=g != 0)
        weights = (alpha * np.maximum(g, 0)).sum((2, 3))[:, :, None, None]
        return normalize_map(np.maximum((weights * a).sum(1), 0).astype(np.float32), 224, 224)

    by_peer = lite0_peer.maps(pytorch_grad_cam.GradCAMPlusPlus)
    found = np.stack([f.map for f in lite0_explainer.explain(photos, LITE0_CLASSES, "grad-cam++")])
    assert np.abs(by_formula(1e-6) - by_peer).max() < TOLERANCE
    assert np.abs(found - by_formula(0)).max() < TOLERANCE
    # The epsilon is no trifle: gradients behind 7 x 7 pooling are about 1e-3, and their squares as small as it is.
    assert np.abs(gradients).max() < 2e-2
    assert np.abs(found - by_peer).max() > TOLERANCE


def test_grad_cam_plus_plus_equals_pytorch_grad_cam_where_its_epsilon_is_nothing_beside_the_gradients() -> None:
    random = np.random.default_rng(0)
    activations = random.random((3, 8, 5, 5)).astype(np.float32) * np.float32(0.01)
    gradients = 100 * random.standard_normal((3, 8, 5, 5)).astype(np.float32)
    # S g^3 may cancel 2 g^2 where g is below 0, which counts for nothing but may divide by almost 0; keep to what counts.
    gradients = np.maximum(gradients, 0)
    weights = pytorch_grad_cam.GradCAMPlusPlus.get_cam_weights(None, None, None, None, activations, gradients)
    expected = np.maximum((weights[:, :, None, None] * activations).sum(1), 0)
    np.testing.assert_allclose(grad_cam_plus_plus(activations, gradients), expected, rtol=1e-5)  # float32 powers


def test_raw_maps_equal_captum(resnet_model: nn.Module, resnet_explainer: Explainer, coffee: Path, chelsea: Path) -> None:
    photos, classes = [coffee, chelsea], [3, 1]
    model = copy.deepcopy(resnet_model).requires_grad_(False)
    peer = LayerGradCam(model, model.layer4.requires_grad_(True))
    expected = peer.attribute(feed(resnet_explainer, photos), torch.tensor(classes), relu_attributions=True)
    found = np.stack([f.cam for f in resnet_explainer.explain(photos, classes)])
    assert np.abs(found - expected.detach().numpy()[:, 0]).max() < 1e-5 * found.max()


@pytest.mark.filterwarnings("ignore:Setting backward hooks:UserWarning")  # Captum announces its work
@pytest.mark.parametrize(("method", "peer"), [("guided-backprop", GuidedBackprop), ("deconvnet", Deconvolution)])
def test_gradients_at_the_input_equal_captum(
    resnet_model: nn.Module, resnet_explainer: Explainer, coffee: Path, chelsea: Path, method: str, peer: Any
) -> None:
    photos, classes = [coffee, chelsea], [2, 5]
    unshared = copy.deepcopy(resnet_model).requires_grad_(False)
    for module in list(unshared.modules()):
        if isinstance(getattr(module, "relu", None), nn.ReLU):
            module.relu = Turns(1 if module is unshared else 2)
    images = feed(resnet_explainer, photos).requires_grad_()
    expected = peer(unshared).attribute(images, target=torch.tensor(classes)).detach().numpy()
    found = np.stack(
        [f.input_gradients for f in resnet_explainer.explain(photos, classes, method) if f.input_gradients is not None]
    )
    difference = np.abs(found - expected) / np.abs(expected).max()
    # In float32 a few gates near 0 and near-ties of max-pooling fall to opposite sides, and each moves the pixels behind it.
    assert np.quantile(difference, 0.99) < 1e-5
    assert difference.max() < 0.1


def test_maps_of_many_classes_through_the_tail_equal_pytorch_grad_cam(
    lite0_model: nn.Module, lite0_explainer: Explainer, chelsea: Path
) -> None:
    found = lite0_explainer.explain_classes(chelsea, top=3)
    images = feed(lite0_explainer, [chelsea] * 3)
    peer = Peer(lite0_model, lite0_explainer.manifest.layers[0].name, images, [f.explained.class_index for f in found])
    assert np.abs(np.stack([f.map for f in found]) - peer.whole).max() < TOLERANCE
