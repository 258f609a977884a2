"""A benchmark's report: the cases that were measured and their samples, as a value and as a JSON file.

The file keeps every sample, so that two reports can be compared and a reader can look for himself.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deploykit.benchmark.timing import Burst, summarize
from deploykit.errors import MeasurementError, UsageError

SCHEMA_VERSION = 1
DRIFT = 0.05
"""A case is drifting when the medians of its first and its second half differ by more than this share."""


@dataclass(frozen=True)
class Case:
    """One thing that is measured.

    Args:
        graph: ``predict`` or ``explain``; ``preprocess`` for what comes before either.
        backend: what answers, with its version.
        precision: ``fp32``, ``fp16``, ``int8``.
        batch: images of a call.
        threads: of one run on a CPU; 0 for every core.
        concurrency: callers at once.
    """

    graph: str
    backend: str
    precision: str
    batch: int = 1
    threads: int = 0
    concurrency: int = 1

    def __post_init__(self) -> None:
        if self.batch < 1 or self.concurrency < 1 or self.threads < 0:
            raise UsageError(
                f"case: batch {self.batch}, concurrency {self.concurrency}, threads {self.threads}: expected 1, 1, 0 or more"
            )

    @property
    def title(self) -> str:
        """The case in words."""
        callers = f", {self.concurrency} callers" if self.concurrency > 1 else ""
        threads = f", {self.threads} thread{'s' * (self.threads > 1)}" if self.threads else ""
        return f"{self.name}, batch {self.batch}{threads}{callers}, {self.backend}"

    @property
    def name(self) -> str:
        """Graph and precision."""
        return f"{self.graph} {self.precision}".strip()


@dataclass(frozen=True)
class CaseResult:
    """What was measured of a case.

    Args:
        case: what it was.
        rounds: one burst per round; rounds of all cases were interleaved.
        other_cores: by round, the cores that other processes kept busy; None where the system does not tell.
        kept: the rounds that count.
        is_quiet: whether these were undisturbed.
        is_warm: whether the warm-up settled.
        images_per_joule: where the hardware tells its energy.
    """

    case: Case
    rounds: tuple[Burst, ...]
    other_cores: tuple[float | None, ...]
    kept: tuple[int, ...]
    is_quiet: bool
    is_warm: bool
    images_per_joule: float | None = None

    @property
    def samples_ms(self) -> list[float]:
        """End-to-end latency of every call of the rounds that count; none is left out."""
        return [ms for k in self.kept for ms in self.rounds[k].wall_ms]

    @property
    def round_medians_ms(self) -> list[float]:
        """The median of each round that counts."""
        return [statistics.median(self.rounds[k].wall_ms) for k in self.kept]

    @property
    def latency_ms(self) -> dict[str, float]:
        """`deploykit.benchmark.timing.summarize` of the samples."""
        return summarize(self.samples_ms)

    @property
    def throughput(self) -> float:
        """Images per second, of all callers together."""
        calls = sum(len(self.rounds[k].wall_ms) for k in self.kept)
        elapsed = sum(self.rounds[k].elapsed_ms or sum(self.rounds[k].wall_ms) for k in self.kept)
        return calls * self.case.batch / elapsed * 1e3

    @property
    def spans_ms(self) -> dict[str, dict[str, float]]:
        """Summaries of what the device timed itself, and of the launch; empty where a call is one piece."""
        names = sorted({name for k in self.kept for name in self.rounds[k].spans_ms})
        spans = {name: summarize([ms for k in self.kept for ms in self.rounds[k].spans_ms.get(name, ())]) for name in names}
        launches = [ms for k in self.kept for ms in self.rounds[k].enqueue_ms]
        return spans | ({"enqueue": summarize(launches)} if launches else {})

    @property
    def spread(self) -> float:
        """How much the rounds differ: the distance of their quartiles, as a share of the median."""
        medians = self.round_medians_ms
        if len(medians) < 2:
            return 0.0
        p25, p50, p75 = statistics.quantiles(medians, n=4, method="inclusive")
        return (p75 - p25) / p50

    @property
    def verdict(self) -> str:
        """``stable``, or why the figures are to be read with care."""
        faults = []
        if not self.is_quiet:
            busy = statistics.median(cores for cores in self.other_cores if cores is not None)
            faults.append(f"disturbed: other processes kept {busy:.1f} cores busy")
        if not self.is_warm:
            faults.append("warm-up did not settle")
        medians = self.round_medians_ms
        half = len(medians) // 2
        if half >= 2:
            drift = statistics.median(medians[half:]) / statistics.median(medians[:half]) - 1
            if abs(drift) > DRIFT:
                faults.append(f"drifting: the second half is {drift:+.0%} from the first")
        return "; ".join(faults) or "stable"

    def to_json(self) -> dict[str, Any]:
        """The samples and what follows from them, which a reader needs not compute again."""
        return {
            **asdict(self.case),
            "latency_ms": self.latency_ms,
            "throughput": round(self.throughput, 3),
            "spans_ms": self.spans_ms,
            "images_per_joule": self.images_per_joule,
            "verdict": self.verdict,
            "spread": round(self.spread, 4),
            "is_quiet": self.is_quiet,
            "is_warm": self.is_warm,
            "kept": list(self.kept),
            "other_cores": [None if cores is None else round(cores, 3) for cores in self.other_cores],
            "rounds": [_burst_json(burst) for burst in self.rounds],
        }


@dataclass(frozen=True)
class Report:
    """A run of ``deploykit bench``.

    Args:
        subject: what was measured: bundle, model, weights, image size, digests of the graphs.
        machine: `deploykit.benchmark.machine.describe_machine`, with the GPUs before and after where there are any.
        method: how: ``like``, seconds per case, rounds, what a call includes.
        results: one per case.
    """

    subject: Mapping[str, Any]
    machine: Mapping[str, Any]
    method: Mapping[str, Any]
    results: tuple[CaseResult, ...] = field(default=())

    def to_text(self) -> str:
        """The report as it stands in a file."""
        head = {"schema_version": SCHEMA_VERSION, "subject": self.subject, "machine": self.machine, "method": self.method}
        cases = ",\n".join("  " + json.dumps(result.to_json()) for result in self.results)
        return json.dumps(head, indent=1)[:-2] + f',\n "cases": [\n{cases}\n ]\n}}\n'


def read_report(path: Path) -> Report:
    """A report from its file.

    Raises:
        MeasurementError: no such file, or not a report of this schema version.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise MeasurementError(
            f"{path} cannot be read as a report: {error}", hint="write one with: deploykit bench --json"
        ) from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION or "cases" not in data:
        raise MeasurementError(
            f"{path} is no report of schema version {SCHEMA_VERSION} (it says {version!r})",
            hint="measure again with deploykit bench",
        )
    try:
        return Report(data["subject"], data["machine"], data["method"], tuple(_result(row) for row in data["cases"]))
    except (KeyError, TypeError, ValueError) as error:
        raise MeasurementError(f"{path} does not follow schema version {SCHEMA_VERSION}: {error!r}") from error


def _result(row: Mapping[str, Any]) -> CaseResult:
    case = Case(**{name: row[name] for name in Case.__dataclass_fields__})
    rounds = tuple(_burst(burst) for burst in row["rounds"])
    return CaseResult(
        case,
        rounds,
        tuple(row["other_cores"]),
        tuple(row["kept"]),
        row["is_quiet"],
        row["is_warm"],
        row["images_per_joule"],
    )


def _burst_json(burst: Burst) -> dict[str, Any]:
    def short(samples: Sequence[float]) -> list[float]:
        return [round(sample, 4) for sample in samples]

    return {
        "wall_ms": short(burst.wall_ms),
        "cpu_ms": short(burst.cpu_ms),
        "enqueue_ms": short(burst.enqueue_ms),
        "elapsed_ms": round(burst.elapsed_ms, 4),
        "spans_ms": {name: short(samples) for name, samples in burst.spans_ms.items()},
    }


def _burst(row: Mapping[str, Any]) -> Burst:
    spans = {name: tuple(samples) for name, samples in row["spans_ms"].items()}
    return Burst(tuple(row["wall_ms"]), tuple(row["cpu_ms"]), tuple(row["enqueue_ms"]), row["elapsed_ms"], spans)
