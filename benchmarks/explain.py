"""What an explanation costs: the explain graph against the predict graph, and against Grad-CAM in torch, in one interleaved run.

    python -m benchmarks.explain [--quick] [--model NAME]...

Prints tables, and the aims beside the figures. A full run of the default models writes benchmarks/results/explain.json too.
Method and noise: benchmarks/README.md.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.explain_sides import EARLIER, LAST, bundle_path, make_explainer, make_peer, make_session, prepare_explanations
from benchmarks.report import RESULTS, Aim, describe_machine, format_table, say, sides_table, write_results
from benchmarks.sides import BATCHES
from benchmarks.worker import Worker
from deploykit.benchmark.rounds import Measurement, measure_sides
from deploykit.bundle import Bundle
from deploykit.graph.explain import make_explain_graph
from deploykit.graph.files import read_graph

PREDICT = "predict"
PEERS = ("pytorch-grad-cam", "torch-cam", "captum")
PACKAGES = ("onnxruntime", "torch", "grad-cam", "torchcam", "captum", "onnx", "numpy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds of efficientnet_b0 alone: to see that the script works")
    parser.add_argument("--model", action="append", choices=LAST, help="only this model, as often as wanted")
    options = parser.parse_args()
    models = tuple(options.model or (("efficientnet_b0",) if options.quick else LAST))
    start, machine = time.perf_counter(), describe_machine(*PACKAGES)
    record: dict[str, Any] = {}
    tables: list[str] = []
    aims: list[Aim] = []
    with tempfile.TemporaryDirectory(prefix="deploykit-") as name:
        for model in models:
            _measure_model(Path(name), model, record, tables, aims, quick=options.quick)
    print("\n\n".join([*tables, format_table(["aim", "figure", "wanted", ""], [aim.row() for aim in aims])]))
    say(f"took {time.perf_counter() - start:.0f} s")
    if not options.quick and models == tuple(LAST):
        aims_record = [asdict(aim) | {"is_met": aim.is_met} for aim in aims]
        write_results(RESULTS / "explain.json", {"machine": machine, "aims": aims_record, "explain": record})


def _measure_model(folder: Path, model: str, record: dict[str, Any], tables: list[str], aims: list[Aim], *, quick: bool) -> None:
    say(f"{model}: exporting")
    with Worker(prepare_explanations, folder, model) as worker:
        worker.absence()
    making_ms = _time_making(folder, model)
    aims.append(Aim(f"{model}: making the explain graph", making_ms, 100, "ms", at_most=True, is_quiet=True))
    say(f"{model}: loading")
    with ExitStack() as stack:
        workers = {side: stack.enter_context(Worker(make, folder, model, *more)) for side, (make, more) in _sides(model).items()}
        for worker in workers.values():
            worker.absence()
        for batch in BATCHES:
            say(f"{model}: batch {batch}")
            sides = {side: worker.side(f"batch {batch}") for side, worker in workers.items()}
            measured = measure_sides(sides, rounds=3 if quick else 11, burst_ms=100 if quick else 250, settle_ms=20)
            title = f"{model}, batch {batch}"
            record[title] = measured.to_json() | {
                "times_predict": {side: measured.ratio(side, PREDICT) for side in measured.bursts},
                "times_explainer": {peer: measured.ratio(peer, "Explainer") for peer in PEERS},
                "making_the_explain_graph_ms": making_ms,
                "layers": {"last": LAST[model], "earlier": EARLIER[model]},
            }
            tables.append(f"{title}\n{sides_table(measured, PREDICT)}")
            aims += _aims(title, measured)


def _sides(model: str) -> Mapping[str, tuple[Callable[..., Any], tuple[str, ...]]]:
    own: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
        PREDICT: (make_session, (LAST[model], "predict")),
        "explain": (make_session, (LAST[model], "explain")),
        "explain, earlier": (make_session, (EARLIER[model], "explain")),
        "Explainer": (make_explainer, ()),
    }
    return own | {peer: (make_peer, (peer,)) for peer in PEERS}


def _time_making(folder: Path, model: str) -> float:
    """Milliseconds to make the explain graph of a predict graph that is in memory, the median of five."""
    graph = read_graph(Bundle.open(bundle_path(folder, model, LAST[model])).file("fp32/predict.onnx"))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        make_explain_graph(graph, LAST[model])
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def _aims(title: str, measured: Measurement) -> list[Aim]:
    quiet = measured.is_quiet
    wanted = (
        ("explain", PREDICT, 1.05, True),
        ("explain, earlier", PREDICT, 1.5, True),
        ("pytorch-grad-cam", "Explainer", 4.0, False),
    )
    return [
        Aim(f"{title}: {slow} / {fast}", measured.ratio(slow, fast)["median"], limit, "x", at_most=at_most, is_quiet=quiet)
        for slow, fast, limit, at_most in wanted
    ]


if __name__ == "__main__":
    main()
