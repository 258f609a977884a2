"""``deploykit explain``: what in a picture speaks for its class, drawn over the picture, from a bundle, without torch."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from PIL import Image

from deploykit.bundle import Bundle
from deploykit.cli import console
from deploykit.cli.explain_files import KINDS, as_npz, as_png, file_name, output_stems
from deploykit.cli.options import backend_options, bundle_argument, say_what_answers, warn_if_untrained
from deploykit.cli.output_files import OutputFolder
from deploykit.cli.picture_batches import decode_batches
from deploykit.errors import ImageError, UsageError
from deploykit.image import find_images
from deploykit.runtime.classes import find_class
from deploykit.runtime.explain_graphs import ALL_METHODS, takes_layer
from deploykit.runtime.explainer import Explainer
from deploykit.runtime.explanation import Explanation
from deploykit.runtime.opening import Answering
from deploykit.runtime.overlay import draw_explanation, draw_map
from deploykit.runtime.sheet import draw_sheet


@dataclass(frozen=True)
class Request:
    """What to explain of every picture.

    Args:
        classes: indices; empty for the picture's own likeliest.
        top_classes: explain so many of the likeliest; None where classes are named or the likeliest alone is meant.
        methods, layer: see `Explainer.explain`.
        kinds: which files to write per explanation.
    """

    classes: tuple[int, ...]
    top_classes: int | None
    methods: tuple[str, ...]
    layer: str | None
    kinds: tuple[str, ...]

    @property
    def has_several(self) -> bool:
        """Whether a picture gets more than one explanation, and so a sheet."""
        return len(self.methods) * max(len(self.classes), self.top_classes or 1) > 1

    def layer_for(self, method: str) -> str | None:
        """The layer, for the methods that look at one."""
        return self.layer if takes_layer(method) or len(self.methods) == 1 else None


@click.command(name="explain")
@bundle_argument
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@click.option("--class", "classes", multiple=True, metavar="LABEL|INDEX",
              help="The class to explain. Repeatable. [default: each picture's likeliest]")  # fmt: skip
@click.option("--top-classes", type=click.IntRange(1), metavar="K", help="Explain the K likeliest classes of each picture.")
@click.option("--method", "methods", multiple=True, type=click.Choice(ALL_METHODS), default=("grad-cam",), show_default=True,
              metavar="NAME", help=f"Repeatable: {', '.join(ALL_METHODS)}.")  # fmt: skip
@click.option("--layer", help="A layer that the bundle explains. [default: its first]")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("explanations"), show_default=True,
              help="The directory for the files.")  # fmt: skip
@click.option("--overlay", is_flag=True, help="Write the map over the photo: the default, where there is one map.")
@click.option("--map", "map_", is_flag=True, help="Write the map alone, in its colours.")
@click.option("--npz", is_flag=True, help="Write the numbers: map, raw cam, class, box on the photo.")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="How many pictures go through at once.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per picture and line.")
@backend_options
def command(
    bundle: Path,
    images: tuple[Path, ...],
    classes: tuple[str, ...],
    top_classes: int | None,
    methods: tuple[str, ...],
    layer: str | None,
    output: Path,
    overlay: bool,
    map_: bool,
    npz: bool,
    batch: int,
    as_json: bool,
    answering: Answering,
) -> None:
    """Show what in pictures speaks for their class.

    IMAGE is a picture, or a directory that is searched for them. Several classes or methods give one sheet per picture, with files
    of each only where they are asked for. A segmentation model explains the pixels of a class, the largest unless told otherwise. A
    picture that cannot be used is named on stderr, the others are explained, and the exit code is 1.
    """
    if classes and top_classes is not None:
        raise UsageError("--class and --top-classes exclude each other")
    opened = Bundle.open(bundle)
    paths = find_images(images)
    stems = output_stems(paths)
    folder = OutputFolder(output, frozenset(path.resolve() for path in paths))
    kinds = tuple(kind for kind, wanted in zip(KINDS, (overlay, map_, npz), strict=True) if wanted)
    bad = 0
    with Explainer.open(opened, **asdict(answering)) as explainer:
        indices = tuple(dict.fromkeys(_class_index(text, explainer) for text in classes))
        request = Request(indices, top_classes, tuple(dict.fromkeys(methods)), layer, kinds)
        warn_if_untrained(opened)
        say_what_answers(opened, "explain", answering)
        with console.progress(f"explaining {len(paths)} pictures", len(paths)) as advance:
            for some in decode_batches(paths, explainer.manifest.image, explainer.limits, batch):
                for error in some.errors:
                    console.show_error(error)
                bad += len(some.errors)
                explained = _explain(explainer, some.photos, request) if some.photos else []
                for number, photo, explanations in zip(some.numbers, some.photos, explained, strict=True):
                    row = _write(folder, stems[number], paths[number], photo, explanations, request)
                    console.result(json.dumps(row, ensure_ascii=False) if as_json else _as_text(row))
                    advance()
                advance(len(some.errors))
    if bad:
        raise ImageError(f"{bad} of {len(paths)} pictures could not be used")


def _class_index(text: str, explainer: Explainer) -> int:
    """What a user means by ``--class``: a label where one reads so, otherwise an index."""
    is_label = explainer.labels is not None and text in explainer.labels
    wanted: int | str = int(text) if text.isdecimal() and not is_label else text
    return find_class(wanted, explainer.labels, explainer.manifest.model.num_classes)


def _explain(explainer: Explainer, photos: list[Image.Image], request: Request) -> list[list[Explanation]]:
    """For each photo its explanations, the methods of one class side by side."""
    by_method = [_explain_by(explainer, photos, method, request) for method in request.methods]
    return [[e for of_class in zip(*of_photo, strict=True) for e in of_class] for of_photo in zip(*by_method, strict=True)]


def _explain_by(explainer: Explainer, photos: list[Image.Image], method: str, request: Request) -> list[list[Explanation]]:
    """For each photo one explanation per class. One class is one run for all photos; several are one photo after the other."""
    layer = request.layer_for(method)
    if len(request.classes) > 1 or request.top_classes is not None:
        classes, top = request.classes or None, request.top_classes or 5
        return [explainer.explain_classes(photo, classes, method, layer, top) for photo in photos]
    class_index = request.classes[0] if request.classes else None
    return [[explanation] for explanation in explainer.explain(photos, class_index, method, layer)]


def _write(
    folder: OutputFolder, stem: str, path: Path, photo: Image.Image, explanations: list[Explanation], request: Request
) -> dict[str, Any]:
    """Write one picture's files and return what ``--json`` prints."""
    rows = []
    for explanation in explanations:
        files = {}
        for kind in request.kinds or (() if request.has_several else ("overlay",)):
            name = file_name(stem, explanation, kind, is_one_of_several=request.has_several)
            files[kind] = str(folder.write(name, _content(kind, photo, explanation)))
        rows.append({**_described(explanation), "files": files})
    row: dict[str, Any] = {
        "image": str(path),
        "predictions": [asdict(p) for p in explanations[0].predictions],
        "explanations": rows,
    }
    if request.has_several:
        columns = len(request.methods) if 1 < len(request.methods) < len(explanations) else None
        sheet = draw_sheet(photo, explanations, title=path.name, columns=columns)
        row["sheet"] = str(folder.write(f"{stem}.sheet.png", as_png(sheet)))
    return row


