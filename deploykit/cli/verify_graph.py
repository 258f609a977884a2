"""The checks of ``deploykit verify GRAPH.onnx``; apart from verify.py because they need onnx, which a bundle's checks do not."""

from functools import partial
from importlib.metadata import version
from pathlib import Path

from deploykit.cli.checks import Check, attempt
from deploykit.graph.files import check_well_formed, read_graph, side_files
from deploykit.graph.versions import check_readable, opset_of
from deploykit.runtime.ort import OrtSession


def check_graph(path: Path, release: str | None, provider: str) -> list[Check]:
    """Everything that can be checked about a graph on its own.

    Args:
        release: the ONNX Runtime that must read it; None for the one that is installed.
        provider: the one that loads it.
    """
    checks = [attempt("file", partial(_file, path))]
    if checks[0].passed:
        checks.append(attempt("versions", partial(_versions, path, release or version("onnxruntime"))))
        checks.append(attempt("operators", partial(_operators, path)))
        checks.append(attempt("loads", partial(_loads, path, provider)))
    return checks


def _file(path: Path) -> str:
    graph = read_graph(path)
    size = path.stat().st_size + sum((path.parent / name).stat().st_size for name in side_files(graph))
    return f"{len(graph.graph.node):,} nodes, {size / 1e6:.1f} MB"


def _versions(path: Path, release: str) -> str:
    graph = read_graph(path)
    check_readable(graph, release)
    return f"opset {opset_of(graph)}, IR version {graph.ir_version}: ONNX Runtime {release} reads them"


def _operators(path: Path) -> str:
    check_well_formed(path)
    return "well-formed"


def _loads(path: Path, provider: str) -> str:
    with OrtSession(path, provider=provider) as session:
        inputs = ", ".join(map(str, session.inputs))
        return f"{inputs} -> {', '.join(map(str, session.outputs))} on {session.backend}"
