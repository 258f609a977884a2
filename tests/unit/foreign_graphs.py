"""Small graphs as other tools write them, and the comparison of one with what `adopt_graph` makes of it."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

from deploykit.graph.foreign import adopt_graph, final_activation, find_input, find_output
from deploykit.spec import ImageSpec

SPEC = ImageSpec(8, 8, 8)
RNG = np.random.default_rng(0)
WEIGHTS = {
    "w": RNG.normal(size=(4, 3, 3, 3)).astype(np.float32),
    "b": RNG.normal(size=4).astype(np.float32),
    "f": RNG.normal(size=(4, 5)).astype(np.float32),
    "f1": RNG.normal(size=(4, 1)).astype(np.float32),
}
BODY = "c = Conv(x, w, b) r = Relu(c) p = GlobalAveragePool(r) v = Flatten(p) z = MatMul(v, f)"

Floats = npt.NDArray[np.float32]


def graph(body: str, shape: str = "N,3,8,8", dtype: str = "float", opset: int = 18, out: str = "y") -> onnx.ModelProto:
    """A graph of the input ``x`` and the weights w [4,3,3,3], b [4], f [4,5], f1 [4,1], written in ONNX's text form."""
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g ({dtype}[{shape}] x) => ({dtype} {out}) {{ {body} }}'
    model = parser.parse_model(text)
    read = {name for node in model.graph.node for name in node.input}
    for name, value in WEIGHTS.items():
        if name in read:
            kept = value.astype(np.float16) if dtype == "float16" else value
            model.graph.initializer.append(numpy_helper.from_array(kept, name))
    model.graph.output[0].ClearField("type")
    model.graph.output[0].type.tensor_type.elem_type = model.graph.input[0].type.tensor_type.elem_type
    return model


def run(model: onnx.ModelProto, feeds: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


def adopt(model: onnx.ModelProto, scores: str | None = None, spec: ImageSpec = SPEC) -> tuple[onnx.ModelProto, list[str]]:
    output = find_output(model, scores)
    adopted, notes = adopt_graph(model, find_input(model, output.name), output, spec)
    onnx.checker.check_model(adopted, full_check=True)
    assert [i.name for i in adopted.graph.input] == ["image"]
    assert [o.name for o in adopted.graph.output] == ["logits"]
    return adopted, notes


def assert_same_answers(model: onnx.ModelProto, adopted: onnx.ModelProto, atol: float = 1e-6) -> None:
    """The original, at the batch it takes, against the adopted graph for five pictures at once."""
    output = find_output(model)
    source = find_input(model, output.name)
    planes = np.random.default_rng(1).integers(0, 256, (5, 3, 8, 8)).astype(np.float32) / (1 if source.dtype == "uint8" else 255)
    logits = run(adopted, {"image": planes})
    batch = source.batch or 1
    rows = [run(model, {source.name: source.feed(np.repeat(plane[None], batch, 0))})[0].reshape(-1) for plane in planes]
    assert final_activation(output.activation, logits) == pytest.approx(np.stack(rows).astype(np.float32), abs=atol)


def write(model: onnx.ModelProto, path: Path) -> Path:
    """The graph as a file."""
    path.write_bytes(model.SerializeToString())
    return path
