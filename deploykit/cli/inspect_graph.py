"""What ``deploykit inspect GRAPH.onnx`` shows; apart from inspect.py because it needs onnx."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deploykit.graph.describe import description_of
from deploykit.graph.files import read_structure, side_files, tensor_facts
from deploykit.graph.layers import default_layer, list_layers
from deploykit.graph.versions import oldest_onnx_runtime, opset_of


def graph_facts(path: Path) -> dict[str, Any]:
    """What stands in a graph; its weights are not read."""
    graph = read_structure(path)
    return {
        "path": str(path),
        "size_bytes": path.stat().st_size,
        "side_files": side_files(graph),
        "opset": opset_of(graph),
        "ir_version": graph.ir_version,
        "oldest_onnxruntime": oldest_onnx_runtime(graph),
        "producer": f"{graph.producer_name} {graph.producer_version}".strip(),
        "inputs": [tensor_facts(i) for i in graph.graph.input],
        "outputs": [tensor_facts(o) for o in graph.graph.output],
        "operators": dict(Counter(node.op_type for node in graph.graph.node).most_common()),
        "functions": [f"{f.domain}.{f.name}" for f in graph.functions],
        "metadata": dict(description_of(graph)),
    }


def graph_text(facts: dict[str, Any]) -> str:
    """The same in a few lines."""
    operators = ", ".join(f"{count} {name}" for name, count in facts["operators"].items())
    readers = f"ONNX Runtime {facts['oldest_onnxruntime']} and later" if facts["oldest_onnxruntime"] else "no known ONNX Runtime"
    lines = [
        f"{facts['path']}",
        f"  size       {facts['size_bytes']:,} bytes" + "".join(f", and {name}" for name in facts["side_files"]),
        f"  versions   opset {facts['opset']}, IR version {facts['ir_version']}: {readers}",
        f"  made by    {facts['producer'] or 'unknown'}",
        *(f"  input      {tensor}" for tensor in facts["inputs"]),
        *(f"  output     {tensor}" for tensor in facts["outputs"]),
        f"  operators  {operators}",
        *(f"  {key}  {value}" for key, value in facts["metadata"].items()),
    ]
    return "\n".join(lines)


def layer_facts(path: Path) -> list[dict[str, Any]]:
    """The layers of a graph that Grad-CAM can look at, in graph order, the default one marked."""
    graph = read_structure(path)
    default = default_layer(graph).tensor
    return [asdict(layer) | {"is_default": layer.tensor == default} for layer in list_layers(graph)]


def layer_text(layers: list[dict[str, Any]]) -> str:
    """The same as a table."""
    rows = [("module", "tensor", "channels", "size", "operator")]
    for layer in layers:
        size = f"{layer['height']} x {layer['width']}"
        mark = "  (default)" if layer["is_default"] else ""
        rows.append(
            (
                layer["modules"][0] if layer["modules"] else "",
                layer["tensor"],
                str(layer["channels"]),
                size,
                layer["operator"] + mark,
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(row, [*widths, 0], strict=True)).rstrip() for row in rows)
