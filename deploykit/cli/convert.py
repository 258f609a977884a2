"""``deploykit convert``: the FP16 graphs of a bundle, with float32 kept where pictures show that FP16 cannot hold the values."""

import json
from pathlib import Path

import click

from deploykit.bundle import Bundle, extend_bundle
from deploykit.cli import console
from deploykit.cli.convert_half import Asked, Converted, convert_bundle, find_asked
from deploykit.cli.embed_resize import at_network_size
from deploykit.cli.options import bundle_argument, warn_if_untrained
from deploykit.cli.precision_graphs import add_precision
from deploykit.errors import BundleError
from deploykit.spec import Precision

RANGES_NAME = f"{Precision.FP16}/ranges.json"
_SHOWN = 5


@click.command(name="convert")
@bundle_argument
@click.option("--precision", type=click.Choice([str(Precision.FP16)]), required=True, help="What the new graphs compute in.")
@click.option("--images", multiple=True, type=click.Path(path_type=Path), metavar="FILE_OR_DIRECTORY",
              help="Real pictures to find the ranges with. May be repeated. [default: made-up pictures]")  # fmt: skip
@click.option("--keep", multiple=True, metavar="NODE_OR_MODULE",
              help="What stays in float32: a node, a tensor or a torch module. May be repeated.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace the graphs that are there.")
@click.option("--json", "as_json", is_flag=True, help="Print the range report as JSON.")
def command(bundle: Path, precision: str, images: tuple[Path, ...], keep: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Add the graphs of another precision to a bundle.

    A typed FP16 graph that runs on ONNX Runtime and builds strongly typed on TensorRT. The float32 graph runs on every picture
    first: where an activation or a weight does not fit FP16, that node stays in float32 and is named.
    """
    opened = Bundle.open(bundle)
    _require_sound(opened, Precision(precision), replace=force)
    warn_if_untrained(opened)
    network = at_network_size(opened)
    asked = find_asked(network, images)
    if not images:
        console.note(f"no --images: ranges come from {len(asked.made_up)} made-up pictures and the golden ones")
    converted = convert_bundle(network, asked, keep)
    source = f"{Precision.FP32}/predict.onnx"
    weights = opened.manifest.weights.sha256
    origin = {"weights": weights, source: opened.manifest.files[source].sha256}
    report = converted.to_json()
    with (
        console.progress("making and checking the explain graphs", total=None),
        extend_bundle(bundle) as stage,
    ):
        if stage.manifest.files != opened.manifest.files:
            raise BundleError(f"{bundle} was changed by another process meanwhile", hint="run the command again")
        add_precision(
            stage,
            network,
            Precision(precision),
            converted.half.graph,
            pixels=opened.golden().pixels,
            made_from=origin,
            parity=converted.parity.to_json(),
        )
        predict = f"{precision}/predict.onnx"
        made = {**origin, predict: stage.manifest.files[predict].sha256}
        stage.add(RANGES_NAME, (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode(), made_from=made)
    console.result(json.dumps(report, indent=2, ensure_ascii=False) if as_json else _as_text(Bundle.open(bundle), converted, asked))


def _require_sound(bundle: Bundle, precision: Precision, *, replace: bool) -> None:
    if f"{Precision.FP32}/predict.onnx" not in bundle.manifest.files:
        raise BundleError(
            f"{bundle.path} has no {Precision.FP32}/predict.onnx to convert", hint="export the model again with --force"
        )
    theirs = f"{precision}/"
    damage = {name: what for name, what in bundle.damage().items() if not (replace and name.startswith(theirs))}
    if damage:
        name, what = next(iter(damage.items()))
        more = f", and {len(damage) - 1} more files" if len(damage) > 1 else ""
        raise BundleError(f"{bundle.path / name} {what}{more}", hint=f"look closer with: deploykit verify {bundle.path}")
    if precision in bundle.precisions and not replace:
        raise BundleError(f"{bundle.path} has {precision} graphs", hint="replace them with --force")


def _as_text(bundle: Bundle, converted: Converted, asked: Asked) -> str:
    """What was made, in a few lines."""
    half, parity, answers = converted.half.report, converted.parity, converted.answers
    files = bundle.manifest.files
    small, large = (files[f"{p}/predict.onnx"].size_bytes for p in (Precision.FP16, Precision.FP32))
    lines = [
        f"{bundle.path}",
        f"  graph     {Precision.FP16}/predict.onnx, {small / 1e6:.1f} MB, {small / large:.2f} of {Precision.FP32}; "
        f"{half.half_nodes} nodes in FP16, {len(half.kept)} kept in float32, {half.casts} casts",
        f"  parity    {parity.relative_difference:.1e} of the largest logit from {parity.reference}, "
        f"{parity.tolerance:.0e} allowed",
        f"  pictures  {answers.pictures} ({asked.source}): top-1 of {Precision.FP32} on {answers.agreement:.1%}, "
        f"logits within {answers.relative_difference:.1e} of the largest",
    ]
    explain = files.get(f"{Precision.FP16}/explain.onnx")
    if explain is not None and explain.parity:
        lines.append(
            f"  explain   maps within {explain.parity['map_difference']:.1e} of the golden ones, logits those of predict to the bit"
        )
    lines += [f"  range     {problem}" for problem in half.problems[:_SHOWN]]
    if len(half.problems) > _SHOWN:
        lines.append(f"  range     and {len(half.problems) - _SHOWN} more in {RANGES_NAME}")
    if not half.problems:
        lines.append("  range     every value seen fits FP16")
    return "\n".join(lines)
