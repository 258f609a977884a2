"""The verdict on INT8, in figures and in words. In: what was measured. Out: JSON for the manifest, lines for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deploykit.agreement import Accuracy, Agreement, Paired
from deploykit.quantization.mixed import Step
from deploykit.quantization.placed import FloatNode
from deploykit.quantization.placement_rules import RULES


@dataclass(frozen=True)
class Trial:
    """A way to quantize that was tried on the held-out pictures: a calibration method and a repair."""

    method: str
    repair: str
    agreement: Agreement

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        return {"method": self.method, "repair": self.repair, **self.agreement.to_json()}


def best_trial(trials: Sequence[Trial], min_agreement: float) -> int:
    """Which of several trials is the best: by agreement, and where that cannot tell them apart by signal to noise.

    Agreement within the 95 % interval of the highest is as good as that: on a few dozen pictures one near tie moves it by points,
    and the noise in the logits, measured on thousands of numbers, tells more. Of these, the ones that reach what is asked for win.
    """
    highest = max((trial.agreement.top1 for trial in trials), key=lambda share: share.share)
    equal = [i for i, trial in enumerate(trials) if trial.agreement.top1.share >= highest.interval[0]]
    return max(equal, key=lambda i: (trials[i].agreement.top1.share >= min_agreement, trials[i].agreement.snr_db))


@dataclass(frozen=True)
class KeptLayer:
    """A layer left in float32, and the logits' signal to noise in dB with it alone in INT8; None where the user named it."""

    node: str
    snr_db: float | None


@dataclass(frozen=True)
class Labelled:
    """Accuracy of both precisions on labelled pictures, and who is right where one is wrong (first: FP32)."""

    fp32: Accuracy
    int8: Accuracy
    paired: Paired


