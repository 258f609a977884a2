"""What a graph of a further precision answered when it was written, and how far from that it may be later and elsewhere.

In: a bundle's manifest. Out: a `Recorded`, and the tolerances that follow from it. The record is made in `golden_record`.

An INT8 graph is some percents from float32, and every net its own: 4 % of the largest logit on a ResNet-18, 33 % on a random
EfficientNet-B0. So each is held to its own figures. Measured on ResNet-18 (64 pixels), EfficientNet-Lite0 (trained) and
EfficientNet-B0 (random), both shapes of INT8 and FP16 with every tensor rounded: batches of 1, 2 and 8 and one or two threads
change nothing (5e-7 of the largest logit). Sums in another order do, because a value between two integers goes to the other one and
the step spreads: with ONNX Runtime's optimizations off, and with OpenVINO, the noise was 0.56 to 1.05 times the recorded one, the
largest difference 0.54 to 1.70 times. No other CPU was at hand; one that adds in another order is like these.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from deploykit.bundle import Bundle
from deploykit.parity import MAP_TOLERANCES, WORST_MAP_TOLERANCES, MapRecord, ParityRecord
from deploykit.spec import Precision

GOLDEN_RECORD = "golden"
"""Where it stands in the parity record of a predict graph's file."""

TWIN_RECORD = "twin"
"""Where the twin's distance from the graph in TensorRT's shape stands in the parity record of the twin's file."""


@dataclass(frozen=True)
class Margin:
    """How much further than recorded an answer may be.

    Args:
        largest, noise: times the recorded largest difference and noise of the logits.
        reason: in a few words, for the output, where it is not that the graph answers as when it was written.
    """

    largest: float
    noise: float
    reason: str = ""


AS_WRITTEN = Margin(2.0, 1.5)
"""Of a graph against the float graph: 1.70 and 1.05 measured, see above. A net of few classes has few logits, and its noise is less
sure: 1.23 on 12 logits."""

ANOTHER_ORDER = {
    # Measured between two orders of the same graph: 0.97 and 0.59. Two runs that share no rounding at all would be 1.4 times the
    # noise apart, so a plan that rounds elsewhere fails.
    Precision.INT8: Margin(1.5, 1.0, "the same integers but for sums in another order"),
    # ONNX Runtime's CPU leaves out the rounding between nodes that a plan has: measured 0.9 of the noise with every tensor rounded.
    # Kernels that add in float16 round more.
    Precision.FP16: Margin(3.0, 3.0, "the same FP16 numbers but for sums in another order"),
}
"""Of a plan against its own graph, in shares of what the graph is from float32. Measured on CPUs; never on a GPU, whose kernels add
in orders of their own: the margin is for that."""

FLOORS = {Precision.FP16: 5e-4, Precision.INT8: 2e-3}
"""For what was recorded as almost nothing: one rounding to float16; a quarter of a step of INT8."""

MAP_MARGINS = (2.0, 2.5)
"""Times the recorded difference of the median map and of the worst. Measured as above and with biases and scales moved by 1e-6:
1.09 and 1.60 from float32, and 1.01 and 1.19 between two orders."""

MAP_FLOOR = 5e-3
"""What two float32 implementations may differ by (`deploykit.parity.MAP_TOLERANCES`)."""


@dataclass(frozen=True)
class Recorded:
    """What was measured on the golden pictures when a graph was written.

    Args:
        relative_difference, noise: see `deploykit.parity.ParityRecord`.
        maps: the median and the worst map's difference; None where the graph does not explain.
    """

    relative_difference: float
    noise: float
    maps: tuple[float, float] | None = None

    def judge(self, record: ParityRecord, precision: Precision, margin: Margin) -> ParityRecord:
        """A comparison with the tolerances that follow from this."""
        floor = FLOORS[precision]
        largest, noise = self.relative_difference * margin.largest + floor, self.noise * margin.noise + floor
        return replace(record, tolerance=largest, noise_tolerance=noise)

    def judge_maps(self, record: MapRecord, precision: Precision) -> MapRecord:
        """The same of maps; never more than is allowed without a record, which flat maps may reach."""
        if self.maps is None:
            return record
        typical, worst = (seen * factor + MAP_FLOOR for seen, factor in zip(self.maps, MAP_MARGINS, strict=True))
        typical, worst = min(typical, MAP_TOLERANCES[precision]), min(worst, WORST_MAP_TOLERANCES[precision])
        return replace(record, tolerance=typical, worst_tolerance=worst)

    def to_json(self) -> dict[str, Any]:
        """As a check shows it."""
        maps = {} if self.maps is None else {"map_difference": self.maps[0], "worst_map_difference": self.maps[1]}
        return {"relative_difference": self.relative_difference, "noise": self.noise, **maps}


def read_recorded(bundle: Bundle, precision: Precision, kind: str, suffix: str) -> Recorded | None:
    """What was recorded for a graph; None for a bundle that was written before there were such records.

    The logits of an explain graph are its predict graph's to the bit, and so is their record.
    """
    answers = _parity(bundle, f"{precision}/predict{suffix}.onnx").get(GOLDEN_RECORD)
    if not isinstance(answers, Mapping):
        return None
    explain = _parity(bundle, f"{precision}/explain{suffix}.onnx") if kind == "explain" else {}
    maps = (explain["map_difference"], explain["worst_map_difference"]) if "worst_map_difference" in explain else None
    return Recorded(answers["relative_difference"], answers["noise"], maps)


def read_recorded_twin(bundle: Bundle, twin: str) -> Recorded | None:
    """What was recorded of a twin beside the graph in TensorRT's shape; None as in `read_recorded`."""
    found = _parity(bundle, twin).get(TWIN_RECORD)
    return Recorded(found["relative_difference"], found["noise"]) if isinstance(found, Mapping) else None


def _parity(bundle: Bundle, name: str) -> Mapping[str, Any]:
    record = bundle.manifest.files.get(name)
    return (record.parity or {}) if record is not None else {}
