"""deploykit's graph in its session against torch and OpenVINO: the same weights, pictures and threads, rounds interleaved.

Each side has a process of its own (`benchmarks.sides`). Before anything is timed the sides' logits are compared.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks.report import Aim, Section, say, sides_table
from benchmarks.sides import BATCHES, Calls, make_deploykit, make_openvino, make_torch
from benchmarks.worker import Worker
from deploykit.benchmark.rounds import Measurement, measure_sides

DEPLOYKIT = "deploykit"
SIDES: Mapping[str, tuple[Callable[..., Calls], tuple[object, ...]]] = {
    DEPLOYKIT: (make_deploykit, ("float",)),
    "deploykit, pixels": (make_deploykit, ("pixels",)),
    "torch eager": (make_torch, (False,)),
    "torch compiled": (make_torch, (True,)),
    "openvino f32": (make_openvino, ()),
}
ANCHORS = {"resnet50": 1.6, "densenet121": 1.8, "efficientnet_b0": 3.2}
EVERYWHERE = {"resnet50": 1.4, "densenet121": 1.4, "efficientnet_b0": 1.9, "efficientnet_b3": 1.9}
"""How many times as fast as torch eager deploykit should be."""
LARGEST_DIFFERENCE = 1e-3
"""Of the largest logit: above it the sides do not compute the same function, and their times say nothing."""


def compare_networks(folder: Path, models: Sequence[str], *, quick: bool) -> Section:
    """Every side on every model, at each batch size, on all cores and on one."""
    record: dict[str, object] = {}
    tables: list[str] = []
    aims: list[Aim] = []
    cores = os.cpu_count() or 1
    for name in models:
        for threads in sorted({cores, 1}, reverse=True):
            found, absent = _measure_network(folder, name, threads, quick=quick)
            for batch, measured in found.items():
                title = f"{name}, batch {batch}, {threads} thread{'s' * (threads > 1)}"
                record[title] = measured.to_json() | {"absent": absent, "times_deploykit": _all_ratios(measured)}
                missing = "".join(f"\n  {side} is absent: {reason}" for side, reason in absent.items())
                tables.append(f"{title}\n{sides_table(measured, DEPLOYKIT)}{missing}")
                aims += _aims(title, name, measured, is_anchor=batch == 1 and threads == 2)
    return Section(record, tuple(tables), tuple(aims))


def _measure_network(folder: Path, name: str, threads: int, *, quick: bool) -> tuple[dict[int, Measurement], dict[str, str]]:
    """By batch size what was measured, and by side why it is absent."""
    say(f"{name}, {threads} thread(s): loading {len(SIDES)} sides")
    with ExitStack() as stack:
        workers = {side: stack.enter_context(Worker(make, folder, name, threads, *more)) for side, (make, more) in SIDES.items()}
        absent = {side: reason for side, worker in workers.items() if (reason := worker.absence())}
        present = {side: worker for side, worker in workers.items() if side not in absent}
        found = {}
        for batch in BATCHES:
            say(f"{name}, {threads} thread(s): batch {batch}")
            _check_equal(present, f"batch {batch}")
            sides = {side: worker.side(f"batch {batch}") for side, worker in present.items()}
            found[batch] = measure_sides(sides, rounds=3 if quick else 11, burst_ms=100 if quick else 250, settle_ms=20)
    return found, absent


def _check_equal(workers: Mapping[str, Worker], call: str) -> None:
    expected = workers[DEPLOYKIT].answer(call)
    for side, worker in workers.items():
        difference = float(np.abs(worker.answer(call) - expected).max() / np.abs(expected).max())
        if not difference <= LARGEST_DIFFERENCE:
            raise RuntimeError(f"{side} differs from deploykit by {difference:.1e} of the largest logit: it does other work")


def _all_ratios(measured: Measurement) -> dict[str, dict[str, dict[str, float]]]:
    return {side: {clock: measured.ratio(side, DEPLOYKIT, clock) for clock in ("wall_ms", "cpu_ms")} for side in measured.bursts}


def _aims(title: str, name: str, measured: Measurement, *, is_anchor: bool) -> list[Aim]:
    """At the anchor, batch 1 on two threads, what ONNX Runtime reached in trials; elsewhere what it reached everywhere."""
    least = (ANCHORS.get(name) if is_anchor else None) or EVERYWHERE.get(name, 1.4)
    ratio, quiet = measured.ratio("torch eager", DEPLOYKIT)["median"], measured.is_quiet
    aims = [Aim(f"{title}: torch eager / deploykit", ratio, least, "x", at_most=False, is_quiet=quiet)]
    if "openvino f32" in measured.bursts:
        ratio = measured.ratio(DEPLOYKIT, "openvino f32")["median"]
        aims.append(Aim(f"{title}: deploykit / openvino f32", ratio, 1.1, "x", at_most=True, is_quiet=quiet))
    return aims