@dataclass(frozen=True)
class Verdict:
    """What INT8 gained and what it cost.

    Args:
        family: of the model.
        method, percentile, repair: what was chosen.
        trials: everything that was tried with all layers in INT8.
        agreement: of the graph for CPUs with FP32 on held-out pictures.
        tensorrt: the same of the graph for TensorRT, run by ONNX Runtime.
        min_agreement: what was asked for.
        photos, views: calibrated with so many photos, each making so many pictures.
        held_out: how many photos judged.
        kept: layers left in float32, the costliest first.
        steps: the trials that chose how many.
        floats: layers that the placement's rules leave in float.
        int8_layers: how many compute in INT8.
        sizes: bytes by file: ``fp32/predict.onnx``, ``int8/predict.onnx``, ``int8/predict_cpu.onnx``.
        zero_tensors, zero_filters: tensors that are zero on every picture; weights with filters that are zero.
        equalized: what cross-layer equalization did, where it was tried.
        labelled: where labelled pictures were given.
    """

    family: str
    method: str
    percentile: float | None
    repair: str
    trials: tuple[Trial, ...]
    agreement: Agreement
    tensorrt: Agreement
    min_agreement: float
    photos: int
    views: int
    held_out: int
    kept: tuple[KeptLayer, ...]
    steps: tuple[Step, ...]
    floats: tuple[FloatNode, ...]
    int8_layers: int
    sizes: Mapping[str, int]
    zero_tensors: tuple[str, ...] = ()
    zero_filters: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    equalized: Mapping[str, Any] | None = None
    labelled: Labelled | None = None

    @property
    def size_ratio(self) -> float:
        """The larger of the two INT8 files, as a share of FP32's."""
        return max(v for k, v in self.sizes.items() if k.startswith("int8/")) / self.sizes["fp32/predict.onnx"]

    @property
    def reached(self) -> float:
        """The lower agreement of the two shapes of the graph."""
        return min(self.agreement.top1.share, self.tensorrt.top1.share)

    def lines(self) -> tuple[str, ...]:
        """In words, a sentence or two a line."""
        return (
            self._gained(),
            self._cost(),
            *self._chosen(),
            *self._left_out(),
            *self._zeros(),
            *self._accuracy(),
            *self._advice(),
        )

    def to_json(self) -> dict[str, Any]:
        """For the manifest; the words with the figures."""
        return {
            "words": list(self.lines()),
            "method": self.method,
            "percentile": self.percentile,
            "repair": self.repair,
            "min_agreement": self.min_agreement,
            "calibration": {"photos": self.photos, "views": self.views},
            "held_out": {"photos": self.held_out, "pictures": self.agreement.images},
            "cpu": self.agreement.to_json(),
            "tensorrt": self.tensorrt.to_json(),
            "trials": [trial.to_json() for trial in self.trials],
            "kept": [{"node": layer.node, "snr_db": layer.snr_db, "precision": "fp32"} for layer in self.kept],
            "kept_steps": [{"kept": step.kept, "agreement": step.agreement} for step in self.steps],
            "float_by_rule": [{"node": layer.node, "operator": layer.operator, "rule": layer.rule} for layer in self.floats],
            "int8_layers": self.int8_layers,
            "sizes_bytes": dict(self.sizes),
            "size_ratio": self.size_ratio,
            "zero_tensors": list(self.zero_tensors),
            "zero_filters": {name: list(filters) for name, filters in self.zero_filters.items()},
            "equalized": self.equalized,
            "labelled": None if self.labelled is None else {
                "fp32": self.labelled.fp32.to_json(),
                "int8": self.labelled.int8.to_json(),
                "paired": self.labelled.paired.to_json(),
            },
        }  # fmt: skip

    def _gained(self) -> str:
        fp32 = self.sizes["fp32/predict.onnx"]
        int8 = max(v for k, v in self.sizes.items() if k.startswith("int8/"))
        return f"gained: the graph takes {int8 / 1e6:.1f} MB instead of {fp32 / 1e6:.1f} MB, {self.size_ratio:.2f} of it"

    def _cost(self) -> str:
        found = self.agreement
        low, high = found.top1.interval
        return (
            f"cost: {found.top1.share:.1%} of {found.top1.total:,} answers on held-out pictures are FP32's own (95 % interval "
            f"{low:.1%} to {high:.1%}; {self.min_agreement:.1%} asked for), logits {found.snr_db:.1f} dB signal to noise, cosine "
            f"{found.cosine:.4f}; TensorRT's graph: {self.tensorrt.top1.share:.1%}, {self.tensorrt.snr_db:.1f} dB"
        )

    def _chosen(self) -> list[str]:
        chosen = f"{self.method} {self.percentile:g}" if self.percentile is not None else self.method
        lines = [f"calibrated: {chosen}, {_pictures(self.photos, self.views)}; judged by {_plural(self.held_out, 'other photo')}"]
        methods = [trial for trial in self.trials if trial.repair == "none"]
        if len(methods) > 1:
            lines[0] += "; " + ", ".join(f"{t.method} {t.agreement.top1.share:.1%} {t.agreement.snr_db:.1f} dB" for t in methods)
        before = next((t for t in methods if t.method == self.method), None)
        for trial in self.trials:
            if trial.repair != "none" and before is not None:
                gain = trial.agreement.snr_db - before.agreement.snr_db
                points = 100 * (trial.agreement.top1.share - before.agreement.top1.share)
                taken = "taken" if trial.repair == self.repair else "not taken"
                lines.append(f"repair {trial.repair}: {gain:+.1f} dB, {points:+.1f} points of agreement, {taken}")
        if self.equalized is not None and not self.equalized["pairs"]:
            bound = self.equalized["left_alone_behind_a_bound"]
            reason = f"{bound} stand behind a bound such as ReLU6's" if bound else "no two convolutions with a ReLU between them"
            lines.append(f"repair equalize: nothing to do, {reason}")
        return lines

    def _left_out(self) -> list[str]:
        lines = [f"INT8: {_plural(self.int8_layers, 'layer')}"]
        if self.kept:
            shown = ", ".join(_layer(layer) for layer in self.kept[:5])
            more = f" and {len(self.kept) - 5} more" if len(self.kept) > 5 else ""
            lines[0] += (
                f"; {len(self.kept)} kept in float32, in both graphs, by what each alone leaves of the logits: {shown}{more}"
            )
            if self.steps:
                tried = ", ".join(f"{step.kept}: {step.agreement:.1%}" for step in self.steps)
                lines.append(f"kept layers tried, with the agreement reached: {tried}")
        for rule in dict.fromkeys(layer.rule for layer in self.floats if layer.rule != "kept"):
            count = sum(layer.rule == rule for layer in self.floats)
            lines.append(f"in float by rule, {_plural(count, 'layer')} ({rule}): {RULES[rule]}")
        return lines

    def _zeros(self) -> list[str]:
        lines = []
        if self.zero_tensors:
            lines.append(f"zero on every picture: {', '.join(self.zero_tensors[:5])}{_more(len(self.zero_tensors))}")
        if self.zero_filters:
            named = [f"{name} ({_plural(len(filters), 'filter')})" for name, filters in self.zero_filters.items()]
            lines.append(f"filters that are zero: {', '.join(named[:5])}{_more(len(named))}")
        return lines

    def _accuracy(self) -> list[str]:
        if self.labelled is None:
            return []
        fp32, int8, paired = self.labelled.fp32, self.labelled.int8, self.labelled.paired
        return [
            f"accuracy on {fp32.images:,} labelled pictures: top-1 {fp32.top1.share:.2%} FP32, {int8.top1.share:.2%} INT8; "
            f"top-5 {fp32.top5.share:.2%}, {int8.top5.share:.2%}; right only in FP32 {paired.only_first}, only in INT8 "
            f"{paired.only_second} (McNemar p = {paired.p_value:.2g})"
        ]

    def _advice(self) -> list[str]:
        if self.family.casefold().startswith("efficientnet"):
            return [
                "latency: not measured here. On a CPU at batch 1 INT8 gains an EfficientNet nothing, its depthwise layers and "
                "activations wait for memory; take fp32 there, and measure with: deploykit bench"
            ]
        return ["latency: not measured here; measure with: deploykit bench"]


def _layer(layer: KeptLayer) -> str:
    return f"{layer.node} (asked for)" if layer.snr_db is None else f"{layer.node} ({layer.snr_db:.1f} dB)"


def _pictures(photos: int, views: int) -> str:
    return _plural(photos, "photo") if views == 1 else f"{_plural(photos * views, 'picture')}, crops of {_plural(photos, 'photo')}"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _more(count: int) -> str:
    return f" and {count - 5} more" if count > 5 else ""
