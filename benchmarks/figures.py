"""Puts the figures of results/ into the README, between its markers, and draws its charts; ``--check`` only says if they are there.

python benchmarks/figures.py [--check]
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.charts import CHARTS, chart_path
from benchmarks.report import RESULTS
from deploykit.models.catalogue import MODELS

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- figures:begin -->\n", "<!-- figures:end -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit with 1 where the README has other figures")
    options = parser.parse_args()
    text = README.read_text(encoding="utf-8")
    wanted = with_figures(text)
    if options.check:
        sys.exit(0 if text == wanted else "README.md has other figures than benchmarks/results/: run benchmarks/figures.py")
    README.write_text(wanted, encoding="utf-8")
    for name, draw in CHARTS.items():
        if (RESULTS / name).exists():
            chart_path(name).write_bytes(draw(json.loads((RESULTS / name).read_text())))


def with_figures(readme: str) -> str:
    """The README with the figures that stand in results/ now."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    parts = [render(json.loads(path.read_text())) for name, render in RENDERERS.items() if (path := RESULTS / name).exists()]
    return before + BEGIN + "\n" + "\n\n".join(parts) + "\n\n" + END + after


def networks(result: Mapping[str, Any]) -> str:
    """ONNX Runtime through deploykit against torch and OpenVINO."""
    rows = []
    for title, measured in result["networks"].items():
        ratios = {side: found["wall_ms"]["median"] for side, found in measured["times_deploykit"].items()}
        sides = (("torch eager", 1.0), ("torch compiled", 1.0), ("openvino f32", 1.0))
        rows.append([title, *(f"{ratios[side]:.2f}" if side in ratios else "absent" for side, _ in sides)])
    overhead = next(iter(result["overhead"].values()))
    added = {side: overhead[side]["added_percent"]["median"] for side in ("logits", "classify")}
    own = {side: overhead[side]["own_work_us"] for side in ("logits", "classify")}
    cold = []
    for name, measured in result["cold"].items():
        peaks = measured["peak_rss_mb"]
        seconds = {side: summary["wall_ms"]["median"] / 1e3 for side, summary in measured["sides"].items()}
        cold.append([name, *(f"{seconds[side]:.2f} s, {peaks[side]:.0f} MB" for side in peaks)])
    sides_header = ["", *next(iter(result["cold"].values()))["peak_rss_mb"]]
    return "\n\n".join(
        [
            f"Time of a run, as a multiple of deploykit's float graph on ONNX Runtime ({_machine(result)}):",
            "![deploykit against PyTorch and OpenVINO](benchmarks/results/runtime.svg)",
            _table(["", "torch eager", "torch compiled and frozen", "OpenVINO f32"], rows),
            f"`Classifier` over a bare `InferenceSession.run` on {next(iter(result['overhead']))}, paired: "
            f"logits {added['logits']:+.2f} %, classify {added['classify']:+.2f} %; its own work alone takes "
            f"{own['logits']:.0f} and {own['classify']:.0f} µs. What `deploykit bench` reports is "
            f"{overhead['harness_percent']['median']:+.2f} % from a bare loop.",
            "From starting a process to its first answer on a photo, and the most memory it held:",
            _table(sides_header, cold),
        ]
    )


def preprocess(result: Mapping[str, Any]) -> str:
    """Decode and resize against Pillow and torchvision."""
    rows = []
    for name, table in result["tables"].items():
        found = table["results"]
        levels = f"{found['deploykit']['max_levels']} (mean {found['deploykit']['mean_levels']:.5f})"
        times = [f"{found[side]['median_ms']:.2f} ms" for side in ("deploykit", "pillow", "torchvision")]
        rows.append([name, *times, f"{table['speedup_over_pillow']:.2f}", levels])
    header = ["resize", "deploykit", "plain Pillow", "torchvision", "Pillow / deploykit", "grey levels from torchvision"]
    return f"Decode, resize and crop a 1-megapixel JPEG, one thread ({_machine(result)}):\n\n{_table(header, rows)}"


def explanations(result: Mapping[str, Any]) -> str:
    """Explanations against predictions, and against Grad-CAM in torch."""
    rows = []
    for title, measured in result["explain"].items():
        own = [measured["times_predict"][side]["median"] for side in ("explain", "explain, earlier")]
        peers = [measured["times_explainer"][peer]["median"] for peer in ("pytorch-grad-cam", "torch-cam", "captum")]
        rows.append([title, *(f"{ratio:.2f}" for ratio in own + peers)])
    last = ("explain / predict", "one stage earlier / predict")
    header = ["", *last, *(f"{peer} / Explainer" for peer in ("pytorch-grad-cam", "torch-cam", "Captum"))]
    chart = "![deploykit's explanations against other tools'](benchmarks/results/explain.svg)"
    title = f"What Grad-CAM costs on ONNX Runtime, and in torch on the same network ({_machine(result)}):"
    return f"{title}\n\n{chart}\n\n{_table(header, rows)}"


