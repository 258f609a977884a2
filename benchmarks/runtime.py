"""deploykit's runtime in one run: against torch and OpenVINO, against a bare ONNX Runtime session, and from a cold start.

    python benchmarks/runtime.py [--quick] [--only networks|overhead|cold] [--model NAME]...

Prints tables, and the aims beside the figures. A full run of the default models writes benchmarks/results/runtime.json too.
Method and noise: benchmarks/README.md.
"""

import argparse
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.cold_start import compare_cold_start
from benchmarks.networks import compare_networks
from benchmarks.overhead import compare_overhead
from benchmarks.report import RESULTS, describe_machine, format_table, say, write_results
from benchmarks.sides import prepare_network
from benchmarks.worker import Worker

MODELS = ("resnet50", "densenet121", "efficientnet_b0")
SECTIONS = {"networks": compare_networks, "overhead": compare_overhead, "cold": compare_cold_start}
PACKAGES = ("onnxruntime", "torch", "openvino", "onnx", "onnxscript", "numpy", "pillow")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds of efficientnet_b0 alone: to see that the script works")
    parser.add_argument("--only", choices=SECTIONS, help="one section")
    parser.add_argument("--model", action="append", metavar="NAME", help="another model, as often as wanted")
    options = parser.parse_args()
    start = time.perf_counter()
    machine = describe_machine(*PACKAGES)
    models = tuple(options.model or (("efficientnet_b0",) if options.quick else MODELS))
    sections = {name: run for name, run in SECTIONS.items() if options.only in (None, name)}
    with tempfile.TemporaryDirectory(prefix="deploykit-") as name:
        folder = Path(name)
        for model in models:
            say(f"{model}: exporting")
            with Worker(prepare_network, folder, model) as worker:
                worker.absence()
        found = {name: run(folder, models, quick=options.quick) for name, run in sections.items()}
    aims = [aim for section in found.values() for aim in section.aims]
    tables = [table for section in found.values() for table in section.tables]
    print("\n\n".join([*tables, format_table(["aim", "figure", "wanted", ""], [aim.row() for aim in aims])]))
    seconds = round(time.perf_counter() - start)
    say(f"took {seconds} s")
    if not options.quick and options.only is None and models == MODELS:
        sections_record = {name: section.record for name, section in found.items()}
        aims_record = [asdict(aim) | {"is_met": aim.is_met} for aim in aims]
        write_results(
            RESULTS / "runtime.json", {"machine": machine, "took_seconds": seconds, "aims": aims_record} | sections_record
        )


if __name__ == "__main__":
    main()
