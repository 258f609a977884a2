"""``deploykit evaluate-cam``: which method and layer explain a network best, measured on the user's own pictures, without torch."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from deploykit.bundle import Bundle
from deploykit.cli import console
from deploykit.cli.cam_boxes import read_boxes
from deploykit.cli.cam_sides import Measurement, Picture, Ranked, Side, choose_sides, rank_sides
from deploykit.cli.options import backend_options, bundle_argument, warn_if_untrained
from deploykit.cli.output_files import check_plot, plot_format, plot_option, write_file
from deploykit.errors import ImageError, UsageError
from deploykit.image import CropBox, find_images
from deploykit.runtime.cam_quality import Mean
from deploykit.runtime.classifier import Classifier
from deploykit.runtime.explain_graphs import ALL_METHODS
from deploykit.runtime.explainer import Explainer
from deploykit.runtime.opening import Answering

_COLUMNS = {
    "difference": "ins. - del.",
    "gain": "over random",
    "insertion": "insertion",
    "deletion": "deletion",
    "drop": "drop",
    "increase": "increase",
}


@click.command(name="evaluate-cam")
@bundle_argument
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@click.option("--method", "methods", multiple=True, type=click.Choice(ALL_METHODS), metavar="NAME", show_default=True,
              default=("grad-cam", "grad-cam++", "layer-cam", "eigen-cam"),
              help=f"Repeatable: {', '.join(ALL_METHODS)}.")  # fmt: skip
@click.option("--layer", "layers", multiple=True, help="A layer that the bundle explains. Repeatable. [default: its first]")
@click.option("--steps", type=click.IntRange(1), default=20, show_default=True, help="Points of the curves, less one.")
@click.option("--boxes", type=click.Path(path_type=Path), metavar="FILE",
              help='Adds the pointing game. JSON, in pixels of the photo: {"cat.jpg": [[left, top, right, bottom]]}')  # fmt: skip
@plot_option("Draw the curves")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="How many changed pictures go through at once.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with every curve and picture.")
@backend_options
def command(
    bundle: Path,
    images: tuple[Path, ...],
    methods: tuple[str, ...],
    layers: tuple[str, ...],
    steps: int,
    boxes: Path | None,
    plot: Path | None,
    batch: int,
    as_json: bool,
    answering: Answering,
) -> None:
    """Compare explanation methods and layers on your own pictures.

    Each picture is changed as a map says, and the network is asked for its likeliest class again. deletion: its probability while
    the best pixels become grey, as area under the curve, lower is better. insertion: while they come back into a blurred copy,
    higher is better. drop and increase: of a picture masked with the map. pointing: how often the map's maximum lies in a box. Maps
    of random blobs (the mean of 4) and of the centre stand beside them: what does not beat these explains nothing.
    """
    check_plot(plot)
    opened = Bundle.open(bundle)
    if opened.manifest.model.task != "classification":
        raise UsageError(
            f"{bundle} holds a {opened.manifest.model.task} model; the measures watch the one probability that a classifier gives",
            hint="deploykit explain draws its maps",
        )
    if opened.manifest.input == "photo":
        raise UsageError(
            f"the graphs of {bundle} resize photos themselves, and the measures change pixels of the resized picture",
            hint="measure a bundle of the same model without --embed-resize: the maps are the same",
        )
    paths = list(dict.fromkeys(find_images(images)))
    known = read_boxes(boxes, paths) if boxes else {}
    keywords = asdict(answering)
    with Classifier.open(opened, **keywords) as classifier, Explainer.open(opened, **keywords) as explainer:
        sides = choose_sides(explainer, methods, layers)
        warn_if_untrained(opened)
        pictures = _measure(classifier, explainer, sides, paths, known, steps, batch)
    if pictures:
        ranked = rank_sides(sides, pictures)
        _name_empty(ranked, len(pictures))
        console.note(
            f"means of {len(pictures)}, with standard errors from 2 on; deletion and drop: lower is better, others: higher"
        )
        console.result(_as_json(ranked, pictures, steps) if as_json else _as_table(ranked))
        if plot:
            _write_plot(plot, ranked, opened.manifest.model.name, paths, len(pictures))
    if len(pictures) < len(paths):
        raise ImageError(f"{len(paths) - len(pictures)} of {len(paths)} pictures could not be used")


def _measure(
    classifier: Classifier,
    explainer: Explainer,
    sides: Sequence[Side],
    paths: Sequence[Path],
    boxes: dict[Path, tuple[CropBox, ...]],
    steps: int,
    batch: int,
) -> list[Picture]:
    """The pictures that can be used, measured; the others are named."""
    pictures: list[Picture] = []
    with console.progress(f"measuring {len(sides)} sides on {len(paths)} pictures", len(paths) * len(sides)) as advance:
        measurement = Measurement(classifier, explainer, steps, batch, advance)
        for seed, path in enumerate(paths):
            measured = measurement.try_picture(path, seed, sides, boxes.get(path))
            if isinstance(measured, ImageError):
                console.show_error(measured)
                advance(len(sides))
            else:
                pictures.append(measured)
    return pictures


def _name_empty(ranked: Sequence[Ranked], count: int) -> None:
    """Say whose maps are zero everywhere: their curves are those of taking pixels from the top down."""
    for one in ranked:
        if one.empty:
            console.warn(f"{_label(one.side)} shows nothing on {one.empty} of {count} pictures: pixels go from the top down there")


def _label(side: Side) -> str:
    return side.method if side.layer is None else f"{side.method} at {side.layer}"


def _as_json(ranked: Sequence[Ranked], pictures: Sequence[Picture], steps: int) -> str:
    sides = [
        {
            "method": one.side.method,
            "layer": one.side.layer,
            "is_baseline": one.side.is_baseline,
            **{name: None if mean is None else asdict(mean) for name, mean in one.means.items()},
            "empty_maps": one.empty,
            "curves": {"deletion": one.deletion.tolist(), "insertion": one.insertion.tolist()},
            "images": [{"image": str(p.path), **p.found[one.side].values} for p in pictures],
        }
        for one in ranked
    ]
    images = [{"image": str(p.path), **asdict(p.explained)} for p in pictures]
    return json.dumps({"steps": steps, "images": images, "sides": sides}, ensure_ascii=False)


def _as_table(ranked: Sequence[Ranked]) -> str:
    """One line per side, means and their standard errors; ``pointing`` only where there are boxes."""
    columns = _COLUMNS | ({"pointing": "pointing"} if ranked[0].means["pointing"] else {})
    cells = [["method", "layer", *columns.values()]]
    for one in ranked:
        layer = "(baseline)" if one.side.is_baseline else one.side.layer or "input"
        cells.append([one.side.method, layer, *(_cell(one.means[name]) for name in columns)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)


def _cell(mean: Mean | None) -> str:
    if mean is None:
        return ""
    return f"{mean.mean:.3f}" if mean.standard_error is None else f"{mean.mean:.3f} ± {mean.standard_error:.3f}"


def _write_plot(plot: Path, ranked: Sequence[Ranked], model: str, paths: Sequence[Path], count: int) -> None:
    """Draw the curves into a file that is whole or not there.

    Raises:
        UsageError: the file is one of the pictures.
        DeploykitError: the disk refused.
    """
    # Imported here: matplotlib is an extra of its own, and takes 0.3 s.
    from deploykit.cli.cam_plot import Curves, draw_curves

    sides = [Curves(_label(one.side), one.deletion, one.insertion, is_baseline=one.side.is_baseline) for one in ranked]
    title = f"{model}, {count} picture{'s' if count > 1 else ''}"
    write_file(plot, draw_curves(sides, title, plot_format(plot)), hint="choose another place with --plot", inputs=paths)
    console.note(f"curves in {plot}")
