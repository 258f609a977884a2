"""``deploykit quantize``: INT8 graphs for a bundle, calibrated on the user's pictures and judged on others."""

import contextlib
import json
from pathlib import Path

import click

from deploykit.bundle import Bundle
from deploykit.cli import console
from deploykit.cli.embed_resize import at_network_size, read_float_graph
from deploykit.cli.evaluate import require_classifier, require_uncalibrated
from deploykit.cli.evaluate_data import FOLDER_RULES, Sample, read_samples
from deploykit.cli.evaluate_run import evaluate_sessions
from deploykit.cli.explain_graphs import open_graphs
from deploykit.cli.options import bundle_argument, warn_if_untrained
from deploykit.cli.output_files import check_plot, plot_format, plot_option, write_file
from deploykit.cli.quantize_pictures import compare_layers, gather, hear_reference
from deploykit.cli.quantize_plot import draw_verdict
from deploykit.cli.quantize_search import REPAIRS, Found, Wishes, search
from deploykit.cli.quantize_write import FLOAT, TENSORRT, write_int8
from deploykit.errors import BundleError, UsageError
from deploykit.quantization.methods import DEFAULT_PERCENTILE, METHODS
from deploykit.quantization.pictures import Pictures, require_apart
from deploykit.quantization.record import CalibrationRecord, load
from deploykit.quantization.verdict import Labelled, Verdict
from deploykit.runtime.session import Session


@click.command(name="quantize")
@bundle_argument
@click.option("--images", type=click.Path(path_type=Path), multiple=True, required=True, metavar="DIR",
              help="Pictures to calibrate with, files or directories. Repeatable.")  # fmt: skip
@click.option("--method", type=click.Choice(("auto", *METHODS)), default="auto", show_default=True,
              help="auto tries all on the histograms of one pass and takes what agrees best.")  # fmt: skip
@click.option("--percentile", type=click.FloatRange(0, 100, min_open=True), default=DEFAULT_PERCENTILE, show_default=True,
              help="Of |x|, for the percentile method.")  # fmt: skip
@click.option("--count", type=click.IntRange(2), metavar="N", help="Take so many of the pictures, evenly spread over their names.")
@click.option(
    "--crops", type=click.IntRange(1), metavar="N", help="Calibrate with so many pictures; few photos make several crops each."
)
@click.option("--holdout", metavar="DIR|SHARE", help="Pictures to judge by, or the share of --images to set apart. [default: 0.2]")
@click.option("--min-agreement", type=click.FloatRange(0, 1), default=0.97, show_default=True,
              help="Share of held-out pictures that must get FP32's class; layers stay in float32 until they do.")  # fmt: skip
@click.option("--repair", type=click.Choice(REPAIRS), default="auto", show_default=True,
              help="bias: correct what INT8 does to means. equalize: shift scale between layers.")  # fmt: skip
@click.option("--keep", multiple=True, metavar="NAME", help="Leave a layer in float32: node, tensor or module path. Repeatable.")
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="DIR|CSV", help="Labelled pictures: adds top-1 and top-5 to the verdict."
)
@click.option("--folders", type=click.Choice(FOLDER_RULES), help="With --data: how folders stand for classes.")
@click.option("--calibration", type=click.Path(path_type=Path), metavar="FILE",
              help="Reuse a calibration record of this very graph and these pictures.")  # fmt: skip
