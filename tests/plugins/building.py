"""Builds plugins/ once per state of its sources: libraries, C++ tests and what nvcc said of each kernel.

The folder lies in the system's temporary folder and is named by a digest of everything it was built from, so a second run of the
tests builds nothing. Whoever comes while it is being built waits.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "plugins"
_COMPILE = [
    "g++",
    "-std=c++17",
    "-O2",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Werror",
]
_HOST = ("grad_cam/grad_cam_host.cpp", "resize_normalize/resize_host.cpp")
_ON_CPU = ("tests/launch.cpp", "tests/on_cpu/fibers.cpp", "tests/on_cpu/kernels.cpp")


def require(*programs: str) -> None:
    """Skip the test where one of these programs is missing."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)} on the PATH")


def tensorrt_headers() -> Path | None:
    """The folder of NvInfer.h, as CMake looks for it: TensorRT_ROOT, or the compiler's own folders."""
    root = os.environ.get("TensorRT_ROOT")  # noqa: SIM112 - CMake's own spelling
    folders = [Path(root), Path(root, "include")] if root else []
    for folder in (*folders, Path("/usr/include"), Path("/usr/include/x86_64-linux-gnu"), Path("/usr/local/include")):
        if (folder / "NvInfer.h").is_file():
            return folder
    return None


@cache
def host_library() -> Path:
    """The arithmetic compiled for the CPU, by g++ alone."""
    return _compile("host", _HOST)


@cache
def on_cpu_library() -> Path:
    """The kernels themselves as C++, by g++ alone: their launches run thread by thread (plugins/tests/on_cpu)."""
    return _compile("on_cpu", _ON_CPU, "-isystem", str(SOURCES / "tests/on_cpu"))


@cache
def build_folder() -> Path:
    """Everything that CMake builds here: kernels with nvcc, the plugin library where TensorRT's headers are.

    DEPLOYKIT_PLUGINS names a folder that was built elsewhere, for a machine with a GPU and without nvcc.
    """
    if elsewhere := os.environ.get("DEPLOYKIT_PLUGINS"):
        return Path(elsewhere)
    require("cmake", "ninja", "g++", "nvcc")
    headers = tensorrt_headers()

    def build(folder: Path) -> None:
        found = [f"-DTensorRT_ROOT={headers}"] if headers else []
        _run(["cmake", "-G", "Ninja", "-S", str(SOURCES), "-B", str(folder), *found], folder / "configure.log")
        _run(["cmake", "--build", str(folder), "--parallel", "2"], folder / "build.log")

    return _built("cmake", build, str(headers), (headers / "NvInferVersion.h").read_text() if headers else "")


def plugin_library() -> Path:
    """The library that TensorRT loads; skips where TensorRT's headers are missing."""
    if "DEPLOYKIT_PLUGINS" not in os.environ and tensorrt_headers() is None:
        pytest.skip("no NvInfer.h: set TensorRT_ROOT to a folder with TensorRT's headers")
    return build_folder() / "libdeploykit_plugins.so"


def _compile(name: str, sources: tuple[str, ...], *options: str) -> Path:
    require("g++")
    library = f"libdeploykit_{name}.so"
    files = [str(SOURCES / source) for source in sources]
    folder = _built(name, lambda folder: _run([*_COMPILE, *options, "-o", str(folder / library), *files], folder / "build.log"))
    return folder / library


def _built(name: str, build: Callable[[Path], None], *state: str) -> Path:
    digest = hashlib.sha256("\0".join([str(SOURCES), _versions(), *state]).encode())
    for source in sorted(path for path in SOURCES.rglob("*") if path.suffix in {".h", ".cpp", ".cu", ".txt", ".map"}):
        digest.update(source.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"deploykit-plugins-{os.getuid()}" / f"{name}-{digest.hexdigest()[:16]}"
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    if folder.parent.stat().st_uid != os.getuid():  # what lies there would be loaded
        pytest.fail(f"{folder.parent} belongs to another user")
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "is_built").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            build(folder)
            (folder / "is_built").touch()
    return folder


@cache
def _versions() -> str:
    programs = [program for program in ("g++", "cmake", "nvcc") if shutil.which(program)]
    return "".join(
        subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout for program in programs
    )


def _run(command: list[str], log: Path) -> None:
    """Run a command with its output in a file; on failure the output is the message."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=240)
    log.write_text(done.stdout)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command)}:\n{done.stdout[-8000:]}")
