"""`deploykit serve` against FastAPI, LitServe and Triton at 1, 8 and 32 clients, and against the runtime alone.

    python -m benchmarks.serving [--quick]

One model (EfficientNet-Lite0 with its published weights), one JPEG, one machine for servers and clients. Servers that are not
measured are stopped, so they take nothing. Prints tables, and the aims beside the figures; a full run writes results/serving.json.
Method and noise: benchmarks/README.md.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.clients import Load, drive
from benchmarks.report import RESULTS, Aim, describe_machine, format_table, say, write_results
from benchmarks.serving_sides import OURS, PEERS, SERVERS, InProcess, Server, export_bundle, start_server
from deploykit.benchmark.timing import quartiles, summarize

CLIENTS = (1, 8, 32)
ALONE = "in process"
FASTER = 1.3
"""Of the better of the peers, at most clients."""
LEAST_SHARE = 0.9
"""Of what the runtime does in a process of its own, without a server and clients on the same cores."""
STEADY = 1.15
"""The runtime's own figure may be so many times as large in one round as in another: a neighbour on the machine shows in it."""
PACKAGES = ("onnxruntime", "starlette", "uvicorn", "fastapi", "litserve", "numpy", "pillow")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round: to see that the script works")
    options = parser.parse_args()
    rounds, seconds = (1, 1.0) if options.quick else (7, 5.0)
    start, machine = time.perf_counter(), describe_machine(*PACKAGES)
    with tempfile.TemporaryDirectory(prefix="deploykit-") as name:
        bundle = export_bundle(Path(name))
        servers: dict[str, Server] = {}
        try:
            for side in SERVERS:
                servers[side] = start_server(side, bundle, Path(name))
            loads, alone = measure(servers, InProcess(bundle), rounds=rounds, seconds=seconds)
        finally:
            for server in servers.values():
                server.close()
    aims = judge(loads, alone)
    for clients in CLIENTS:
        print(f"{clients} client{'s' * (clients > 1)}\n{table({side: loads[side, clients] for side in servers})}\n")
    print(f"{ALONE}: {statistics.median(alone):.0f} pictures a second")
    print(format_table(["aim", "figure", "wanted", ""], [aim.row() for aim in aims]))
    say(f"took {time.perf_counter() - start:.0f} s")
    if not options.quick:
        record = {str(clients): {side: summary(loads[side, clients]) for side in servers} for clients in CLIENTS}
        facts = {"machine": machine, "rounds": rounds, "seconds": seconds, "aims": [asdict(a) | {"is_met": a.is_met} for a in aims]}
        write_results(
            RESULTS / "serving.json",
            facts | {"serving": record, ALONE: quartiles(alone) | {"round_per_second": [round(rate, 2) for rate in alone]}},
        )


def measure(
    servers: Mapping[str, Server], alone: InProcess, *, rounds: int, seconds: float
) -> tuple[dict[tuple[str, int], list[Load]], list[float]]:
    """Rounds in which every side meets every number of clients.

    The orders are shuffled anew, but sides that meet the same number of clients follow each other, and the runtime alone is among
    those that meet the most: what is compared is measured within half a minute, for the machine drifts.

    Returns:
        What the clients saw, by side and number of clients, a load per round; and pictures a second of the runtime alone.
    """
    loads: dict[tuple[str, int], list[Load]] = {(side, clients): [] for side in servers for clients in CLIENTS}
    throughput: list[float] = []
    order = random.Random(0)  # noqa: S311 - an order, not a secret
    for number in range(rounds):
        for clients in order.sample(CLIENTS, len(CLIENTS)):
            sides = [*servers, *([ALONE] if clients == CLIENTS[-1] else [])]
            for side in order.sample(sides, len(sides)):
                if side == ALONE:
                    throughput.append(alone.pictures_per_second(seconds))
                    continue
                with servers[side].awake() as server:
                    warm_s = min(1.0, seconds / 2)
                    loads[side, clients].append(
                        drive(server.port, server.request, clients=clients, seconds=seconds, warm_s=warm_s, check=server.is_right)
                    )
        say(f"round {number + 1} of {rounds}")
    return loads, throughput


def judge(loads: Mapping[tuple[str, int], Sequence[Load]], alone: Sequence[float]) -> list[Aim]:
    """The figures beside what they should be; ratios within rounds, medians over them."""
    most, is_quiet = CLIENTS[-1], max(alone) <= STEADY * min(alone)
    ours = [load.per_second for load in loads[OURS, most]]
    better = [max(loads[side, most][k].per_second for side in PEERS) for k in range(len(ours))]
    failures = sum(sum(load.failures.values()) for clients in CLIENTS for load in loads[OURS, clients])

    def times(what: str, others: Sequence[float], least: float) -> Aim:
        ratio = statistics.median(a / b for a, b in zip(ours, others, strict=True))
        return Aim(f"{most} clients: throughput, times {what}", ratio, least, "x", at_most=False, is_quiet=is_quiet)

    return [
        times("the better peer's", better, FASTER),
        times("the runtime's alone", alone, LEAST_SHARE),
        Aim("requests that failed or were answered wrongly", failures, 0, "", at_most=True, is_quiet=True),
    ]


def summary(loads: Sequence[Load]) -> dict[str, Any]:
    """Throughput by round, latencies of all rounds together."""
    latencies = [ms for load in loads for ms in load.latencies_ms]
    failures: dict[str, int] = {}
    for load in loads:
        for kind, count in load.failures.items():
            failures[kind] = failures.get(kind, 0) + count
    rates = [round(load.per_second, 2) for load in loads]
    return {"per_second": quartiles(rates), "round_per_second": rates, "latency_ms": summarize(latencies), "failures": failures}


def table(loads: Mapping[str, Sequence[Load]]) -> str:
    """A line for each side."""
    rows = []
    for side, found in loads.items():
        seen = summary(found)
        rate, latency = seen["per_second"], seen["latency_ms"]
        rows.append([side, f"{rate['median']:.1f}", f"{rate['p25']:.1f} to {rate['p75']:.1f}", f"{latency['median']:.1f}",
                     f"{latency['p99']:.1f}" if "p99" in latency else "-", str(sum(seen["failures"].values()))])  # fmt: skip
    return format_table(["side", "answers/s", "p25 to p75", "p50 ms", "p99 ms", "failed"], rows)


if __name__ == "__main__":
    main()