@plot_option("Draw signal to noise by layer, and size against agreement")
@click.option("--force", is_flag=True, help="Replace the INT8 graphs that the bundle has.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
def command(
    bundle: Path,
    images: tuple[Path, ...],
    method: str,
    percentile: float,
    count: int | None,
    crops: int | None,
    holdout: str | None,
    min_agreement: float,
    repair: str,
    keep: tuple[str, ...],
    data: Path | None,
    folders: str | None,
    calibration: Path | None,
    plot: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Add INT8 to a bundle: calibrated on your pictures, judged on others.

    No picture both calibrates and judges. Writes int8/predict.onnx in TensorRT's shape, int8/predict_cpu.onnx with the same scales
    for CPUs, the graphs that explain them, int8/calibration.json, and a verdict in the manifest. Where too few answers are FP32's
    own, the layers that INT8 costs most stay in float32; where that does not suffice, the command fails and writes nothing.
    """
    check_plot(plot)
    opened = at_network_size(Bundle.open(bundle))
    _check_bundle(opened, force)
    samples = _read_data(opened, data, folders)
    warn_if_untrained(opened)
    pictures = gather(images, opened.manifest.image, holdout=holdout, count=count, crops=crops)
    if samples:
        require_uncalibrated(samples, frozenset(photo.sha256 for photo in pictures.calibration))
    record = _load_record(opened, calibration, pictures, method)
    graph = read_float_graph(opened)
    wishes = Wishes(
        method=record.method if record is not None else method,
        percentile=(record.percentile if record is not None else None) or percentile,
        repair=_repair(repair, record),
        keep=keep,
        min_agreement=min_agreement,
        known_thresholds=record.thresholds if record is not None else None,
    )
    found = search(graph, opened, pictures, hear_reference(graph, pictures, opened), wishes)
    labelled = _evaluate(opened, found, samples) if samples else None
    with console.progress("writing the graphs and what explains them", total=None):
        verdict = write_int8(opened, found, wishes, pictures, record, labelled)
    console.result(json.dumps(verdict.to_json(), ensure_ascii=False) if as_json else _as_text(bundle, verdict))
    if plot is not None:
        _draw(plot, opened, found, pictures, verdict)


def _check_bundle(bundle: Bundle, force: bool) -> None:
    """Refuse before the work what would make it worthless."""
    if TENSORRT in bundle.manifest.files and not force:
        raise BundleError(f"{bundle.path} has {TENSORRT} already", hint="replace it with --force")
    bundle.file(FLOAT)
    bad = {name: what for name, what in bundle.damage().items() if name.startswith("fp32/") or name == "golden.npz"}
    if bad:
        name, what = next(iter(bad.items()))
        raise BundleError(f"{bundle.path / name} {what}", hint="export the model again with --force")


def _read_data(bundle: Bundle, data: Path | None, folders: str | None) -> tuple[Sample, ...]:
    if data is None:
        if folders is not None:
            raise UsageError("--folders goes with --data")
        return ()
    require_classifier(bundle)
    return read_samples(data, bundle.labels(), bundle.manifest.model.num_classes, folders).samples


def _load_record(bundle: Bundle, path: Path | None, pictures: Pictures, method: str) -> CalibrationRecord | None:
    """The record to reuse, if one is named.

    Raises:
        BundleError: it belongs to another graph, other weights, other pictures or another method, or is damaged.
    """
    if path is None:
        return None
    record = load(
        path,
        bundle.manifest.files[FLOAT].sha256,
        weights_sha256=bundle.manifest.weights.sha256,
        image=bundle.manifest.image,
        calibration=[photo.sha256 for photo in pictures.calibration],
        method=None if method == "auto" else method,
    )
    require_apart((p.sha256 for p in record.calibration), pictures.held_out)
    return record


def _repair(repair: str, record: CalibrationRecord | None) -> str:
    """Equalizing moves ranges, so a record of the graph as it was says nothing of the equalized one."""
    if record is not None and repair in ("equalize", "all"):
        raise UsageError(f"--repair {repair} needs a calibration of the equalized graph", hint="leave --calibration out")
    return repair


def _evaluate(bundle: Bundle, found: Found, samples: tuple[Sample, ...]) -> Labelled:
    manifest = bundle.manifest
    with contextlib.ExitStack() as stack:
        graphs = {"fp32": read_float_graph(bundle), "int8": found.candidate.twin}
        sessions: dict[str, Session] = dict(stack.enter_context(open_graphs(graphs)))
        advance = stack.enter_context(console.progress(f"evaluating on {len(samples):,} labelled pictures", len(samples)))
        result = evaluate_sessions(samples, sessions, manifest.image, manifest.input, 16, advance)
    if result.unreadable:
        raise result.unreadable[0]
    return Labelled(result.accuracy["fp32"], result.accuracy["int8"], result.paired["int8"])


def _as_text(bundle: Path, verdict: Verdict) -> str:
    return "\n".join([str(bundle), *(f"  {line}" for line in verdict.lines())])


def _draw(plot: Path, bundle: Bundle, found: Found, pictures: Pictures, verdict: Verdict) -> None:
    """Draw the figures. Measures the layers where the search did not have to."""
    candidate = found.candidate
    graph = candidate.base.graph
    alone = candidate.noise or compare_layers(graph, candidate.quantized, pictures, bundle)
    together = compare_layers(graph, candidate.quantized, pictures, bundle, alone=False)
    data = draw_verdict(bundle.manifest.model.name, verdict, alone, together, plot_format(plot))
    write_file(plot, data, hint="the bundle is written; choose another place with --plot and --force")
    console.note(f"figures in {plot}")
