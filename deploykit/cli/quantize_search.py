"""Which INT8 form of a graph is best: calibration methods, repairs, and layers to leave out, each judged on held-out pictures.

In: a float graph, pictures, what the user asked for. Out: a `Found`, or a `ParityError` that says what was reached.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from deploykit.agreement import Agreement
from deploykit.bundle import Bundle
from deploykit.cli import console
from deploykit.cli.quantize_pictures import HeldOut, calibrate, compare_layers, hear_calibrated, judge
from deploykit.errors import ParityError
from deploykit.quantization.bias import correct_biases
from deploykit.quantization.calibrate import Histograms
from deploykit.quantization.equalize import describe, equalize
from deploykit.quantization.methods import METHODS, thresholds
from deploykit.quantization.mixed import Mix, choose_kept
from deploykit.quantization.pictures import Pictures
from deploykit.quantization.placed import Placement
from deploykit.quantization.placement import place
from deploykit.quantization.qdq import QuantizedGraph, quantize_graph
from deploykit.quantization.sensitivity import LayerNoise, most_sensitive
from deploykit.quantization.twin import make_cpu_twin
from deploykit.quantization.verdict import Trial, best_trial

if TYPE_CHECKING:
    from onnx import ModelProto

REPAIRS = ("auto", "none", "bias", "equalize", "all")


@dataclass(frozen=True)
class Wishes:
    """What the user asked for.

    Args:
        method: ``auto`` or one of `METHODS`.
        repair: one of `REPAIRS`; ``auto`` takes bias correction where it helps, and tries equalization where that does not suffice.
        keep: layers to leave in float32 whatever they cost.
        known_thresholds: from a calibration record; then nothing is calibrated, and ``method`` is the record's.
    """

    method: str
    percentile: float
    repair: str
    keep: tuple[str, ...]
    min_agreement: float
    known_thresholds: Mapping[str, float] | None = None


@dataclass(frozen=True, eq=False)
class Base:
    """A float graph that is about to be quantized: the bundle's own, or its equalized form."""

    graph: "ModelProto"
    placement: Placement
    histograms: Histograms
    known_thresholds: Mapping[str, float] | None = None

    def thresholds(self, method: str, percentile: float) -> Mapping[str, float]:
        """By tensor."""
        return self.known_thresholds if self.known_thresholds is not None else thresholds(self.histograms, method, percentile)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A quantized graph and how it was judged.

    Args:
        noise: of each layer alone; empty where it was not measured.
        is_corrected: whether ``noise`` went into its biases.
        effects: the logits' signal to noise in dB with one layer alone in INT8; empty where no layer had to be left out.
    """

    base: Base
    trial: Trial
    quantized: QuantizedGraph
    twin: "ModelProto"
    thresholds: Mapping[str, float]
    noise: Mapping[str, LayerNoise] = field(default_factory=dict)
    is_corrected: bool = False
    effects: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Found:
    """What was chosen.

    Args:
        tensorrt: the agreement of the TensorRT-shaped graph.
        trials: all, in the order in which they were made.
        mix: the layers left out to reach the agreement; None where none had to be.
        equalized: what equalization did, where it was tried.
    """

    candidate: Candidate
    tensorrt: Agreement
    trials: tuple[Trial, ...]
    mix: Mix | None
    equalized: Mapping[str, Any] | None


@dataclass(eq=False)
class _Search:
    """What all steps share."""

    bundle: Bundle
    pictures: Pictures
    held_out: HeldOut
    wishes: Wishes
    trials: list[Trial] = field(default_factory=list)

    def base(self, graph: "ModelProto") -> Base:
        placement = place(graph, self.wishes.keep)
        if self.wishes.known_thresholds is not None:
            return Base(graph, placement, {}, self.wishes.known_thresholds)
        return Base(graph, placement, calibrate(graph, placement.calibratable, self.pictures, self.bundle))

    def candidate(
        self, base: Base, method: str, repair: str, noise: Mapping[str, LayerNoise] | None = None, keep: Collection[str] = ()
    ) -> Candidate:
        """Quantize and judge. ``noise`` corrects the biases of the layers that are not kept."""
        found = base.thresholds(method, self.wishes.percentile)
        corrected = correct_biases(base.graph, {n: v for n, v in noise.items() if n not in keep})[0] if noise else base.graph
        quantized = quantize_graph(corrected, self.placement(base, keep), found)
        twin = make_cpu_twin(quantized)
        trial = Trial(method, repair, judge(twin, self.held_out))
        return Candidate(base, trial, quantized, twin, found, noise or {}, bool(noise))

    def placement(self, base: Base, keep: Collection[str]) -> Placement:
        """With more layers in float32. What they read is not rounded for them in the CPU's graph either: measured on
        EfficientNet-Lite0, with those pairs 24 layers in float32 had 23.4 dB, fewer than all in INT8, and without them 30."""
        if not keep:
            return base.placement
        placed = place(base.graph, (*self.wishes.keep, *keep))
        return replace(placed, cpu_tensors=tuple(t for t in placed.cpu_tensors if t in base.placement.cpu_tensors))

    def tried(self, candidate: Candidate) -> Candidate:
        self.trials.append(candidate.trial)
        return candidate


def search(graph: "ModelProto", bundle: Bundle, pictures: Pictures, held_out: HeldOut, wishes: Wishes) -> Found:
    """Find the INT8 form that answers most like FP32.

    Raises:
        ParityError: the agreement asked for is not reached even with all layers but one left out.
        UsageError, GraphError: see `place`, `collect` and `quantize_graph`.
    """
    steps = _Search(bundle, pictures, held_out, wishes)
    best = _choose_method(steps, steps.base(graph))
    best, equalized = _choose_repair(steps, best)
    tensorrt = judge(best.quantized.graph, held_out)
    mix = None
    if _lowest(best.trial.agreement, tensorrt) < wishes.min_agreement:
        best, tensorrt, mix = _leave_out(steps, best, _lowest(best.trial.agreement, tensorrt))
    return Found(best, tensorrt, tuple(steps.trials), mix, equalized)


def _choose_method(steps: _Search, base: Base) -> Candidate:
    """The calibration method that agrees best, see `best_trial`."""
    methods = METHODS if steps.wishes.method == "auto" else (steps.wishes.method,)
    with console.progress(f"trying {', '.join(methods)}", len(methods)) as advance:
        candidates = []
        for method in methods:
            candidates.append(steps.tried(steps.candidate(base, method, "none")))
            advance()
    return _best(candidates, steps)


def _choose_repair(steps: _Search, plain: Candidate) -> tuple[Candidate, Mapping[str, Any] | None]:
    """The repair asked for, or under ``auto`` the best one; and what equalization did, where it was tried."""
    wish, method = steps.wishes.repair, plain.trial.method
    candidates = [plain]
    if wish in ("auto", "bias", "all"):
        candidates.append(_corrected(steps, plain, "bias"))
    best = _best(candidates, steps)
    is_short = best.trial.agreement.top1.share < steps.wishes.min_agreement and steps.wishes.known_thresholds is None
    done = None
    if wish in ("equalize", "all") or (wish == "auto" and is_short):
        found = equalize(plain.base.graph)
        done = describe(found)
        if found.pairs:
            level = steps.tried(steps.candidate(steps.base(found.graph), method, "equalize"))
            candidates.append(level)
            if wish != "equalize":
                candidates.append(_corrected(steps, level, "equalize and bias"))
    # What was asked for by name is the last one made; where there is nothing to equalize that is what remains.
    chosen = _best(candidates, steps) if wish == "auto" else candidates[-1]
    return chosen, done


def _corrected(steps: _Search, candidate: Candidate, repair: str) -> Candidate:
    noise = compare_layers(candidate.base.graph, candidate.quantized, steps.pictures, steps.bundle)
    return steps.tried(steps.candidate(candidate.base, candidate.trial.method, repair, noise))


def _leave_out(steps: _Search, best: Candidate, known: float) -> tuple[Candidate, Agreement, Mix]:
    """Leave the layers that cost most in float32 until the agreement is reached, in both shapes of the graph."""
    best = replace(best, effects=_measure_effects(steps, best))
    order = most_sensitive(best.effects)
    made: dict[tuple[str, ...], tuple[Candidate, Agreement]] = {}
    wanted = steps.wishes.min_agreement
    label = f"{known:.1%} of the answers are FP32's, {wanted:.1%} are asked for: leaving layers in float32"
    with console.progress(label, total=None):

        def reached(keep: tuple[str, ...]) -> float:
            corrections = best.noise if best.is_corrected else None
            candidate = steps.candidate(best.base, best.trial.method, best.trial.repair, corrections, keep)
            share = candidate.trial.agreement.top1.share
            if share < wanted:  # the other shape cannot save it, and takes three times as long here
                return share
            tensorrt = judge(candidate.quantized.graph, steps.held_out)
            made[keep] = replace(candidate, effects=best.effects), tensorrt
            return _lowest(candidate.trial.agreement, tensorrt)

        mix = choose_kept(order, reached, wanted, known=known)
    if not mix.is_reached:
        raise ParityError(
            f"{mix.agreement:.1%} of the answers are FP32's at best, with {len(mix.kept)} of {len(order)} layers in float32; "
            f"{wanted:.1%} are asked for",
            hint="nothing was written. Calibrate with more pictures like those to come, allow less with --min-agreement, "
            "or serve fp16 or fp32",
        )
    return *made[mix.kept], mix


def _measure_effects(steps: _Search, best: Candidate) -> dict[str, float]:
    """The logits' signal to noise with one layer alone in INT8, by node: what its errors come to at the end of the network.

    Noise at the layer itself says little of that: on EfficientNet-Lite0 leaving out the 16 layers with most of it gained 2 dB, and
    leaving out the 16 found in this way 5 dB. Judged on calibration pictures, so that those held out stay apart from the choice.
    """
    layers = [edge.node for edge in best.quantized.placement.edges if edge.input == 0]
    layers = [node for node in dict.fromkeys(layers) if node in {edge.node for edge in best.quantized.placement.weights}]
    pictures = replace(steps.pictures, held_out=())
    reference = hear_calibrated(best.base.graph, pictures, steps.bundle)
    effects = {}
    with console.progress(f"measuring what each of {len(layers)} layers costs by itself", len(layers)) as advance:
        for node in layers:
            placement = steps.placement(best.base, [other for other in layers if other != node])
            corrected = correct_biases(best.base.graph, {node: best.noise[node]})[0] if best.is_corrected else best.base.graph
            effects[node] = judge(quantize_graph(corrected, placement, best.thresholds).graph, reference).snr_db
            advance()
    return effects


def _best(candidates: Sequence[Candidate], steps: _Search) -> Candidate:
    return candidates[best_trial([candidate.trial for candidate in candidates], steps.wishes.min_agreement)]


def _lowest(*agreements: Agreement) -> float:
    return min(agreement.top1.share for agreement in agreements)
