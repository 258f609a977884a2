"""A report for people: a table for the terminal, Markdown, CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from deploykit.benchmark.compare import LEAST_ROUNDS, Comparison, Difference, compare_cases
from deploykit.benchmark.machine import one_line
from deploykit.benchmark.nvml import HARMLESS
from deploykit.benchmark.report import CaseResult, Report
from deploykit.benchmark.timing import LEAST_SAMPLES

STATISTICS = ("min", "mean", "median", "p90", "p95", "p99")
_UNCOUNTED = "-"


def as_text(report: Report) -> str:
    """Who measured what, a table, and what a reader must know."""
    lines = [_headline(report), one_line(report.machine), f"each call: {report.method['includes']}", "", _table(report)]
    return "\n".join([*lines, "", *remarks(report)]).rstrip()


def as_markdown(report: Report) -> str:
    """The same as a Markdown section."""
    header, rows = _cells(report)
    lines = [header, ["---", *["---:"] * (len(header) - 2), "---"], *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "\n".join(f"- {remark}" for remark in remarks(report))
    head = (
        f"**{_headline(report)}** on {one_line(report.machine)}. Each call: {report.method['includes']}. Latency in milliseconds."
    )
    return f"{head}\n\n{table}\n" + (f"\n{notes}\n" if notes else "")


def as_csv(report: Report) -> str:
    """One line per case; an empty field is a statistic that these samples cannot give."""
    out = io.StringIO()
    columns = ["graph", "backend", "precision", "batch", "threads", "concurrency"]
    writer = csv.writer(out, lineterminator="\n")
    spans = sorted({name for result in report.results for name in result.spans_ms})
    figures = [*(f"{name}_ms" for name in STATISTICS), "samples", "images_per_second", "images_per_joule"]
    writer.writerow([*columns, *figures, *(f"{name}_median_ms" for name in spans), "verdict"])
    for result in report.results:
        latency = result.latency_ms
        writer.writerow(
            [getattr(result.case, column) for column in columns]
            + [latency.get(name, "") for name in STATISTICS]
            + [latency["count"], round(result.throughput, 2), result.images_per_joule or ""]
            + [result.spans_ms.get(name, {}).get("median", "") for name in spans]
            + [result.verdict]
        )
    return out.getvalue()


def remarks(report: Report) -> list[str]:
    """Percentiles that are missing and why, cases that are not stable, precisions against each other."""
    few = [result for result in report.results if result.latency_ms["count"] < LEAST_SAMPLES[99]]
    lines = []
    if few:
        least = min(int(result.latency_ms["count"]) for result in few)
        needs = ", ".join(f"p{percentile} from {samples:,}" for percentile, samples in LEAST_SAMPLES.items())
        lines.append(f"{_UNCOUNTED} too few samples ({least:,} at least here; {needs}); measure longer with --seconds")
    lines += _verdicts(report)
    lines += _gpus(report)
    lines += [f"{_what(found)} against fp32: {found.verdict}" for found in precisions_compared(report)]
    return lines


def _gpus(report: Report) -> list[str]:
    """What the GPUs themselves say against the figures, when the run was over."""
    lines = []
    for gpu in report.machine.get("gpus_after") or ():
        slowed = [reason for reason in gpu["throttled_by"] if reason not in HARMLESS]
        lines += [f"{gpu['name']} held its clocks back: {', '.join(slowed)}"] if slowed else []
        lines += [f"{gpu['name']} ran {gpu['other_processes']} other processes"] if gpu["other_processes"] else []
    return lines


def _verdicts(report: Report) -> list[str]:
    """What is wrong with cases, each fault once with the cases that have it."""
    faults: dict[str, list[str]] = {}
    for result in report.results:
        for fault in () if result.verdict == "stable" else result.verdict.split("; "):
            kind, _, detail = fault.partition(": ")
            faults.setdefault(fault if kind == "disturbed" else kind, []).append(f"{_short(result)}{detail and f' ({detail})'}")
    everything = len(report.results)
    return [
        f"{fault}: {'every case' if len(cases) == everything and fault.startswith('disturbed') else ', '.join(cases)}"
        for fault, cases in faults.items()
    ]


def precisions_compared(report: Report) -> list[Difference]:
    """Every other precision against fp32, where a run has both of a case."""
    floats = {_but_precision(result): result for result in report.results if result.case.precision == "fp32"}
    others = [result for result in report.results if result.case.precision != "fp32" and result.case.graph != "preprocess"]
    pairs = [(floats[_but_precision(result)], result) for result in others if _but_precision(result) in floats]
    enough = [pair for pair in pairs if min(len(side.round_medians_ms) for side in pair) >= LEAST_ROUNDS]
    return [compare_cases(first, second) for first, second in enough]


def comparison_text(comparison: Comparison) -> str:
    """What differs between two reports, case by case."""
    varied = [f"{name}: {first} against {second}" for name, (first, second) in comparison.varied.items()]
    lines = ["compared: " + ("; ".join(varied) or "the same thing twice")]
    titles = [_what(difference) for difference in comparison.differences]
    width = max(map(len, titles))
    for title, found in zip(titles, comparison.differences, strict=True):
        lines.append(f"  {title:<{width}}  {found.first_ms:>8.3f} -> {found.second_ms:>8.3f} ms  {found.verdict}")
    lines += [f"  only on one side: {title}" for title in comparison.unmatched]
    return "\n".join(lines)


def _what(difference: Difference) -> str:
    """What both cases have in common, in words, with the second's precision."""
    case = difference.second
    callers = f", {case.concurrency} callers" if case.concurrency > 1 else ""
    return f"{case.graph} {case.precision}, batch {case.batch}{callers}".replace(" ,", ",")


