"""``deploykit build``: TensorRT plans of a bundle's predict and explain graphs."""

import json
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from deploykit.bundle import Bundle
from deploykit.bundle.reader import GOLDEN_NAME
from deploykit.cli import console
from deploykit.cli.build_plans import BuiltPlans, Wishes, build_plans
from deploykit.cli.options import bundle_argument, warn_if_untrained
from deploykit.errors import UsageError
from deploykit.plan import COMPAT_LEVELS, BatchRange, Repeats, SideRange
from deploykit.spec import Precision
from deploykit.trt import BACKENDS, BuildOptions

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@click.command(name="build")
@bundle_argument
@click.option("--backend", type=click.Choice(BACKENDS), default=BACKENDS[0], show_default=True, help="Which TensorRT builds.")
@click.option("--precision", type=click.Choice([str(p) for p in Precision]), default=str(Precision.FP32), show_default=True,
              help="Which of the bundle's graphs.")  # fmt: skip
@click.option("--batch", metavar="MIN:OPT:MAX",
              help="Batch sizes that the plans take; fastest at OPT. [default: 1:8:32; 1 where graphs resize photos]")  # fmt: skip
@click.option("--photo-size", metavar="MIN:OPT:MAX",
              help=f"Width and height of photos, where graphs resize them; fastest at OPT. [default: {SideRange()}]")  # fmt: skip
@click.option("--target", default="current", show_default=True, metavar="current|SM",
              help="GPU that the plans are for: this machine's, or sm75, sm80, sm86, sm89, sm120 (tensorrt-rtx).")  # fmt: skip
@click.option("--workspace", metavar="SIZE", help="Scratch memory of the kernels, such as 512M or 2G. [default: TensorRT's]")
@click.option("--compat", type=click.Choice(COMPAT_LEVELS), default="none", show_default=True,
              help="Other GPUs that may load the plans (tensorrt).")  # fmt: skip
