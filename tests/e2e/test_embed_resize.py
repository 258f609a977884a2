"""``deploykit export --embed-resize``: bundles whose graphs take a photo at its own size."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from deploykit.bundle import Bundle
from deploykit.cli.main import run
from deploykit.image import decode
from deploykit.runtime import Classifier, Explainer
from deploykit.runtime.ort import OrtSession
from tests.conftest import Deploykit

PHOTOS = ("coffee", "chelsea", "rocket")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("photos")
    paths = {name: folder / f"{name}.png" for name in PHOTOS}
    for name, path in paths.items():
        Image.fromarray(getattr(skimage.data, name)()).save(path)
    return paths


@pytest.fixture(scope="module")
def resizing(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("resizing") / "efficientnet_lite0"
    assert run(["export", "efficientnet_lite0", "--pretrained", "--embed-resize", "-o", str(path)]) == 0
    return Bundle.open(path)


def test_the_graphs_take_one_photo_of_any_size_and_the_bundle_proves_itself(resizing: Bundle, deploykit_here: Deploykit) -> None:
    with OrtSession(resizing.file("fp32/predict.onnx")) as session:
        assert str(session.inputs[0]) == "image uint8 [1, H, W, 3]"
    assert deploykit_here("verify", resizing.path).returncode == 0
    assert "photo" in deploykit_here("inspect", resizing.path).stdout


def test_the_top_five_are_those_of_the_hosts_resize(resizing: Bundle, lite0: Bundle, photos: dict[str, Path]) -> None:
    with Classifier.open(resizing) as ours, Classifier.open(lite0) as host:
        for path in photos.values():
            seen, expected = ours.classify(path), host.classify(path)
            assert [p.class_index for p in seen] == [p.class_index for p in expected]
            # What steps of one grey level at some values may do to a probability.
            assert max(abs(a.probability - b.probability) for a, b in zip(seen, expected, strict=True)) < 0.01


def test_the_logits_stay_within_what_one_grey_level_moves(resizing: Bundle, lite0: Bundle, photos: dict[str, Path]) -> None:
    proved = (resizing.manifest.files["fp32/predict.onnx"].parity or {})["resize"]
    assert 0 <= proved["max_level_difference"] <= 1
    assert proved["max_difference"] <= proved["one_level_moves"]
    with OrtSession(resizing.file("fp32/predict.onnx")) as session, Classifier.open(lite0) as host:
        for path in photos.values():
            pixels = np.asarray(decode(path, host.limits, host.manifest.image))
            logits = session.run({"image": pixels[None]})["logits"][0]
            expected = {p.class_index: p.logit for p in host.classify(path, top=1000)}
            assert max(abs(float(logits[i]) - logit) for i, logit in expected.items()) <= proved["one_level_moves"]


def test_the_map_is_laid_on_the_photo_as_with_the_hosts_resize(resizing: Bundle, lite0: Bundle, photos: dict[str, Path]) -> None:
    with Explainer.open(resizing) as ours, Explainer.open(lite0) as host:
        seen, expected = (explainer.explain([photos["coffee"]])[0] for explainer in (ours, host))
    assert (seen.box, seen.photo_size) == (expected.box, expected.photo_size)
    assert float(np.abs(seen.map - expected.map).max()) < 0.02  # of a map scaled to 1, through a few grey levels


def test_normalized_input_cannot_be_resized_and_nothing_is_written(deploykit_here: Deploykit, tmp_path: Path) -> None:
    done = deploykit_here("export", "resnet18", "--embed-resize", "--input", "float", cwd=tmp_path)
    assert done.returncode == 2
    assert "--embed-resize takes a photo's pixels, and --input float takes normalized numbers" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_photos_beyond_the_sides_of_the_graph_are_refused_by_name(
    resizing: Bundle, deploykit_here: Deploykit, tmp_path: Path
) -> None:
    Image.new("RGB", (7, 300)).save(tmp_path / "thin.png")
    done = deploykit_here("predict", resizing.path, tmp_path / "thin.png")
    assert done.returncode == 1
    assert "thin.png" in done.stderr
    assert "8 to 4096" in done.stderr.replace(",", "")


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle whose graphs resize. Tests that change it work on a copy."""
    path = tmp_path_factory.mktemp("untrained") / "resnet18"
    assert run(["export", "resnet18", "--num-classes", "3", "--embed-resize", "--image-size", "64", "-o", str(path)]) == 0
    return path


def test_tensorrt_rtx_builds_it_with_a_profile_of_heights_and_widths(
    untrained: Path, deploykit_here: Deploykit, tmp_path: Path
) -> None:
    shutil.copytree(untrained, tmp_path / "b")
    command = ("build", "b", "--backend", "tensorrt-rtx", "--target", "sm86", "--photo-size", "8:512:4096", "--json")
    built = deploykit_here(*command, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    record = json.loads(built.stdout)
    assert set(record["files"]) == {"predict.plan", "explain.plan"}
    assert record["sides"] == {"min": 8, "opt": 512, "max": 4096}
    assert record["batch"] == {"min": 1, "opt": 1, "max": 1}


def test_fp16_and_int8_graphs_of_it_resize_too_and_verify(
    untrained: Path, photos: dict[str, Path], deploykit_here: Deploykit, tmp_path: Path
) -> None:
    bundle = tmp_path / "b"
    shutil.copytree(untrained, bundle)
    assert deploykit_here("convert", bundle, "--precision", "fp16").returncode == 0
    calibrate = ("--method", "minmax", "--repair", "none", "--min-agreement", "0")
    done = deploykit_here("quantize", bundle, "--images", next(iter(photos.values())).parent, *calibrate)
    assert done.returncode == 0, done.stderr
    for graph in ("fp16/predict", "fp16/explain", "int8/predict", "int8/predict_cpu", "int8/explain_cpu"):
        with OrtSession(Bundle.open(bundle).file(f"{graph}.onnx")) as session:
            assert str(session.inputs[0]) == "image uint8 [1, H, W, 3]"
    assert deploykit_here("verify", bundle).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("bench", "{}", "--batch", "4"), "take one photo at a time"),
        (("evaluate-cam", "{}", "coffee.png"), "resize photos themselves"),
        (("build", "{}", "--backend", "tensorrt-rtx", "--target", "sm86", "--photo-size", "4:8:16"), "photo size is 4:8:16"),
        (("import", "{}/fp32/predict.onnx"), "resizes photos itself"),
    ],
)
def test_what_such_graphs_cannot_do_is_refused_with_the_reason(
    arguments: tuple[str, ...], reason: str, untrained: Path, photos: dict[str, Path], deploykit_here: Deploykit
) -> None:
    done = deploykit_here(*(text.format(untrained) for text in arguments), cwd=photos["coffee"].parent)
    assert done.returncode == 2
    assert reason in done.stderr


def test_a_photo_size_is_refused_where_graphs_take_the_networks_size(lite0: Bundle, deploykit_here: Deploykit) -> None:
    done = deploykit_here("build", lite0.path, "--backend", "tensorrt-rtx", "--target", "sm86", "--photo-size", "512")
    assert done.returncode == 2
    assert "--photo-size goes with graphs that resize photos" in done.stderr
