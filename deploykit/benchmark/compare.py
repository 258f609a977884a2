"""Two reports: is one faster, or is it noise?

Calls in a row are not independent (a neighbour or a clock slows many of them), so the unit is the round: the ratio is that of the
medians of the rounds' medians, and its interval comes from drawing rounds with replacement (Efron 1979, the percentile bootstrap).
A difference counts only if the interval leaves out 1 **and** the ratio is further from 1 than the rounds of either side are from
each other. What may differ between the two sides is named; what must be alike is checked, and a mismatch refuses the comparison.
"""

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deploykit.benchmark.report import Case, CaseResult, Report
from deploykit.errors import MeasurementError

MUST_MATCH = ("like", "includes")
"""Of the method: what a call included and how it was made."""
LEAST_NOISE = 0.01
"""Two processes on one quiet machine differ by this much through memory placement alone."""
LEAST_ROUNDS = 5
_DRAWS = 2000


@dataclass(frozen=True)
class Difference:
    """One case of both reports.

    Args:
        first, second: the cases, equal but for what is compared.
        ratio: the second's median latency as a multiple of the first's.
        low, high: the 95 % interval of the ratio.
        noise: how far from 1 a ratio may be without meaning anything.
    """

    first: Case
    second: Case
    first_ms: float
    second_ms: float
    ratio: float
    low: float
    high: float
    noise: float

    @property
    def is_beyond_noise(self) -> bool:
        """Whether one side is faster, as far as these measurements can tell."""
        return not self.low <= 1 <= self.high and abs(self.ratio - 1) > self.noise

    @property
    def verdict(self) -> str:
        """The difference in words."""
        if not self.is_beyond_noise:
            return f"no difference beyond the noise ({(self.ratio - 1):+.1%}, noise {self.noise:.1%})"
        word = "slower" if self.ratio > 1 else "faster"
        factor, low, high = (self.ratio, self.low, self.high) if self.ratio > 1 else (1 / self.ratio, 1 / self.high, 1 / self.low)
        return f"{factor:.2f}x {word} (95 %: {low:.2f} to {high:.2f})"

    def to_json(self) -> dict[str, Any]:
        """The difference as a record."""
        return asdict(self) | {"is_beyond_noise": self.is_beyond_noise, "verdict": self.verdict}


@dataclass(frozen=True)
class Comparison:
    """Two reports side by side.

    Args:
        varied: what differs between the sides, by name: the first's value and the second's. Empty for the same thing twice.
        differences: one per case that both have.
        unmatched: cases that only one side has.
    """

    varied: Mapping[str, tuple[Any, Any]]
    differences: tuple[Difference, ...]
    unmatched: tuple[str, ...]


def compare_reports(first: Report, second: Report) -> Comparison:
    """Compare what two reports have in common.

    Raises:
        MeasurementError: the two do not measure the same thing in the same way on the same machine.
    """
    _check_alike(first, second)
    axes = _varied_axes(first, second)
    keyed_first, keyed_second = (_by_key(report, axes) for report in (first, second))
    common = [key for key in keyed_first if key in keyed_second]
    if not common:
        raise MeasurementError(
            f"the two reports have no case in common: {_list(first)} in the first, {_list(second)} in the second",
            hint="compare reports of the same graphs, batches, threads and callers",
        )
    unmatched = [
        result.case.title
        for mine, other in ((keyed_first, keyed_second), (keyed_second, keyed_first))
        for key, result in mine.items()
        if key not in other
    ]
    varied: dict[str, tuple[Any, Any]] = {axis: (_only(first, axis), _only(second, axis)) for axis in axes}
    for name in ("model", "weights_sha256"):
        if first.subject.get(name) != second.subject.get(name):
            varied[name] = (first.subject.get(name), second.subject.get(name))
    differences = tuple(compare_cases(keyed_first[key], keyed_second[key]) for key in common)
    return Comparison(varied, differences, tuple(unmatched))


def compare_cases(first: CaseResult, second: CaseResult) -> Difference:
    """The ratio of two cases' latencies, its interval and the noise.

    Raises:
        MeasurementError: too few rounds to tell noise from a difference.
    """
    sides = [result.round_medians_ms for result in (first, second)]
    if min(map(len, sides)) < LEAST_ROUNDS:
        raise MeasurementError(
            f"{first.case.title}: {len(sides[0])} and {len(sides[1])} rounds, expected at least {LEAST_ROUNDS} to tell noise",
            hint="measure longer: --seconds 5",
        )
    a, b = (statistics.median(side) for side in sides)
    draw = random.Random(0)  # noqa: S311 - a fixed seed: the same two reports give the same verdict
    ratios = sorted(_resampled(sides[1], draw) / _resampled(sides[0], draw) for _ in range(_DRAWS))
    low, high = ratios[int(0.025 * _DRAWS)], ratios[int(0.975 * _DRAWS) - 1]
    noise = max(LEAST_NOISE, first.spread, second.spread)
    return Difference(first.case, second.case, a, b, b / a, low, high, noise)


def _resampled(rounds: Sequence[float], draw: random.Random) -> float:
    return statistics.median(draw.choices(rounds, k=len(rounds)))


def _check_alike(first: Report, second: Report) -> None:
    pairs: list[tuple[str, Any, Any]] = [
        ("method: " + name, first.method.get(name), second.method.get(name)) for name in MUST_MATCH
    ]
    pairs += [(f"machine: {name}", first.machine.get(name), second.machine.get(name)) for name in ("cpu", "cores", "gpu")]
    pairs += [("image size", first.subject.get("image"), second.subject.get("image"))]
    for name, a, b in pairs:
        if a != b:
            raise MeasurementError(
                f"the two reports are no measurements of the same kind: {name} is {a!r} in the first and {b!r} in the second",
                hint="measure both sides on one machine with the same options",
            )


def _varied_axes(first: Report, second: Report) -> tuple[str, ...]:
    """The axes on which each report has one value and the two differ: that is what is compared."""
    axes = []
    for axis in ("precision", "backend", "threads", "concurrency"):
        mine, theirs = (
            {getattr(result.case, axis) for result in report.results if result.case.graph != "preprocess"}
            for report in (first, second)
        )
        if len(mine) == len(theirs) == 1 and mine != theirs:
            axes.append(axis)
    return tuple(axes)


def _by_key(report: Report, axes: tuple[str, ...]) -> dict[tuple[Any, ...], CaseResult]:
    fields = [name for name in Case.__dataclass_fields__ if name not in axes]
    return {tuple(getattr(result.case, name) for name in fields): result for result in report.results}


def _only(report: Report, axis: str) -> Any:
    return next(getattr(result.case, axis) for result in report.results if result.case.graph != "preprocess")


def _list(report: Report) -> str:
    return "; ".join(result.case.title for result in report.results) or "nothing"