def precision(result: Mapping[str, Any]) -> str:
    """INT8 on a CPU against FP32, the signed graph and OpenVINO, at batch 8 on one thread."""
    rows = []
    for name, found in result["precision"].items():
        ratios = {side: times["cpu_ms"]["median"] for side, times in found["batch 8"]["times_twin"].items()}
        size = found["size_bytes"]["signed"] / found["size_bytes"]["fp32"]
        rows.append([name, *(f"{ratios[side]:.2f}" for side in ("fp32", "int8 signed", "openvino int8")), f"{size:.2f}"])
    header = ["batch 8, one thread", "FP32", "INT8 as TensorRT takes it", "the same in OpenVINO", "INT8 file / FP32 file"]
    title = f"CPU time of a run, as a multiple of the INT8 twin's on ONNX Runtime ({_machine(result)}):"
    return f"{title}\n\n{_table(header, rows)}"


def calibration(result: Mapping[str, Any]) -> str:
    """Calibrating with every method at once, against ONNX Runtime's calibrators."""
    rows = []
    for title, found in result["calibration"].items():
        for side, times in found["sides"].items():
            rows.append([title, side, f"{times['wall_ms']['median'] / 1e3:.1f} s", f"{found['peak_rss_mb'][side]:,.0f} MB"])
        rows += [[title, side, "not done", f"more than {result['limit_gb'] * 1e3:,.0f} MB"] for side in found["absent"]]
    text = f"Calibrating {result['model']} ({_machine(result)}); deploykit's one pass serves all of its methods:"
    return f"{text}\n\n{_table(['', 'side', 'time', 'most memory'], rows)}"


def sweep(result: Mapping[str, Any]) -> str:
    """Every model through the whole chain."""
    rows = []
    for row in result["models"]:
        if not row["passed"]:
            rows.append([row["name"], f"**{row['reason']}**", *[""] * 7])
            continue
        oracle, precisions = row["oracle"], row["precisions"]
        engines = {made: found["engines"]["sm86"] for made, found in precisions.items()}
        rows.append(
            [
                row["name"],
                f"{row['parameters'] / 1e6:.1f}",
                f"{row['multiply_adds'] / 1e9:.2f}",
                "" if oracle is None else f"{oracle['library']}, {oracle['float32']:.0e}",
                f"{row['parity']:.0e}",
                f"{row['explain_parity']:.0e}",
                " / ".join(f"{found['predict_mb']:.0f}" for found in precisions.values()),
                " / ".join(f"{found['predict']['mb']:.0f} + {found['explain']['mb']:.0f}" for found in engines.values()),
                " / ".join(f"{sum(plan['build_s'] for plan in found.values()):.0f}" for found in engines.values()),
            ]
        )
    passed = sum(row["passed"] for row in result["models"])
    seen = {row["name"] for row in result["models"]}
    left = [name for name in MODELS if name not in seen]
    targets = list(next(row for row in result["models"] if row["passed"])["precisions"]["fp32"]["engines"])
    header = ["", "parameters, M", "multiply-adds, G", "oracle, logits apart", "graph / torch", "explain / autograd"]
    header += ["graph, MB", "sm86 plans, MB", "built in s"]
    title = (
        f"{passed} of {len(MODELS)} models have passed the whole chain: the logits of an independent implementation with the same "
        "weights, export, verify, Grad-CAM, FP16, INT8, and TensorRT-RTX plans of predict and explain for "
        f"{', '.join(targets)} at each precision (FP32 / FP16 / INT8)." + (f" Not in this run: {', '.join(left)}." if left else "")
    )
    return f"{title}\n\n<details><summary>All of them</summary>\n\n{_table(header, rows)}\n\n</details>"


def serving(result: Mapping[str, Any]) -> str:
    """The server against its peers, by the number of clients."""
    rows = []
    for clients, sides in result["serving"].items():
        for side, found in sides.items():
            latency = found["latency_ms"]
            slowest = f"{latency['p99']:.0f}" if "p99" in latency else "too few"
            rows.append([clients, side, f"{found['per_second']['median']:.0f}", f"{latency['median']:.1f}", slowest])
    alone = result["in process"]["median"]
    title = (
        f"Pictures answered a second over HTTP, and their latency; clients and server on the same cores ({_machine(result)}). "
        f"The runtime without a server and clients: {alone:.0f}."
    )
    return f"{title}\n\n{_table(['clients', 'server', 'answers/s', 'p50 ms', 'p99 ms'], rows)}"


def soak(result: Mapping[str, Any]) -> str:
    """What the server kept while things went wrong."""
    steady = result["soak"]["steady"]
    rows = [[title, f"{found['answers']:,}", f"{found['broken']}"] for title, found in result["soak"].items()]
    title = (
        f"`deploykit serve` under load while things go wrong; over {steady['answers']:,} requests its memory grew by "
        f"{steady['growth_mb']:.1f} MB:"
    )
    return f"{title}\n\n{_table(['meanwhile', 'right answers', 'wrong, lost or failed'], rows)}"


def zoo(result: Mapping[str, Any]) -> str:
    """Other people's models, in a sentence."""
    failed = [f"{row['name']} ({row['reason']})" for row in result["models"] if not row["passed"]]
    text = f"Of {result['tried']} CNNs of timm and torchvision {result['passed']} export and explain themselves"
    return f"{text}." if not failed else f"{text}. The others: {'; '.join(failed)}."


RENDERERS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "runtime.json": networks,
    "explain.json": explanations,
    "preprocess.json": preprocess,
    "precision.json": precision,
    "calibration.json": calibration,
    "serving.json": serving,
    "soak.json": soak,
    "sweep.json": sweep,
    "zoo.json": zoo,
}


def _machine(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    return f"{machine['cpu']}, {machine['cores']} cores"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
