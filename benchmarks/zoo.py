"""How much of timm's and torchvision's CNNs deploykit exports and explains: a broad sample, and why the rest does not work.

    python -m benchmarks.zoo [NAME]... [--jobs 2] [--again]

The sample: of every module of timm's whose models are convolutional, the two smallest by name, and torchvision's classifiers, the
smallest of each family; without weights, at 96 x 96 pixels where the model takes that. Each is exported as a user exports it:
parity with torch on pictures, explain graph against autograd or finite differences. Writes results/zoo.json; a run that was cut off
goes on where it stopped.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import timm

from benchmarks.report import RESULTS, describe_machine, format_table, say, write_results

RESULT = RESULTS / "zoo.json"
PACKAGES = ("torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime", "numpy")
PER_PROCESS = 6
LIMIT_S = 900
PER_MODULE = 2

# Modules of timm's whose models mix pixels by attention, by a state space, by recurrence or by dense layers over positions, or
# that wrap such models: not what is asked about.
NO_CNNS = frozenset({
    "beit", "byoanet", "cait", "coat", "convit", "crossvit", "csatv2", "davit", "deepseek_vit", "deit", "edgenext",
    "efficientformer", "efficientformer_v2", "efficientvim", "efficientvit_mit", "efficientvit_msra", "eva", "fastvit",
    "focalnet", "gcvit", "gemma4_vit", "hiera", "hieradet_sam2", "iformer", "levit", "lowformer", "maxxvit", "metaformer",
    "mlp_mixer", "mobilenetv5", "mobilevit", "mvitv2", "naflexvit", "nest", "nextvit", "pit", "pvt_v2", "qwen3_vit",
    "sequencer", "shvit", "swiftformer", "swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr", "tiny_vit",
    "tnt", "twins", "visformer", "vision_transformer", "vision_transformer_hybrid", "vision_transformer_relpos",
    "vision_transformer_sam", "vitamin", "volo", "xcit",
})  # fmt: skip
TORCHVISION = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3", "mnasnet0_5"),
    *("mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnet50", "resnext50_32x4d"),
    *("shufflenet_v2_x0_5", "squeezenet1_1", "vgg11", "vgg11_bn", "wide_resnet50_2"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these, such as timm:resnet18 [default: the sample]")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes at once [default: 1]")
    parser.add_argument("--again", action="store_true", help="forget what an earlier run found")
    options = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    if RESULT.exists() and not options.again:
        rows = {row["name"]: row for row in json.loads(RESULT.read_text())["models"]}
    wanted = options.names or [name for name in sample() if name not in rows]
    with ThreadPoolExecutor(options.jobs) as pool:
        chunks = [wanted[i : i + PER_PROCESS] for i in range(0, len(wanted), PER_PROCESS)]
        for task in as_completed([pool.submit(try_models, chunk) for chunk in chunks]):
            for row in task.result():
                rows[row["name"]] = row
                say(f"{row['name']}: {row['reason'] or 'passed'}")
            record(rows.values())
    failed = [row for row in rows.values() if not row["passed"]]
    header = ("model", "s", "why not")
    print(format_table(header, [(row["name"], f"{row['seconds']}", row["reason"][:100]) for row in failed]))
    print(f"{len(rows) - len(failed)} of {len(rows)} pass: {1 - len(failed) / len(rows):.1%}")


def sample() -> list[str]:
    """The models to try, as ``deploykit export`` takes them."""
    names = []
    for module in timm.list_modules():
        if module not in NO_CNNS:
            names += [f"timm:{name}" for name in _smallest(timm.list_models(module=module))]
    return [*names, *(f"torchvision:{name}" for name in TORCHVISION)]


def _smallest(names: Sequence[str]) -> list[str]:
    """The two whose names sound smallest: the families count in words, in widths and in depths."""
    words = ("atto", "femto", "pico", "nano", "zepto", "tiny", "mini", "small", "_xs", "_s")

    def size(name: str) -> tuple[int, int, str]:
        word = next((i for i, word in enumerate(words) if word in name), len(words))
        numbers = [int(number) for number in re.findall(r"\d+", name)]
        return word, max(numbers, default=0), name

    return sorted((name for name in names if not name.startswith("test_")), key=size)[:PER_MODULE]


def try_models(names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each, from one process. A model that kills it leaves those behind it without one, and they are tried alone."""
    command = [sys.executable, "-m", "benchmarks.zoo_models", *names]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
        text, ended = done.stdout, f"the process ended with exit code {done.returncode}"
    except subprocess.TimeoutExpired as late:
        text, ended = (late.stdout or b"").decode(), f"not done after {LIMIT_S} s"
    rows = [json.loads(line) for line in text.splitlines() if line.startswith('{"name"')]
    left = list(names[len(rows) :])
    if left:
        rows.append({"name": left[0], "passed": False, "reason": ended, "seconds": 0})
        rows += try_models(left[1:]) if left[1:] else []
    return rows


def record(rows: Iterable[Mapping[str, Any]]) -> None:
    """Write down what is known so far, by name."""
    ordered = sorted(rows, key=lambda row: str(row["name"]))
    passed = sum(bool(row["passed"]) for row in ordered)
    write_results(RESULT, {"machine": describe_machine(*PACKAGES), "passed": passed, "tried": len(ordered), "models": ordered})


if __name__ == "__main__":
    main()
