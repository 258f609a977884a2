"""``deploykit bench``: how long do answers and explanations take, and is it faster than before?"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from deploykit.benchmark.compare import Comparison, compare_reports
from deploykit.benchmark.report import Report, read_report
from deploykit.benchmark.tables import as_csv, as_markdown, as_text, comparison_text
from deploykit.bundle import Bundle
from deploykit.bundle.manifest import ANSWERING_GRAPHS
from deploykit.cli import console
from deploykit.cli.bench_cases import LIKES, Wanted, run_benchmark
from deploykit.cli.options import warn_if_untrained
from deploykit.cli.output_files import check_plot, plot_format, plot_option, write_file
from deploykit.errors import MeasurementError, UsageError
from deploykit.runtime.opening import BACKENDS, ONNXRUNTIME, Answering
from deploykit.runtime.ort import PROVIDERS
from deploykit.runtime.plans import planned_precisions
from deploykit.spec import Precision


class _Numbers(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on
    """Whole numbers from ``least`` on, separated by commas."""

    name = "numbers"

    def __init__(self, least: int = 1) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """``1,4,8`` to (1, 4, 8)."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(dict.fromkeys(int(part) for part in str(value).split(",")))
        except ValueError:
            self.fail(f"{value!r} is no list of whole numbers such as 1,4,8", param, ctx)
        if min(numbers) < self._least:
            self.fail(f"{value!r} holds {min(numbers)}, expected {self._least} or more", param, ctx)
        return numbers


class _Several(click.ParamType):  # type: ignore[type-arg]
    """Some of a few words, separated by commas."""

    name = "names"

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = tuple(allowed)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """``predict,explain`` to (predict, explain)."""
        names = tuple(dict.fromkeys(str(value).split(","))) if not isinstance(value, tuple) else value
        if unknown := [name for name in names if name not in self._allowed]:
            self.fail(f"{unknown[0]!r} is not one of {', '.join(self._allowed)}", param, ctx)
        return names


def _output(*flags: str, text: str) -> Callable[[Any], Any]:
    return click.option(*flags, type=click.Path(path_type=Path, dir_okay=False), help=text)


@click.command(name="bench")
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@click.option(
    "--graph", "graphs", type=_Several(ANSWERING_GRAPHS), help="predict, explain, or both. [default: what the bundle has]"
)
@click.option("--precision", "precisions", type=_Several([str(p) for p in Precision]), help="[default: what the bundle has]")
@click.option("--batch", "batches", type=_Numbers(), help="Images of a call. [default: 1,8; 1 where the graphs resize photos]")
@click.option("--concurrency", "concurrencies", type=_Numbers(), default="1", show_default=True, help="Callers at once.")
@click.option("--backend", "backends", type=_Several(BACKENDS), default=ONNXRUNTIME, show_default=True,
              help=f"What answers, one or several of {', '.join(BACKENDS)}; the latter two run plans.")  # fmt: skip
@click.option("--provider", "providers", type=_Several(tuple(PROVIDERS)), default="cpu", show_default=True,
              help=f"ONNX Runtime's, one or several of {', '.join(PROVIDERS)}.")  # fmt: skip
