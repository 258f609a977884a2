"""Graphs on disk: one file while that is possible, exactly one side file above it, and nothing trusted that a file says of others.

Protobuf cannot hold 2 GiB, so larger weights stand in a second file beside the graph. Both are one thing: copied, hashed and
checked together.
"""

from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, external_data_helper

from deploykit.bundle.manifest import SIDE_FILE_SUFFIX
from deploykit.errors import GraphError

SIDE_FILE_ABOVE_BYTES = 1_900_000_000
"""Below protobuf's limit of 2^31 - 1 bytes by a margin for what the later verbs add (Q/DQ nodes, a backward part)."""


def write_graph(graph: onnx.ModelProto, path: Path, *, side_file_above_bytes: int = SIDE_FILE_ABOVE_BYTES) -> list[Path]:
    """Write a graph to ``path``, with its weights inside or, above the limit, in ``<name>.data`` beside it.

    Returns:
        The files written, the graph first.
    """
    if sum(tensor.ByteSize() for tensor in graph.graph.initializer) <= side_file_above_bytes:
        path.write_bytes(graph.SerializeToString(deterministic=True))
        return [path]
    side = path.with_name(path.name + SIDE_FILE_SUFFIX)
    side.unlink(missing_ok=True)
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    onnx.save(copy, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=side.name, size_threshold=1024)
    return [path, side]


def read_graph(path: Path) -> onnx.ModelProto:
    """Read a graph and its side files, if any.

    Raises:
        GraphError: no such file; not an ONNX graph; a side file that is missing, shorter than the graph says, or outside of the
            graph's folder (refused before it is opened).
    """
    graph = read_structure(path)
    for name, needed_bytes in side_files(graph).items():
        side = _side_path(path, name)
        if not side.is_file():
            raise GraphError(f"{path} keeps its weights in {name}, which is not beside it", hint="copy both files together")
        if (size := side.stat().st_size) < needed_bytes:
            raise GraphError(
                f"{side} has {size:,} bytes, {path.name} needs {needed_bytes:,}",
                hint="the copy is short, or belongs to another model",
            )
    external_data_helper.load_external_data_for_model(graph, str(path.parent))
    return graph


def read_structure(path: Path) -> onnx.ModelProto:
    """Read a graph without the weights that stand in side files.

    Raises:
        GraphError: no such file, or not an ONNX graph.
    """
    if not path.is_file():
        raise GraphError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}, expected an ONNX graph")
    data = path.read_bytes()
    if data.startswith(b"version https://git-lfs"):
        raise GraphError(f"{path} is a Git LFS pointer, not the graph itself", hint="run: git lfs pull")
    graph = onnx.ModelProto()
    try:
        graph.ParseFromString(data)
    except DecodeError as error:
        raise GraphError(f"{path} ({len(data):,} bytes) is not an ONNX graph, or is damaged") from error
    if not graph.graph.output:
        raise GraphError(f"{path} ({len(data):,} bytes) is not an ONNX graph: it has no outputs")
    return graph


def check_well_formed(path: Path) -> None:
    """Have onnx's own checker look at a graph: operators, types, names, order.

    Raises:
        GraphError: with the checker's reason.
    """
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise GraphError(f"{path} is not a valid graph: {str(error).strip().splitlines()[0]}") from error


def tensor_facts(value: onnx.ValueInfoProto) -> str:
    """An input or output in words: name, dtype, shape."""
    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name if kind.elem_type else "unknown"
    dims = ", ".join(d.dim_param or (str(d.dim_value) if d.HasField("dim_value") else "?") for d in kind.shape.dim)
    return f"{value.name} {dtype} [{dims}]"


def side_files(graph: onnx.ModelProto) -> dict[str, int]:
    """The side files that a graph refers to, each with the bytes that it must have at least.

    Raises:
        GraphError: a name that leads out of the graph's folder.
    """
    needed: dict[str, int] = {}
    for tensor in _tensors(graph.graph):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        name = entries.get("location", "")
        parts = PurePosixPath(name).parts
        if not name or name.startswith("/") or ".." in parts or "\\" in name or ":" in name:
            raise GraphError(f"weight {tensor.name} stands in {name!r}, outside of the graph's folder; such a graph is not opened")
        sizes = [entries.get(key, "0") for key in ("offset", "length")]
        if not all(size.isdecimal() for size in sizes):
            raise GraphError(f"weight {tensor.name} stands at offset {sizes[0]!r}, {sizes[1]!r} bytes long; expected numbers")
        needed[name] = max(needed.get(name, 0), sum(map(int, sizes)))
    return needed


def _side_path(path: Path, name: str) -> Path:
    side = (path.parent / name).resolve()
    if not side.is_relative_to(path.parent.resolve()):
        raise GraphError(f"{name} leads out of the folder of {path.name}; such a graph is not opened")
    return side


def _tensors(graph: onnx.GraphProto) -> list[TensorProto]:
    """Every tensor that may stand in a side file: initializers and constants, in subgraphs too."""
    found = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            found += (
                [attribute.t, *attribute.tensors]
                if attribute.type in (onnx.AttributeProto.TENSOR, onnx.AttributeProto.TENSORS)
                else []
            )
            for inner in [attribute.g, *attribute.graphs]:
                found += _tensors(inner) if inner.node else []
    return found
