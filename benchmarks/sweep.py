"""Every model of the registry through the whole chain: oracle, export, verify, explain, FP16, INT8, engines of all of them.

    python -m benchmarks.sweep [NAME]... [--target sm86]... [--again]

Each model has a process of its own. What is done is written at once, so a run that was cut off goes on where it stopped;
``--again`` starts over. Writes results/sweep.json.
A model fails for one reason, which is written beside it; the script then exits with 1.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from benchmarks.report import RESULTS, describe_machine, format_table, say, write_results
from deploykit.models.catalogue import MODELS

RESULT = RESULTS / "sweep.json"
PACKAGES = ("torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime", "numpy", "tensorrt-rtx-cu13")
LIMIT_S = 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these [default: all]")
    parser.add_argument("--target", action="append", metavar="SM", help="build engines for it, as often as wanted [default: sm86]")
    parser.add_argument("--again", action="store_true", help="forget what an earlier run found")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="models at once [default: 1]")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in MODELS]:
        parser.error(f"no such model: {', '.join(unknown)}")
    rows: dict[str, dict[str, Any]] = {}
    if RESULT.exists() and not options.again:
        rows = {row["name"]: row for row in json.loads(RESULT.read_text())["models"] if row["name"] in MODELS}
    wanted = options.names or [name for name in MODELS if not rows.get(name, {}).get("passed")]
    with ThreadPoolExecutor(options.jobs) as pool:
        tasks = {pool.submit(sweep_model, name, options.target or ["sm86"]): name for name in wanted}
        for task in as_completed(tasks):
            rows[tasks[task]] = row = task.result()
            say(f"{row['name']}: {row['reason'] or 'passed'}, {row['seconds']} s")
            record(rows)
    print(format_table(_HEADER, [_row(rows[name]) for name in MODELS if name in rows]))
    if failed := [name for name, row in rows.items() if not row["passed"]]:
        sys.exit(f"{len(failed)} of {len(rows)} failed: {', '.join(failed)}")


def sweep_model(name: str, targets: list[str]) -> dict[str, Any]:
    """One model in its own process; what it prints last is its row."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
        command = [sys.executable, "-m", "benchmarks.sweep_model", name, folder, *targets]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            return {"name": name, "passed": False, "reason": f"not done after {LIMIT_S} s", "seconds": LIMIT_S}
    seconds = round(time.perf_counter() - start)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        errors = [line for line in said if line.startswith("error:")]
        return {"name": name, "passed": False, "reason": (errors or said)[-1], "seconds": seconds}
    return {"name": name, "passed": True, "reason": "", "seconds": seconds, **json.loads(done.stdout.splitlines()[-1])}


def record(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Write down what is known so far, in the registry's order."""
    ordered = [rows[name] for name in MODELS if name in rows]
    write_results(RESULT, {"machine": describe_machine(*PACKAGES), "models": ordered})


_HEADER = (
    "model",
    "parameters",
    "multiply-adds",
    "oracle",
    "float64",
    "export s",
    "parity",
    "explain",
    "MB",
    "engines, MB",
    "CPU s",
)


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    if not row["passed"]:
        return (row["name"], *[""] * (len(_HEADER) - 3), f"FAILED: {row['reason']}"[:60], f"{row['seconds']}")
    oracle = row["oracle"]
    sizes = " ".join(f"{made['predict_mb']:.1f}" for made in row["precisions"].values())
    target = next(iter(row["precisions"]["fp32"]["engines"]))
    engines = [made["engines"][target] for made in row["precisions"].values()]
    return (
        row["name"],
        f"{row['parameters'] / 1e6:.1f} M",
        f"{row['multiply_adds'] / 1e9:.2f} G",
        "none" if oracle is None else oracle["library"],
        "" if oracle is None else f"{oracle['float64']:.0e}",
        f"{row['export_s']:.1f}",
        f"{row['parity']:.0e}",
        f"{row['explain_parity']:.0e}",
        sizes,
        " ".join(f"{made['predict']['mb']:.0f}+{made['explain']['mb']:.0f}" for made in engines),
        f"{row['cpu_s']}",
    )


if __name__ == "__main__":
    main()
