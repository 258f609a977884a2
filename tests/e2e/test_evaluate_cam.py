"""``deploykit evaluate-cam`` as a user runs it: the table, the numbers, the plot, the messages."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from deploykit.bundle import Bundle
from tests.conftest import Deploykit
from tests.unit.bright_bundle import SPEC, bright_graph, make_bundle


def corner_graph() -> onnx.ModelProto:
    """The bright network, but blind outside of the upper right quarter: behind the layer a window multiplies ``features``."""
    graph = bright_graph(SPEC)
    window = np.zeros((1, 1, SPEC.height, SPEC.width), np.float32)
    window[..., :16, 16:] = 40
    graph.graph.initializer.append(numpy_helper.from_array(window, "window"))
    pool = next(node for node in graph.graph.node if node.name == "pool")
    pool.input[0] = "masked"
    index = list(graph.graph.node).index(pool)
    graph.graph.node.insert(index, helper.make_node("Mul", ["features", "window"], ["masked"], name="look"))
    return graph


@pytest.fixture(scope="module")
def corner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of three classes that sees only where the upper right quarter is bright."""
    return make_bundle(tmp_path_factory.mktemp("corner") / "corner", corner_graph(), input_gradients=True).path


def picture(path: Path, size: tuple[int, int] = (60, 40)) -> Path:
    """A grey picture with white spots: one in the upper right of the crop, one in the lower left."""
    image = Image.new("RGB", size, (130, 130, 130))
    x, y = size[0] // 2, size[1] // 2
    image.paste((255, 255, 255), (x + 3, y - 16, x + 15, y - 4))
    image.paste((255, 255, 255), (x - 15, y + 4, x - 3, y + 16))
    image.paste((100, 100, 100), (x + 1, y - 3, x + 3, y - 1))  # a ReLU is closed here: guided-backprop and deconvnet differ
    image.save(path)
    return path


def test_the_method_that_sees_what_the_network_sees_wins_and_the_table_is_sorted(
    deploykit_here: Deploykit, corner: Path, tmp_path: Path
) -> None:
    sources = [picture(tmp_path / "a.png"), picture(tmp_path / "b.png", (40, 60))]
    # Grad-CAM averages the gradient over the layer and so marks both spots; HiResCAM multiplies place by place.
    done = deploykit_here("evaluate-cam", corner, *sources, "--method", "grad-cam", "--method", "hires-cam", "--quiet")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["method", "layer", "ins.", "-", "del.", "over", "random", "insertion", "deletion", "drop", "increase"]
    assert [row[0] for row in rows[1:]][:2] == ["hires-cam", "grad-cam"]
    assert {row[0] for row in rows[3:]} == {"random", "centre"}
    assert rows[1][1] == "features"
    assert rows[1][3] == "±"
    differences = [float(row[2]) for row in rows[1:]]
    assert differences == sorted(differences, reverse=True)
    assert done.stderr == ""


def test_json_has_every_curve_mean_and_picture(deploykit_here: Deploykit, corner: Path, tmp_path: Path) -> None:
    sources = [picture(tmp_path / "a.png"), picture(tmp_path / "b.png", (40, 60))]
    options = ["--method", "hires-cam", "--method", "deconvnet", "--layer", "features", "--steps", "5", "--json"]
    done = deploykit_here("evaluate-cam", corner, *sources, *options)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["steps"] == 5
    assert [(image["image"], image["label"]) for image in report["images"]] == [(str(path), "bright") for path in sources]
    assert {(side["method"], side["layer"], side["is_baseline"]) for side in report["sides"]} == {
        ("hires-cam", "features", False),
        ("deconvnet", None, False),
        ("random", None, True),
        ("centre", None, True),
    }
    best = next(side for side in report["sides"] if side["method"] == "hires-cam")
    values = [image["insertion"] for image in best["images"]]
    assert best["insertion"]["mean"] == pytest.approx(np.mean(values))
    assert best["insertion"]["standard_error"] == pytest.approx(np.std(values, ddof=1) / np.sqrt(2))
    assert best["pointing"] is None
    assert len(best["curves"]["deletion"]) == len(best["curves"]["insertion"]) == 6
    whole = np.mean([image["probability"] for image in report["images"]])
    assert best["curves"]["deletion"][0] == pytest.approx(whole, rel=1e-5)
    random = next(side for side in report["sides"] if side["method"] == "random")
    assert best["gain"]["mean"] == pytest.approx(best["difference"]["mean"] - random["difference"]["mean"])


