"""One model of the registry through the whole chain, for sweep.py: a name in, a line of JSON out. The first failure ends it.

python -m benchmarks.sweep_model NAME FOLDER TARGET...
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import onnx
import torch
from PIL import Image

from benchmarks.oracle_models import ORACLES
from deploykit.bundle import Bundle
from deploykit.cli.main import run
from deploykit.models.catalogue import find_model
from deploykit.models.counted import multiply_adds
from deploykit.models.initialize import measure_statistics
from deploykit.models.registry import load_model
from deploykit.parity import sample_pictures

T = TypeVar("T")

# Sums of the same products in the same order, so only rounding differs; logits are of the order of 1.
FLOAT32_TOLERANCE, FLOAT64_TOLERANCE = 1e-4, 1e-8
PICTURES = 10
METHODS = dict.fromkeys(("efficientnet_b5", "efficientnet_b6", "efficientnet_b7"), "mse")
"""How INT8 is calibrated where it is not by minmax: the maps of nets of 39 blocks and more with random weights are no likeness any
more then (0.5 apart on average, which is what is allowed)."""
SEGMENTATION_SIZE = 128
"""Pixels on a side: at its own size Dilation8 takes 8 s a picture on two cores, and the chain asks for hundreds."""


def main() -> None:
    name, folder, *targets = sys.argv[1:]
    bundle_path = Path(folder) / name
    oracle = compare_with_oracle(name, Path(folder))
    smaller = ["--image-size", str(SEGMENTATION_SIZE)] if find_model(name).task == "segmentation" else []
    exported, export_s = timed(lambda: run(["--quiet", "export", name, "-o", str(bundle_path), "--json", *smaller]))
    verified, verify_s = (exported, 0.0) if exported else timed(lambda: run(["--quiet", "verify", str(bundle_path)]))
    if exported or verified:
        sys.exit(1)
    precision_s = add_precisions(bundle_path, Path(folder), METHODS.get(name, "minmax"))
    bundle = Bundle.open(bundle_path)
    predict, explain = (onnx.load(bundle.file(f"fp32/{graph}.onnx")) for graph in ("predict", "explain"))
    files = bundle.manifest.files
    row = {
        "family": bundle.manifest.model.family,
        "task": bundle.manifest.model.task,
        "parameters": find_model(name).parameters,
        "multiply_adds": multiply_adds()[name],
        "image": [bundle.manifest.image.height, bundle.manifest.image.width],
        "layer": [layer.name for layer in bundle.manifest.layers],
        "nodes": {"predict": len(predict.graph.node), "explain": len(explain.graph.node)},
        "predict_mb": round(files["fp32/predict.onnx"].size_bytes / 1e6, 1),
        "oracle": oracle,
        "export_s": export_s,
        "verify_s": verify_s,
        "parity": (files["fp32/predict.onnx"].parity or {})["relative_difference"],
        "explain_parity": (files["fp32/explain.onnx"].parity or {})["relative_difference"],
        "explain_reference": (files["fp32/explain.onnx"].parity or {})["reference"],
        "precisions": {
            str(precision): {
                "seconds": precision_s.get(str(precision), export_s),
                "predict_mb": round(files[f"{precision}/predict.onnx"].size_bytes / 1e6, 1),
                "engines": {target: build_engines(bundle_path, str(precision), target) for target in targets},
            }
            for precision in bundle.precisions
        },
    }
    row["cpu_s"] = round(time.process_time())
    row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(row))


def add_precisions(bundle: Path, folder: Path, method: str) -> dict[str, float]:
    """Add FP16 and INT8 as a user does, and return their seconds. How far the INT8 of random weights agrees says nothing, so no
    agreement is asked for: every layer is quantized, calibrated on made-up pictures.

    Raises:
        SystemExit: a verb fails, and has said why.
    """
    image = Bundle.open(bundle).manifest.image
    photos = folder / "photos"
    photos.mkdir()
    for i, pixels in enumerate(sample_pictures(PICTURES, image.height, image.width, seed=3)):
        Image.fromarray(pixels).save(photos / f"{i}.png")
    verbs = {
        "fp16": ["convert", str(bundle), "--precision", "fp16"],
        "int8": [
            "quantize",
            str(bundle),
            "--images",
            str(photos),
            "--method",
            method,
            "--repair",
            "none",
            "--min-agreement",
            "0",
        ],
    }
    seconds = {}
    for precision, arguments in verbs.items():
        code, seconds[precision] = timed(lambda arguments=arguments: run(["--quiet", *arguments]))  # type: ignore[misc]
        if code:
            sys.exit(1)
    return seconds


def build_engines(bundle: Path, precision: str, target: str) -> dict[str, Any]:
    """Plans of the predict and the explain graph for another machine's GPU, with a dynamic batch.

    Raises:
        SystemExit: `deploykit build` fails, and has said why.
    """
    options = ["--backend", "tensorrt-rtx", "--precision", precision, "--target", target, "--batch", "1:8:32", "--no-cache"]
    if run(["--quiet", "build", str(bundle), *options]):
        sys.exit(1)
    (plan,) = bundle.glob(f"plans/*-{target}-{precision}-*/plan.json")
    files = json.loads(plan.read_text())["files"]
    return {
        name.removesuffix(".plan"): {"build_s": made["build_s"], "mb": round(made["size_bytes"] / 1e6, 1)}
        for name, made in files.items()
    }


@torch.no_grad()
def compare_with_oracle(name: str, folder: Path) -> dict[str, Any] | None:
    """The largest difference of the logits to an independent implementation with the same weights; None where there is none.

    Raises:
        SystemExit: they differ by more than rounding.
    """
    if name not in ORACLES:
        return None
    oracle = ORACLES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        theirs = oracle.build().eval()
        pictures = torch.randn(2, 3, oracle.size, oracle.size)
        measure_statistics(theirs, torch.randn(2, 3, 128, 128))
    torch.save(theirs.state_dict(), folder / "weights.pth")
    ours = load_model(name, weights_file=folder / "weights.pth", layout=oracle.layout).model
    found = {"library": oracle.library, "name": oracle.name}
    differences = []
    for dtype, allowed in ((torch.float32, FLOAT32_TOLERANCE), (torch.float64, FLOAT64_TOLERANCE)):
        expected, seen = (_logits(model.to(dtype)(pictures.to(dtype))) for model in (theirs, ours))
        spread = float((expected[0] - expected[1]).abs().max())
        difference = float((seen - expected).abs().max())
        if not difference <= allowed or not spread > 100 * difference:
            sys.exit(f"error: {dtype} logits differ from {oracle.library}'s by {difference:.1e} (of two pictures by {spread:.1e})")
        differences.append(difference)
    (folder / "weights.pth").unlink()
    return {**found, "float32": differences[0], "float64": differences[1]}


def _logits(output: object) -> torch.Tensor:
    """The logits among what a library's module gives."""
    if isinstance(output, dict):
        output = output["out"]
    assert isinstance(output, torch.Tensor)
    return output


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """What a call gives, and its seconds of CPU time, which neighbours on the machine change little."""
    start = time.process_time()
    answer = call()
    return answer, round(time.process_time() - start, 1)


if __name__ == "__main__":
    main()
