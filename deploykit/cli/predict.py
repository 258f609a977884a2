"""``deploykit predict``: names for pictures, from a bundle, without torch."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from deploykit.bundle import Bundle
from deploykit.cli import console
from deploykit.cli.options import backend_options, bundle_argument, say_what_answers, warn_if_untrained
from deploykit.cli.predict_masks import Wanted, predict_masks
from deploykit.errors import ImageError, UsageError
from deploykit.image import decode_each, find_images
from deploykit.runtime.classifier import Classifier, Prediction
from deploykit.runtime.opening import Answering, answering_file
from deploykit.runtime.segmenter import Segmenter


@click.command(name="predict")
@bundle_argument
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="How many classes to name.")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="How many pictures go through at once.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR",
              help="Of a segmentation model: write each picture with its classes coloured there.")  # fmt: skip
@click.option("--raw", is_flag=True, help="With --output: write the class of every pixel as a PNG of indices too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per picture and line.")
@backend_options
def command(
    bundle: Path,
    images: tuple[Path, ...],
    top: int,
    batch: int,
    output: Path | None,
    raw: bool,
    as_json: bool,
    answering: Answering,
) -> None:
    """Name what is in pictures.

    IMAGE is a picture, or a directory that is searched for them. A picture that cannot be used is named on stderr, the others are
    answered, and the exit code is 1. A segmentation model names the classes with their share of the picture.
    """
    if raw and output is None:
        raise UsageError("--raw has no directory to write to", hint="give it with --output DIR")
    opened = Bundle.open(bundle)
    paths = find_images(images)
    if opened.manifest.model.task == "segmentation":
        with Segmenter.open(opened, **asdict(answering)) as segmenter:
            warn_if_untrained(opened)
            say_what_answers(opened, "predict", answering)
            bad = predict_masks(segmenter, paths, Wanted(top, batch, output, raw, as_json))
    elif output is not None:
        raise UsageError(
            f"--output writes the masks of segmentation models, and {bundle} holds a {opened.manifest.model.task} model",
            hint="deploykit explain draws what in a picture speaks for its class",
        )
    else:
        bad = _classify(opened, paths, top, batch, answering, as_json=as_json)
    if bad:
        raise ImageError(f"{bad} of {len(paths)} pictures could not be used")


def _classify(opened: Bundle, paths: Sequence[Path], top: int, batch: int, answering: Answering, *, as_json: bool) -> int:
    """Answer and print, and return how many pictures could not be used."""
    bad = 0
    with Classifier.open(opened, **asdict(answering)) as classifier:
        graph = answering_file(opened, "predict", answering)
        warn_if_untrained(opened)
        say_what_answers(opened, "predict", answering)
        with console.progress(f"predicting {len(paths)} pictures", len(paths)) as advance:
            for names, pixels, errors in _batches(paths, classifier, batch):
                for error in errors:
                    console.show_error(error)
                bad += len(errors)
                ranked = classifier.rank(classifier.logits(pixels), top) if pixels else []
                for name, predictions in zip(names, ranked, strict=True):
                    console.result(_as_json(name, predictions, graph) if as_json else _as_text(name, predictions))
                advance(len(names) + len(errors))
    return bad


def _batches(
    paths: Sequence[Path], classifier: Classifier, size: int
) -> Iterator[tuple[list[Path], list[npt.NDArray[np.uint8]], list[ImageError]]]:
    """Pictures in batches of ``size`` good ones, each with the bad ones met on the way."""
    names: list[Path] = []
    pixels: list[npt.NDArray[np.uint8]] = []
    errors: list[ImageError] = []
    manifest = classifier.manifest
    for path, decoded in decode_each(paths, manifest.image, classifier.limits, manifest.input):
        if isinstance(decoded, ImageError):
            errors.append(decoded)
        else:
            names.append(path)
            pixels.append(decoded)
        if len(pixels) == size:
            yield names, pixels, errors
            names, pixels, errors = [], [], []
    if names or errors:
        yield names, pixels, errors


def _as_json(name: Path, predictions: list[Prediction], graph: str) -> str:
    row: dict[str, Any] = {"image": str(name), "graph": graph, "predictions": [asdict(p) for p in predictions]}
    return json.dumps(row, ensure_ascii=False)


def _as_text(name: Path, predictions: list[Prediction]) -> str:
    width = max(len(p.label) for p in predictions)
    lines = [f"  {rank:>2}  {p.label:<{width}}  {p.probability:.4f}" for rank, p in enumerate(predictions, 1)]
    return "\n".join([str(name), *lines])
