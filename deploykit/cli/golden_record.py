"""What a graph of a further precision answers to the golden pictures, as a record for `deploykit.cli.recorded` to read.

In: a bundle, a predict graph that is about to be written. Out: two entries of the parity record of its file.
"""

from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from deploykit.bundle import Bundle
from deploykit.cli.explain_graphs import open_graphs
from deploykit.cli.recorded import GOLDEN_RECORD, TWIN_RECORD
from deploykit.graph.half import make_rounding_graph
from deploykit.parity import compare_logits
from deploykit.runtime.classifier import run_predict
from deploykit.spec import Precision

if TYPE_CHECKING:
    import onnx


def hear_golden(
    bundle: Bundle, precision: Precision, predict: "onnx.ModelProto", signed: "onnx.ModelProto | None" = None
) -> dict[str, Any]:
    """What a predict graph answers to the golden pictures, for the parity record of its file.

    Args:
        bundle: `at_network_size`.
        predict: FP16 is judged with every tensor rounded, as ``verify`` does it.
        signed: of a twin, the graph in TensorRT's shape.

    Raises:
        ParityError: the golden vectors prove nothing (`deploykit.parity.compare_logits`).
    """
    golden, manifest = bundle.golden(), bundle.manifest
    graphs = {"predict.onnx": make_rounding_graph(predict, lay_open=False) if precision == Precision.FP16 else predict}
    if signed is not None:
        graphs["signed.onnx"] = signed
    with open_graphs(graphs) as sessions:
        logits = {name: run_predict(one, manifest.image, manifest.input, golden.pixels) for name, one in sessions.items()}
        backend = sessions["predict.onnx"].backend

    def compare(reference: npt.NDArray[Any], name: str) -> dict[str, Any]:
        return compare_logits(
            reference,
            logits["predict.onnx"],
            precision,
            pictures=len(golden.pixels),
            reference_name=name,
            candidate_name=backend,
            batch_sizes=(len(golden.pixels),),
        ).to_json()

    found = {GOLDEN_RECORD: compare(golden.logits, "the golden vectors")}
    if signed is not None:
        found[TWIN_RECORD] = compare(logits["signed.onnx"], f"{precision}/predict.onnx")
    return found
