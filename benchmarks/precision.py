"""INT8 against FP32 on one thread: latency on ONNX Runtime and OpenVINO, agreement and size, one network per family.

    python benchmarks/precision.py [--quick] [--model NAME]...

Prints tables, and the aims beside the figures. A full run writes benchmarks/results/precision.json too. Four sides per network:
FP32, the TensorRT-shaped INT8 graph (signed) and its CPU twin in deploykit's session, and OpenVINO on the signed graph. Aims are
for CPU time at batch 8. Method and noise: benchmarks/README.md.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.precision_sides import BATCHES, Calls, describe_facts, make_deploykit, make_openvino, prepare_precisions
from benchmarks.report import RESULTS, Aim, describe_machine, format_table, say, sides_table, write_results
from benchmarks.worker import Worker
from deploykit.benchmark.rounds import Measurement, measure_sides

FASTER = {
    "resnet50": 3.0, "densenet121": 1.8, "efficientnet_b0": 1.4, "efficientnet_lite0": 1.4, "xception": 3.0, "mobilenet_v2": 1.4,
    "vgg16": 3.0, "drn_c_26": 3.0,
}  # fmt: skip
"""How many times as fast as FP32 the twin should be at batch 8: what ONNX Runtime reached in trials."""
FASTER_THAN_SIGNED = 2.0
LARGEST_SHARE = 0.30
"""Of the FP32 file."""
PACKAGES = ("onnxruntime", "openvino", "onnx", "torch", "numpy")

FP32, SIGNED, TWIN = "fp32", "int8 signed", "int8 twin"
SIDES: Mapping[str, tuple[Callable[..., Calls], str]] = {
    FP32: (make_deploykit, "fp32"),
    SIGNED: (make_deploykit, "signed"),
    TWIN: (make_deploykit, "twin"),
    "openvino int8": (make_openvino, "signed"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds of efficientnet_lite0 alone: to see that the script works")
    parser.add_argument("--model", action="append", metavar="NAME", help="only this model, as often as wanted")
    options = parser.parse_args()
    models = tuple(options.model or (("efficientnet_lite0",) if options.quick else FASTER))
    start, machine = time.perf_counter(), describe_machine(*PACKAGES)
    record: dict[str, Any] = {}
    tables: list[str] = []
    aims: list[Aim] = []
    with tempfile.TemporaryDirectory(prefix="deploykit-") as name:
        for model in models:
            _measure_model(Path(name), model, record, tables, aims, quick=options.quick)
    print("\n\n".join([*tables, format_table(["aim", "figure", "wanted", ""], [aim.row() for aim in aims])]))
    seconds = round(time.perf_counter() - start)
    say(f"took {seconds} s")
    if not options.quick and models == tuple(FASTER):
        aims_record = [asdict(aim) | {"is_met": aim.is_met} for aim in aims]
        write_results(
            RESULTS / "precision.json", {"machine": machine, "took_seconds": seconds, "aims": aims_record, "precision": record}
        )


def _measure_model(folder: Path, model: str, record: dict[str, Any], tables: list[str], aims: list[Aim], *, quick: bool) -> None:
    say(f"{model}: exporting, calibrating, quantizing")
    with Worker(prepare_precisions, folder, model) as worker:
        if reason := worker.absence():
            record[model] = {"absent": reason}
            tables.append(f"{model} is absent: {reason}")
            return
        facts = worker.answer("facts")
    record[model] = dict(facts)
    with ExitStack() as stack:
        workers = {side: stack.enter_context(Worker(make, folder, model, kind)) for side, (make, kind) in SIDES.items()}
        absent = {side: reason for side, worker in workers.items() if (reason := worker.absence())}
        record[model]["absent_sides"] = absent
        for batch in BATCHES:
            say(f"{model}: batch {batch}")
            sides = {side: worker.side(f"batch {batch}") for side, worker in workers.items() if side not in absent}
            measured = measure_sides(sides, rounds=3 if quick else 9, burst_ms=100 if quick else 200, settle_ms=10, warm_up=4)
            record[model][f"batch {batch}"] = measured.to_json() | {"times_twin": _ratios(measured)}
            missing = "".join(f"\n  {side} is absent: {reason}" for side, reason in absent.items())
            tables.append(f"{model}, batch {batch}, 1 thread\n{sides_table(measured, TWIN)}{missing}\n{describe_facts(facts)}")
            if batch == max(BATCHES):
                aims += _aims(model, measured, facts)


def _ratios(measured: Measurement) -> dict[str, dict[str, dict[str, float]]]:
    """By side and clock, how many times as long as the twin it takes."""
    return {side: {clock: measured.ratio(side, TWIN, clock) for clock in ("wall_ms", "cpu_ms")} for side in measured.bursts}


def _aims(model: str, measured: Measurement, facts: Mapping[str, Any]) -> list[Aim]:
    quiet, title = measured.is_quiet, f"{model}, batch {max(BATCHES)}"
    wanted = ((FP32, FASTER.get(model, 1.0)), (SIGNED, FASTER_THAN_SIGNED))
    share = facts["size_bytes"]["signed"] / facts["size_bytes"]["fp32"]
    return [
        *(
            Aim(
                f"{title}: {slow} / {TWIN}",
                measured.ratio(slow, TWIN, "cpu_ms")["median"],
                limit,
                "x",
                at_most=False,
                is_quiet=quiet,
            )
            for slow, limit in wanted
        ),
        Aim(f"{model}: INT8 file / FP32 file", share, LARGEST_SHARE, "x", at_most=True, is_quiet=True),
    ]


if __name__ == "__main__":
    main()
