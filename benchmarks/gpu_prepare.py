"""Bundles for a GPU check, made on a machine without a GPU: exported, in FP16 and in INT8, with random weights.

Weights do not change how fast a network is, so random ones do, and nothing has to be downloaded. Every layer that INT8 can compute
is INT8: layers kept in float for the sake of random answers would make the times those of another network.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from deploykit.cli.main import run as run_deploykit
from deploykit.parity import sample_pictures

PHOTOS, SIDE = 16, 320


def prepare_bundles(folder: Path, models: Sequence[str], run: Callable[[list[str]], int] = run_deploykit) -> list[str]:
    """Make a bundle for each model; the commands that failed, in words."""
    photos = folder / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(sample_pictures(PHOTOS, SIDE, SIDE)):
        Image.fromarray(picture).save(photos / f"{i:02}.png")
    failed = []
    for model in models:
        for command in commands_of(folder, photos, model):
            if run(command) != 0:
                failed.append(f"deploykit {' '.join(command)}")
                break
    return failed


def commands_of(folder: Path, photos: Path, model: str) -> list[list[str]]:
    """What is typed for one model; what it needs is in its bundle afterwards."""
    bundle = str(folder / model)
    quantize = ["--images", str(photos), "--method", "percentile", "--repair", "none", "--min-agreement", "0", "--force"]
    return [
        ["--quiet", "export", model, "--output", bundle, "--force"],
        ["--quiet", "convert", bundle, "--precision", "fp16", "--force"],
        ["--quiet", "quantize", bundle, *quantize],
    ]
