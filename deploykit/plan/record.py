"""plan.json: what the plans of a folder were built for, with what, and what they turned out to be.

A plan is what TensorRT wrote, without a header of ours: trtexec and C++ load it as it is. What is known of it stands beside it.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploykit.errors import EngineError, UsageError
from deploykit.spec import PHOTO_SIDES, Precision

SCHEMA_VERSION = 1
PLAN_NAME = "plan.json"
COMPAT_LEVELS = ("none", "same-cc", "ampere+")


ON_CPU = "run the graph on the CPU instead: --backend onnxruntime --provider cpu"
"""The way on where a plan cannot run, as a hint."""


def graph_digest(digests: Iterable[str]) -> str:
    """One digest of a graph and its side file, from theirs in that order; the graph's own where it has none."""
    given = list(digests)
    return given[0] if len(given) == 1 else hashlib.sha256("".join(given).encode()).hexdigest()


@dataclass(frozen=True)
class BatchRange:
    """The batch sizes that a plan takes: any from ``min`` to ``max``; fastest at ``opt``."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not all(type(n) is int for n in (self.min, self.opt, self.max)):
            raise UsageError(f"batch is {self}, expected three whole numbers")
        if not 1 <= self.min <= self.opt <= self.max:
            raise UsageError(f"batch is {self}, expected min:opt:max with 1 <= min <= opt <= max, such as 1:8:32")

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"

    @classmethod
    def parse(cls, text: str) -> "BatchRange":
        """Read ``1:8:32``, or ``8`` for exactly that size.

        Raises:
            UsageError: anything else.
        """
        return cls(*_read_range(text, "batch", "1:8:32"))


@dataclass(frozen=True)
class SideRange:
    """The photos that a plan takes, where its graph resizes them: width and height from ``min`` to ``max`` pixels; fastest where
    both are ``opt``."""

    min: int = PHOTO_SIDES[0]
    opt: int = 1024
    max: int = PHOTO_SIDES[1]

    def __post_init__(self) -> None:
        least, greatest = PHOTO_SIDES
        if not least <= self.min <= self.opt <= self.max <= greatest:
            raise UsageError(
                f"photo size is {self}, expected min:opt:max with {least} <= min <= opt <= max <= {greatest}, such as {SideRange()}"
            )

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"

    @classmethod
    def parse(cls, text: str) -> "SideRange":
        """Read ``8:1024:4096``, or ``512`` for squares of exactly that size.

        Raises:
            UsageError: anything else.
        """
        return cls(*_read_range(text, "photo size", str(cls())))


def _read_range(text: str, what: str, example: str) -> list[int]:
    """Three numbers of ``min:opt:max``, or of one number that stands for all."""
    parts = text.split(":")
    if len(parts) not in (1, 3) or not all(re.fullmatch(r"[0-9]{1,6}", part) for part in parts):
        one = example.split(":")[1]
        raise UsageError(f"{what} is {text!r}, expected min:opt:max such as {example}, or one size such as {one}")
    numbers = [int(part) for part in parts]
    return numbers * 3 if len(numbers) == 1 else numbers


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver describes it.

    Args:
        name: such as ``NVIDIA A10``.
        sm: its compute capability, such as ``sm86``.
        driver: the CUDA version that the driver brings.
    """

    name: str
    sm: str
    driver: str


@dataclass(frozen=True)
class Repeats:
    """One plan built several times over, and how far apart the builds were.

    Args:
        build_s: seconds of each build. size_bytes, sha256: of each plan.
        kept: which of them the bundle holds, from 0.
        gpu_time_ms: the median time on the GPU of each, at ``timed_batch``; None where it was not measured.
        not_timed: why, where it was not.
        timed_batch: images of a timed call.
    """

    build_s: tuple[float, ...]
    size_bytes: tuple[int, ...]
    sha256: tuple[str, ...]
    kept: int
    gpu_time_ms: tuple[float, ...] | None = None
    not_timed: str | None = None
    timed_batch: int | None = None

    def __post_init__(self) -> None:
        counts = {len(values) for values in (self.build_s, self.size_bytes, self.sha256, self.gpu_time_ms) if values is not None}
        if len(counts) != 1 or not 0 <= self.kept < len(self.build_s):
            raise EngineError(f"plan: repeats are {self}, expected one value of each build, and the kept one among them")

    @property
    def is_identical(self) -> bool:
        """Whether every build gave the same bytes."""
        return len(set(self.sha256)) == 1


