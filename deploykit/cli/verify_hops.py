"""The hops of ``deploykit verify`` that ONNX Runtime can take: golden vectors -> fp32 graph -> graph at a further precision.

Each graph is asked for the golden pictures at several batch sizes, those of the bundle's plans among them, and compared with the
stage before it. A graph of a further precision is held to what was measured when it was written (`deploykit.cli.recorded`), where
onnx is installed node by node too, and the CPU twin to the graph in TensorRT's shape. ONNX Runtime's CPU computes FP16 in float32
and drops the rounding between two nodes, so there FP16 is judged by a graph that rounds every tensor as a device does, where onnx
is installed to make it.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.bundle import Bundle
from deploykit.cli import console
from deploykit.cli.checks import Check, attempt
from deploykit.cli.plan_files import plan_folders
from deploykit.cli.recorded import AS_WRITTEN, Margin, Recorded, read_recorded, read_recorded_twin
from deploykit.errors import BundleError, EngineError, ParityError, SessionError
from deploykit.parity import BATCH_SIZES, MapRecord, ParityRecord, batches_of, compare_logits, compare_maps
from deploykit.plan import read_record
from deploykit.runtime.classifier import image_feed
from deploykit.runtime.opening import TWIN_SUFFIX
from deploykit.runtime.ort import OrtSession
from deploykit.runtime.session import Session
from deploykit.spec import Precision

Array = npt.NDArray[Any]
GOLDEN = "the golden vectors"


@dataclass(frozen=True, eq=False)
class Answers:
    """What a stage of the chain gives for the golden pictures: logits [N, K, ...], and maps [N, h, w] where it explains."""

    name: str
    logits: Array
    cam: Array | None = None


class Chain:
    """A bundle's golden vectors and its fp32 graphs' answers, each found out once."""

    def __init__(self, bundle: Bundle, provider: str) -> None:
        self.bundle = bundle
        self.provider = provider

    @cached_property
    def golden(self) -> Answers:
        """What torch answered."""
        golden = self.bundle.golden()
        return Answers(GOLDEN, golden.logits, golden.cam)

    @cached_property
    def predict(self) -> Answers:
        """What the fp32 predict graph answers."""
        return self._ask("predict")

    @cached_property
    def explain(self) -> Answers:
        """What the fp32 explain graph answers."""
        return self._ask("explain")

    def before(self, graph: str) -> Answers:
        """The answers that a graph such as ``fp16/explain`` is compared with: the golden ones, or those of its fp32 graph."""
        precision, kind = graph.removesuffix(TWIN_SUFFIX).split("/")
        if precision == Precision.FP32 or f"{Precision.FP32}/{kind}.onnx" not in self.bundle.manifest.files:
            return self.golden
        return self.predict if kind == "predict" else self.explain

    def sizes(self, precision: Precision) -> tuple[int, ...]:
        """Batch sizes to ask at: parity's, and what the plans of a precision are made for."""
        sizes = set(BATCH_SIZES)
        for folder in plan_folders(self.bundle):
            with contextlib.suppress(EngineError):  # said where plans are checked
                record = read_record(self.bundle.path / folder)
                sizes |= {record.batch.opt, record.batch.max} if record and record.precision == precision else set()
        return tuple(sorted(sizes))

    def _ask(self, kind: str) -> Answers:
        name = f"{Precision.FP32}/{kind}.onnx"
        with OrtSession(self.bundle.file(name), provider=self.provider) as session:
            return replace(ask(self.bundle, session, kind).answers, name=f"{Precision.FP32}/{kind}")


def check_graph_hops(bundle: Bundle, provider: str) -> list[Check]:
    """A check for each predict and explain graph, in the order of the chain; the fp32 ones come first."""
    chain = Chain(bundle, provider)
    checks: list[Check] = []
    for kind in ("predict", "explain"):
        for precision in bundle.precisions:
            names = [f"{precision}/{kind}{suffix}" for suffix in ("", TWIN_SUFFIX)]
            there = [name for name in names if f"{name}.onnx" in bundle.manifest.files]
            checks += [attempt(name, partial(check_graph, chain, name, precision)) for name in there]
            if kind == "predict" and len(there) == len(names):
                checks.append(attempt(f"{precision}/twin", partial(_check_twin, chain, there[0], there[1], precision)))
    return checks


@dataclass(frozen=True, eq=False)
class Asked:
    """What a session answered: row numbers of the golden pictures in the order of the answers, and those."""

    rows: npt.NDArray[np.intp]
    answers: Answers


