"""What ``deploykit inspect`` shows of plans: what they are for, what they compute in, whether they are whole and fit this machine.

Nothing is loaded: plan.json, the files' digests and the headers tell it. A plan without a record tells its header and no more.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from deploykit.bundle import Bundle, sha256_of
from deploykit.bundle.manifest import MANIFEST_NAME
from deploykit.errors import DeploykitError, EngineError
from deploykit.plan import PLAN_NAME, PlanFile, PlanRecord, check_content, check_fit, read_content, read_header, read_record
from deploykit.trt import find_gpu, load_flavour

SUFFIXES = (".plan", ".engine", ".trt")


def is_plan(path: Path) -> bool:
    """Whether a path names plans: a file of theirs, plan.json, or a folder with one."""
    if path.is_dir():
        return (path / PLAN_NAME).is_file() and not (path / MANIFEST_NAME).is_file()
    return path.suffix in SUFFIXES or path.name == PLAN_NAME


def plan_facts(path: Path) -> dict[str, Any]:
    """What is known of plans, for ``--json`` and `plan_text`.

    Raises:
        EngineError: no such file; no plan at all; a plan.json that is none, or says nothing of this plan.
    """
    folder = path if path.is_dir() else path.parent
    record = read_record(folder)
    if record is None:
        return _bare_facts(path)
    names = list(record.files) if path.is_dir() or path.name == PLAN_NAME else [path.name]
    if names[0] not in record.files:
        raise EngineError(f"{folder / PLAN_NAME} says nothing of {path.name}; it describes {', '.join(record.files) or 'no plan'}")
    facts = asdict(record) | {"path": str(path), "here": _fit(path, record)}
    facts["files"] = {name: asdict(record.files[name]) | _state(folder / name, record.files[name]) for name in names}
    return facts


def plan_text(facts: dict[str, Any], *, with_layers: bool = False) -> str:
    """The same in a few lines.

    Args:
        with_layers: list every layer of the engines too.
    """
    if "record" in facts:
        lines = [
            facts["path"],
            f"  header    {facts['backend']} {facts['version']}, {facts['size_bytes']:,} bytes, sha256 {facts['sha256'][:12]}",
            f"  unknown   GPU, precision and batch: no {PLAN_NAME} is beside it, and the header does not tell",
        ]
        return "\n".join(lines)
    gpu = f"{facts['gpu']['name']}, {facts['sm']}" if facts["gpu"] else facts["sm"]
    batch = "{min}:{opt}:{max}".format(**facts["batch"])
    lines = [
        facts["path"],
        f"  for       {gpu}, {facts['backend']} {facts['version']}, {facts['precision']}, batch {batch}",
        f"  options   {_options(facts)}",
        f"  fits here {'yes' if facts['here']['fits'] else 'no: ' + facts['here']['why_not']}",
    ]
    lines += [f"            hint: {hint}"] if (hint := facts["here"]["hint"]) else []
    for name, file in facts["files"].items():
        lines += _file_lines(name, file)
        if with_layers:
            lines += [f"            {precision:<8} {layer}" for layer, precision in file["layers"]]
    return "\n".join(lines)


def _bare_facts(path: Path) -> dict[str, Any]:
    if path.is_dir() or path.name == PLAN_NAME:
        raise EngineError(f"{path} does not exist, expected plans", hint="build them with: deploykit build BUNDLE")
    data = read_content(path)
    check_content(path, data, None)
    header = read_header(data)
    if header is None:  # check_content refuses a plan without one
        raise EngineError(f"{path} has no plan's header")
    told = asdict(header) | {"size_bytes": len(data)}
    return {"path": str(path), "record": None, **told, "sha256": sha256_of(data)}


def _state(path: Path, file: PlanFile) -> dict[str, str | None]:
    """What is wrong with a plan, if anything: damaged; or its graph has changed since, where it stands in a bundle."""
    try:
        check_content(path, read_content(path), file)
    except EngineError as error:
        return {"damage": str(error)}
    path = path.resolve()
    bundle = path.parent.parent.parent
    if (bundle / MANIFEST_NAME).is_file():
        manifest = Bundle.open(bundle).manifest
        if path.relative_to(bundle).as_posix() in manifest.stale_files():
            return {"damage": f"{path} is stale: {file.graph} has changed since it was built"}
    return {"damage": None}


def _fit(path: Path, record: PlanRecord) -> dict[str, str | bool | None]:
    """Whether plans would load here, and if not, why and what to do."""
    try:
        flavour = load_flavour(record.backend)
        check_fit(path, record, backend=flavour.backend, version=flavour.version, gpu=find_gpu(), plugins=record.plugins)
    except DeploykitError as error:
        return {"fits": False, "why_not": str(error), "hint": error.hint}
    if record.stripped:
        return {"fits": False, "why_not": "the plans have no weights yet", "hint": "put them in first: deploykit refit BUNDLE"}
    return {"fits": True, "why_not": None, "hint": None}


def _options(facts: dict[str, Any]) -> str:
    """What the builder was told, in words."""
    level, workspace = facts["optimization_level"], facts["workspace_bytes"]
    said = [
        f"workspace {workspace:,} bytes" if workspace is not None else "workspace TensorRT's",
        f"optimization level {level}" if level is not None else "optimization level TensorRT's",
        f"compat {facts['compat']}",
        "TF32" if facts["tf32"] else "no TF32",
    ]
    said += ["version-compatible"] if facts["version_compatible"] else []
    said += ["without weights (stripped)"] if facts["stripped"] else []
    return ", ".join(said + [f"plugin {name}" for name in facts["plugins"]])


def _file_lines(name: str, file: dict[str, Any]) -> list[str]:
    head = f"  {name.removesuffix('.plan'):<9} "
    rest = f"{'':<12}"
    engine = _counts(file["engine"]) if file["engine"] else f"not inspected ({file['not_inspected']})"
    lines = [
        f"{head}{file['size_bytes']:,} bytes, sha256 {file['sha256'][:12]}, {file['damage'] or 'as it was written'}",
        f"{rest}from {file['graph']}, sha256 {file['graph_sha256'][:12]}, built in {file['build_s']:.1f} s",
        f"{rest}convolutions and matrix products: {_counts(file['multiplying'])}",
        f"{rest}layers of the network, by what they give: {_counts(file['network'])}",
        f"{rest}layers of the engine: {engine}",
    ]
    return lines + ([f"{rest}{len(file['repeats']['build_s'])} builds were compared"] if file["repeats"] else [])


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} in {precision}" for precision, count in counts.items()) or "none"