@dataclass(frozen=True)
class PlanFile:
    """One plan of a folder.

    Args:
        sha256, size_bytes: of the plan.
        graph: the graph it was built from, by its path in the bundle. graph_sha256: that graph's digest then.
        build_s: seconds; of the first build where the plan came out of the cache.
        from_cache: whether it did.
        network: layers of the typed network by the type of their first output.
        multiplying: convolutions and matrix products of that network by what they multiply in.
        engine: layers of the finished engine by precision, from the Engine Inspector; None where it could not look.
        not_inspected: why, where it could not.
        repeats: what several builds of it gave; None where it was built once.
        layers: name and precision of each of the engine's layers, in order; empty where the inspector could not look.
    """

    sha256: str
    size_bytes: int
    graph: str
    graph_sha256: str
    build_s: float
    from_cache: bool
    network: Mapping[str, int]
    multiplying: Mapping[str, int]
    engine: Mapping[str, int] | None = None
    not_inspected: str | None = None
    repeats: Repeats | None = None
    layers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "PlanFile":
        """Read a file's part of plan.json."""
        repeats = data.get("repeats")
        lists: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in (repeats or {}).items()}
        layers = tuple((str(name), str(precision)) for name, precision in data.get("layers", ()))
        return cls(**{**data, "repeats": Repeats(**lists) if repeats else None, "layers": layers})


@dataclass(frozen=True)
class PlanRecord:
    """plan.json: what the plans of a folder were built for, and with what.

    Args:
        backend, version: what built them, such as ``tensorrt-rtx`` ``1.7.1.116``.
        sm: the compute capability they are for, such as ``sm86``.
        gpu: the GPU they were built on; None where it was only named.
        precision, batch: see their types.
        compat: other GPUs that may load them: ``none``, ``same-cc``, ``ampere+``.
        version_compatible: whether later versions may load them. stripped: whether the weights must be put in first.
        workspace_bytes, optimization_level: what the builder was given; None where it chose.
        tf32: whether float32 may be multiplied as TF32.
        plugins: names of the plugin libraries that must be loaded first.
        sides: the photos that they take, where their graphs resize photos; otherwise None.
        files: by file name.
    """

    backend: str
    version: str
    sm: str
    gpu: Gpu | None
    precision: Precision
    batch: BatchRange
    files: Mapping[str, PlanFile]
    compat: str = "none"
    version_compatible: bool = False
    stripped: bool = False
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    tf32: bool = False
    plugins: tuple[str, ...] = ()
    sides: SideRange | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"sm[0-9]{2,3}", self.sm):
            raise EngineError(f"plan: compute capability is {self.sm!r}, expected such as sm86")
        if not re.fullmatch(r"[0-9]+(\.[0-9A-Za-z]+)+", self.version):
            raise EngineError(f"plan: version is {self.version!r}, expected such as 11.4.0.106")
        if self.compat not in COMPAT_LEVELS:
            raise EngineError(f"plan: compat is {self.compat!r}, expected one of {', '.join(COMPAT_LEVELS)}")

    @property
    def folder(self) -> str:
        """Where it stands in a bundle."""
        return plan_folder(self.backend, self.version, self.sm, self.precision, self.batch, self.sides)

    def to_text(self) -> str:
        """The record as it stands in plan.json."""
        return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_text(cls, text: str, path: Path) -> "PlanRecord":
        """Read plan.json; ``path`` is for the messages.

        Raises:
            EngineError: not JSON, of another schema version, or with fields missing, unknown or wrong.
        """
        again = "build the plan again with: deploykit build"
        try:
            data = json.loads(text)
        except ValueError as error:
            raise EngineError(f"{path} is not JSON: {error}", hint=again) from error
        seen = data.pop("schema_version", None) if isinstance(data, dict) else None
        if seen != SCHEMA_VERSION:
            raise EngineError(f"{path} has schema version {seen!r}, this deploykit reads {SCHEMA_VERSION}", hint=again)
        try:
            values = {
                **data,
                "gpu": Gpu(**data["gpu"]) if data["gpu"] else None,
                "precision": Precision(data["precision"]),
                "batch": BatchRange(**data["batch"]),
                "files": {name: PlanFile.from_json(file) for name, file in data["files"].items()},
                "plugins": tuple(data["plugins"]),
                "sides": SideRange(**data["sides"]) if data.get("sides") else None,
            }
            return cls(**values)
        except (KeyError, TypeError, AttributeError, ValueError, UsageError) as error:
            raise EngineError(f"{path} does not follow schema version {SCHEMA_VERSION}: {error!r}", hint=again) from error


def plan_folder(
    backend: str, version: str, sm: str, precision: Precision, batch: BatchRange, sides: SideRange | None = None
) -> str:
    """``plans/tensorrt-rtx-1.7.1.116-sm86-fp16-b1-8-32``; with ``-p8-1024-4096`` behind it where the graphs resize photos."""
    photos = f"-p{sides.min}-{sides.opt}-{sides.max}" if sides else ""
    return f"plans/{backend}-{version}-{sm}-{precision}-b{batch.min}-{batch.opt}-{batch.max}{photos}"
