"""A small name of each family through every precision to TensorRT-RTX plans for another machine's GPU.

``make sweep`` does the same for every name at its own size, for four GPUs; here the pictures are small, and so is the time.
"""

import json
from pathlib import Path

import pytest
from PIL import Image

from deploykit.bundle import Bundle
from deploykit.models.catalogue import MODELS, find_model
from deploykit.models.families import dilation
from deploykit.parity import sample_pictures
from deploykit.plan import PlanRecord
from tests.conftest import Deploykit

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorrt_rtx")

SIZES = {
    "densenet121": 64,
    "dilation8_frontend": 64,
    "drn_d_22": 64,
    "efficientnet_b0": 64,
    "efficientnet_lite0": 64,
    "efficientnet_v2_s": 64,
    "fcn_resnet50": 64,
    "inception_v1": 64,
    "mobilenet_v2": 64,
    "resnet18": 64,
    "resnext50_32x4d": 64,
    "vgg16_cam": 64,
    "xception": 96,
}
"""Pixels on a side."""
GATES = {"efficientnet_b0": 32, "efficientnet_v2_s": 60}
"""Two convolutions of each squeeze-and-excitation, which stay out of INT8 (quantization/PLACEMENT.md)."""
FEWEST_LAYERS = 15
"""Convolutions and fully connected layers: VGG-16's CAM variant has no more."""
BATCH = "1:8:32"
QUICKLY = ("--method", "minmax", "--repair", "none", "--min-agreement", "0")
"""Random weights: how far they agree says nothing, so every layer is quantized."""


def test_every_family_has_a_name_here() -> None:
    assert {find_model(name).family for name in SIZES} == {find_model(name).family for name in MODELS}


@pytest.mark.parametrize("name", SIZES)
def test_predict_and_explain_build_at_every_precision(
    name: str, tmp_path: Path, deploykit_here: Deploykit, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Dilation8 has 134 million parameters: all of its layers, and an eighth of its width or less.
    monkeypatch.setattr(dilation, "BLOCKS", tuple((8,) * len(block) for block in dilation.BLOCKS))
    monkeypatch.setattr(dilation, "HIDDEN", 64)
    size, path, photos = SIZES[name], tmp_path / name, tmp_path / "photos"
    photos.mkdir()
    for i, pixels in enumerate(sample_pictures(4, size, size, seed=3)):
        Image.fromarray(pixels).save(photos / f"{i}.png")
    for verb in (
        ("export", name, "-o", path, "--image-size", str(size)),
        ("convert", path, "--precision", "fp16"),
        ("quantize", path, "--images", photos, *QUICKLY),
    ):
        done = deploykit_here("--quiet", *verb)
        assert done.returncode == 0, done.stderr
    multiplying = {}
    for precision in ("fp32", "fp16", "int8"):
        options = ("--backend", "tensorrt-rtx", "--target", "sm86", "--precision", precision, "--batch", BATCH, "--no-cache")
        done = deploykit_here("build", path, *options, "--json")
        assert done.returncode == 0, done.stderr
        folder = json.loads(done.stdout)["folder"]
        record = PlanRecord.from_text((path / folder / "plan.json").read_text(), path)
        assert (record.sm, str(record.batch), record.precision) == ("sm86", BATCH, precision)
        assert sorted(record.files) == ["explain.plan", "predict.plan"]
        for plan in record.files.values():
            assert plan.graph == f"{precision}/{Path(plan.graph).name}"
            assert plan.size_bytes == (path / folder / f"{Path(plan.graph).stem}.plan").stat().st_size
            assert plan.layers or plan.not_inspected
            assert sum(plan.network.values()) >= sum(plan.multiplying.values())
        multiplying[precision] = {name: plan.multiplying for name, plan in record.files.items()}
    assert Bundle.open(path).damage() == {}
    layers = sum(multiplying["fp32"]["predict.plan"].values())
    assert layers >= FEWEST_LAYERS
    assert multiplying["fp16"]["predict.plan"] == {"fp16": layers}
    integers, gates = multiplying["int8"]["predict.plan"]["int8"], GATES.get(name, 0)
    assert multiplying["int8"]["predict.plan"] == {"int8": integers, **({"fp32": gates} if gates else {})}
    assert integers + gates == layers
    for precision in ("fp16", "int8"):  # what explains adds products in float32 alone
        served, explains = multiplying[precision]["predict.plan"], dict(multiplying[precision]["explain.plan"])
        explains["fp32"] -= served.get("fp32", 0)
        assert explains.pop("fp32") > 0
        assert explains == {kind: count for kind, count in served.items() if kind != "fp32"}
