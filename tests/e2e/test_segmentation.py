"""A segmentation model from export to answer, as a user goes: export, verify, predict, explain, inspect; and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from deploykit.bundle import Bundle
from deploykit.cli.main import run
from deploykit.models import registry
from deploykit.models.registry import MODELS
from tests.conftest import Deploykit
from tests.unit.bright_bundle import make_bundle
from tests.unit.bright_segments import CROPPED, make_segments_bundle, spotted

SIZE = 65


@pytest.fixture(scope="module")
def fcn(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of an untrained FCN-ResNet50 of 4 classes at 65 x 65 pixels: at 520 an export takes minutes."""
    path = tmp_path_factory.mktemp("fcn") / "fcn_resnet50"
    entry = MODELS["fcn_resnet50"]
    small = replace(entry, image=replace(entry.image, height=SIZE, width=SIZE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "find_model", lambda _: small)
        assert run(["export", "fcn_resnet50", "--num-classes", "4", "-o", str(path)]) == 0
    return Bundle.open(path)


@pytest.fixture(scope="module")
def bright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmentation net of three classes that sees where a picture is bright and where dark."""
    return make_segments_bundle(tmp_path_factory.mktemp("bright") / "bright", CROPPED).path


@pytest.fixture
def spot(tmp_path: Path) -> Path:
    """A photo of 120 x 80 pixels, grey, with a white spot at (40, 20) to (80, 60)."""
    path = tmp_path / "spot.png"
    Image.fromarray(spotted((120, 80), (40, 20, 80, 60))).save(path)
    return path


def test_an_exported_fcn_has_logits_per_pixel_and_is_proved_against_torch(fcn: Bundle) -> None:
    model = fcn.manifest.model
    assert (model.task, model.num_classes, model.parameters) == ("segmentation", 4, 32_948_292)
    assert {"fp32/predict.onnx", "fp32/explain.onnx", "fp32/explain_tail.onnx"} <= set(fcn.manifest.files)
    logits = next(o for o in onnx.load(fcn.file("fp32/predict.onnx"), load_external_data=False).graph.output)
    assert [d.dim_param or d.dim_value for d in logits.type.tensor_type.shape.dim] == ["N", 4, SIZE, SIZE]
    (layer,) = fcn.manifest.layers
    assert (layer.name, layer.channels, layer.height, layer.width) == ("backbone.layer4", 2048, 9, 9)
    parity = fcn.manifest.files["fp32/explain.onnx"].parity
    assert parity is not None
    assert parity["reference"] == "torch autograd"
    assert parity["relative_difference"] < 1e-3
    assert parity["guard"]["finite_difference"] < 2e-2
    golden = fcn.golden()
    assert golden.logits.shape == (5, 4, SIZE, SIZE)
    assert golden.cam is not None
    assert golden.cam.any()


def test_an_exported_fcn_verifies_and_a_changed_answer_is_found(fcn: Bundle, deploykit_here: Deploykit, tmp_path: Path) -> None:
    done = deploykit_here("verify", fcn.path)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "FAILED" not in done.stdout
    broken = tmp_path / "broken"
    shutil.copytree(fcn.path, broken)
    golden = dict(np.load(broken / "golden.npz"))
    golden["logits"] = golden["logits"][:, ::-1]
    np.savez_compressed(broken / "golden.npz", **golden)
    done = deploykit_here("verify", broken)
    assert done.returncode == 1
    assert "FAILED  fp32/predict" in done.stdout


def test_an_exported_fcn_answers_and_explains_without_torch(
    fcn: Bundle, deploykit: Deploykit, chelsea: Path, tmp_path: Path
) -> None:
    done = deploykit("predict", fcn.path, chelsea, "--json", "--output", tmp_path / "masks", "--raw")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert sum(one["share"] for one in row["classes"]) == pytest.approx(1)
    with Image.open(row["files"]["raw"]) as raw:
        indices = np.asarray(raw)
    assert indices.shape == (300, 451)
    largest = row["classes"][0]
    assert (indices == largest["class_index"]).mean() == pytest.approx(
        largest["share"], abs=0.03
    )  # the network's pixels are coarser
    done = deploykit("explain", fcn.path, chelsea, "--json", "-o", tmp_path / "maps", "--npz", "--overlay")
    assert done.returncode == 0, done.stderr
    explained = json.loads(done.stdout)["explanations"][0]
    assert explained["class_index"] == largest["class_index"]
    assert explained["share"] == pytest.approx(largest["share"], abs=1e-3)
    with np.load(explained["files"]["npz"]) as arrays:
        assert arrays["mask"].mean() == pytest.approx(largest["share"], abs=1e-3)
        assert arrays["cam"].shape == (9, 9)


def test_predict_names_classes_with_their_share_and_writes_masks(bright: Path, deploykit_here: Deploykit, spot: Path) -> None:
    out = spot.parent / "masks"
    done = deploykit_here("predict", bright, spot, "-o", out, "--raw", "--quiet")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == str(spot)
    assert lines[1].startswith("  background  ")
    assert lines[2].startswith("  bright      ")
    assert "% of the picture  probability 0." in lines[2]
    assert lines[3:] == [f"  {out}/spot.mask.png", f"  {out}/spot.classes.png"]
    with Image.open(out / "spot.classes.png") as raw:
        indices = np.asarray(raw)
    assert indices.shape == (80, 120)
    assert (indices[:, :20] == 255).all()  # cut away by the crop
    assert (indices[25:55, 45:75] == 1).all()
    assert (indices[70:, 25:35] == 0).all()
    with Image.open(out / "spot.mask.png") as drawn:
        assert drawn.width == 320
        assert drawn.height > 80


def test_predict_without_output_writes_nothing_and_top_limits_the_classes(
    bright: Path, deploykit_here: Deploykit, spot: Path, tmp_path: Path
) -> None:
    done = deploykit_here("predict", bright, spot, "--top", "1", "--json", cwd=tmp_path)
    row = json.loads(done.stdout)
    assert [one["label"] for one in row["classes"]] == ["background"]
    assert row["class_count"] == 2
    assert set(row) == {"image", "classes", "class_count", "box"}
    assert [path.name for path in tmp_path.iterdir()] == ["spot.png"]
    text = deploykit_here("predict", bright, spot, "--top", "1").stdout
    assert text.splitlines()[-1] == "  and 1 more with smaller shares"


def test_a_picture_that_cannot_be_used_is_named_and_the_others_are_answered(
    bright: Path, deploykit_here: Deploykit, spot: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_text("no picture")
    done = deploykit_here("predict", bright, tmp_path / "broken.jpg", spot, "--batch", "1")
    assert done.returncode == 1
    assert "broken.jpg" in done.stderr
    assert "1 of 2 pictures could not be used" in done.stderr
    assert str(spot) in done.stdout


def test_explain_draws_one_class_or_a_sheet_of_the_largest(bright: Path, deploykit_here: Deploykit, spot: Path) -> None:
    out = spot.parent / "maps"
    done = deploykit_here("explain", bright, spot, "--class", "bright", "-o", out, "--quiet")
    assert done.returncode == 0, done.stderr
    assert "bright  " in done.stdout
    assert "% of the picture  grad-cam at features" in done.stdout
    with Image.open(out / "spot.overlay.png") as drawn:
        assert drawn.size == (120, 80)
        assert (np.asarray(drawn) == (70, 215, 255)).all(-1).any()  # the outline of its pixels
    done = deploykit_here("explain", bright, spot, "--top-classes", "3", "-o", out, "--quiet")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4  # the picture, the two classes that it has, the sheet
    done = deploykit_here("explain", bright, spot, "--class", "dark", "-o", out, "--quiet")
    assert "predicted at no pixel" in done.stdout


def test_every_method_that_needs_no_input_gradients_explains_a_segmentation(
    bright: Path, deploykit_here: Deploykit, spot: Path
) -> None:
    methods = ["grad-cam", "grad-cam++", "xgrad-cam", "layer-cam", "hires-cam", "eigen-cam"]
    done = deploykit_here("explain", bright, spot, *(f"--method={m}" for m in methods), "--json", "-o", spot.parent / "maps")
    assert done.returncode == 0, done.stderr
    assert [e["method"] for e in json.loads(done.stdout)["explanations"]] == methods


def test_inspect_shows_the_task(bright: Path, deploykit_here: Deploykit) -> None:
    assert ", segmentation, " in deploykit_here("inspect", bright).stdout


def test_masks_are_refused_for_a_classifier_and_raw_without_a_place(
    bright: Path, deploykit_here: Deploykit, spot: Path, tmp_path: Path
) -> None:
    classifier = make_bundle(tmp_path / "classifier").path
    done = deploykit_here("predict", classifier, spot, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "holds a classification model" in done.stderr
    assert "hint: deploykit explain draws" in done.stderr
    assert not (tmp_path / "out").exists()
    done = deploykit_here("predict", bright, spot, "--raw")
    assert done.returncode == 2
    assert "hint: give it with --output DIR" in done.stderr


def test_the_picture_itself_is_never_overwritten(bright: Path, deploykit_here: Deploykit, spot: Path, tmp_path: Path) -> None:
    taken = tmp_path / "spot.mask.png"
    shutil.copy(spot, taken)
    done = deploykit_here("predict", bright, spot, taken, "-o", tmp_path)
    assert done.returncode == 2
    assert "is one of the pictures and would be overwritten" in done.stderr


def test_measures_of_a_classifiers_maps_are_refused(bright: Path, deploykit_here: Deploykit, spot: Path) -> None:
    done = deploykit_here("evaluate-cam", bright, spot)
    assert done.returncode == 2
    assert "holds a segmentation model; the measures watch the one probability" in done.stderr
