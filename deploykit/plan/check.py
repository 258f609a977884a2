"""Refusing a plan where it does not belong: every check before TensorRT sees it.

In: a plan's path, its record, and what is here (backend, version, GPU). Out: the plan's bytes, or one `EngineError` that says what
was expected, what was found and what to do.
"""

import hashlib
import re
from pathlib import Path

from deploykit.errors import EngineError
from deploykit.plan.header import read_header
from deploykit.plan.record import ON_CPU, PLAN_NAME, Gpu, PlanFile, PlanRecord

_AMPERE = 80

_SIGNATURES = {
    b"version https://git-lfs": ("is a Git LFS pointer, not the plan itself", "run: git lfs pull"),
    b"\x1f\x8b": ("is a gzip archive", "unpack it first"),
    b"PK\x03\x04": ("is a zip archive", "unpack it first"),
    b"\x28\xb5\x2f\xfd": ("is a zstd archive", "unpack it first"),
    b"<!DOCTYPE": ("is a web page, perhaps of a failed download", "download the plan again"),
    b"<html": ("is a web page, perhaps of a failed download", "download the plan again"),
}
# ModelProto begins with ir_version (field 1, varint), then a producer name, a domain, opset or graph (length-delimited fields).
_ONNX = re.compile(rb"\x08[\x01-\x20][\x12\x1a\x22\x3a\x42]", re.DOTALL)


def read_plan(
    path: Path, *, backend: str, version: str, gpu: Gpu | None, plugins: tuple[str, ...] = (), may_be_stripped: bool = False
) -> bytes:
    """A plan's bytes, after every check that needs no TensorRT.

    Args:
        path: the plan; its plan.json stands beside it. Without one its own header is looked at, and nothing is known of its GPU.
        backend, version: what is to load it. gpu: the device that was selected, not the first one by default.
        plugins: names of the plugin libraries that are loaded.
        may_be_stripped: take a plan whose weights are to be put in.

    Raises:
        EngineError: damaged, something else, or made for another GPU or version.
    """
    data = read_content(path)
    record = read_record(path.parent)
    check_content(path, data, record.files.get(path.name) if record else None)
    if record is None:
        _check_header(path, data, backend=backend, version=version)
        return data
    if path.name not in record.files:
        described = ", ".join(record.files) or "no plan"
        raise EngineError(f"{path.parent / PLAN_NAME} says nothing of {path.name}; it describes {described}")
    check_fit(path, record, backend=backend, version=version, gpu=gpu, plugins=plugins)
    if record.stripped and not may_be_stripped:
        raise EngineError(f"{path} was built without its weights (--strip)", hint="put them in first: deploykit refit BUNDLE")
    return data


def read_content(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        EngineError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error.strerror or error}", hint="build it with: deploykit build") from error


def read_record(folder: Path) -> PlanRecord | None:
    """The plan.json of a folder of plans; None where there is none.

    Raises:
        EngineError: it cannot be read, or is no record.
    """
    path = folder / PLAN_NAME
    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EngineError(f"{path} cannot be read: {error}", hint="build the plan again with: deploykit build") from error
    return PlanRecord.from_text(text, path)


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
    if file is not None:
        return
    header = read_header(data)
    if header is None:
        raise EngineError(f"{path} is not a plan: it begins with {data[:4].hex(' ')}, plans begin with 'ftrt' or 'vtrt'", hint=copy)
    if header.size_bytes is not None and header.size_bytes != len(data):
        short = "it is cut short" if len(data) < header.size_bytes else "something was added to it"
        raise EngineError(f"{path} has {len(data):,} bytes, its header says {header.size_bytes:,}: {short}", hint=copy)


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
            hint=ON_CPU,
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


def _check_header(path: Path, data: bytes, *, backend: str, version: str) -> None:
    """A plan without a record: its header's product and version; a later minor may load it, if it was built to be compatible."""
    header = read_header(data)
    if header is None or header.backend != backend:
        made = f"{header.backend} {header.version}" if header else "something else"
        raise EngineError(
            f"{path} was built by {made}; {backend} {version} is to load it", hint="build it again with: deploykit build"
        )
    built, here = ([int(part) for part in text.split(".")[:2]] for text in (header.version, version))
    if built[0] != here[0] or built[1] > here[1]:
        raise EngineError(
            f"{path} was built with {backend} {header.version}; here is {version}", hint="build it again with: deploykit build"
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