def test_every_method_is_measured_at_every_layer_and_once_where_layers_are_one(deploykit_here: Deploykit, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "two", corner_graph(), layers=("features", "masked"))
    options = ["--method", "grad-cam", "--method", "layer-cam", "--layer", "masked", "--layer", "features", "--layer", "masked"]
    done = deploykit_here("evaluate-cam", bundle.path, picture(tmp_path / "a.png"), *options, "--json")
    assert done.returncode == 0, done.stderr
    sides = {(side["method"], side["layer"]): side["difference"]["mean"] for side in json.loads(done.stdout)["sides"]}
    assert len(sides) == 6
    # Behind the window no spot is left but the one that counts; before it Grad-CAM marks both.
    assert sides["grad-cam", "masked"] > sides["grad-cam", "features"]
    assert sides["layer-cam", "masked"] == pytest.approx(sides["layer-cam", "features"], abs=1e-5)


def test_the_pointing_game_goes_through_the_crop_and_names_boxes_outside_of_it(
    deploykit_here: Deploykit, corner: Path, tmp_path: Path
) -> None:
    (tmp_path / "x").mkdir()
    sources = [picture(tmp_path / "a.png"), picture(tmp_path / "x/b.png"), picture(tmp_path / "c.png"), picture(tmp_path / "d.png")]
    # The spot that the network sees is (33, 4) to (45, 16) on the photo of 60 x 40, whose crop is (12, 2) to (48, 38).
    boxes = {
        "a.png": [[33, 4, 45, 16]],
        str(sources[1]): [[15, 24, 27, 36]],
        "c.png": [[0, 0, 10, 40], [30, 0, 50, 20]],
        "e.png": [],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    options = ["--method", "hires-cam", "--boxes", tmp_path / "boxes.json", "--steps", "2"]
    done = deploykit_here("evaluate-cam", corner, *sources, *options, "--json")
    assert done.returncode == 0, done.stderr
    (side,) = (side for side in json.loads(done.stdout)["sides"] if side["method"] == "hires-cam")
    assert [image["pointing"] for image in side["images"]] == [1, 0, 1, None]
    assert side["pointing"]["count"] == 3
    assert side["pointing"]["mean"] == pytest.approx(2 / 3)
    assert "c.png: box [0, 0, 10, 40] lies outside of what the network sees, [12, 2, 48, 38], and is left out" in done.stderr
    assert "pointing" in deploykit_here("evaluate-cam", corner, *sources, *options).stdout.splitlines()[0]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_plot_is_written_whole_and_leaves_nothing_else(
    deploykit_here: Deploykit, corner: Path, tmp_path: Path, suffix: str
) -> None:
    source, out = picture(tmp_path / "a.png"), tmp_path / "plots" / f"curves.{suffix}"
    done = deploykit_here("evaluate-cam", corner, source, "--steps", "3", "--plot", out)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert f"curves in {out}" in done.stderr
    if suffix == "png":
        with Image.open(out) as drawn:
            assert min(drawn.size) > 600
            assert len(drawn.convert("RGB").getcolors(1 << 20) or []) > 100
    else:
        assert "<svg" in out.read_text()


def test_a_plot_without_matplotlib_is_refused_before_the_work(
    deploykit_here: Deploykit, corner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = deploykit_here("evaluate-cam", corner, picture(tmp_path / "a.png"), "--plot", tmp_path / "p.png")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "error: --plot needs matplotlib, which is not installed\nhint: pip install 'deploykit[plot]'" in done.stderr


def test_without_plot_matplotlib_and_torch_stay_out(corner: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from deploykit.cli.main import run\n"
        f"assert run(['evaluate-cam', {str(corner)!r}, {str(picture(tmp_path / 'a.png'))!r}, '--steps', '1']) == 0\n"
        "print(sorted({'torch', 'onnx', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_bad_pictures_are_named_and_the_others_measured(deploykit_here: Deploykit, corner: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    picture(folder / "a.png")
    (folder / "b.png").write_text("<html>404</html>")
    picture(folder / "c.png")
    done = deploykit_here("evaluate-cam", corner, folder, "--steps", "2", "--json")
    assert done.returncode == 1
    assert "b.png: is an HTML, XML or SVG text" in done.stderr
    assert "error: 1 of 3 pictures could not be used" in done.stderr
    assert [Path(image["image"]).name for image in json.loads(done.stdout)["images"]] == ["a.png", "c.png"]
    only = deploykit_here("evaluate-cam", corner, folder / "b.png")
    assert (only.returncode, only.stdout) == (1, "")


def test_one_picture_gives_means_without_an_error(deploykit_here: Deploykit, corner: Path, tmp_path: Path) -> None:
    done = deploykit_here("evaluate-cam", corner, picture(tmp_path / "a.png"), "--steps", "2")
    assert done.returncode == 0
    assert "±" not in done.stdout


def test_maps_that_show_nothing_are_named(deploykit_here: Deploykit, corner: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), (128, 128, 128)).save(tmp_path / "grey.png")  # ``neither`` is the likeliest: nothing speaks for it
    done = deploykit_here("evaluate-cam", corner, tmp_path / "grey.png", "--method", "grad-cam", "--steps", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"][0]["label"] == "neither"
    assert "warning: grad-cam at features shows nothing on 1 of 1 pictures" in done.stderr


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--layer", "feature"], 2, "explains no layer 'feature'; close: features"),
        (["--method", "deconvnet", "--layer", "features"], 2, "deconvnet looks at the picture itself and takes no layer"),
        (["--steps", "0"], 2, "is not in the range x>=1"),
        (["--plot", "curves.jpeg"], 2, "--plot is curves.jpeg, expected a name that ends in .png, .svg, .pdf"),
        (["--steps", "1", "--plot", "spot.png"], 2, "hint: choose another place with --plot"),
        (["--boxes", "none.json"], 2, "none.json: cannot be read"),
        (["--boxes", "spot.png"], 2, "spot.png is no JSON text"),
        (["--precision", "int8"], 1, "no int8 predict graph; it has fp32"),
    ],
)
def test_a_wrong_request_is_refused_with_what_is_allowed(
    deploykit_here: Deploykit, corner: Path, tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    before = picture(tmp_path / "spot.png").read_bytes()
    done = deploykit_here("evaluate-cam", corner, "spot.png", *options, cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "spot.png").read_bytes() == before


def test_an_untrained_bundle_is_warned_about(deploykit_here: Deploykit, corner: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(corner, tmp_path / "untrained")
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(text.replace('"trained": true', '"trained": false'))
    done = deploykit_here("evaluate-cam", copy, picture(tmp_path / "spot.png"), "--steps", "1")
    assert done.returncode == 0
    assert "is untrained" in done.stderr


def test_grad_cam_beats_both_baselines_on_the_coffee_and_the_cat(
    deploykit_here: Deploykit, lite0: Bundle, coffee: Path, chelsea: Path
) -> None:
    options = ["--method", "grad-cam", "--steps", "10", "--json"]
    done = deploykit_here("evaluate-cam", lite0.path, coffee, chelsea, *options)
    assert done.returncode == 0, done.stderr
    means = {side["method"]: side["difference"]["mean"] for side in json.loads(done.stdout)["sides"]}
    # Measured with 20 steps: 0.136, 0.070, -0.182.
    assert means["grad-cam"] > means["centre"] > means["random"]
    assert means["grad-cam"] > means["random"] + 0.2
