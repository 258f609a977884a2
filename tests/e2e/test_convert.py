"""``deploykit convert`` as a user runs it: what it adds, what it refuses, and a net that FP16 cannot hold."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from deploykit.bundle import Bundle
from deploykit.cli import convert_half
from deploykit.graph import exposure
from deploykit.parity import TOLERANCES
from deploykit.spec import Precision
from tests.conftest import Deploykit
from tests.e2e.test_cli import failed
from tests.engines import engine_bytes
from tests.oracles.gradient_oracle import export
from tests.unit.test_half import SIZE, Overflows


@pytest.fixture
def copied(small: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small.path, tmp_path / "net"))


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def half_lite0(lite0: Bundle, tmp_path_factory: pytest.TempPathFactory, coffee: Path, chelsea: Path) -> Bundle:
    from deploykit.cli.main import run

    path = Path(shutil.copytree(lite0.path, tmp_path_factory.mktemp("half") / "lite0"))
    assert run(["convert", str(path), "--precision", "fp16", "--images", str(coffee), "--images", str(chelsea)]) == 0
    return Bundle.open(path)


def test_fp16_of_real_weights_is_half_the_size_and_names_what_float32_names(
    half_lite0: Bundle, deploykit_here: Deploykit, coffee: Path, chelsea: Path
) -> None:
    files = half_lite0.manifest.files
    assert files["fp16/predict.onnx"].size_bytes < 0.51 * files["fp32/predict.onnx"].size_bytes
    answers = {}
    for precision in ("fp32", "fp16"):
        done = deploykit_here("predict", half_lite0.path, coffee, chelsea, "--precision", precision, "--json")
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert {row["graph"] for row in rows} == {f"{precision}/predict.onnx"}
        answers[precision] = [row["predictions"][0] for row in rows]
    assert [best["label"] for best in answers["fp16"]] == [best["label"] for best in answers["fp32"]]
    assert answers["fp16"][0]["label"] == "espresso"
    # Weights rounded to 11 bits: a percent of probability at most.
    assert answers["fp16"][0]["probability"] == pytest.approx(answers["fp32"][0]["probability"], abs=0.01)


def test_fp16_explains_as_float32_does(half_lite0: Bundle, deploykit_here: Deploykit, coffee: Path, tmp_path: Path) -> None:
    maps = {}
    for precision in ("fp32", "fp16"):
        out = tmp_path / precision
        done = deploykit_here("explain", half_lite0.path, coffee, "--precision", precision, "--npz", "-o", out)
        assert done.returncode == 0, done.stderr
        with np.load(next(out.glob("*.npz"))) as arrays:
            maps[precision] = arrays["cam"] / arrays["cam"].max()
    # A map of 7 x 7 moves by the rounding of its activations.
    assert np.abs(maps["fp16"] - maps["fp32"]).max() < 0.05


def test_verify_and_inspect_know_the_new_precision(half_lite0: Bundle, deploykit_here: Deploykit) -> None:
    done = deploykit_here("verify", half_lite0.path, "--json")
    assert done.returncode == 0, done.stdout
    assert {"fp16/predict", "fp16/explain"} <= {check["name"] for check in json.loads(done.stdout)}
    text = deploykit_here("inspect", half_lite0.path).stdout
    assert "0.50 of fp32; 3 nodes in float32 (Mul, Add, ReduceMean), every value seen fits FP16" in text


def test_the_graphs_of_the_bundle_build_strongly_typed(half_lite0: Bundle) -> None:
    for graph in ("predict", "explain", "explain_tail"):
        assert engine_bytes(onnx.load(half_lite0.file(f"fp16/{graph}.onnx"))) > 1_000_000


def test_convert_adds_to_the_bundle_and_alters_nothing_in_it(copied: Path, deploykit_here: Deploykit) -> None:
    before = contents(copied)
    done = deploykit_here("convert", copied, "--precision", "fp16", "--json")
    assert done.returncode == 0, done.stderr
    assert "no --images: ranges come from 10 made-up pictures and the golden ones" in done.stderr
    report = json.loads(done.stdout)
    assert report["pictures"] == {"golden": 5, "made_up": 10, "images": {}, "skipped": {}}
    after = contents(copied)
    assert {name: after[name] for name in before if name != "manifest.json"} == {
        name: data for name, data in before.items() if name != "manifest.json"
    }
    assert json.loads(after["fp16/ranges.json"]) == report
    bundle = Bundle.open(copied)
    record = bundle.manifest.files["fp16/predict.onnx"]
    assert record.made_from["fp32/predict.onnx"] == bundle.manifest.files["fp32/predict.onnx"].sha256
    assert record.parity is not None
    assert record.parity["relative_difference"] <= record.parity["tolerance"] == TOLERANCES[Precision.FP16]
    assert bundle.damage() == {}


def test_a_second_time_needs_force_and_a_damaged_or_stale_bundle_is_refused(copied: Path, deploykit_here: Deploykit) -> None:
    convert = ("convert", copied, "--precision", "fp16")
    assert deploykit_here(*convert).returncode == 0
    assert "has fp16 graphs" in failed(deploykit_here(*convert), 1)
    assert deploykit_here(*convert, "--force", "--keep", "layer1").returncode == 0
    assert any(kept["reason"] == "asked for: layer1" for kept in json.loads((copied / "fp16/ranges.json").read_text())["kept"])
    predict = copied / "fp32/predict.onnx"
    predict.write_bytes(predict.read_bytes()[:-1] + b"\0")
    before = contents(copied)
    assert "the manifest says" in failed(deploykit_here(*convert, "--force"), 1)
    assert contents(copied) == before


def test_a_name_that_is_not_in_the_graph_writes_nothing(copied: Path, deploykit_here: Deploykit) -> None:
    before = contents(copied)
    assert "close: layer1" in failed(deploykit_here("convert", copied, "--precision", "fp16", "--keep", "layr1"), 2)
    assert contents(copied) == before


def test_answers_that_differ_too_much_write_nothing_and_name_where_they_part(
    copied: Path, deploykit_here: Deploykit, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(copied)
    # No FP16 comes this close: the first convolution already differs by more.
    monkeypatch.setattr(convert_half, "TOLERANCES", {Precision.FP16: 1e-6})
    message = failed(deploykit_here("convert", copied, "--precision", "fp16"), 1)
    assert "They part at node " in message
    assert "in module" in message
    assert contents(copied) == before


def test_pictures_that_cannot_be_read_are_named_and_none_at_all_is_an_error(
    copied: Path, deploykit_here: Deploykit, tmp_path: Path, coffee: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "broken.jpg").write_bytes(b"no picture")
    convert = ("convert", copied, "--precision", "fp16", "--images", folder)
    assert "none of 1 pictures can be used" in failed(deploykit_here(*convert), 1)
    shutil.copy(coffee, folder)
    done = deploykit_here(*convert, "--json")
    assert "broken.jpg" in done.stderr
    pictures = json.loads(done.stdout)["pictures"]
    assert (list(pictures["images"]), len(pictures["skipped"])) == (["coffee.png"], 1)


def test_a_net_that_overflows_in_fp16_comes_out_right_and_named(deploykit_here: Deploykit, tmp_path: Path) -> None:
    torch.manual_seed(0)
    onnx.save(export(Overflows().eval(), SIZE), tmp_path / "net.onnx")
    done = deploykit_here("import", tmp_path / "net.onnx", "-o", tmp_path / "net", "--normalize", "0..1")
    assert done.returncode == 0, done.stderr
    done = deploykit_here("convert", tmp_path / "net", "--precision", "fp16")
    assert done.returncode == 0, done.stderr
    assert "overflow at 0/Conv (Conv) in module 0: conv2d reaches" in done.stdout
    assert deploykit_here("verify", tmp_path / "net").returncode == 0
    assert "overflow at 0/Conv" in deploykit_here("inspect", tmp_path / "net").stdout


@pytest.mark.parametrize("part_bytes", [2**40, 1])
def test_the_first_node_that_overflows_is_named_whether_the_net_runs_whole_or_in_parts(
    deploykit_here: Deploykit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_bytes: int
) -> None:
    torch.manual_seed(0)
    onnx.save(export(Overflows().eval(), SIZE), tmp_path / "net.onnx")
    assert deploykit_here("import", tmp_path / "net.onnx", "-o", tmp_path / "net", "--normalize", "0..1").returncode == 0
    monkeypatch.setattr(exposure, "PART_BYTES", part_bytes)
    monkeypatch.setattr(convert_half, "_measure", lambda *_: {})  # as if no picture had shown it
    message = failed(deploykit_here("convert", tmp_path / "net", "--precision", "fp16"), 1)
    assert "0/Conv (Conv)" in message


def test_parts_of_a_net_too_large_for_one_run_give_what_the_whole_gives(
    copied: Path, deploykit_here: Deploykit, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges = []
    for part_bytes in (2**40, 2**20):
        monkeypatch.setattr(exposure, "PART_BYTES", part_bytes)
        done = deploykit_here("convert", copied, "--precision", "fp16", "--force")
        assert done.returncode == 0, done.stderr
        ranges.append(json.loads((copied / "fp16/ranges.json").read_text())["ranges"])
    assert list(ranges[1]) == list(ranges[0])
    for name, seen in ranges[0].items():
        assert ranges[1][name]["greatest"] == pytest.approx(seen["greatest"], rel=1e-4)
    monkeypatch.setattr(convert_half, "TOLERANCES", {Precision.FP16: 1e-6})
    assert "They part at node " in failed(deploykit_here("convert", copied, "--precision", "fp16", "--force"), 1)
