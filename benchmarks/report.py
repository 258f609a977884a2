"""What stands beside figures that people are to believe: machine, versions, commit; and how figures are written down."""

import json
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploykit.benchmark import machine
from deploykit.benchmark.rounds import Measurement
from deploykit.benchmark.timing import summarize

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Aim:
    """A figure and what it should be: at most the limit, or at least."""

    what: str
    value: float
    limit: float
    unit: str
    at_most: bool
    is_quiet: bool

    @property
    def is_met(self) -> bool:
        """Whether the figure, as it is printed, keeps the limit."""
        value = round(self.value, 2)
        return value <= self.limit if self.at_most else value >= self.limit

    def row(self) -> list[str]:
        """The aim as a line of a table."""
        limit = f"{'at most' if self.at_most else 'at least'} {self.limit:g} {self.unit}"
        verdict = "met" if self.is_met else "MISSED"
        return [self.what, f"{self.value:.2f} {self.unit}", limit, verdict if self.is_quiet else f"{verdict}, but disturbed"]


@dataclass(frozen=True)
class Section:
    """What a part of the run found: a record for the JSON, tables for people, aims."""

    record: Mapping[str, Any]
    tables: tuple[str, ...]
    aims: tuple[Aim, ...]


def describe_machine(*packages: str) -> dict[str, Any]:
    """`deploykit.benchmark.machine.describe_machine`, and the commit that was measured."""
    return machine.describe_machine(*packages) | {"commit": _commit()}


def write_results(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as JSON in which a list of numbers stays on one line."""
    text = json.dumps(record, indent=2)
    text = re.sub(r"\[[\s\d.,eE+null-]+\]", lambda match: " ".join(match[0].split()).replace("[ ", "[").replace(" ]", "]"), text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [[row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
             for row in [header, ["-" * width for width in widths], *rows]]  # fmt: skip
    return "\n".join("  ".join(line).rstrip() for line in lines)


def sides_table(measured: Measurement, base: str) -> str:
    """Each side's times, and how many times as long as the base it takes."""
    header = ["side", "wall ms", "p25 to p75", "CPU ms", f"times {base}", "p25 to p75"]
    rows = []
    for side in measured.bursts:
        wall, cpu = (summarize(measured.samples(side, clock)) for clock in ("wall_ms", "cpu_ms"))
        ratio = measured.ratio(side, base)
        rows.append([side, f"{wall['median']:.1f}", f"{wall['p25']:.1f} to {wall['p75']:.1f}", f"{cpu['median']:.1f}",
                     f"{ratio['median']:.2f}", f"{ratio['p25']:.2f} to {ratio['p75']:.2f}"])  # fmt: skip
    return format_table(header, rows) + remarks(measured)


def remarks(measured: Measurement) -> str:
    """What a reader of the figures must know, as lines under a table: disturbed rounds, warm-up that did not settle."""
    lines = []
    rounds, kept = len(measured.other_cores), len(measured.kept)
    busy = [cores for cores in measured.other_cores if cores is not None]
    if measured.is_quiet and kept < rounds:
        lines.append(f"{rounds - kept} of {rounds} rounds set aside: other processes were busy")
    elif not measured.is_quiet:
        lines.append(f"DISTURBED: other processes kept {statistics.median(busy):.1f} cores busy")
    lines += [f"warm-up did not settle: {', '.join(measured.unstable)}"] if measured.unstable else []
    return "".join(f"\n  {line}" for line in lines)


def say(text: str) -> None:
    """Tell how far the work is, on stderr."""
    print(text, file=sys.stderr, flush=True)


def _commit() -> str | None:
    """The commit that was measured, marked where files differ from it; None outside of a repository."""
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None