def ask(
    bundle: Bundle, session: Session, kind: str, sizes: Sequence[int] | None = None, on_batch: Callable[[], None] | None = None
) -> Asked:
    """Ask for every golden picture at several batch sizes; without sizes, for all at once.

    Raises:
        ParityError: the session fails at a size.
        BundleError: the bundle explains, and its golden vectors hold no map.
    """
    golden, manifest = bundle.golden(), bundle.manifest
    if kind == "explain" and (golden.cam is None or golden.explained_class is None):
        raise BundleError(f"{bundle.path} explains, and its golden vectors hold no map", hint="export the model again with --force")
    asked, logits, cams = [], [], []
    for size in sizes or (len(golden.image),):
        for rows in batches_of(len(golden.image), size):
            for part in np.array_split(rows, len(rows)) if manifest.input == "photo" else [rows]:
                feeds: dict[str, Array] = {"image": image_feed(manifest.image, manifest.input, golden.image[part])}
                if kind == "explain" and golden.explained_class is not None:
                    feeds["class_index"] = golden.explained_class[part]
                try:
                    answer = session.run(feeds, ["logits", "cam"] if kind == "explain" else ["logits"])
                except SessionError as error:
                    raise ParityError(f"{session.backend} fails at batch {size}: {error}", hint=error.hint) from error
                asked.append(part)
                logits.append(answer["logits"])
                cams += [answer["cam"]] if kind == "explain" else []
            if on_batch:
                on_batch()
    return Asked(np.concatenate(asked), Answers(session.backend, np.concatenate(logits), np.concatenate(cams) if cams else None))


@dataclass(frozen=True)
class Hop:
    """One stage compared with the one before it.

    Args:
        recorded: what was measured when the stage was written, where the tolerances come from that.
        reason: of these tolerances.
    """

    logits: ParityRecord
    maps: MapRecord | None
    recorded: Recorded | None = None
    reason: str = ""

    @property
    def is_equal(self) -> bool:
        """Whether all that was compared stays within its tolerance."""
        return self.logits.is_equal and (self.maps is None or self.maps.is_equal)

    def __str__(self) -> str:
        logits, recorded = self.logits, self.recorded
        text = f"{logits.relative_difference:.1e} of the largest logit from {logits.reference}"
        if recorded is None:
            text += f", {logits.tolerance:.0e} allowed"
        else:
            text += f" ({recorded.relative_difference:.1e} recorded, {logits.tolerance:.1e} allowed)"
            reason = f": {self.reason}" if self.reason else ""
            text += f", noise {logits.noise:.1e} ({recorded.noise:.1e} recorded, {logits.noise_tolerance:.1e} allowed{reason})"
        if self.maps:
            was = f" ({recorded.maps[0]:.1e} recorded, worst {recorded.maps[1]:.1e})" if recorded and recorded.maps else ""
            text += f"; maps differ by {self.maps}{was}"
        return f"{text}; batches of {', '.join(map(str, logits.batch_sizes))} on {logits.candidate}"

    def to_json(self) -> dict[str, Any]:
        """What was seen, what is allowed, and what was recorded, as a check has it."""
        maps = self.maps.to_json() if self.maps else {}
        return self.logits.to_json() | maps | {"recorded": self.recorded.to_json() if self.recorded else None}


def compare_hop(reference: Answers, asked: Asked, precision: Precision, sizes: Sequence[int]) -> Hop:
    """Compare a stage's answers with those of the stage before it, row by row.

    Raises:
        ParityError: see `deploykit.parity.compare_logits`.
    """
    rows, answers = asked.rows, asked.answers
    names = {"reference_name": reference.name, "candidate_name": answers.name}
    pictures = len(reference.logits)
    logits = compare_logits(reference.logits[rows], answers.logits, precision, pictures=pictures, batch_sizes=tuple(sizes), **names)
    maps = None
    if answers.cam is not None and reference.cam is not None:
        maps = compare_maps(reference.cam[rows], answers.cam, precision)
    return Hop(logits, maps)


def judge_hop(hop: Hop, recorded: Recorded | None, precision: Precision, margin: Margin) -> Hop:
    """A comparison held to what was recorded, if anything was."""
    if recorded is None:
        return hop
    maps = recorded.judge_maps(hop.maps, precision) if hop.maps else None
    return Hop(recorded.judge(hop.logits, precision, margin), maps, recorded, margin.reason)


UNRECORDED = "; written before what was measured was recorded, so only a broken graph fails (make the precision again with --force)"


