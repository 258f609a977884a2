"""Calibration in one run: all methods of deploykit at once against each calibrator of onnxruntime.quantization, time and memory.

    python -m benchmarks.calibration [--quick] [--counts 64 512] [--limit-gb 12]

EfficientNet-B0 with random weights, 224 x 224. Every calibration is its own process, and rounds are interleaved. Wall time goes
from the graph's file to thresholds; CPU time is the whole process's, with its imports. A calibrator that does not fit into the
memory limit is recorded as that. A full run writes benchmarks/results/calibration.json.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.calibration_sides import PERCENTILE, SIDES, Job
from benchmarks.report import RESULTS, Aim, Section, describe_machine, format_table, say, sides_table, write_results
from benchmarks.sides import bundle_path, prepare_network
from benchmarks.worker import Worker
from deploykit.benchmark.rounds import Measurement, measure_sides
from deploykit.benchmark.timing import Burst
from deploykit.bundle import Bundle
from deploykit.parity import sample_pictures

MODEL = "efficientnet_b0"
COUNTS = (64, 512)
LIMIT_GB = 12.0
DEPLOYKIT, PERCENTILE_SIDE, CHUNKED = "deploykit", "onnxruntime percentile", "onnxruntime percentile, 8 at a time"
PACKAGES = ("onnxruntime", "onnx", "numpy")

WARM_UP_CALLS, WARM_UP_PICTURES = 3, 2
"""What `measure_sides` calls before it counts. A process starts cold whatever ran before: only the page cache is warmed."""


class OutOfMemory(Exception):  # noqa: N818 - no failure: what is to be found out
    """A side that needs more than the limit."""


@dataclass
class Calibration:
    """A side at one number of pictures, and what its runs found besides their times.

    Args:
        job: as the full run does it.
        calls: how many there were, warm-up included.
        peaks_mb: of the runs that count.
        thresholds: by method and tensor, of the last run.
    """

    job: Job
    calls: int = 0
    peaks_mb: list[float | None] = field(default_factory=list)
    thresholds: dict[str, dict[str, float]] = field(default_factory=dict)

    def __call__(self, _calls: int) -> Burst:
        """Run once."""
        self.calls += 1
        is_warm_up = self.calls <= WARM_UP_CALLS
        cpu_start = _children_cpu_s()
        found = run_process(replace(self.job, count=min(WARM_UP_PICTURES, self.job.count)) if is_warm_up else self.job)
        if not is_warm_up:
            self.peaks_mb.append(found["peak_mb"])
            self.thresholds = found["thresholds"]
        return Burst((found["wall_ms"],), ((_children_cpu_s() - cpu_start) * 1e3,))

    @property
    def peak_mb(self) -> float | None:
        """The largest of the runs; None where the system does not tell."""
        known = [peak for peak in self.peaks_mb if peak is not None]
        return max(known, default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="16 pictures, one round: to see that the script works; writes no result"
    )
    parser.add_argument("--counts", type=int, nargs="+", metavar="N", help="numbers of pictures; writes no result")
    parser.add_argument(
        "--limit-gb", type=float, default=LIMIT_GB, metavar="GB", help="address space of each process [default: 12]"
    )
    options = parser.parse_args()
    start = time.perf_counter()
    machine = describe_machine(*PACKAGES)
    counts = tuple(options.counts or ((16,) if options.quick else COUNTS))
    with tempfile.TemporaryDirectory(prefix="deploykit-") as name:
        job = prepare(Path(name), max(counts), options.limit_gb)
        section = compare_calibration(job, counts, quick=options.quick)
    print("\n\n".join([*section.tables, format_table(["aim", "figure", "wanted", ""], [aim.row() for aim in section.aims])]))
    seconds = round(time.perf_counter() - start)
    say(f"took {seconds} s")
    if not options.quick and counts == COUNTS:
        aims = [asdict(aim) | {"is_met": aim.is_met} for aim in section.aims]
        facts = {"model": MODEL, "percentile": PERCENTILE, "limit_gb": options.limit_gb}
        record = {"machine": machine, "took_seconds": seconds, "aims": aims, **facts, "calibration": section.record}
        write_results(RESULTS / "calibration.json", record)


def prepare(folder: Path, most: int, limit_gb: float) -> Job:
    """Export the network and write the pictures; the job that the others differ from."""
    say(f"{MODEL}: exporting")
    with Worker(prepare_network, folder, MODEL) as worker:
        worker.absence()
    bundle = Bundle.open(bundle_path(folder, MODEL, "pixels"))
    spec = bundle.manifest.image
    pictures = folder / "pictures.bin"
    with pictures.open("wb") as file:
        for seed in range(most):
            file.write(np.ascontiguousarray(sample_pictures(1, spec.height, spec.width, seed=seed)).tobytes())
    graph = str(bundle.file("fp32/predict.onnx"))
    return Job(DEPLOYKIT, graph, str(pictures), spec.height, spec.width, most, round(limit_gb * 1e9))


def compare_calibration(job: Job, counts: tuple[int, ...], *, quick: bool) -> Section:
    """Every side at every number of pictures."""
    record: dict[str, Any] = {}
    tables: list[str] = []
    aims: list[Aim] = []
    peaks: dict[int, float | None] = {}
    for count in counts:
        runs, absent = find_sides(replace(job, count=count))
        say(f"{count} pictures: {len(runs)} sides")
        # The larger number takes minutes a round, and its ratios are steadier for it.
        measured = measure_sides(dict(runs), rounds=1 if quick or count > 100 else 3, warm_up=1, settle_ms=200)
        measured = replace(measured, unstable=())  # the warm-up was other work
        require_same_work(runs)
        peaks_mb = {side: run.peak_mb for side, run in runs.items()}
        record[f"{count} pictures"] = measured.to_json() | {"peak_rss_mb": peaks_mb, "absent": absent}
        tables.append(f"{count} pictures\n{sides_table(measured, DEPLOYKIT)}{memory_lines(peaks_mb, absent)}")
        aims += time_and_memory_aims(count, measured, peaks_mb)
        peaks[count] = peaks_mb[DEPLOYKIT]
    first, last = peaks[counts[0]], peaks[counts[-1]]
    if len(counts) > 1 and first is not None and last is not None:
        what = f"peak of deploykit: {counts[-1]} pictures / {counts[0]} pictures"
        aims.append(Aim(what, last / first, 1.1, "x", at_most=True, is_quiet=True))
    return Section(record, tuple(tables), tuple(aims))


def find_sides(job: Job) -> tuple[dict[str, Calibration], dict[str, str]]:
    """The sides that fit into the limit, and why the others do not. Those that hold all activations are tried before timing."""
    hungry = {PERCENTILE_SIDE, "onnxruntime entropy"} if job.count > COUNTS[0] else set()
    absent = {side: why for side in SIDES if side in hungry and (why := why_too_large(replace(job, side=side)))}
    return {side: Calibration(replace(job, side=side)) for side in SIDES if side not in absent}, absent


def why_too_large(job: Job) -> str:
    """Try a side; empty if it fits into the limit, and otherwise what it said."""
    limit = f"{job.limit_bytes / 1e9:g} GB"
    say(f"{job.count} pictures: does {job.side} fit into {limit}?")
    try:
        run_process(job)
    except OutOfMemory as error:
        return f"needs more than {limit} of address space ({error})"
    return ""


def run_process(job: Job) -> dict[str, Any]:
    """One calibration in a process of its own: its times, peak and thresholds.

    Raises:
        OutOfMemory: it ran into its limit.
        RuntimeError: it failed otherwise.
    """
    command = [sys.executable, "-m", "benchmarks.calibration_sides", json.dumps(asdict(job))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        if "bad_alloc" in done.stderr:  # thrown in a thread where no one catches it: the process is aborted
            raise OutOfMemory("std::bad_alloc")
        raise RuntimeError(f"{job.side} ended with exit code {done.returncode}:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "out_of_memory" in found:
        raise OutOfMemory(found["out_of_memory"])
    return found


def require_same_work(runs: dict[str, Calibration]) -> None:
    """Both sides must have looked at the same tensors and found the same largest values.

    Raises:
        RuntimeError: they have not: then their times say nothing about each other.
    """
    ours, theirs = (runs[side].thresholds["minmax"] for side in (DEPLOYKIT, "onnxruntime minmax"))
    if set(ours) != set(theirs):
        only = sorted(set(ours) ^ set(theirs))
        raise RuntimeError(f"deploykit calibrates {len(ours)} tensors, onnxruntime {len(theirs)}; only in one: {only[:5]}")
    # float32 sums in another order (fused or not, another batch size), through a hundred layers
    far = [name for name in ours if abs(ours[name] - theirs[name]) > 1e-3 * max(theirs[name], 1e-6)]
    if far:
        raise RuntimeError(f"the largest values of {len(far)} tensors differ, such as {far[0]}: {ours[far[0]]}, {theirs[far[0]]}")


def memory_lines(peaks_mb: dict[str, float | None], absent: dict[str, str]) -> str:
    """What stands under a table of times."""
    peaks = [f"{side} {'unknown' if peak is None else f'{peak:.0f} MB'}" for side, peak in peaks_mb.items()]
    return "".join(f"\n  {line}" for line in [f"peak: {'; '.join(peaks)}", *(f"{s} {why}" for s, why in absent.items())])


def time_and_memory_aims(count: int, measured: Measurement, peaks_mb: dict[str, float | None]) -> list[Aim]:
    """All methods against one Percentile run, as it is used or, where that does not fit, eight pictures at a time."""
    base = PERCENTILE_SIDE if PERCENTILE_SIDE in measured.bursts else CHUNKED
    ratio = measured.ratio(DEPLOYKIT, base)["median"]
    aims = [Aim(f"{count} pictures, time: deploykit / {base}", ratio, 0.8, "x", at_most=True, is_quiet=measured.is_quiet)]
    ours, theirs = peaks_mb[DEPLOYKIT], peaks_mb[base]
    if base == PERCENTILE_SIDE and ours is not None and theirs is not None:
        aims.append(Aim(f"{count} pictures, peak: deploykit / {base}", ours / theirs, 0.1, "x", at_most=True, is_quiet=True))
    return aims


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
