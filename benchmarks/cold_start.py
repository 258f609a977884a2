"""From starting a process to its first answer on a photo: seconds, and the most memory it ever held.

Files are in the page cache and Python's byte code is written (the first runs are warm-up), so this is the cost of a restart on a
machine that was serving, without the disk. Every script gets all cores, as it would.
"""

import importlib.util
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import Aim, Section, say, sides_table
from benchmarks.sides import bundle_path, weights_path
from deploykit.benchmark.rounds import Measurement, measure_sides
from deploykit.benchmark.timing import Burst, Side
from deploykit.bundle import Bundle

_STATUS = Path("/proc/self/status")

_DEPLOYKIT = """
from deploykit.runtime import Classifier
with Classifier.open({bundle!r}) as classifier:
    print(classifier.classify({photo!r}, top=1)[0].class_index, flush=True)
"""

# What both of the others do by hand, as their authors would: shorter side to resize_size, centre crop.
_PIXELS = """
import numpy as np
from PIL import Image
image = Image.open({photo!r}).convert("RGB")
scale = {spec.resize_size} / min(image.size)
image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling[{spec.interpolation!r}.upper()])
x, y = round((image.width - {spec.width}) / 2), round((image.height - {spec.height}) / 2)
pixels = np.asarray(image.crop((x, y, x + {spec.width}, y + {spec.height})))[None]
"""

_BARE = (
    _PIXELS
    + """
import onnxruntime
session = onnxruntime.InferenceSession({graph!r}, providers=["CPUExecutionProvider"])
print(int(session.run(["logits"], {{"image": pixels}})[0].argmax()), flush=True)
"""
)

# Built without memory and filled from the mapped file: the quickest way that torch has.
_TORCH = (
    _PIXELS
    + """
import torch
from deploykit.models.catalogue import find_model
entry = find_model({name!r})
with torch.device("meta"):
    model = entry.build(1000, entry.conventions).eval()
model.load_state_dict(torch.load({weights!r}, mmap=True, weights_only=True), assign=True)
image = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2) / 255
image = (image - torch.tensor({spec.mean}).view(3, 1, 1)) / torch.tensor({spec.std}).view(3, 1, 1)
with torch.inference_mode():
    print(int(model(image).argmax()), flush=True)
"""
)

# The process asks for its own peak: what a parent is told of a child includes the parent's own memory before exec.
_PEAK = f"\nprint(next(line.split()[1] for line in open({str(_STATUS)!r}) if line.startswith('VmHWM')))\n"

DEPLOYKIT = "deploykit"
SCRIPTS: Mapping[str, str] = {DEPLOYKIT: _DEPLOYKIT, "bare onnxruntime": _BARE, "torch eager": _TORCH}


def compare_cold_start(folder: Path, models: Sequence[str], *, quick: bool) -> Section:
    """Start each script again and again, for every model."""
    record: dict[str, object] = {}
    tables: list[str] = []
    aims: list[Aim] = []
    for name in models:
        say(f"{name}: cold start")
        measured, peaks_mb = _measure_scripts(folder, name, rounds=2 if quick else 6)
        record[name] = measured.to_json() | {"peak_rss_mb": peaks_mb}
        peaks = ", ".join(f"{side} {'unknown' if peak is None else f'{peak:.0f} MB'}" for side, peak in peaks_mb.items())
        tables.append(f"{name}, from starting a process to its first answer\n{sides_table(measured, DEPLOYKIT)}\n  peak: {peaks}")
        seconds = statistics.median(measured.samples(DEPLOYKIT)) / 1e3
        aims.append(Aim(f"{name}: start to first answer", seconds, 1, "s", at_most=True, is_quiet=measured.is_quiet))
        if (peak := peaks_mb[DEPLOYKIT]) is not None:
            aims.append(Aim(f"{name}: peak resident memory", peak, 350, "MB", at_most=True, is_quiet=True))
    return Section(record, tuple(tables), tuple(aims))


def _measure_scripts(folder: Path, name: str, rounds: int) -> tuple[Measurement, dict[str, float | None]]:
    """Time each script in interleaved rounds.

    Returns:
        The measurement, one process a burst; and each script's peak of resident memory in MB, the largest of its runs, None where
        the system does not tell.

    Raises:
        RuntimeError: the scripts name different classes for the photo, so they do not do the same work.
    """
    bundle = Bundle.open(bundle_path(folder, name, "pixels"))
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    facts: dict[str, Any] = {
        "name": name,
        "bundle": str(bundle.path),
        "graph": str(bundle.file("fp32/predict.onnx")),
        "weights": str(weights_path(folder, name)),
        "photo": str(Path(package.origin).parent / "datasets" / "images" / "china.jpg"),
        "spec": bundle.manifest.image,
    }
    answers: dict[str, set[str]] = {side: set() for side in SCRIPTS}
    peaks_mb: dict[str, list[float]] = {side: [] for side in SCRIPTS}
    sides = {side: _side(script.format(**facts), answers[side], peaks_mb[side]) for side, script in SCRIPTS.items()}
    measurement = measure_sides(sides, rounds=rounds, warm_up=1)
    if len(set().union(*answers.values())) != 1:
        raise RuntimeError(f"the scripts answer differently: {answers}")
    return measurement, {side: max(peaks, default=None) for side, peaks in peaks_mb.items()}


def _side(script: str, answers: set[str], peaks_mb: list[float]) -> Side:
    def run(calls: int) -> Burst:
        times = [_run_once(script, answers, peaks_mb) for _ in range(calls)]
        return Burst(tuple(wall for wall, _ in times), tuple(cpu for _, cpu in times))

    return run


def _run_once(script: str, answers: set[str], peaks_mb: list[float]) -> tuple[float, float]:
    """Milliseconds from starting the process to its answer, and of CPU time until it has ended."""
    has_status = _STATUS.exists()
    cpu_start, start = _children_cpu_s(), time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", script + _PEAK * has_status], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        answer = process.stdout.readline().strip()
        wall_ms = (time.perf_counter() - start) * 1e3
        peak_kb = process.stdout.read().strip()
    if process.returncode:
        raise RuntimeError(f"a script ended with exit code {process.returncode}; what it said stands above")
    answers.add(answer)
    peaks_mb += [int(peak_kb) * 1024 / 1e6] if has_status else []
    return wall_ms, (_children_cpu_s() - cpu_start) * 1e3


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