def check_graph(chain: Chain, name: str, precision: Precision) -> Check:
    """Compare a graph such as ``int8/predict_cpu`` with the stage before it, and with what was recorded of it.

    Raises:
        ParityError: it fails at a batch size, or nothing can be compared.
        BundleError: a record is damaged.
    """
    bundle, kind = chain.bundle, name.removesuffix(TWIN_SUFFIX).split("/")[1]
    before, sizes = chain.before(name), chain.sizes(precision)
    graph, note = judged_graph(bundle.file(f"{name}.onnx"), precision, chain.provider)
    steps = sum(len(batches_of(len(before.logits), size)) for size in sizes)
    label = f"asking {name} for the golden pictures"
    with OrtSession(graph, provider=chain.provider) as session, console.progress(label, steps) as advance:
        asked = ask(bundle, session, kind, sizes, advance)
    recorded = read_recorded(bundle, precision, kind, TWIN_SUFFIX if name.endswith(TWIN_SUFFIX) else "")
    hop = judge_hop(compare_hop(before, asked, precision, sizes), recorded, precision, AS_WRITTEN)
    if recorded is None and precision != Precision.FP32:
        note += UNRECORDED
    beyond, compared = _check_nodes(chain, name, precision)
    parity = hop.to_json() | {"nodes": compared}
    if hop.is_equal and beyond is None:
        inside = f"; each of {compared} nodes and weights as recorded" if compared else ""
        return Check(name, True, f"{hop}{note}{inside}", parity=parity)
    return Check(name, False, f"{hop}{note}. {beyond or _where(chain, name, precision)}", parity=parity)


def _check_nodes(chain: Chain, name: str, precision: Precision) -> tuple[str | None, int]:
    """The node that is not as it was recorded, and how many were compared: none where onnx is missing, or the record."""
    reference = f"{Precision.FP32}/predict.onnx"
    if precision == Precision.FP32 or reference not in chain.bundle.manifest.files or find_spec("onnx") is None:
        return None, 0
    # Imported here because it needs onnx, which a machine that only serves bundles does not have.
    from deploykit.cli.verify_nodes import check_nodes

    return check_nodes(chain.bundle, reference, f"{name}.onnx", precision, chain.provider)


def _check_twin(chain: Chain, signed: str, twin: str, precision: Precision) -> Check:
    """The CPU twin stands for the numbers of the graph in TensorRT's shape, and answers as it did beside it when both were made: it
    rounds in more places, so they are not equal."""
    bundle, unlike = chain.bundle, None
    with OrtSession(bundle.file(f"{signed}.onnx"), provider=chain.provider) as session:
        reference = replace(ask(bundle, session, "predict").answers, name=signed)
    with OrtSession(bundle.file(f"{twin}.onnx"), provider=chain.provider) as session:
        asked = ask(bundle, session, "predict")
    recorded = read_recorded_twin(bundle, f"{twin}.onnx")
    hop = judge_hop(compare_hop(reference, asked, precision, (len(reference.logits),)), recorded, precision, AS_WRITTEN)
    note = "" if recorded else UNRECORDED
    if find_spec("onnx") is not None:
        from deploykit.cli.verify_nodes import check_integers  # see above

        unlike = check_integers(bundle, f"{twin}.onnx")
        note += "" if unlike else "; the same integers, scales and zero points"
    return Check(
        f"{precision}/twin", hop.is_equal and unlike is None, f"{hop}{note}{f'. {unlike}' if unlike else ''}", parity=hop.to_json()
    )


def judged_graph(path: Path, precision: Precision, provider: str) -> tuple[Path | bytes, str]:
    """What stands for a graph on ONNX Runtime, and a remark: on the CPU an FP16 graph with every tensor rounded."""
    if precision != Precision.FP16 or provider != "cpu":
        return path, ""
    if find_spec("onnx") is None:
        return path, "; ONNX Runtime's CPU drops FP16's rounding between nodes, and onnx, which could put it in, is not installed"
    # Imported here because it needs onnx, which a machine that only serves bundles does not have.
    from deploykit.cli.verify_nodes import rounded

    return rounded(path), ", every FP16 tensor rounded"


def _where(chain: Chain, name: str, precision: Precision) -> str:
    """The first node at which a graph parts from the one before it, as a sentence."""
    kind = name.removesuffix(TWIN_SUFFIX).split("/")[1]
    # The golden vectors hold no inner values; the predict graph has most of the explain graph's.
    reference = f"{Precision.FP32}/{kind if precision != Precision.FP32 else 'predict'}.onnx"
    if reference == f"{name}.onnx" or reference not in chain.bundle.manifest.files:
        return "The golden vectors hold no inner values; export the model again to see the first module that differs"
    if find_spec("onnx") is None:
        return "Install onnx (pip install 'deploykit[export]') to have the node named at which they part"
    from deploykit.cli.verify_nodes import locate_difference  # see above

    return locate_difference(chain.bundle, reference, f"{name}.onnx", precision, chain.provider)
