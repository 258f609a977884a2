"""``deploykit evaluate`` as a user runs it: a network that tells bright from dark, so that every answer is known beforehand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper
from PIL import Image

from deploykit.bundle import Bundle, extend_bundle
from deploykit.bundle.manifest import sha256_of
from deploykit.cli.evaluate_data import read_samples
from deploykit.errors import UsageError
from tests.conftest import Deploykit
from tests.unit.bright_bundle import SPEC as BRIGHT
from tests.unit.bright_bundle import bright_graph, make_bundle

GREYS = {"bright": (250, 240, 230, 220), "dark": (5, 15, 25, 35), "neither": (127, 128)}


def _write(folder: Path, greys: tuple[int, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for grey in greys:
        Image.new("RGB", (40, 40), (grey, grey, grey)).save(folder / f"{grey}.png")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder per label, ten pictures in all."""
    for label, greys in GREYS.items():
        _write(tmp_path / "data" / label, greys)
    return tmp_path / "data"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """FP32 that is always right."""
    return make_bundle(tmp_path / "bright")


def _add_int8(bundle: Bundle, bias: tuple[float, float, float], calibrated: tuple[str, ...] = ()) -> None:
    """A second precision with another bias, so that its mistakes are known."""
    graph = bright_graph(BRIGHT)
    for tensor in graph.graph.initializer:
        if tensor.name == "bias":
            tensor.CopyFrom(numpy_helper.from_array(np.array(bias, np.float32), "bias"))
    with extend_bundle(bundle.path) as stage:
        stage.add("int8/predict.onnx", graph.SerializeToString())
        record = {"calibration": [{"name": "x", "sha256": digest} for digest in calibrated]}
        stage.add("int8/calibration.json", json.dumps(record).encode())


def _json(deploykit_here: Deploykit, *arguments: str | Path) -> dict[str, Any]:
    done = deploykit_here("evaluate", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_a_network_that_is_always_right_has_one_and_an_interval(deploykit_here: Deploykit, bundle: Bundle, data: Path) -> None:
    found = _json(deploykit_here, bundle.path, "--data", data, "--batch", "3")
    top1 = found["precisions"]["fp32"]["top1"]
    assert (top1["count"], top1["total"]) == (10, 10)
    assert top1["interval"] == pytest.approx([0.7225, 1.0], abs=1e-4)  # Wilson: 1 / (1 + 3.8415 / 10)
    assert found["precisions"]["fp32"]["worst_classes"] == []


def test_two_precisions_stand_side_by_side_with_mcnemars_test(deploykit_here: Deploykit, bundle: Bundle, data: Path) -> None:
    _add_int8(bundle, (0, 0, 2.5))  # all is "neither": right for 2 of 10
    found = _json(deploykit_here, bundle.path, "--data", data)["precisions"]["int8"]
    assert found["top1"]["count"] == 2
    assert found["agreement"]["top1_agreement"]["count"] == 2
    assert (found["paired"]["only_first"], found["paired"]["only_second"]) == (8, 0)
    assert found["paired"]["p_value"] == pytest.approx(2 / 256)
    assert found["worst_classes"][0]["label"] == "bright"
    assert found["worst_classes"][0]["called"] == [{"class_index": 2, "label": "neither", "count": 4}]
    shown = deploykit_here("evaluate", bundle.path, "--data", data, "--worst", "1")
    assert "McNemar p" in shown.stdout
    assert "0.0078 (exact)" in shown.stdout
    assert "bright: 0 of 4 right; taken for neither (4)" in shown.stdout


def test_pictures_that_int8_was_calibrated_with_are_refused_or_left_out(
    deploykit_here: Deploykit, bundle: Bundle, data: Path
) -> None:
    _add_int8(bundle, (0, 0, 0.1), (sha256_of(data / "dark" / "5.png"),))
    done = deploykit_here("evaluate", bundle.path, "--data", data)
    assert done.returncode == 2
    assert "1 of 10 pictures were calibrated with" in done.stderr
    assert "5.png" in done.stderr
    assert _json(deploykit_here, bundle.path, "--data", data, "--skip-calibrated")["images"] == 9
    assert _json(deploykit_here, bundle.path, "--data", data, "--precision", "fp32")["images"] == 10


def test_an_unreadable_picture_is_named_and_the_others_are_measured(deploykit_here: Deploykit, bundle: Bundle, data: Path) -> None:
    (data / "dark" / "broken.jpg").write_text("<html>404</html>")
    done = deploykit_here("evaluate", bundle.path, "--data", data, "--json")
    assert done.returncode == 1
    assert "broken.jpg" in done.stderr
    assert "1 of 11 pictures could not be used" in done.stderr
    assert json.loads(done.stdout)["images"] == 10


def test_csv_names_classes_by_label_or_number_and_paths_beside_itself(
    deploykit_here: Deploykit, bundle: Bundle, data: Path
) -> None:
    table = data / "table.csv"
    table.write_text("label,path\nbright,bright/250.png\n1,dark/5.png\nneither,bright/240.png\n")
    found = _json(deploykit_here, bundle.path, "--data", table)["precisions"]["fp32"]
    assert (found["top1"]["count"], found["top1"]["total"]) == (2, 3)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("", "has no lines"),
        ("bright/250.png\n", "line 1"),
        ("bright/250.png,7\n", "class index is 7, expected 0 to 2"),
        ("bright/250.png,brigt\n", "no class has the label 'brigt'; close: bright"),
    ],
)
def test_a_csv_that_cannot_be_meant_is_refused_by_line(
    deploykit_here: Deploykit, bundle: Bundle, data: Path, text: str, seen: str
) -> None:
    (data / "table.csv").write_text(text)
    done = deploykit_here("evaluate", bundle.path, "--data", data / "table.csv")
    assert done.returncode != 0
    assert seen in done.stderr