@click.option("--threads", type=_Numbers(0), default="0", show_default=True, help="CPU threads per run; 0 takes all.")
@click.option("--like", type=click.Choice(list(LIKES)), default="deploykit", show_default=True,
              help="Measure what that tool measures, so that figures can be held against each other.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=3, show_default=True, help="Per case.")
@_output("--json", "json_file", text="Write every sample and its circumstances.")
@_output("--csv", "csv_file", text="Write a line per case.")
@_output("--markdown", "markdown_file", text="Write the table as Markdown.")
@plot_option("Draw the latencies and the throughput")
@click.option("--compare", nargs=2, type=click.Path(path_type=Path), metavar="A.json B.json",
              help="Measure nothing; say how B differs from A, and whether that is more than noise.")  # fmt: skip
@click.option(
    "--fail-above", type=click.FloatRange(0), metavar="PERCENT", help="With --compare: exit with 1 where B is that much slower."
)
def command(
    bundle: Path | None,
    graphs: tuple[str, ...] | None,
    precisions: tuple[str, ...] | None,
    batches: tuple[int, ...] | None,
    concurrencies: tuple[int, ...],
    backends: tuple[str, ...],
    providers: tuple[str, ...],
    threads: tuple[int, ...],
    like: str,
    seconds: float,
    json_file: Path | None,
    csv_file: Path | None,
    markdown_file: Path | None,
    plot: Path | None,
    compare: tuple[Path, Path] | None,
    fail_above: float | None,
) -> None:
    """Measure how long a bundle's answers and explanations take.

    Every call is timed alone, from host memory to host memory, and synchronized; the rounds of all cases are interleaved, so that
    what slows the machine for a moment meets all of them. Percentiles are shown from the number of samples on that they need.
    """
    if compare is not None:
        _compare(compare, fail_above, is_alone=bundle is None)
        return
    if bundle is None:
        raise UsageError("a BUNDLE to measure, or --compare A.json B.json, is needed")
    if fail_above is not None:
        raise UsageError("--fail-above goes with --compare")
    check_plot(plot)
    opened = Bundle.open(bundle)
    warn_if_untrained(opened)
    graphs = graphs or _graphs_of(opened)
    asked = tuple(Precision(p) for p in precisions or ())
    answers = _answers(opened, graphs[0], asked, backends, providers, threads)
    wanted = Wanted(graphs, answers, _batches_of(opened, batches), concurrencies, like, seconds)
    with console.progress(f"measuring {wanted.cases} cases", wanted.cases * (wanted.rounds + 1)) as advance:
        report = run_benchmark(opened, wanted, advance)
    console.result(as_text(report))
    _write(report, json_file, csv_file, markdown_file, plot)


def _graphs_of(bundle: Bundle) -> tuple[str, ...]:
    return tuple(graph for graph in ANSWERING_GRAPHS if f"{bundle.precisions[0]}/{graph}.onnx" in bundle.manifest.files)


def _answers(
    bundle: Bundle,
    graph: str,
    asked: tuple[Precision, ...],
    backends: tuple[str, ...],
    providers: tuple[str, ...],
    threads: tuple[int, ...],
) -> tuple[Answering, ...]:
    """Every combination; without precisions that were asked for, those that the bundle has graphs or plans of."""
    if ONNXRUNTIME not in backends and (providers != ("cpu",) or threads != (0,)):
        raise UsageError(f"--provider and --threads are for {ONNXRUNTIME}, and --backend is {','.join(backends)}")
    answers: list[Answering] = []
    for backend in backends:
        if backend == ONNXRUNTIME:
            axes = itertools.product(asked or bundle.precisions, providers, threads)
            answers += [Answering(precision, backend, provider, number) for precision, provider, number in axes]
        else:
            answers += [Answering(precision, backend) for precision in asked or planned_precisions(bundle, graph, backend)]
    return tuple(answers)


def _batches_of(bundle: Bundle, asked: tuple[int, ...] | None) -> tuple[int, ...]:
    if bundle.manifest.input != "photo":
        return asked or (1, 8)
    if asked not in (None, (1,)):
        raise UsageError(
            f"--batch is {','.join(map(str, asked))}, and the graphs of {bundle.path} take one photo at a time",
            hint="leave it out; photos differ in size, so a batch of them is no array",
        )
    return (1,)


def _write(report: Report, json_file: Path | None, csv_file: Path | None, markdown_file: Path | None, plot: Path | None) -> None:
    files = [(json_file, report.to_text), (csv_file, lambda: as_csv(report)), (markdown_file, lambda: as_markdown(report))]
    found = [(path, render().encode()) for path, render in files if path is not None]
    if plot is not None:
        # Imported here because it needs matplotlib, which is an extra of its own.
        from deploykit.benchmark.plots import draw_report

        found.append((plot, draw_report(report, plot_format(plot))))
    for path, data in found:
        write_file(path, data, hint="choose another place")
        console.note(f"wrote {path}")


def _compare(paths: tuple[Path, Path], fail_above: float | None, *, is_alone: bool) -> None:
    if not is_alone:
        raise UsageError("--compare measures nothing, and a BUNDLE was given", hint="deploykit bench --compare A.json B.json")
    first, second = (read_report(path) for path in paths)
    comparison = compare_reports(first, second)
    console.result(comparison_text(comparison))
    slower = [] if fail_above is None else _slower(comparison, fail_above)
    if slower:
        raise MeasurementError(
            f"{len(slower)} of {len(comparison.differences)} cases are more than {fail_above:g} % slower: {', '.join(slower)}"
        )


def _slower(comparison: Comparison, percent: float) -> list[str]:
    return [d.second.title for d in comparison.differences if d.is_beyond_noise and d.ratio > 1 + percent / 100]
