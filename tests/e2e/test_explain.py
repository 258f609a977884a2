"""``deploykit explain`` as a user runs it: the pictures, the sheet, the numbers, the messages."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploykit.bundle import Bundle
from tests.conftest import Deploykit
from tests.unit.bright_bundle import make_bundle


@pytest.fixture(scope="module")
def bright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of three classes that sees where a picture is bright."""
    return make_bundle(tmp_path_factory.mktemp("bright") / "bright", input_gradients=True).path


def picture(path: Path, size: tuple[int, int] = (60, 40), spot: tuple[int, int, int, int] = (20, 10, 30, 20)) -> Path:
    """A grey picture with a white spot."""
    image = Image.new("RGB", size, (90, 90, 90))
    image.paste((255, 255, 255), spot)
    image.save(path)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_explain_draws_the_cup_and_the_cat_without_torch(
    deploykit: Deploykit, lite0: Bundle, coffee: Path, chelsea: Path, tmp_path: Path
) -> None:
    done = deploykit("explain", lite0.path, coffee, chelsea, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert names(tmp_path / "explanations") == ["chelsea.overlay.png", "coffee.overlay.png"]
    assert first["explanations"][0]["files"] == {"overlay": "explanations/coffee.overlay.png"}
    assert first["explanations"][0]["label"] == "espresso"
    assert second["explanations"][0] | {"files": None} == second["explanations"][0] | second["predictions"][0] | {"files": None}
    with Image.open(tmp_path / "explanations/coffee.overlay.png") as drawn, Image.open(coffee) as photo:
        assert drawn.size == photo.size
        change = np.abs(np.asarray(drawn).astype(int) - np.asarray(photo.convert("RGB"))).mean(-1)
    left, top, right, bottom = (round(edge) for edge in first["explanations"][0]["box"])
    crop = change[top + 2 : bottom - 2, left + 2 : right - 2]  # within the frame
    cup = change[15:270, 170:410]
    assert cup.mean() > 1.2 * crop.mean()


def test_the_text_names_class_probability_method_layer_and_file(
    deploykit_here: Deploykit, lite0: Bundle, coffee: Path, tmp_path: Path
) -> None:
    done = deploykit_here("explain", lite0.path, coffee, "-o", tmp_path / "out", "--quiet")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        str(coffee),
        f"  espresso  0.9511  grad-cam at {lite0.manifest.layers[0].name}  {tmp_path}/out/coffee.overlay.png",
    ]
    assert done.stderr == ""


def test_several_classes_make_a_sheet_and_files_of_each_where_asked(
    deploykit_here: Deploykit, bright: Path, tmp_path: Path
) -> None:
    source, out = picture(tmp_path / "spot.png"), tmp_path / "out"
    done = deploykit_here("explain", bright, source, "--class", "bright", "--class", "2", "-o", out)
    assert done.returncode == 0, done.stderr
    assert names(out) == ["spot.sheet.png"]
    assert "neither  0." in done.stdout
    assert done.stdout.count("no positive evidence") == 1
    assert done.stdout.splitlines()[-1] == f"  {out}/spot.sheet.png"
    options = ["--class", "bright", "--class", "neither", "--overlay", "--map", "--npz"]
    assert deploykit_here("explain", bright, source, *options, "-o", out).returncode == 0
    assert names(out) == [
        "spot.0-bright.grad-cam.map.png",
        "spot.0-bright.grad-cam.npz",
        "spot.0-bright.grad-cam.overlay.png",
        "spot.2-neither.grad-cam.map.png",
        "spot.2-neither.grad-cam.npz",
        "spot.2-neither.grad-cam.overlay.png",
        "spot.sheet.png",
    ]
    with Image.open(out / "spot.2-neither.grad-cam.overlay.png") as drawn, Image.open(source) as photo:
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(photo))  # case O24: nothing to show


def test_classes_times_methods_come_in_rows_of_one_class(deploykit_here: Deploykit, bright: Path, tmp_path: Path) -> None:
    sources = [picture(tmp_path / "a.png"), picture(tmp_path / "b.png", (40, 70))]
    options = ["--top-classes", "2", "--method", "grad-cam", "--method", "guided-backprop", "--method", "grad-cam"]
    done = deploykit_here("explain", bright, *sources, *options, "-o", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(row["sheet"]).name for row in rows] == ["a.sheet.png", "b.sheet.png"]
    best, second = (p["label"] for p in rows[0]["predictions"][:2])
    assert [(e["label"], e["method"]) for e in rows[0]["explanations"]] == [
        (best, "grad-cam"),
        (best, "guided-backprop"),
        (second, "grad-cam"),
        (second, "guided-backprop"),
    ]


