"""The report of a GPU check: outcomes in, one record for the JSON file and a summary for people out."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.gpu_run import Outcome
from benchmarks.report import format_table

Row = dict[str, Any]


def make_report(head: Mapping[str, Any], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Everything that was found.

    Args:
        head: the machine, what is missing, the budget.
    """
    rows = latency_rows(outcomes)
    return {
        **head,
        "is_whole": all(outcome.status == "ok" for outcome in outcomes),
        "latency": rows,
        "builds": [build_row(outcome) for outcome in outcomes if outcome.name.startswith("build ") and outcome.data],
        "verify": [row for outcome in outcomes if outcome.name.startswith("verify ") for row in verify_rows(outcome)],
        "steps": [_without_samples(outcome) for outcome in outcomes],
    }


def build_row(outcome: Outcome) -> Row:
    """Seconds, bytes and precisions of each plan of a build."""
    files = {
        name: {key: file[key] for key in ("build_s", "size_bytes", "from_cache", "multiplying", "engine")}
        for name, file in outcome.data["files"].items()
    }
    return {**outcome.facts, "gpu": outcome.data["gpu"], "version": outcome.data["version"], "files": files}


def verify_rows(outcome: Outcome) -> list[Row]:
    """The checks of a bundle, also where one of them failed."""
    checks = outcome.data if isinstance(outcome.data, list) else []
    kept = ("name", "passed", "was_run", "found")
    return [{**outcome.facts, **{key: check[key] for key in kept}} for check in checks]


def latency_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """One row for each network, graph, precision, backend and batch: medians in milliseconds, from whatever measured them."""
    rows: list[Row] = []
    for outcome in outcomes:
        if outcome.status != "ok" or outcome.data is None:
            continue
        model, precision = outcome.facts.get("model"), outcome.facts.get("precision")
        if outcome.name.startswith("bench "):
            for case in outcome.data["cases"]:
                if case["graph"] != "preprocess":
                    gpu = case["spans_ms"].get("gpu", {}).get("median")
                    rows.append(
                        _row(model, case["graph"], precision, case["backend"], case["batch"], case["latency_ms"]["median"], gpu)
                    )
                    rows[-1] |= {"throughput": case["throughput"], "verdict": case["verdict"]}
        elif outcome.name.startswith("torch "):
            for side, batches in outcome.data.items():
                rows += [_row(model, "predict", precision, side, int(batch), ms, None) for batch, ms in batches.items()]
        elif outcome.name.startswith("trtexec "):
            rows.append(_row(model, "predict", precision, "trtexec", outcome.data["batch"], None, outcome.data["gpu_ms"]))
    return rows


def as_summary(report: Mapping[str, Any]) -> str:
    """The report for people: latencies side by side, what is wrong, what was cut, what is missing."""
    parts = [
        f"GPU check on {report['gpu']['name']} ({report['gpu']['sm']}), {report['seconds']:.0f} s of {report['budget_s']:.0f} s"
    ]
    if report["latency"]:
        parts.append(_latency_table(report["latency"]))
    if report["builds"]:
        parts.append(_build_table(report["builds"]))
    checks = report["verify"]
    run = [check for check in checks if check["was_run"]]
    parts.append(
        f"verify: {sum(check['passed'] for check in run)} of {len(run)} checks hold, {len(checks) - len(run)} could not be run"
    )
    parts += [f"  FAILED {check['model']} {check['name']}: {check['found']}" for check in checks if not check["passed"]]
    for status in ("failed", "timeout", "skipped", "cut"):
        parts += [f"{status}: {step['name']}: {step['reason']}" for step in report["steps"] if step["status"] == status]
    parts += [f"left out: {line}" for line in report["missing"]]
    parts.append("whole" if report["is_whole"] else "NOT WHOLE: see above")
    return "\n\n".join(parts[:3]) + "\n\n" + "\n".join(parts[3:])


def _row(
    model: object, graph: object, precision: object, backend: str, batch: int, wall_ms: float | None, gpu_ms: float | None
) -> Row:
    row = {"model": model, "graph": graph, "precision": precision, "backend": backend, "batch": batch}
    return row | {"latency_ms": wall_ms, "gpu_ms": gpu_ms}


def _latency_table(rows: Sequence[Row]) -> str:
    ordered = sorted(rows, key=lambda row: (str(row["model"]), row["graph"], str(row["precision"]), row["batch"], row["backend"]))
    cells = [
        [
            f"{row['model']} {row['graph']} {row['precision']} b{row['batch']}",
            row["backend"],
            _ms(row["latency_ms"]),
            _ms(row["gpu_ms"]),
            f"{row['throughput']:.0f}" if row.get("throughput") else "",
        ]
        for row in ordered
    ]
    return format_table(["median of", "by", "ms host to host", "ms on the GPU", "images/s"], cells)


def _build_table(rows: Sequence[Row]) -> str:
    cells = []
    for row in rows:
        for name, file in row["files"].items():
            engine = file["engine"] or file["multiplying"]
            precisions = ", ".join(f"{count} {precision}" for precision, count in engine.items())
            label = f"{row['model']} {row['precision']} {name}"
            cells.append([label, row["backend"], f"{file['build_s']:.1f}", f"{file['size_bytes'] / 1e6:.1f}", precisions])
    return format_table(["plan", "by", "build s", "MB", "layers"], cells)


def _without_samples(outcome: Outcome) -> Row:
    """An outcome without what it wrote: that stands in the sections above, or is too long for them."""
    return {key: value for key, value in outcome.to_json().items() if key != "data"}


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
