"""Opset and IR version: which runtimes can read a graph, decided on purpose and never by the onnx package that is installed.

`ONNX_RUNTIME` was measured: graphs with an opset and an IR version from the future were given to each release, whose refusal names
the newest that it supports (ONNX Runtime's ``Unsupported model IR version`` and ``Current official support for domain ai.onnx``).
"""

from collections.abc import Mapping

import onnx
from onnx import helper

from deploykit.errors import GraphError, UsageError

DEFAULT_OPSET = 18
"""The lowest that torch's exporter writes natively; with its IR version 8 every release in `ONNX_RUNTIME` loads it (tried)."""

OPSETS = (18, 19, 20, 21)
"""Up to what the lowest ONNX Runtime that deploykit installs beside (1.18) reads; TensorRT 10 reads all of them."""

FUNCTIONS_IR_VERSION = 8
"""Model-local functions, such as deploykit's own operators, came with this version of the file format."""

ONNX_RUNTIME: Mapping[str, tuple[int, int]] = {
    "1.16": (19, 9),
    "1.17": (20, 9),
    "1.18": (21, 10),
    "1.19": (21, 10),
    "1.20": (21, 10),
    "1.21": (22, 10),
    "1.22": (22, 10),
    "1.23": (23, 11),
    "1.24": (25, 13),
    "1.25": (26, 13),
    "1.26": (26, 13),
    "1.27": (26, 13),
    "1.28": (26, 13),
    "1.29": (26, 13),
    "1.30": (26, 13),
    "1.31": (26, 13),
    "1.32": (28, 14),
}
"""Newest (opset, IR version) by ONNX Runtime release."""


def opset_of(graph: onnx.ModelProto) -> int:
    """The version of the standard operators that a graph uses.

    Raises:
        GraphError: it imports no standard operators.
    """
    found = [o.version for o in graph.opset_import if o.domain in ("", "ai.onnx")]
    if not found:
        raise GraphError("the graph imports no standard operator set", hint="it was damaged, or written by hand; export it again")
    return found[0]


def set_ir_version(graph: onnx.ModelProto) -> None:
    """Give a graph the lowest IR version that its opset came with, so that the oldest runtime that could run it also reads it."""
    graph.ir_version = helper.find_min_ir_version_for([helper.make_opsetid("", opset_of(graph))])


def oldest_onnx_runtime(graph: onnx.ModelProto) -> str | None:
    """The oldest measured ONNX Runtime release that reads a graph; None when no release does."""
    needed = (opset_of(graph), graph.ir_version)
    return next((release for release, newest in ONNX_RUNTIME.items() if _reads(newest, needed)), None)


def check_readable(graph: onnx.ModelProto, release: str) -> None:
    """Refuse a graph that is too new for an ONNX Runtime release, or whose IR version was lowered below its opset's.

    Raises:
        GraphError: with the versions that the graph has and the newest that the release supports.
        UsageError: the release was not measured.
    """
    key = ".".join(release.split(".")[:2])
    if key not in ONNX_RUNTIME:
        first, *_, last = ONNX_RUNTIME
        raise UsageError(f"ONNX Runtime {release} was not measured, expected a release from {first} to {last}")
    opset, ir_version = opset_of(graph), graph.ir_version
    newest_opset, newest_ir = ONNX_RUNTIME[key]
    if opset > newest_opset or ir_version > newest_ir:
        raise GraphError(
            f"the graph has opset {opset} and IR version {ir_version}; "
            f"ONNX Runtime {key} reads opset {newest_opset} and IR version {newest_ir} at most",
            hint=f"export it again with --opset {newest_opset if newest_opset in OPSETS else OPSETS[0]}; "
            "editing the numbers in the file does not change the operators",
        )
    lowest = helper.find_min_ir_version_for([helper.make_opsetid("", opset)], ignore_unknown=True)
    if ir_version < lowest:
        raise GraphError(
            f"the graph has IR version {ir_version}, and its opset {opset} needs {lowest} at least",
            hint="the IR version was edited; export the model again",
        )


def _reads(newest: tuple[int, int], needed: tuple[int, int]) -> bool:
    return needed[0] <= newest[0] and needed[1] <= newest[1]
