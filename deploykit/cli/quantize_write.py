"""INT8 into a bundle in one step: both graphs, what explains them, the calibration record, the verdict."""

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from deploykit.agreement import Agreement
from deploykit.bundle import Bundle, Stage, extend_bundle
from deploykit.bundle.manifest import sha256_of
from deploykit.cli.precision_graphs import add_precision
from deploykit.cli.quantize_search import Found, Wishes
from deploykit.quantization.pictures import Pictures
from deploykit.quantization.record import CalibrationRecord, make_record
from deploykit.quantization.verdict import KeptLayer, Labelled, Verdict
from deploykit.runtime.opening import TWIN_SUFFIX
from deploykit.spec import Precision

FLOAT = f"{Precision.FP32}/predict.onnx"
TENSORRT = f"{Precision.INT8}/predict.onnx"
TWIN = f"{Precision.INT8}/predict{TWIN_SUFFIX}.onnx"
RECORD = f"{Precision.INT8}/calibration.json"


def write_int8(
    bundle: Bundle,
    found: Found,
    wishes: Wishes,
    pictures: Pictures,
    record: CalibrationRecord | None,
    labelled: Labelled | None,
) -> Verdict:
    """Write what was found; earlier INT8 files are replaced.

    Args:
        record: the one that was reused; None makes a new one.

    Raises:
        ParityError, GraphError, BundleError: and nothing has been written.
    """
    candidate = found.candidate
    made = record or _record(bundle, found, wishes, pictures)
    pixels = bundle.golden().pixels
    with extend_bundle(bundle.path) as stage:
        _drop_earlier(stage)
        stage.add(RECORD, made.to_text().encode(), made_from={FLOAT: bundle.manifest.files[FLOAT].sha256})
        origin = {name: stage.manifest.files[name].sha256 for name in (FLOAT, RECORD)}
        for suffix, graph, agreement in (
            ("", candidate.quantized.graph, found.tensorrt),
            (TWIN_SUFFIX, candidate.twin, candidate.trial.agreement),
        ):
            add_precision(
                stage,
                bundle,
                Precision.INT8,
                graph,
                pixels=pixels,
                made_from=origin,
                parity=_parity(agreement, wishes.min_agreement),
                file_suffix=suffix,
                signed=candidate.quantized.graph if suffix else None,
            )
        sizes = {name: _bytes_of(stage, name) for name in (FLOAT, TENSORRT, TWIN)}
        verdict = make_verdict(bundle.manifest.model.family, found, made, wishes, pictures, sizes, labelled)
        _note(stage, TENSORRT, {"verdict": verdict.to_json()})
    return verdict


def make_verdict(
    family: str,
    found: Found,
    record: CalibrationRecord,
    wishes: Wishes,
    pictures: Pictures,
    sizes: Mapping[str, int],
    labelled: Labelled | None,
) -> Verdict:
    """Put together what was measured."""
    candidate, placement, report = found.candidate, found.candidate.quantized.placement, found.candidate.quantized.report
    chosen = found.mix.kept if found.mix is not None else ()
    asked = [layer.node for layer in placement.floats if layer.rule == "kept" and layer.node not in chosen]
    kept = [KeptLayer(node, candidate.effects[node]) for node in chosen]
    kept += [KeptLayer(node, None) for node in asked]
    operators = {edge.node for edge in placement.weights} - {layer.node for layer in placement.floats}
    return Verdict(
        family=family,
        method=record.method,
        percentile=record.percentile,
        repair=candidate.trial.repair,
        trials=found.trials,
        agreement=candidate.trial.agreement,
        tensorrt=found.tensorrt,
        min_agreement=wishes.min_agreement,
        photos=len(pictures.calibration),
        views=pictures.views,
        held_out=len(pictures.held_out),
        kept=tuple(kept),
        steps=found.mix.steps if found.mix is not None else (),
        floats=placement.floats,
        int8_layers=len(operators),
        sizes=sizes,
        zero_tensors=report.zero_tensors,
        zero_filters=report.zero_filters,
        equalized=found.equalized,
        labelled=labelled,
    )


def _record(bundle: Bundle, found: Found, wishes: Wishes, pictures: Pictures) -> CalibrationRecord:
    """Of the chosen method. An equalized graph has a digest of its own: its ranges are not the float graph's."""
    base, is_equalized = found.candidate.base, found.candidate.trial.repair.startswith("equalize")
    digest = bundle.manifest.files[FLOAT].sha256
    return make_record(
        base.histograms,
        found.candidate.trial.method,
        wishes.percentile,
        pictures,
        graph_sha256=sha256_of(base.graph.SerializeToString(deterministic=True)) if is_equalized else digest,
        weights_sha256=bundle.manifest.weights.sha256,
        image=bundle.manifest.image,
        versions={name: version(name) for name in ("numpy", "onnx", "onnxruntime", "pillow")},
    )


def _parity(agreement: Agreement, min_agreement: float) -> dict[str, Any]:
    relative = None if agreement.noise <= 0 or agreement.signal <= 0 else (agreement.noise / agreement.signal) ** 0.5
    return {
        "reference": f"{FLOAT} (held-out pictures, root mean square)",
        "relative_difference": relative,
        "min_agreement": min_agreement,
        **agreement.to_json(),
    }


def _drop_earlier(stage: Stage) -> None:
    """Take away the INT8 files of an earlier run: the new one may have fewer."""
    earlier = [name for name in stage.manifest.files if name.startswith(f"{Precision.INT8}/")]
    for name in earlier:
        Path(stage.folder / name).unlink(missing_ok=True)
    files = {name: record for name, record in stage.manifest.files.items() if name not in earlier}
    stage.manifest = replace(stage.manifest, files=files)


def _bytes_of(stage: Stage, name: str) -> int:
    """A graph with the file that holds its weights, if there is one."""
    return sum(record.size_bytes for key, record in stage.manifest.files.items() if key in (name, f"{name}.data"))


def _note(stage: Stage, name: str, more: Mapping[str, Any]) -> None:
    record = stage.manifest.files[name]
    noted = replace(record, parity={**(record.parity or {}), **more})
    stage.manifest = replace(stage.manifest, files={**stage.manifest.files, name: noted})