def _content(kind: str, photo: Image.Image, explanation: Explanation) -> bytes:
    if kind == "npz":
        return as_npz(explanation)
    return as_png(draw_explanation(photo, explanation) if kind == "overlay" else draw_map(explanation))


def _described(explanation: Explanation) -> dict[str, Any]:
    return {
        **asdict(explanation.explained),
        "method": explanation.method,
        "layer": explanation.layer,
        "has_evidence": explanation.has_evidence,
        "is_even": explanation.is_even,
        "box": list(explanation.box),
    }


def _as_text(row: dict[str, Any]) -> str:
    rows = row["explanations"]
    width = max(len(e["label"]) for e in rows)
    lines = [row["image"]]
    for e in rows:
        note = "" if e["has_evidence"] else "  no positive evidence"
        note = "  evidence is the same everywhere" if e["is_even"] else note
        note = "  predicted at no pixel" if e.get("share") == 0 else note
        figure = f"{100 * e['share']:.1f} % of the picture" if "share" in e else f"{e['probability']:.4f}"
        files = "".join(f"  {name}" for name in e["files"].values())
        lines.append(f"  {e['label']:<{width}}  {figure}  {e['method']} at {e['layer']}{note}{files}")
    if "sheet" in row:
        lines.append(f"  {row['sheet']}")
    return "\n".join(lines)
