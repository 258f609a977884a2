"""The part of ``deploykit predict`` that answers with segmentation models: what is in a picture, how much of it, and where."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from deploykit.cli import console
from deploykit.cli.explain_files import as_png, output_stems
from deploykit.cli.output_files import OutputFolder
from deploykit.cli.picture_batches import decode_batches
from deploykit.runtime.masks import draw_class_map, draw_masks
from deploykit.runtime.segmenter import Segmentation, Segmenter


@dataclass(frozen=True)
class Wanted:
    """What to say and write of every picture.

    Args:
        top: how many classes to name.
        batch: how many pictures go through at once.
        output: where the masks go; None writes no file.
        raw: write the class indices as well.
        as_json: print JSON.
    """

    top: int
    batch: int
    output: Path | None
    raw: bool
    as_json: bool


def predict_masks(segmenter: Segmenter, paths: Sequence[Path], wanted: Wanted) -> int:
    """Answer for pictures and print and write what is wanted.

    Returns:
        How many pictures could not be used; each has been named on stderr.
    """
    stems = output_stems(paths)
    inputs = frozenset(path.resolve() for path in paths)
    folder = None if wanted.output is None else OutputFolder(wanted.output, inputs)
    bad = 0
    with console.progress(f"segmenting {len(paths)} pictures", len(paths)) as advance:
        for batch in decode_batches(paths, segmenter.manifest.image, segmenter.limits, wanted.batch):
            for error in batch.errors:
                console.show_error(error)
            bad += len(batch.errors)
            found = segmenter.segment_photos(batch.photos) if batch.photos else []
            for number, photo, segmentation in zip(batch.numbers, batch.photos, found, strict=True):
                files = {} if folder is None else _write(folder, stems[number], paths[number], photo, segmentation, raw=wanted.raw)
                row = _row(paths[number], segmentation, files, wanted.top)
                console.result(json.dumps(row, ensure_ascii=False) if wanted.as_json else _as_text(row))
            advance(len(batch.photos) + len(batch.errors))
    return bad


def _write(
    folder: OutputFolder, stem: str, path: Path, photo: Image.Image, segmentation: Segmentation, *, raw: bool
) -> dict[str, str]:
    files = {"mask": str(folder.write(f"{stem}.mask.png", as_png(draw_masks(photo, segmentation, title=path.name))))}
    if raw:
        files["raw"] = str(folder.write(f"{stem}.classes.png", as_png(draw_class_map(segmentation))))
    return files


def _row(path: Path, segmentation: Segmentation, files: dict[str, str], top: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "image": str(path),
        "classes": [asdict(one) for one in segmentation.classes[:top]],
        "class_count": len(segmentation.classes),
        "box": list(segmentation.box),
    }
    return row | ({"files": files} if files else {})


def _as_text(row: dict[str, Any]) -> str:
    classes = row["classes"]
    width = max(len(one["label"]) for one in classes)
    lines = [row["image"]]
    lines += [
        f"  {one['label']:<{width}}  {100 * one['share']:5.1f} % of the picture  probability {one['probability']:.4f}"
        for one in classes
    ]
    if row["class_count"] > len(classes):
        lines.append(f"  and {row['class_count'] - len(classes)} more with smaller shares")
    lines += [f"  {name}" for name in row.get("files", {}).values()]
    return "\n".join(lines)
