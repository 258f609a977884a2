"""Everything that needs an NVIDIA GPU, in one run of under nine minutes: plans built, proved, measured, compared; tests/gpu.

    python -m benchmarks.gpu_check --prepare gpu/bundles         on any machine with deploykit[export]: makes the bundles
    python -m benchmarks.gpu_check --bundles gpu/bundles         on the machine with the GPU
    python -m benchmarks.gpu_check --wheels gpu/wheels ...       there, where packages are missing and there is no network

ResNet-50, EfficientNet-B0 and B3, at fp32, fp16 and int8, predict and explain, on each TensorRT that is installed; beside them ONNX
Runtime's CUDA provider, torch eager and compiled, and trtexec, as far as they are there. Writes gpu-NAME.json and gpu-NAME.md into
benchmarks/results. Exit code 0 only if every step was run and succeeded.
"""

import argparse
import importlib
import re
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.gpu_needs import Found, find_needs, find_trtexec, how_to_get, install_wheels, is_installed
from benchmarks.gpu_steps import MODELS, PRECISIONS, Here
from deploykit.plan import Gpu
from deploykit.trt import BACKENDS, find_gpu

BUDGET_S = 530
"""Under nine minutes with what stands before and after the steps."""

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
TESTS = Path("tests/gpu")


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    if options.prepare is not None:
        return _prepare(options.prepare, options.models)
    gpu = find_gpu()
    if gpu is None:
        _error(
            "no NVIDIA GPU here: there is no CUDA driver (libcuda.so.1), or it finds no device",
            "run it where nvidia-smi shows one; --prepare FOLDER makes the bundles for it on a machine like this",
        )
        return 1
    missing = [found for found in find_needs() if found.by is None]
    if options.wheels is not None and missing:
        if (reason := install_wheels(options.wheels, missing)) is not None:
            _error(f"wheels: {reason}", "the rest of the report says what is missing")
        importlib.invalidate_caches()
    needs = find_needs()
    print("\n".join(found.line for found in needs), flush=True)
    missing = [found for found in needs if found.by is None]
    if required := [found for found in missing if found.need.required]:
        _error(f"{', '.join(found.need.module for found in required)}: not installed", how_to_get(required))
        return 1
    if absent := [model for model in options.models if not (options.bundles / model / "manifest.json").is_file()]:
        _error(
            f"{options.bundles} holds no bundle of {', '.join(absent)}",
            f"make them on any machine with deploykit[export]: python -m benchmarks.gpu_check --prepare {options.bundles}",
        )
        return 1
    return _check(options, gpu, missing)


def _check(options: argparse.Namespace, gpu: Gpu, missing: list[Found]) -> int:
    # Imported here because they need numpy, which may only just have been installed, and onnxruntime.
    from benchmarks.gpu_report import as_summary, make_report
    from benchmarks.gpu_run import run_steps
    from benchmarks.gpu_steps import ort_probe, plan_steps
    from benchmarks.report import RESULTS, describe_machine, write_results
    from deploykit.runtime.ort import available_providers

    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        backends = tuple(backend for backend in BACKENDS if is_installed(MODULES[backend]))
        tests, left_out = find_tests(TESTS)
        here = Here(options.bundles, Path(folder), backends, tests, has_torch=_torch_sees_gpu(), trtexec=find_trtexec())
        outcomes = []
        if "cuda" in available_providers():
            outcomes = run_steps([ort_probe(here, options.models[0])], 40, tell=_tell)
            here = replace(here, ort_cuda=outcomes[0].status == "ok")
        budget = options.budget - (time.monotonic() - start)
        outcomes += run_steps(plan_steps(here, options.models, PRECISIONS), budget, tell=_tell)
    lines = [found.line for found in missing] + left_out + _comparisons_left_out(here)
    head = {
        "machine": describe_machine(
            "onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt-rtx-cu13", "torch", "pycuda", "cuda-core"
        ),
        "gpu": asdict(gpu),
        "missing": lines,
        "budget_s": options.budget,
        "seconds": round(time.monotonic() - start, 1),
    }
    report = make_report(head, outcomes)
    name = options.name or re.sub(r"[^a-z0-9]+", "-", gpu.name.lower()).strip("-")
    write_results(RESULTS / f"gpu-{name}.json", report)
    summary = as_summary(report)
    (RESULTS / f"gpu-{name}.md").write_text(f"```\n{summary}\n```\n", encoding="utf-8")
    print(f"\n{summary}\n\nwrote {RESULTS / f'gpu-{name}.json'} and .md")
    return 0 if report["is_whole"] else 1


def find_tests(folder: Path) -> tuple[tuple[str, ...], list[str]]:
    """The test files that can be imported here, and of the others what they lack."""
    if not (is_installed("pytest") and is_installed("pytest_timeout") and is_installed("skimage")):
        return (), []  # named among the missing packages
    found, left_out = [], []
    for path in sorted(folder.glob("test_*.py")):
        modules = re.findall(r"^(?:import|from) (torch|timm)\b", path.read_text(encoding="utf-8"), re.MULTILINE)
        lacks = sorted({module for module in modules if not is_installed(module)})
        if lacks:
            left_out.append(f"{path}: needs {', '.join(lacks)}")
        else:
            found.append(str(path))
    return tuple(found), left_out


def _comparisons_left_out(here: Here) -> list[str]:
    """What there is nothing to compare with, and why."""
    reasons = {
        "ONNX Runtime's CUDA provider: not in this onnxruntime, or it did not start": here.ort_cuda,
        "torch eager and torch.compile: torch is not installed, or sees no GPU": here.has_torch,
        "trtexec: not on the PATH; it comes with TensorRT's archive, not with its wheels": here.trtexec is not None,
    }
    return [reason for reason, is_here in reasons.items() if not is_here]


def _torch_sees_gpu() -> bool:
    if not is_installed("torch"):
        return False
    import torch

    return torch.cuda.is_available()


def _prepare(folder: Path, models: list[str]) -> int:
    # Imported here because it needs torch, which the machine with the GPU may not have.
    from benchmarks.gpu_prepare import prepare_bundles

    if failed := prepare_bundles(folder, models):
        _error("these failed: " + "; ".join(failed), "what they said stands above")
        return 1
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {', '.join(models)}, {size / 1e6:.0f} MB. Copy it and the repository to the machine with the GPU")
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="make the bundles, without a GPU, and end")
    parser.add_argument("--bundles", type=Path, default=Path("gpu/bundles"), metavar="FOLDER", help="prepared bundles")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="install what is missing from these wheels")
    parser.add_argument(
        "--model", dest="models", action="append", metavar="NAME", help=f"instead of {', '.join(MODELS)}; repeatable"
    )
    parser.add_argument("--name", help="of the report; the GPU's where it is left out")
    parser.add_argument(
        "--budget", type=float, default=BUDGET_S, metavar="SECONDS", help=f"for all steps; {BUDGET_S} where left out"
    )
    options = parser.parse_args(arguments)
    options.models = options.models or list(MODELS)
    return options


def _tell(line: str) -> None:
    print(line, flush=True)


def _error(text: str, hint: str) -> None:
    print(f"error: {text}\nhint: {hint}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