@click.option("--version-compatible", is_flag=True, help="Plans that later minor versions load too (tensorrt).")
@click.option("--strip", is_flag=True, help="Plans without weights, which are put in where they run.")
@click.option("--tf32", is_flag=True, help="Let float32 be multiplied as TF32: faster, with 10 bits of mantissa.")
@click.option("--opt-level", type=click.IntRange(0, 5), help="How long the builder searches. [default: TensorRT's]")
@click.option("--timing-cache", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Kernel timings, read and written (tensorrt).")  # fmt: skip
@click.option("--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), metavar="LIBRARY",
              help="Shared library with plugins. May be repeated.")  # fmt: skip
@click.option("--allow-fallback", is_flag=True, help="Accept plans that do not compute in --precision.")
@click.option("--repeat", type=click.IntRange(1, 20), default=1, show_default=True,
              help="Build that often without the cache, show how far the builds are apart, and keep the median one.")  # fmt: skip
@click.option("--no-cache", is_flag=True, help="Build even if this machine has built the same before.")
@click.option("--force", is_flag=True, help="Replace the plans that are there.")
@click.option("--json", "as_json", is_flag=True, help="Print plan.json and where it is.")
@click.pass_context
def command(
    context: click.Context,
    bundle: Path,
    backend: str,
    precision: str,
    batch: str | None,
    photo_size: str | None,
    target: str,
    workspace: str | None,
    compat: str,
    version_compatible: bool,
    strip: bool,
    tf32: bool,
    opt_level: int | None,
    timing_cache: Path | None,
    plugins: tuple[Path, ...],
    allow_fallback: bool,
    repeat: int,
    no_cache: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Build TensorRT plans of a bundle's graphs.

    predict.plan and explain.plan stand in plans/ of the bundle, as TensorRT wrote them, beside plan.json, which says what they are
    for. Networks are strongly typed: the precision is the graph's own. tensorrt-rtx needs no GPU when --target names one.
    """
    if context.find_root().meta.get("debug"):
        _show_log()
    opened = Bundle.open(bundle)
    wishes = Wishes(
        backend,
        Precision(precision),
        BuildOptions(
            _batch(opened, batch),
            target=_parse_target(target),
            workspace_bytes=_parse_size(workspace) if workspace else None,
            compat=compat,
            version_compatible=version_compatible,
            strip=strip,
            optimization_level=opt_level,
            tf32=tf32,
            plugins=plugins,
            sides=_sides(opened, photo_size),
        ),
        timing_cache=timing_cache,
        allow_fallback=allow_fallback,
        use_cache=not no_cache,
        replace=force,
        repeat=repeat,
    )
    warn_if_untrained(opened)
    built = build_plans(opened, wishes)
    if as_json:
        facts = {"bundle": str(bundle), "folder": built.record.folder, **json.loads(built.record.to_text())}
        console.result(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        console.result(_as_text(opened, built))


def _batch(bundle: Bundle, text: str | None) -> BatchRange:
    """The batch sizes: one photo at a time where the graphs resize them, because photos differ in size."""
    return BatchRange.parse(text or ("1" if bundle.manifest.input == "photo" else "1:8:32"))


def _sides(bundle: Bundle, text: str | None) -> SideRange | None:
    if bundle.manifest.input == "photo":
        sides = SideRange.parse(text) if text else SideRange()
        _require_golden(bundle, sides)
        return sides
    if text is not None:
        image = bundle.manifest.image
        raise UsageError(
            f"--photo-size goes with graphs that resize photos; those of {bundle.path} take {image.height} x {image.width} pixels",
            hint="make such graphs with: deploykit export MODEL --embed-resize",
        )
    return None


def _require_golden(bundle: Bundle, sides: SideRange) -> None:
    """A plan is held against the golden photos before it is served, so it must take them.

    Raises:
        UsageError: it would not.
    """
    if GOLDEN_NAME not in bundle.manifest.files:
        return
    height, width = bundle.golden().image.shape[1:3]
    least, greatest = min(sides.min, height, width), max(sides.max, height, width)
    if (least, greatest) != (sides.min, sides.max):
        raise UsageError(
            f"--photo-size {sides} leaves out the golden photos of {bundle.path}, {width} x {height} pixels, which a plan "
            "is asked for by verify and serve",
            hint=f"take {SideRange(least, sides.opt, greatest)}; it is fastest at {sides.opt} all the same",
        )


def _parse_target(text: str) -> str:
    found = re.fullmatch(r"(current)|(?:sm_?)?([0-9]{2,3})", text.strip().lower())
    if not found:
        raise UsageError(f"--target is {text!r}, expected current or a compute capability such as sm86")
    return found[1] or f"sm{found[2]}"


def _parse_size(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,15})([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not found or not int(found[1]):
        raise UsageError(f"--workspace is {text!r}, expected a size such as 512M or 2G")
    return int(found[1]) * _UNITS[found[2].upper()]


def _show_log() -> None:
    """TensorRT's own log on stderr."""
    logger = logging.getLogger("deploykit.trt")
    logger.setLevel(logging.DEBUG)
    if not any(isinstance(handler, logging.StreamHandler) for handler in logger.handlers):
        logger.addHandler(logging.StreamHandler(sys.stderr))


def _as_text(bundle: Bundle, built: BuiltPlans) -> str:
    """What was built, in a few lines."""
    record = built.record
    gpu = f"{record.gpu.name}, {record.sm}" if record.gpu else record.sm
    lines = [
        f"{bundle.path / record.folder}{' was there already' if built.were_there else ''}",
        f"  for       {gpu}, {record.backend} {record.version}, {record.precision}, batch {record.batch}"
        + (f", photos of {record.sides} pixels a side" if record.sides else ""),
    ]
    for name, file in record.files.items():
        graph = bundle.manifest.files[file.graph].size_bytes
        took = f"built in {file.build_s:.1f} s" + (", taken from the cache" if file.from_cache else "")
        lines.append(f"  {name.removesuffix('.plan'):<9} {file.size_bytes / 1e6:.1f} MB ({graph / 1e6:.1f} MB as a graph), {took}")
        counts = ", ".join(f"{count} in {precision}" for precision, count in file.multiplying.items())
        lines.append(f"  {'':<9} convolutions and matrix products: {counts or 'none'}")
        layers = ", ".join(f"{count} in {precision}" for precision, count in (file.engine or {}).items())
        lines.append(f"  {'':<9} the engine's layers: {layers or f'not inspected ({file.not_inspected})'}")
        if file.repeats is not None:
            lines += [f"  {'':<9} {line}" for line in _repeats(file.repeats)]
    return "\n".join(lines)


def _repeats(repeats: Repeats) -> list[str]:
    """How far apart several builds were."""
    sizes = [size / 1e6 for size in repeats.size_bytes]
    same = "identical bytes" if repeats.is_identical else f"{len(set(repeats.sha256))} different plans"
    took = f"{_range(sizes, '.2f')} MB, {_range(repeats.build_s, '.2f')} s"
    builds = f"{len(sizes)} builds: {took}, {same}; number {repeats.kept + 1} is kept"
    if repeats.gpu_time_ms is None:
        return [builds, f"their latency: not measured ({repeats.not_timed})"]
    median = sorted(repeats.gpu_time_ms)[(len(sizes) - 1) // 2]
    spread = (max(repeats.gpu_time_ms) - min(repeats.gpu_time_ms)) / median
    times = f"{_range(repeats.gpu_time_ms, '.3f')} ms on the GPU at batch {repeats.timed_batch}, {spread:.1%} apart"
    return [builds, times]


def _range(values: Sequence[float], form: str) -> str:
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"
