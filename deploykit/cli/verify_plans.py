"""The last hop of ``deploykit verify``: graph -> TensorRT plan. A plan runs where it can; elsewhere that is said, and its bytes are
looked at all the same.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from deploykit.bundle import Bundle
from deploykit.cli import console
from deploykit.cli.checks import Check, attempt
from deploykit.cli.plan_files import plan_folders
from deploykit.cli.recorded import ANOTHER_ORDER, read_recorded
from deploykit.cli.verify_hops import Hop, ask, compare_hop, judge_hop
from deploykit.errors import EngineError, MissingExtraError
from deploykit.parity import batches_of
from deploykit.plan import BatchRange, PlanFile, PlanRecord, check_content, check_fit, read_content, read_record
from deploykit.runtime.classifier import image_feed
from deploykit.runtime.opening import open_plan
from deploykit.runtime.ort import OrtSession
from deploykit.runtime.session import Session
from deploykit.spec import Precision
from deploykit.trt import find_gpu, load_flavour

PLAN_TOLERANCES: Mapping[Precision, float] = {
    # Winograd and split sums round some tens of times as much as a sum in order does; TF32 is off unless it was asked for.
    Precision.FP32: 1e-3,
    # As between two graphs: every tensor is rounded to 11 significant bits.
    Precision.FP16: 2e-2,
    # The same integers but where a value lies between two of them, and each of those moves a sum by one step.
    Precision.INT8: 1e-1,
}
"""Of logits, relative to the largest; tighter than between precisions, because both sides compute the same graph. A further
precision is held to its own record where there is one (`deploykit.cli.recorded`)."""

_COMPUTED = ("activations", "logits", "gradients", "cam")


def check_plan_hops(bundle: Bundle) -> list[Check]:
    """A check for each plan of each folder."""
    checks: list[Check] = []
    for folder in plan_folders(bundle):
        path = bundle.path / folder
        try:
            record = read_record(path)
        except EngineError as error:
            checks.append(Check(folder, False, str(error), error.hint))
            continue
        if record is None:
            continue  # listed and gone: named among the damaged files
        for name, file in record.files.items():
            label = f"{folder}/{name.removesuffix('.plan')}"
            checks.append(attempt(label, partial(_check_plan, bundle, path / name, record, file)))
    return checks


def plan_sizes(batch: BatchRange) -> tuple[int, ...]:
    """The batch sizes to ask a plan at: 1 and 2 where it takes them, its smallest, its best and its largest."""
    return tuple(sorted({n for n in (1, 2) if batch.min <= n <= batch.max} | {batch.min, batch.opt, batch.max}))


def _check_plan(bundle: Bundle, path: Path, record: PlanRecord, file: PlanFile) -> Check:
    name = f"{record.folder}/{path.stem}"
    check_content(path, read_content(path), file)
    if (reason := _cannot_run(path, record)) is not None:
        return Check(name, True, f"{reason}; its {file.size_bytes:,} bytes are as they were written", was_run=False)
    sizes = plan_sizes(record.batch)
    graph = bundle.file(file.graph)
    steps = sum(len(batches_of(len(bundle.golden().image), size)) for size in sizes)
    with (
        OrtSession(graph) as before,
        open_plan(bundle, path) as session,
        console.progress(f"asking {name} for the golden pictures", steps) as advance,
    ):
        expected = replace(ask(bundle, before, path.stem).answers, name=file.graph.removesuffix(".onnx"))
        compared = compare_hop(expected, ask(bundle, session, path.stem, sizes, advance), record.precision, sizes)
        hop = _judge(bundle, compared, record, path.stem)
        where = "" if hop.is_equal else f". {_first_output(bundle, before, session, hop.logits.tolerance)}"
    return Check(name, hop.is_equal, f"{hop}{where}", parity=hop.to_json())


def _judge(bundle: Bundle, hop: Hop, record: PlanRecord, kind: str) -> Hop:
    """The comparison with a plan's own tolerance; TF32 has the mantissa of FP16."""
    recorded = read_recorded(bundle, record.precision, kind, "")
    if recorded is not None and record.precision in ANOTHER_ORDER:
        return judge_hop(hop, recorded, record.precision, ANOTHER_ORDER[record.precision])
    precision = Precision.FP16 if record.tf32 and record.precision == Precision.FP32 else record.precision
    return replace(hop, logits=replace(hop.logits, tolerance=PLAN_TOLERANCES[precision]))


def _first_output(bundle: Bundle, before: Session, session: Session, tolerance: float) -> str:
    """The first output, in the order in which they are computed, that differs, as a sentence: a plan shows no inner values."""
    names = [name for name in _COMPUTED if name in {o.name for o in before.outputs} & {o.name for o in session.outputs}]
    if len(names) < 2:
        return "A plan shows no inner values; where there is an explain plan, its activations tell on which side of them they part"
    manifest = bundle.manifest
    image = image_feed(manifest.image, manifest.input, bundle.golden().image[:1])
    feeds = {"image": image, "class_index": np.full(1, -1, np.int64)}
    expected, seen = (one.run(feeds, names) for one in (before, session))
    for name in names:
        scale, apart = float(np.abs(expected[name]).max()), float(np.abs(expected[name] - seen[name]).max())
        if not apart <= tolerance * scale:
            layer = f" (layer {manifest.layers[0].name})" if manifest.layers else ""
            return f"They part first at {name}{layer if name != 'logits' else ''}: {apart:.3g} apart of at most {scale:.3g}"
    return "No output of the first picture differs by that much"


def _cannot_run(path: Path, record: PlanRecord) -> str | None:
    """Why a plan cannot run on this machine; None where it can."""
    gpu = find_gpu()
    if gpu is None:
        return f"no NVIDIA GPU here, built for {record.sm}"
    try:
        flavour = load_flavour(record.backend)
        check_fit(path, record, backend=flavour.backend, version=flavour.version, gpu=gpu, plugins=record.plugins)
    except (EngineError, MissingExtraError) as error:
        return str(error)
    if record.stripped:
        return "it has no weights yet (deploykit refit)"
    return f"it needs the plugin libraries {', '.join(record.plugins)}" if record.plugins else None
