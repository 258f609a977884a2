"""``deploykit quantize`` as a user runs it, on a small net: what is written, what is refused, and that failures write nothing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from deploykit.bundle import Bundle
from deploykit.bundle.manifest import sha256_of
from deploykit.cli import quantize_pictures, quantize_search
from deploykit.graph import exposure
from deploykit.parity import sample_pictures
from deploykit.quantization import qdq
from deploykit.quantization.record import read
from tests.conftest import Deploykit
from tests.oracles.gradient_oracle import run
from tests.unit.quantized_graphs import HEAD, RESIDUAL, graph_of, head

WRITTEN = {
    "predict.onnx",
    "predict_cpu.onnx",
    "explain.onnx",
    "explain_cpu.onnx",
    "calibration.json",
    "nodes.json",
    "nodes_cpu.json",
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty pictures, 16 x 16."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, picture in enumerate(sample_pictures(40, 16, 16, seed=7)):
        Image.fromarray(picture).save(folder / f"{i:02}.png")
    return folder


def _import(deploykit_here: Deploykit, graph: onnx.ModelProto, path: Path, *more: str) -> Path:
    onnx.save(graph, path.with_suffix(".onnx"))
    done = deploykit_here("import", path.with_suffix(".onnx"), "-o", path, "--normalize", "-1..1", *more)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture
def bundle(deploykit_here: Deploykit, tmp_path: Path) -> Path:
    """A residual net of four layers with random weights, 12 x 12 pixels, 5 classes."""
    return _import(deploykit_here, RESIDUAL, tmp_path / "residual")


def _verdict(deploykit_here: Deploykit, bundle: Path, photos: Path, *more: str | Path) -> dict[str, Any]:
    done = deploykit_here("quantize", bundle, "--images", photos, "--json", *more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def _snapshot(bundle: Path) -> dict[str, str]:
    return {p.relative_to(bundle).as_posix(): sha256_of(p) for p in bundle.rglob("*") if p.is_file()}


def test_everything_is_written_with_provenance_and_a_verdict(deploykit_here: Deploykit, bundle: Path, photos: Path) -> None:
    verdict = _verdict(deploykit_here, bundle, photos)
    opened = Bundle.open(bundle)
    assert {Path(n).name for n in opened.manifest.files if n.startswith("int8/")} >= WRITTEN
    assert not opened.damage()
    record = read(bundle / "int8" / "calibration.json")
    predict = opened.manifest.files["int8/predict.onnx"]
    assert record.graph_sha256 == opened.manifest.files["fp32/predict.onnx"].sha256 == predict.made_from["fp32/predict.onnx"]
    assert (len(record.calibration), len(record.held_out)) == (32, 8)
    assert predict.parity is not None
    assert predict.parity["verdict"] == verdict
    assert {t["method"] for t in verdict["trials"]} == {"minmax", "percentile", "entropy", "mse"}
    assert verdict["cpu"]["snr_db"] > 20
    assert any("gained: the graph takes" in line for line in verdict["words"])
    for name, references in (("predict", {"golden"}), ("predict_cpu", {"golden", "twin"})):
        parity = opened.manifest.files[f"int8/{name}.onnx"].parity or {}
        assert references == {"golden", "twin"} & set(parity)
        assert all(0 < parity[reference]["noise"] < 0.2 for reference in references)
    verified = deploykit_here("verify", bundle)
    assert verified.returncode == 0, verified.stdout
    assert "written before" not in verified.stdout
    assert deploykit_here("predict", bundle, photos / "00.png", "--precision", "int8").returncode == 0


def test_the_two_shapes_of_the_graph_agree(deploykit_here: Deploykit, bundle: Path, photos: Path) -> None:
    verdict = _verdict(deploykit_here, bundle, photos)
    # The twin rounds once more, before the residual addition; the noise of both is that of 8 bits.
    assert abs(verdict["cpu"]["snr_db"] - verdict["tensorrt"]["snr_db"]) < 6


def test_a_second_run_needs_force(deploykit_here: Deploykit, bundle: Path, photos: Path) -> None:
    _verdict(deploykit_here, bundle, photos, "--method", "minmax", "--repair", "none")
    done = deploykit_here("quantize", bundle, "--images", photos)
    assert done.returncode == 1
    assert "--force" in done.stderr
    assert _verdict(deploykit_here, bundle, photos, "--method", "mse", "--repair", "none", "--force")["method"] == "mse"
    assert read(bundle / "int8" / "calibration.json").method == "mse"


def test_a_layer_that_is_asked_for_stays_in_float(deploykit_here: Deploykit, bundle: Path, photos: Path) -> None:
    verdict = _verdict(deploykit_here, bundle, photos, "--keep", "logits", "--method", "minmax", "--repair", "none")
    assert [layer["node"] for layer in verdict["kept"]] == ["logits"]
    graph = onnx.load(bundle / "int8" / "predict.onnx")
    assert "head_int8" not in {t.name for t in graph.graph.initializer}


def test_layers_stay_in_float_until_the_agreement_is_reached_and_every_step_is_told(
    deploykit_here: Deploykit, bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = quantize_pictures.judge

    def harsh(graph: onnx.ModelProto, held_out: Any) -> Any:
        """Half of the answers are wrong as long as the head is in INT8."""
        found = real(graph, held_out)
        is_float = "head" in {t.name for t in graph.graph.initializer}
        return replace(found, same=found.answers if is_float else found.answers // 2)

    monkeypatch.setattr(quantize_search, "judge", harsh)
    verdict = _verdict(deploykit_here, bundle, photos, "--method", "minmax", "--repair", "none")
    assert "logits" in {layer["node"] for layer in verdict["kept"]}
    assert verdict["kept_steps"][0] == {"kept": 0, "agreement": 0.5}
    assert any("kept in float32" in line for line in verdict["words"])


def test_an_agreement_out_of_reach_fails_and_writes_nothing(
    deploykit_here: Deploykit, bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = quantize_pictures.judge
    monkeypatch.setattr(quantize_search, "judge", lambda *a: replace(real(*a), same=0))
    before = _snapshot(bundle)
    done = deploykit_here("quantize", bundle, "--images", photos, "--method", "minmax")
    assert done.returncode == 1
    assert "0.0% of the answers are FP32's at best, with 0 of 4 layers in float32; 97.0% are asked for" in done.stderr
    assert _snapshot(bundle) == before


def test_a_calibration_record_is_reused_for_its_graph_and_pictures_alone(
    deploykit_here: Deploykit, bundle: Path, photos: Path, tmp_path: Path
) -> None:
    # Case O14.
    _verdict(deploykit_here, bundle, photos, "--method", "mse", "--repair", "none")
    record = tmp_path / "record.json"
    shutil.copy(bundle / "int8" / "calibration.json", record)
    again = _verdict(deploykit_here, bundle, photos, "--calibration", record, "--repair", "none", "--force")
    assert again["method"] == "mse"
    assert (bundle / "int8" / "calibration.json").read_bytes() == record.read_bytes()
    retrained = onnx.ModelProto()
    retrained.CopyFrom(RESIDUAL)
    weight = retrained.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 50, weight.name))
    other = _import(deploykit_here, retrained, tmp_path / "retrained")
    refused = deploykit_here("quantize", other, "--images", photos, "--calibration", record)
    assert refused.returncode == 1
    assert "stale" in refused.stderr
    name = read(record).calibration[0].name
    Image.open(photos / name).rotate(90).save(photos / name)
    touched = deploykit_here("quantize", bundle, "--images", photos, "--calibration", record, "--force")
    assert "1 are gone or changed" in touched.stderr or "stale" in touched.stderr
    record.write_text(record.read_text()[:300])
    damaged = deploykit_here("quantize", bundle, "--images", photos, "--calibration", record, "--force")
    assert damaged.returncode == 1
    assert "damaged" in damaged.stderr


@pytest.mark.parametrize("kind", ["empty", "only_notes", "all_broken", "no_such_dir"])
def test_a_folder_without_a_usable_picture_is_refused_in_one_line(
    deploykit_here: Deploykit, bundle: Path, tmp_path: Path, kind: str
) -> None:
    # Case O12.
    folder = tmp_path / kind
    if kind != "no_such_dir":
        folder.mkdir()
    if kind == "only_notes":
        (folder / "README.txt").write_text("no pictures yet")
    if kind == "all_broken":
        (folder / "a.jpg").write_bytes(b"not an image")
        (folder / "b.png").touch()
    before = _snapshot(bundle)
    done = deploykit_here("quantize", bundle, "--images", folder)
    assert done.returncode != 0
    assert sum(line.startswith("error:") for line in done.stderr.splitlines()) == 1
    assert _snapshot(bundle) == before


def test_bad_files_in_a_folder_are_named_and_change_nothing(
    deploykit_here: Deploykit, bundle: Path, photos: Path, tmp_path: Path
) -> None:
    # Case O13.
    clean = _verdict(deploykit_here, bundle, photos, "--method", "minmax", "--repair", "none")
    (photos / "cut.png").write_bytes((photos / "00.png").read_bytes()[:200])
    (photos / "text.jpg").write_text("<html>404</html>")
    done = deploykit_here("quantize", bundle, "--images", photos, "--method", "minmax", "--repair", "none", "--json", "--force")
    assert done.returncode == 0
    assert "cut.png is not used" in done.stderr
    assert "text.jpg is not used" in done.stderr
    assert json.loads(done.stdout)["cpu"] == clean["cpu"]


def test_pictures_that_calibrate_may_not_judge(deploykit_here: Deploykit, bundle: Path, photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(photos / "03.png", other / "renamed.png")
    done = deploykit_here("quantize", bundle, "--images", photos, "--holdout", other)
    assert done.returncode == 2
    assert "1 pictures to be judged by were calibrated with" in done.stderr


def test_one_picture_leaves_none_to_judge_by(deploykit_here: Deploykit, bundle: Path, photos: Path) -> None:
    done = deploykit_here("quantize", bundle, "--images", photos / "00.png")
    assert done.returncode == 2
    assert "no picture is left to judge INT8 by" in done.stderr


def test_a_bundle_that_was_changed_by_hand_is_refused(deploykit_here: Deploykit, bundle: Path, photos: Path) -> None:
    with (bundle / "fp32" / "predict.onnx").open("ab") as file:
        file.write(b"\0")
    done = deploykit_here("quantize", bundle, "--images", photos)
    assert done.returncode == 1
    assert "fp32/predict.onnx has" in done.stderr


def test_dead_tensors_and_filters_are_named_and_give_exactly_zero(deploykit_here: Deploykit, photos: Path, tmp_path: Path) -> None:
    # Case O11: the first rectifier of one branch never fires; one filter behind it is zero and one subnormal.
    random = np.random.default_rng(0)
    second = random.normal(size=(8, 8, 3, 3)) * 0.1
    second[3], second[5] = 0, second[5] * 1e-42
    weights: dict[str, Any] = {
        "w0": random.normal(size=(8, 3, 3, 3)),
        "b0": np.full(8, -1000.0),
        "w1": second,
        "b1": np.full(8, 0.1),
    }
    weights |= {"w2": (8, 3, 5, 5), "b2": (8,), **head(8)}
    lines = ("c = Conv (image, w0, b0)", "r = Relu (c)", "d = Conv (r, w1, b1)", "e = Conv (image, w2, b2)", "s = Add (d, e)")
    net = _import(deploykit_here, graph_of(*lines, "last = Relu (s)", *HEAD, weights=weights), tmp_path / "dead", "--no-explain")
    verdict = _verdict(deploykit_here, net, photos, "--method", "minmax", "--repair", "none")
    assert "r" in verdict["zero_tensors"]
    assert [3, 5] in verdict["zero_filters"].values()
    scales = [numpy_helper.to_array(t) for t in onnx.load(net / "int8" / "predict.onnx").graph.initializer if "_scale" in t.name]
    assert all(np.isfinite(scale).all() and scale.min() > 1e-30 for scale in scales)
    assert verdict["cpu"]["snr_db"] > 25


def test_labelled_pictures_put_both_accuracies_into_the_verdict(
    deploykit_here: Deploykit, bundle: Path, photos: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for i, picture in enumerate(sample_pictures(10, 16, 16, seed=99)):
        (data / str(i % 5)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(data / str(i % 5) / f"{i}.png")
    verdict = _verdict(deploykit_here, bundle, photos, "--data", data, "--method", "minmax", "--repair", "none")
    assert verdict["labelled"]["fp32"]["images"] == 10
    assert any(line.startswith("accuracy on 10 labelled pictures") for line in verdict["words"])
    shutil.copy(photos / "03.png", data / "0" / "seen.png")
    shutil.copy(photos / "04.png", data / "0" / "seen_too.png")
    done = deploykit_here("quantize", bundle, "--images", photos, "--data", data, "--force", "--holdout", "0.01")
    assert done.returncode == 2
    assert "were calibrated with" in done.stderr


def test_one_scale_for_all_channels_fails_the_gate_that_one_per_channel_passes(
    deploykit_here: Deploykit, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Case O15: one depthwise filter is 100 times as large as the others, and reads a channel that is 100 times smaller.
    random = np.random.default_rng(1)
    first, second = random.normal(size=(16, 3, 1, 1)), random.normal(size=(16, 1, 3, 3))
    first[0], second[0] = first[0] / 100, second[0] * 100
    weights: dict[str, Any] = {"w0": first, "b0": np.zeros(16), "w1": second, "b1": np.zeros(16), "w2": (16, 16, 1, 1)}
    weights |= {"b2": np.zeros(16), **head(16)}
    depthwise = "d = Conv <pads=[1,1,1,1], group=16> (r, w1, b1)"
    lines = ("c = Conv (image, w0, b0)", "r = Relu (c)", depthwise, "last = Conv (d, w2, b2)")
    graph = graph_of(*lines, *HEAD, weights=weights)
    # Logits are centred, so that every class is some picture's.
    pixels = sample_pictures(40, 12, 12, seed=7).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    bias = next(t for t in graph.graph.initializer if t.name == "head_bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) - run(graph, image=pixels)["logits"].mean(0), "head_bias"))
    net = _import(deploykit_here, graph, tmp_path / "depthwise", "--no-explain")
    options = ("--method", "minmax", "--repair", "none", "--holdout", "0.5", "--min-agreement", "0.7")
    verdict = _verdict(deploykit_here, net, photos, *options)
    assert not verdict["kept"], verdict["words"]
    found = onnx.load(net / "int8" / "predict.onnx")
    scales = {t.name: list(t.dims) for t in found.graph.initializer if t.name in ("w0_scale", "w1_scale", "w2_scale")}
    assert scales == {"w0_scale": [16], "w1_scale": [16], "w2_scale": [16]}
    real = qdq.quantize_graph
    monkeypatch.setattr(quantize_search, "quantize_graph", lambda *a: real(*a, per_channel=False))
    worse = deploykit_here("quantize", net, "--images", photos, *options, "--force", "--json")
    assert worse.returncode == 1 or json.loads(worse.stdout)["kept"], worse.stdout


def test_the_verdict_is_drawn(deploykit_here: Deploykit, bundle: Path, photos: Path, tmp_path: Path) -> None:
    _verdict(deploykit_here, bundle, photos, "--plot", tmp_path / "verdict.png")
    with Image.open(tmp_path / "verdict.png") as picture:
        assert picture.size == (1950, 900)
    done = deploykit_here("quantize", bundle, "--images", photos, "--plot", tmp_path / "verdict.gif", "--force")
    assert done.returncode == 2
    assert ".png, .svg, .pdf" in done.stderr


def test_parts_of_a_net_too_large_for_one_run_give_what_the_whole_gives(
    deploykit_here: Deploykit, bundle: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Rounding differs where ONNX Runtime fuses operators whose outputs nobody asks for.
    _verdict(deploykit_here, bundle, photos, "--plot", str(tmp_path / "whole.svg"))
    whole = read(bundle / "int8/calibration.json").tensors
    monkeypatch.setattr(exposure, "PART_BYTES", 4000)
    _verdict(deploykit_here, bundle, photos, "--plot", str(tmp_path / "parts.svg"), "--force")
    parts = read(bundle / "int8/calibration.json").tensors
    assert list(parts) == list(whole)
    assert [t.threshold for t in parts.values()] == pytest.approx([t.threshold for t in whole.values()], rel=1e-5)
