"""What a plan is for, and refusing it where it does not belong: plan.json, and every check before TensorRT sees it.

In: a plan's path, its record, and what is here (backend, version, GPU). Out: the plan's bytes, or one `EngineError` that says what
was expected, what was found and what to do. A plan is what TensorRT wrote, without a header of ours: trtexec and C++ load it.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from deploykit.errors import EngineError, UsageError
from deploykit.spec import Precision

SCHEMA_VERSION = 1
PLAN_NAME = "plan.json"
COMPAT_LEVELS = ("none", "same-cc", "ampere+")
_AMPERE = 80

_SIGNATURES = {
    b"version https://git-lfs": ("is a Git LFS pointer, not the plan itself", "run: git lfs pull"),
    b"\x1f\x8b": ("is a gzip archive", "unpack it first"),
    b"PK\x03\x04": ("is a zip archive", "unpack it first"),
    b"\x28\xb5\x2f\xfd": ("is a zstd archive", "unpack it first"),
    b"<!DOCTYPE": ("is a web page, perhaps of a failed download", "download the plan again"),
    b"<html": ("is a web page, perhaps of a failed download", "download the plan again"),
}
# What plans begin with: TensorRT writes "ftrt" (8 to 11), TensorRT-RTX "vtrt" (seen with 1.7).
_PLAN_MARKS = (b"ftrt", b"vtrt")
# ModelProto begins with ir_version (field 1, varint), then a producer name, a domain, opset or graph (length-delimited fields).
_ONNX = re.compile(rb"\x08[\x01-\x20][\x12\x1a\x22\x3a\x42]", re.DOTALL)


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
        parts = text.split(":")
        if len(parts) not in (1, 3) or not all(re.fullmatch(r"[0-9]{1,6}", part) for part in parts):
            raise UsageError(f"batch is {text!r}, expected min:opt:max such as 1:8:32, or one size such as 8")
        numbers = [int(part) for part in parts]
        return cls(*(numbers * 3 if len(numbers) == 1 else numbers))


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
        return plan_folder(self.backend, self.version, self.sm, self.precision, self.batch)

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
                "files": {name: PlanFile(**file) for name, file in data["files"].items()},
                "plugins": tuple(data["plugins"]),
            }
            return cls(**values)
        except (KeyError, TypeError, AttributeError, ValueError, UsageError) as error:
            raise EngineError(f"{path} does not follow schema version {SCHEMA_VERSION}: {error!r}", hint=again) from error


def plan_folder(backend: str, version: str, sm: str, precision: Precision, batch: BatchRange) -> str:
    """``plans/tensorrt-rtx-1.7.1.116-sm86-fp16-b1-8-32``."""
    return f"plans/{backend}-{version}-{sm}-{precision}-b{batch.min}-{batch.opt}-{batch.max}"


def read_plan(path: Path, *, backend: str, version: str, gpu: Gpu | None, plugins: tuple[str, ...] = ()) -> bytes:
    """A plan's bytes, after every check that needs no TensorRT.

    Args:
        path: the plan; its plan.json stands beside it. Without one the file itself is looked at, and nothing is known of its GPU.
        backend, version: what is to load it. gpu: the device that was selected, not the first one by default.
        plugins: names of the plugin libraries that are loaded.

    Raises:
        EngineError: damaged, something else, or made for another GPU or version.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error.strerror or error}", hint="build it with: deploykit build") from error
    beside = path.parent / PLAN_NAME
    record = None
    if beside.is_file():
        try:
            text = beside.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise EngineError(f"{beside} cannot be read: {error}", hint="build the plan again with: deploykit build") from error
        record = PlanRecord.from_text(text, beside)
    check_content(path, data, record.files.get(path.name) if record else None)
    if record is not None:
        if path.name not in record.files:
            raise EngineError(f"{beside} says nothing of {path.name}; it describes {', '.join(record.files) or 'no plan'}")
        check_fit(path, record, backend=backend, version=version, gpu=gpu, plugins=plugins)
    return data