def test_numbers_are_those_of_the_map_and_say_where_it_lies(deploykit_here: Deploykit, bright: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = deploykit_here("explain", bright, picture(tmp_path / "spot.png"), "--class", "bright", "--npz", "-o", out)
    assert done.returncode == 0, done.stderr
    with np.load(out / "spot.npz", allow_pickle=False) as arrays:
        assert arrays["map"].shape == arrays["cam"].shape == (32, 32)
        assert (arrays["map"].min(), arrays["map"].max()) == (0, 1)
        assert (str(arrays["label"]), int(arrays["class_index"]), str(arrays["method"])) == ("bright", 0, "grad-cam")
        assert arrays["photo_size"].tolist() == [60, 40]
        left, top, right, bottom = arrays["box"]
        y, x = np.argwhere(arrays["map"] > 0.5).mean(0) + 0.5
        # The spot's centre is (25, 15); a pixel of the network's is a bit more than one of the photo's.
        assert left + x * (right - left) / 32 == pytest.approx(25, abs=0.6)
        assert top + y * (bottom - top) / 32 == pytest.approx(15, abs=0.6)


def test_pictures_of_one_name_do_not_overwrite_each_other(deploykit_here: Deploykit, bright: Path, tmp_path: Path) -> None:
    for folder in ("x", "y", "z"):
        (tmp_path / folder).mkdir()
    sources = [picture(tmp_path / "x/cat.png"), picture(tmp_path / "y/Cat.png"), picture(tmp_path / "z/cat-2.png")]
    done = deploykit_here("explain", bright, *sources, "-o", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    files = [json.loads(line)["explanations"][0]["files"]["overlay"] for line in done.stdout.splitlines()]
    assert [Path(f).name for f in files] == ["cat.overlay.png", "Cat-3.overlay.png", "cat-2.overlay.png"]
    assert len(names(tmp_path / "out")) == 3


def test_a_picture_is_never_overwritten(deploykit_here: Deploykit, bright: Path, tmp_path: Path) -> None:
    sources = [picture(tmp_path / "a.png"), picture(tmp_path / "a.overlay.png")]
    before = [source.read_bytes() for source in sources]
    done = deploykit_here("explain", bright, *sources, "-o", tmp_path)
    assert done.returncode == 2
    assert f"error: {tmp_path}/a.overlay.png is one of the pictures and would be overwritten" in done.stderr
    assert [source.read_bytes() for source in sources] == before
    assert names(tmp_path) == ["a.overlay.png", "a.png"]


@pytest.mark.parametrize("batch", ["1", "2", "64"])
def test_bad_pictures_are_named_and_the_others_explained(
    deploykit_here: Deploykit, bright: Path, tmp_path: Path, batch: str
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name in ("a", "c", "d"):
        picture(folder / f"{name}.png")
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:60])
    (folder / "e.jpg").write_text("<html>404</html>")
    done = deploykit_here("explain", bright, folder, "--batch", batch, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "b.png" in done.stderr
    assert "e.jpg: is an HTML, XML or SVG text" in done.stderr
    assert "error: 2 of 5 pictures could not be used" in done.stderr
    assert names(tmp_path / "out") == ["a.overlay.png", "c.overlay.png", "d.overlay.png"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--class", "brihgt"], 2, "no class has the label 'brihgt'; close: bright"),
        (["--class", "3"], 2, "class index is 3, expected 0 to 2"),
        (["--class", "bright", "--top-classes", "2"], 2, "--class and --top-classes exclude each other"),
        (["--method", "score-cam"], 2, "'score-cam' is not one of"),
        (["--layer", "feature"], 2, "explains no layer 'feature'; close: features"),
        (["--method", "deconvnet", "--layer", "features"], 2, "deconvnet looks at the picture itself and takes no layer"),
        (["--precision", "int8"], 1, "no int8 explain graph; it has fp32"),
        (["-o", "spot.png"], 1, "cannot write spot.png/spot.overlay.png"),
    ],
)
def test_a_wrong_request_is_refused_with_what_is_allowed(
    deploykit_here: Deploykit, bright: Path, tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    picture(tmp_path / "spot.png")
    done = deploykit_here("explain", bright, "spot.png", *options, cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert names(tmp_path) == ["spot.png"]


def test_methods_at_the_input_ask_for_their_graph(deploykit_here: Deploykit, lite0: Bundle, coffee: Path, tmp_path: Path) -> None:
    done = deploykit_here("explain", lite0.path, coffee, "--method", "guided-grad-cam", "-o", tmp_path / "out")
    assert done.returncode == 1
    assert (
        "hint: guided backpropagation, deconvnet and guided Grad-CAM need: deploykit export MODEL --input-gradients" in done.stderr
    )
    assert not (tmp_path / "out").exists()


def test_an_untrained_bundle_is_warned_about(deploykit_here: Deploykit, bright: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bright, tmp_path / "untrained")
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(text.replace('"trained": true', '"trained": false'))
    done = deploykit_here("explain", copy, picture(tmp_path / "spot.png"), "-o", tmp_path / "out")
    assert done.returncode == 0
    assert "warning:" in done.stderr
    assert "is untrained" in done.stderr


def test_files_are_readable_as_the_user_s_umask_says(deploykit_here: Deploykit, bright: Path, tmp_path: Path) -> None:
    source = picture(tmp_path / "spot.png")
    assert deploykit_here("explain", bright, source, "-o", tmp_path / "out").returncode == 0
    assert (tmp_path / "out/spot.overlay.png").stat().st_mode == source.stat().st_mode
