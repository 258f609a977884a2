"""What a GPU check needs and what is here: modules looked up, a driver asked, one line for each thing that is missing.

A fresh GPU machine has little installed and no network. So everything can be carried: wheels in a folder (`WHEELS_LINE` fills it on
a machine with a network) and bundles that were prepared without a GPU (benchmarks/gpu_prepare.py), which spares torch.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Need:
    """A package.

    Args:
        module: what is imported. requirement: what pip is told. purpose: what it is for.
        instead: another module that serves the purpose as well.
        required: whether nothing can be checked without it.
    """

    module: str
    requirement: str
    purpose: str
    instead: tuple[str, ...] = ()
    required: bool = True
    is_big: bool = False


NEEDS = (
    Need("numpy", "numpy>=1.24", "arrays"),
    Need("PIL", "pillow>=11.0", "pictures"),
    Need("click", "click>=8.1", "the command line"),
    Need("rich", "rich>=13.4", "progress bars"),
    Need("onnx", "onnx>=1.20", "reading the graphs that plans are built from"),
    Need("onnxruntime", "onnxruntime-gpu>=1.18", "the answers that plans are compared with, and the CUDA provider"),
    Need("tensorrt_rtx", "tensorrt-rtx-cu13>=1.5", "building and running plans", instead=("tensorrt",)),
    Need("cuda.core", "cuda-core", "device memory, streams and events", instead=("pycuda",)),
    Need("pytest", "pytest", "tests/gpu", required=False),
    Need("pytest_timeout", "pytest-timeout", "tests/gpu", required=False),
    Need("skimage", "scikit-image>=0.24", "tests/gpu", required=False),
    Need("pynvml", "nvidia-ml-py>=12", "clocks, power and throttling beside the times", required=False),
    Need("torch", "torch>=2.13", "the times of torch eager and torch.compile", required=False, is_big=True),
)

CARRIED = tuple(need.requirement for need in NEEDS if not need.is_big)
WHEELS_LINE = f"python -m pip download --dest wheels {' '.join(repr(one) if '>' in one else one for one in CARRIED)}"
"""Fills a folder of wheels. torch is not among them (3 GB); name it too where its times are wanted. TensorRT itself is a shell that
downloads its libraries when it is installed, so it cannot be carried in this way: install it from NVIDIA's archive."""


@dataclass(frozen=True)
class Found:
    """A need and whether it is met."""

    need: Need
    by: str | None

    @property
    def line(self) -> str:
        """In words, with the way to get it."""
        if self.by is not None:
            return f"found    {self.by:<16} {package_version(self.by) or ''}"
        other = f" (or {', '.join(self.need.instead)})" if self.need.instead else ""
        kind = "MISSING" if self.need.required else "missing"
        return f"{kind}  {self.need.module:<16} for {self.need.purpose}{other}: pip install '{self.need.requirement}'"


def find_needs(is_there: Callable[[str], bool] | None = None) -> list[Found]:
    """Every need, and the first module that meets it."""
    there = is_there or is_installed
    return [Found(need, next((name for name in (need.module, *need.instead) if there(name)), None)) for need in NEEDS]


def is_installed(module: str) -> bool:
    """Whether a module could be imported; a folder of type stubs without code counts as nothing."""
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:  # the parent of a submodule
        return False
    return spec is not None and (spec.origin is not None or module == "cuda.core")


def package_version(module: str) -> str | None:
    """The installed version of the package that a module comes from."""
    packages = _packages().get(module.partition(".")[0], [])
    named = [package for package in packages if module.replace(".", "-") in package] or packages
    return version(named[0]) if named else None


@cache
def _packages() -> Mapping[str, list[str]]:
    """Module -> packages; finding out reads every installed package's file list."""
    return packages_distributions()


def how_to_get(missing: Sequence[Found]) -> str:
    """What to do about everything that is missing, network or none."""
    wanted = " ".join(f"'{found.need.requirement}'" for found in missing)
    return (
        f"with a network: pip install {wanted}\n"
        f"without: on a machine with one and the same Python, {WHEELS_LINE}\n"
        "         copy the folder here, and run: python -m benchmarks.gpu_check --wheels wheels"
    )


def install_wheels(folder: Path, missing: Sequence[Found], run: Callable[..., object] = subprocess.run) -> str | None:
    """Install what is missing from a folder of wheels, without a network; None, or why that failed."""
    if not any(folder.glob("*.whl")):
        return f"{folder} holds no wheels; fill it with: {WHEELS_LINE}"
    # One at a time: what the folder lacks must not keep the rest from being installed.
    failed = []
    for found in missing:
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-index",
            "--find-links",
            str(folder),
            found.need.requirement,
        ]
        try:
            run(command, check=True, capture_output=True, timeout=120)
        except (subprocess.SubprocessError, OSError) as error:
            if found.need.required:
                failed.append(f"{found.need.requirement}: {error}")
    return "; ".join(failed) or None


def find_trtexec() -> str | None:
    """trtexec, where it is installed; it is in no wheel."""
    return shutil.which("trtexec")