def check_content(path: Path, data: bytes, file: PlanFile | None) -> None:
    """Refuse what is no plan, and a plan that is not the one that was written.

    Raises:
        EngineError: with what the file is.
    """
    copy = "copy it again, in binary mode"
    if not data:
        raise EngineError(f"{path} is empty (0 bytes), expected a plan", hint=copy)
    for signature, (what, hint) in _SIGNATURES.items():
        if data.startswith(signature):
            raise EngineError(f"{path} {what}", hint=hint)
    if _ONNX.match(data):
        raise EngineError(f"{path} is an ONNX graph, expected a plan", hint="build a plan from it with: deploykit build BUNDLE")
    if file is not None and (len(data) != file.size_bytes or hashlib.sha256(data).hexdigest() != file.sha256):
        raise EngineError(_difference(path, data, file), hint=copy)
    if file is None and not data.startswith(_PLAN_MARKS):
        raise EngineError(f"{path} is not a plan: it begins with {data[:4].hex(' ')}, plans begin with 'ftrt' or 'vtrt'", hint=copy)


def check_fit(
    path: Path, record: PlanRecord, *, backend: str, version: str, gpu: Gpu | None, plugins: tuple[str, ...] = ()
) -> None:
    """Refuse a plan that was made for something else than what is here.

    Raises:
        EngineError: with both sides.
    """
    rebuild = f"rebuild here: deploykit build BUNDLE --backend {backend} --precision {record.precision} --batch {record.batch}"
    if record.backend != backend:
        raise EngineError(f"{path} was built by {record.backend} {record.version}; {backend} {version} is to load it", hint=rebuild)
    if not _version_fits(record, version):
        raise EngineError(f"{path} was built with {backend} {record.version}; here is {version}", hint=rebuild)
    if gpu is None:
        raise EngineError(
            f"{path} was built for {record.sm}; this machine has no NVIDIA GPU that the CUDA driver can use",
            hint="run the graph on the CPU instead: deploykit predict BUNDLE --provider cpu",
        )
    if not _gpu_fits(record, gpu):
        made = f"{record.sm} ({record.gpu.name})" if record.gpu else record.sm
        compat = f", --compat {record.compat}" if record.compat != "none" else ""
        raise EngineError(f"{path} was built for {made}{compat}; the selected GPU is {gpu.name}, {gpu.sm}", hint=rebuild)
    if missing := [name for name in record.plugins if name not in plugins]:
        raise EngineError(
            f"{path} needs the plugin {'libraries' if len(missing) > 1 else 'library'} {', '.join(missing)}; "
            f"{', '.join(plugins) or 'none'} loaded",
            hint="give it with --plugin",
        )


def _version_fits(record: PlanRecord, version: str) -> bool:
    """The same major and minor; a version-compatible plan also loads in a later minor of its major.

    https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/advanced.html#version-compatibility
    """
    built, here = ([int(part) for part in text.split(".")[:2]] for text in (record.version, version))
    return built == here or (record.version_compatible and built[0] == here[0] and built[1] <= here[1])


def _gpu_fits(record: PlanRecord, gpu: Gpu) -> bool:
    if record.compat == "ampere+":
        return int(gpu.sm[2:]) >= _AMPERE
    if record.sm != gpu.sm:
        return False
    # TensorRT times its kernels on the GPU at hand; TensorRT-RTX builds for a compute capability.
    return record.gpu is None or record.compat == "same-cc" or record.backend == "tensorrt-rtx" or record.gpu.name == gpu.name


def _difference(path: Path, data: bytes, file: PlanFile) -> str:
    size = f"{path} has {len(data):,} bytes, {PLAN_NAME} says {file.size_bytes:,}"
    if hashlib.sha256(data.replace(b"\n", b"\r\n")).hexdigest() == file.sha256:
        return f"{size}: it was copied in text mode, which changed its line feeds"
    if len(data) < file.size_bytes:
        return f"{size}: it is cut short"
    if len(data) > file.size_bytes:
        # A "\r\n" of the plan itself becomes "\r\r\n", so undoing it does not always give the plan back; counting does.
        grown = len(data) - file.size_bytes
        is_text = data.count(b"\n") == data.count(b"\r\n") == grown
        return f"{size}: " + ("it was copied in text mode, which changed its line feeds" if is_text else "it is another file")
    digest = hashlib.sha256(data).hexdigest()
    return f"{path} does not match its {PLAN_NAME}: sha256 {digest[:12]}…, expected {file.sha256[:12]}…"
