"""Which TensorRT is installed and what it can do: ``tensorrt`` (10.12+ and 11) and ``tensorrt-rtx`` (1.x) behind one frozen value.

What a flavour lacks stands in this file and nowhere else; whoever asks for it gets an error. Facts about TensorRT-RTX 1.7 were
found by trying: its builder ignores the hardware compatibility level ("unsupported in TensorRT-RTX"), its timing cache does
nothing since 1.2, a version-compatible build looks for a lean runtime that its packages do not have, and marking weights for a
refit reaches for the CUDA driver even where the target is named. TensorRT cannot name another GPU: its builder times kernels.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploykit.errors import EngineError, MissingExtraError, UsageError
from deploykit.plan import COMPAT_LEVELS
from deploykit.trt.device import find_gpu

BACKENDS = ("tensorrt", "tensorrt-rtx")
RTX_ONLY_NAMES = frozenset(
    {
        "ComputeCapability",
        "num_compute_capabilities",
        "set_compute_capability",
        "CudaGraphStrategy",
        "cuda_graph_strategy",
        "WHOLE_GRAPH_CAPTURE",
        "DISABLED",
    }
)
"""Names that TensorRT itself does not have; used only where `Flavour.targets` or `Flavour.captures_itself` says so."""

NEWER_NAMES = frozenset({"ENABLE_PLUGIN_OVERRIDE"})
"""Names that TensorRT 10.12 does not have; used only where the flavour says that it does."""

_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_LEAST = {"tensorrt": (10, 12), "tensorrt-rtx": (1, 5)}
_BELOW = {"tensorrt": 12, "tensorrt-rtx": 2}
_INSTALL = {"tensorrt": "pip install 'tensorrt>=10.12'", "tensorrt-rtx": "pip install 'deploykit[rtx]'"}

_loaded: set[tuple[str, Path]] = set()
"""Plugin libraries that this process has registered, by backend."""


@dataclass(frozen=True)
class Flavour:
    """An installed TensorRT. Made by `load_flavour`.

    Args:
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        version: such as ``1.7.1.116``.
        api: its Python module.
        targets: compute capabilities that can be named without having the GPU, such as ``sm86``; empty where there are none.
        compat_levels: what ``--compat`` can be.
        can_be_version_compatible: plans that later versions load.
        can_strip: plans without weights, refitted where they run.
        strips_without_gpu: whether the builder makes those on a machine without a GPU.
        has_timing_cache: kernel timings kept from build to build.
        takes_plugins: networks have plugin layers. TensorRT for RTX registers a plugin's creator, but its networks have none, and
            its parser ends the process when it is told to prefer plugins and finds one (tried with 1.7.1).
        has_plugin_override: a plugin takes the place of an ONNX function of its name; elsewhere the function's body runs.
        captures_itself: execution contexts capture CUDA graphs themselves. TensorRT-RTX compiles kernels for a shape while slower
            ones run, and it alone knows when a capture would keep the slow ones
            (https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/work-with-cuda-graphs.html).
    """

    backend: str
    version: str
    api: Any
    targets: tuple[str, ...] = ()
    compat_levels: tuple[str, ...] = ("none",)
    can_be_version_compatible: bool = False
    can_strip: bool = True
    strips_without_gpu: bool = False
    has_timing_cache: bool = False
    takes_plugins: bool = False
    has_plugin_override: bool = False
    captures_itself: bool = False

    def __str__(self) -> str:
        return f"{self.backend} {self.version}"


def load_flavour(backend: str) -> Flavour:
    """Import a flavour and find out what it can do.

    Raises:
        UsageError: no such backend.
        MissingExtraError: not installed, or older or newer than what deploykit knows.
        EngineError: installed, and does not import.
    """
    if backend not in BACKENDS:
        raise UsageError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}")
    api = _import(backend)
    version = str(api.__version__)
    numbers = tuple(int(part) for part in version.split(".")[:2])
    least = _LEAST[backend]
    if numbers < least or numbers[0] >= _BELOW[backend]:
        raise MissingExtraError(
            f"{backend} {version} is installed, deploykit builds with {least[0]}.{least[1]} or later, below {_BELOW[backend]}",
            hint=_INSTALL[backend],
        )
    if backend == "tensorrt-rtx":
        return Flavour(backend, version, api, targets=_targets(api), captures_itself=True)
    return Flavour(
        backend,
        version,
        api,
        compat_levels=COMPAT_LEVELS,
        can_be_version_compatible=True,
        has_timing_cache=True,
        takes_plugins=True,
        has_plugin_override=hasattr(api.OnnxParserFlag, "ENABLE_PLUGIN_OVERRIDE"),
    )


def load_plugins(flavour: Flavour, libraries: tuple[Path, ...]) -> None:
    """Register the plugins of shared libraries, each library once: they stay as long as the process lives, for engines use them.

    TensorRT gives back nothing for a library whose plugins are registered already, as for one that does not load.

    Raises:
        EngineError: a library that is missing or does not load, or a flavour without plugins.
    """
    api = flavour.api
    if libraries and not flavour.takes_plugins:
        raise EngineError(f"{flavour} takes no plugins", hint="leave --plugin out: a graph's functions run from their bodies")
    registry = api.get_plugin_registry()
    for library in libraries:
        if not library.is_file():
            raise EngineError(f"plugin library {library} does not exist", hint="give the path of the shared library (.so or .dll)")
        key = (flavour.backend, library.resolve())
        if key in _loaded:
            continue
        if registry.load_library(str(key[1])) is None:
            raise EngineError(
                f"plugin library {library} does not load in {flavour}",
                hint="build it for this TensorRT, and look at its own dependencies with: ldd",
            )
        _loaded.add(key)


def require(flavour: Flavour, *, target: str, compat: str, version_compatible: bool, strip: bool, timing_cache: bool) -> None:
    """Refuse what a flavour cannot do, before anything is built.

    Raises:
        EngineError: with what it can.
    """
    _require_target(flavour, target)
    other = "take --backend tensorrt, or leave the option out"
    if compat not in flavour.compat_levels:
        raise EngineError(f"{flavour} has no --compat {compat}; it has {', '.join(flavour.compat_levels)}", hint=other)
    if version_compatible and not flavour.can_be_version_compatible:
        raise EngineError(f"{flavour} makes no version-compatible plans: its packages lack the lean runtime", hint=other)
    if timing_cache and not flavour.has_timing_cache:
        raise EngineError(f"{flavour} keeps no timing cache: its builder times nothing", hint="leave --timing-cache out")
    if strip and not flavour.can_strip:
        raise EngineError(f"{flavour} makes no stripped plans", hint=other)
    if strip and not flavour.strips_without_gpu and find_gpu() is None:
        raise EngineError(
            f"{flavour} makes stripped plans only on a machine with an NVIDIA GPU, and there is none here", hint="leave --strip out"
        )


def _require_target(flavour: Flavour, target: str) -> None:
    if target == "current":
        if find_gpu() is None:
            named = f"--target {'|'.join(flavour.targets)}" if flavour.targets else "--backend tensorrt-rtx --target sm86"
            raise EngineError(
                "--target current is the GPU of this machine, and there is none (no CUDA driver, or no device)",
                hint=f"name the GPU that the plan is for: {named}",
            )
    elif target not in flavour.targets:
        seen = f"{flavour} builds for {', '.join(flavour.targets)}" if flavour.targets else f"{flavour} builds for this GPU alone"
        raise EngineError(
            f"{seen}; --target is {target}",
            hint=None if flavour.targets else "build on that GPU, or take --backend tensorrt-rtx",
        )


def _import(backend: str) -> Any:
    try:
        api = importlib.import_module(_MODULES[backend])
    except ModuleNotFoundError:
        raise MissingExtraError(f"{backend} is not installed", hint=_INSTALL[backend]) from None
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(f"{backend} does not import: {error}", hint=f"install it again: {_INSTALL[backend]}") from error
    # A folder of that name without __init__.py, as type stubs leave one, imports and holds nothing.
    if not hasattr(api, "Builder"):
        raise MissingExtraError(f"{backend} is not installed", hint=_INSTALL[backend])
    return api


def _targets(api: Any) -> tuple[str, ...]:
    names = [name for name in api.ComputeCapability.__members__ if name.startswith("SM")]
    return tuple(name.lower() for name in sorted(names, key=lambda name: int(name[2:])))