def test_folders_that_are_no_labels_are_refused_by_name(deploykit_here: Deploykit, bundle: Bundle, data: Path) -> None:
    _write(data / "dusk", (80,))
    done = deploykit_here("evaluate", bundle.path, "--data", data)
    assert done.returncode == 2
    assert "1 of 4 folders are no labels of the bundle: dusk" in done.stderr


def test_numbered_folders_whose_two_orders_differ_are_asked_about(deploykit_here: Deploykit, tmp_path: Path) -> None:
    # Case O09: as text 0 1 10 100 11 2, as numbers 0 1 2 10 11 100.
    data = tmp_path / "numbers"
    for name in ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"):
        _write(data / name, (int(name) * 10,))
    with pytest.raises(UsageError, match="'10' is class 2 when names are sorted as text and class 10"):
        read_samples(data, None, 11)
    by_number = {s.path.parent.name: s.class_index for s in read_samples(data, None, 11, "numbers").samples}
    by_text = {s.path.parent.name: s.class_index for s in read_samples(data, None, 11, "text").samples}
    assert (by_number["10"], by_text["10"], by_text["2"]) == (10, 2, 3)
    # Fewer folders than classes are no training set: a number is a class.
    assert read_samples(data, None, 1000).rule == "folders are class numbers"
    with pytest.raises(UsageError, match="folder 10 is no class"):
        read_samples(data, None, 10)


def test_a_segmentation_model_is_refused_with_what_it_answers(deploykit_here: Deploykit, tmp_path: Path, data: Path) -> None:
    bundle = make_bundle(tmp_path / "masks", task="segmentation")
    done = deploykit_here("evaluate", bundle.path, "--data", data)
    assert done.returncode == 2
    assert "a class for every pixel" in done.stderr


def test_a_precision_that_is_not_there_is_refused_with_how_to_make_it(
    deploykit_here: Deploykit, bundle: Bundle, data: Path
) -> None:
    done = deploykit_here("evaluate", bundle.path, "--data", data, "--precision", "int8")
    assert done.returncode == 1
    assert "has no int8 predict graph; it has fp32" in done.stderr
    assert "deploykit quantize" in done.stderr


def test_a_folder_without_class_folders_is_refused(deploykit_here: Deploykit, bundle: Bundle, data: Path) -> None:
    done = deploykit_here("evaluate", bundle.path, "--data", data / "dark")
    assert done.returncode == 1
    assert "has no folders, expected one for each class" in done.stderr
