"""Plans of graphs that resize photos, from the command line: real ones, built here; what they answer on a GPU that is not there is
what ONNX Runtime makes of their graphs.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from deploykit.bundle import Bundle
from deploykit.plan import SideRange, read_record
from tests.conftest import Deploykit
from tests.engines import with_plans
from tests.recording_device import RecordingDevice
from tests.unit.photo_bundle import PHOTOS, make_photo_bundle, stand_in_for_gpu

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorrt_rtx")
RTX = ("--backend", "tensorrt-rtx")


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """With plans for an sm86 and photos of 33 to 1200 pixels a side."""
    folder = tmp_path_factory.mktemp("planned")
    options = (*RTX, "--target", "sm86", "--photo-size", "33:64:1200")
    return with_plans(make_photo_bundle(folder / "photos"), *options, cache=folder / "cache")


@pytest.fixture
def gpu(planned: Bundle) -> Iterator[RecordingDevice]:
    (folder,) = planned.path.glob("plans/*")
    record = read_record(folder)
    assert record is not None
    assert record.sides == SideRange(33, 64, 1200)
    with pytest.MonkeyPatch.context() as patch:
        yield stand_in_for_gpu(patch, planned, record.version)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(len(PHOTOS))]
    for path, photo in zip(paths, PHOTOS, strict=True):
        Image.fromarray(photo).save(path)
    return paths


@pytest.mark.parametrize(("asked", "instead"), [("64:64:96", "45:64:96"), ("40:40:60", "40:40:61"), ("512", "45:512:512")])
def test_a_plan_that_the_golden_photos_do_not_fit_is_not_built(
    asked: str, instead: str, planned: Bundle, deploykit_here: Deploykit
) -> None:
    done = deploykit_here("build", planned.path, *RTX, "--target", "sm86", "--photo-size", asked)
    assert (done.returncode, done.stdout) == (2, "")
    assert "leaves out the golden photos" in done.stderr
    assert "61 x 45 pixels, which a plan is asked for by verify and serve" in done.stderr
    assert f"hint: take {instead}; it is fastest at" in done.stderr


def test_predict_answers_photos_of_several_sizes_from_the_plan(
    planned: Bundle, gpu: RecordingDevice, photos: list[Path], deploykit_here: Deploykit
) -> None:
    here, there = (deploykit_here("predict", planned.path, *photos, "--json", *way) for way in ((), RTX))
    assert there.returncode == 0, there.stderr
    expected, rows = ([json.loads(line) for line in done.stdout.splitlines()] for done in (here, there))
    assert len(rows) == len(photos)
    assert all(row["graph"].endswith("/predict.plan") for row in rows)
    assert [row["predictions"] for row in rows] == [row["predictions"] for row in expected]
    assert gpu.left == {}


def test_explain_draws_from_the_plan_what_it_draws_from_the_graph(
    planned: Bundle, gpu: RecordingDevice, photos: list[Path], deploykit_here: Deploykit, tmp_path: Path
) -> None:
    for name, way in (("here", ()), ("there", RTX)):
        done = deploykit_here("explain", planned.path, *photos, "-o", tmp_path / name, *way)
        assert done.returncode == 0, done.stderr
    drawn = sorted(path.name for path in (tmp_path / "here").glob("*.png"))
    assert len(drawn) >= len(photos)
    for name in drawn:
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    assert gpu.left == {}


def test_verify_runs_the_plans_beside_the_graphs(planned: Bundle, gpu: RecordingDevice, deploykit_here: Deploykit) -> None:
    done = deploykit_here("verify", planned.path, "--json")
    assert done.returncode == 0, done.stdout
    plans = [check for check in json.loads(done.stdout) if check["name"].startswith("plans/")]
    assert len(plans) == 2
    assert all(check["was_run"] and check["passed"] for check in plans)


def test_bench_measures_the_plans(planned: Bundle, gpu: RecordingDevice, deploykit_here: Deploykit, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    done = deploykit_here("bench", planned.path, *RTX, "--seconds", "0.2", "--json", file)
    assert done.returncode == 0, done.stderr
    cases = json.loads(file.read_text())["cases"]
    assert [case["batch"] for case in cases if "recording-rt" in case["backend"]] == [1, 1]


def test_a_photo_outside_of_the_profile_is_named_and_the_others_are_answered(
    planned: Bundle, gpu: RecordingDevice, photos: list[Path], deploykit_here: Deploykit, tmp_path: Path
) -> None:
    Image.new("RGB", (1201, 40)).save(tmp_path / "wide.png")
    done = deploykit_here("predict", planned.path, tmp_path / "wide.png", *photos, *RTX, "--json")
    assert (done.returncode, len(done.stdout.splitlines())) == (1, len(photos))
    assert "wide.png: 1201 x 40 pixels, width and height may be 33 to 1200 pixels" in done.stderr
    assert "--photo-size" in done.stderr