def _but_precision(result: CaseResult) -> tuple[Any, ...]:
    case = result.case
    return case.graph, case.batch, case.threads, case.concurrency, case.backend


def _headline(report: Report) -> str:
    subject = report.subject
    size = "x".join(map(str, subject["image"]))
    return f"{subject['model']}{'' if subject['trained'] else ' (untrained weights)'}, image {size}"


def _table(report: Report) -> str:
    header, rows = _cells(report)
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, ["-" * width for width in widths], *rows]:
        first, *middle, last = (
            cell.ljust(width) if i in (0, len(header) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *middle, last]).rstrip())
    return "\n".join(lines)


def _cells(report: Report) -> tuple[list[str], list[list[str]]]:
    spans = sorted({name for result in report.results for name in result.spans_ms})
    joules = any(result.images_per_joule is not None for result in report.results)
    backends = {result.case.backend for result in report.results if result.case.graph != "preprocess"}
    header = [
        "case",
        *(["backend"] if len(backends) > 1 else []),
        *(("p50" if name == "median" else name) for name in STATISTICS),
        "n",
        "img/s",
    ]
    header += [*(f"{name} p50" for name in spans), *(["img/J"] if joules else []), "verdict"]
    rows = [_row(result, spans, joules=joules) for result in report.results]
    if len(backends) > 1:
        rows = [[row[0], result.case.backend, *row[1:]] for row, result in zip(rows, report.results, strict=True)]
    return header, rows


def _row(result: CaseResult, spans: Sequence[str], *, joules: bool) -> list[str]:
    latency: Mapping[str, float] = result.latency_ms
    case = result.case
    name = f"{case.graph} {case.precision}".strip() + f" b{case.batch}"
    name += f" t{case.threads}" * bool(case.threads) + f" x{case.concurrency}" * (case.concurrency > 1)
    cells = [
        name,
        *(_ms(latency.get(statistic)) for statistic in STATISTICS),
        f"{int(latency['count']):,}",
        f"{result.throughput:,.1f}",
    ]
    cells += [_ms(result.spans_ms.get(span, {}).get("median")) for span in spans]
    cells += [f"{result.images_per_joule:.1f}" if result.images_per_joule is not None else _UNCOUNTED] if joules else []
    return [*cells, result.verdict.partition(":")[0]]


def _short(result: CaseResult) -> str:
    """The case in a few letters: batch, threads, callers."""
    case = result.case
    return (
        f"{case.name} b{case.batch}" + f" t{case.threads}" * bool(case.threads) + f" x{case.concurrency}" * (case.concurrency > 1)
    )


def _ms(value: float | None) -> str:
    if value is None:
        return _UNCOUNTED
    return f"{value:.3f}" if value < 10 else f"{value:.2f}"
