"""trtexec on a bundle's own plan, so that its figure and ours are of the same engine.

    python -m benchmarks.gpu_trtexec TRTEXEC BUNDLE PRECISION BATCH OUTPUT.json

Writes the median of its GPU compute time, copies left out and a CUDA graph replayed: 11's default, and what 10 is told.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

from deploykit.bundle import Bundle
from deploykit.plan import PlanRecord, read_record
from deploykit.runtime.plans import find_plan
from deploykit.spec import Precision

_MEDIAN = re.compile(r"GPU Compute Time:.*?median = ([0-9.]+) ms")


def main() -> None:
    trtexec, folder, precision, batch, output = sys.argv[1:]
    bundle = Bundle.open(folder)
    plan = find_plan(bundle, "predict", Precision(precision), backend="tensorrt")
    record = read_record(plan.parent)
    if record is None:
        sys.exit(f"error: {plan} has no record")
    command = trtexec_command(trtexec, plan, record, batch, (bundle.manifest.image.height, bundle.manifest.image.width))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    median = read_median(done.stdout)
    if done.returncode or median is None:
        sys.exit(f"error: {' '.join(command)} ended with {done.returncode}: {(done.stdout + done.stderr)[-1000:]}")
    Path(output).write_text(json.dumps({"gpu_ms": median, "batch": int(batch), "command": command}))


def trtexec_command(trtexec: str, plan: Path, record: PlanRecord, batch: str, size: tuple[int, int]) -> list[str]:
    """The command line; what 11 does by default must be said to 10."""
    height, width = size
    as_11 = ["--noDataTransfers", "--useCudaGraph", "--useSpinWait"] if record.version.startswith("10.") else []
    return [trtexec, f"--loadEngine={plan}", f"--shapes=image:{batch}x{height}x{width}x3", "--duration=3", "--warmUp=500", *as_11]


def read_median(text: str) -> float | None:
    """The median of the GPU compute time, in milliseconds."""
    found = _MEDIAN.search(text)
    return float(found[1]) if found else None


if __name__ == "__main__":
    main()
