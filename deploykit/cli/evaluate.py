"""``deploykit evaluate``: how often each precision of a bundle is right on labelled pictures, without torch and onnx."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from deploykit.agreement import Accuracy, Share
from deploykit.bundle import Bundle
from deploykit.bundle.manifest import sha256_of
from deploykit.cli import console
from deploykit.cli.evaluate_data import FOLDER_RULES, Sample, Samples, read_samples
from deploykit.cli.evaluate_run import Evaluation, evaluate_sessions
from deploykit.cli.options import (
    backend_option,
    bundle_argument,
    plan_option,
    plugin_option,
    provider_option,
    threads_option,
    warn_if_untrained,
)
from deploykit.errors import BundleError, ImageError, UsageError
from deploykit.runtime.classifier import label_of
from deploykit.runtime.opening import Answering, open_session
from deploykit.runtime.plans import planned_precisions
from deploykit.runtime.session import Session
from deploykit.spec import Precision

RECORD = "int8/calibration.json"


@click.command(name="evaluate")
@bundle_argument
@click.option("--data", type=click.Path(path_type=Path), required=True, metavar="DIR|CSV",
              help="A directory with a folder per class, or a CSV file with lines of: path,label.")  # fmt: skip
@click.option("--folders", type=click.Choice(FOLDER_RULES), help="How folders stand for classes. [default: what is certain]")
@click.option("--precision", "precisions", multiple=True, type=click.Choice([str(p) for p in Precision]),
              help="Repeatable. [default: all that the bundle has]")  # fmt: skip
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="How many pictures go through at once.")
@click.option("--worst", type=click.IntRange(0), default=5, show_default=True, help="How many of the worst classes to show.")
@click.option("--skip-calibrated", is_flag=True, help="Leave out pictures that INT8 was calibrated with, instead of refusing them.")
@backend_option
@plan_option
@plugin_option
@provider_option
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    bundle: Path,
    data: Path,
    folders: str | None,
    precisions: tuple[str, ...],
    batch: int,
    worst: int,
    skip_calibrated: bool,
    backend: str | None,
    plan: Path | None,
    plugins: tuple[Path, ...],
    provider: str,
    threads: int,
    as_json: bool,
) -> None:
    """Measure how often each precision is right on labelled pictures.

    Shows top-1 and top-5 of every precision side by side with 95 % intervals (Wilson), how often they answer as the first does,
    McNemar's test of whether two precisions are equally good, and what the worst classes are taken for. A picture that cannot be
    used is named on stderr, the others are measured, and the exit code is 1.
    """
    opened = Bundle.open(bundle)
    require_classifier(opened)
    # Refuses options that have no meaning together before any picture is read.
    answering = Answering(Precision.FP32, backend, provider, threads, plan, plugins)
    chosen = _choose(opened, precisions, answering)
    found = read_samples(data, opened.labels(), opened.manifest.model.num_classes, folders)
    warn_if_untrained(opened)
    console.note(f"{len(found.samples):,} pictures; {found.rule}")
    samples = _apart(opened, found, skip_calibrated) if Precision.INT8 in chosen else found.samples
    with contextlib.ExitStack() as stack:
        sessions: dict[str, Session] = {
            str(p): stack.enter_context(open_session(opened, "predict", replace(answering, precision=p))) for p in chosen
        }
        answers = next(iter(sessions.values())).backend
        with console.progress(f"evaluating {', '.join(sessions)} on {answers}", len(samples)) as advance:
            result = evaluate_sessions(samples, sessions, opened.manifest.image, opened.manifest.input, batch, advance)
    for error in result.unreadable:
        console.show_error(error)
    if result.images:
        labels = opened.labels()
        console.result(_as_json(result, labels, worst, found.rule) if as_json else _as_text(result, labels, worst))
    if result.unreadable:
        raise ImageError(f"{len(result.unreadable)} of {len(samples)} pictures could not be used")


def require_classifier(bundle: Bundle) -> None:
    """Refuse what has no single class per picture.

    Raises:
        UsageError: a segmentation model.
    """
    task = bundle.manifest.model.task
    if task != "classification":
        raise UsageError(
            f"{bundle.path} holds a {task} model, which answers with a class for every pixel; evaluate takes one class per picture",
            hint="deploykit predict --output DIR shows its masks",
        )


def require_uncalibrated(samples: Sequence[Sample], calibrated: frozenset[str], *, skip: bool = False) -> tuple[Sample, ...]:
    """The samples that INT8 was not calibrated with.

    Args:
        calibrated: sha256 of each calibration picture.
        skip: leave the others out instead of refusing.

    Raises:
        UsageError: some were, or all.
    """
    apart = tuple(s for s in samples if not (s.path.is_file() and sha256_of(s.path) in calibrated))
    if len(apart) == len(samples) or (skip and apart):
        return apart
    kept = set(apart)
    name = next(s.path for s in samples if s not in kept)
    raise UsageError(
        f"{len(samples) - len(apart)} of {len(samples)} pictures were calibrated with, {name} for one: they would flatter INT8",
        hint="evaluate on other pictures" + (", or leave these out with --skip-calibrated" if apart else ""),
    )


def _choose(bundle: Bundle, precisions: tuple[str, ...], answering: Answering) -> list[Precision]:
    if answering.takes_plan:
        # Which of the bundle's plans fit is said where they are opened.
        return [Precision(p) for p in precisions] or planned_precisions(bundle, "predict", answering.backend, answering.plan)
    here = bundle.precisions
    chosen = [p for p in Precision if str(p) in precisions] or list(here)
    missing = [str(p) for p in chosen if p not in here]
    if missing:
        raise BundleError(
            f"{bundle.path} has no {', '.join(missing)} predict graph; it has {', '.join(here) or 'none'}",
            hint="int8 is made by deploykit quantize, fp16 by deploykit convert",
        )
    return chosen


def _apart(bundle: Bundle, found: Samples, skip: bool) -> tuple[Sample, ...]:
    """Without the pictures of the bundle's calibration record; said where some are left out."""
    if RECORD not in bundle.manifest.files:
        return found.samples
    path = bundle.file(RECORD)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        calibrated = frozenset(str(picture["sha256"]) for picture in record["calibration"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} is damaged: {error!r}", hint="calibrate again: deploykit quantize --force") from error
    samples = require_uncalibrated(found.samples, calibrated, skip=skip)
    if len(samples) < len(found.samples):
        console.warn(f"{len(found.samples) - len(samples)} pictures left out: INT8 was calibrated with them")
    return samples


def _as_json(result: Evaluation, labels: Sequence[str] | None, worst: int, rule: str) -> str:
    sides: dict[str, Any] = {}
    for name, accuracy in result.accuracy.items():
        sides[name] = accuracy.to_json() | {
            "worst_classes": [_class_json(accuracy, c, labels) for c in accuracy.worst_classes(worst)]
        }
        if name in result.paired:
            sides[name]["agreement"] = result.agreement[name].to_json()
            sides[name]["paired"] = {"first": next(iter(result.accuracy)), "second": name, **result.paired[name].to_json()}
    unreadable = [str(error) for error in result.unreadable]
    return json.dumps(
        {"images": result.images, "classes_by": rule, "precisions": sides, "unreadable": unreadable}, ensure_ascii=False
    )


def _class_json(accuracy: Accuracy, class_index: int, labels: Sequence[str] | None) -> dict[str, Any]:
    called = [
        {"class_index": named, "label": label_of(labels, named), "count": count}
        for named, count in accuracy.confused_with(class_index)
    ]
    share = accuracy.class_share(class_index).to_json()
    return {"class_index": class_index, "label": label_of(labels, class_index), "right": share, "called": called}


def _as_text(result: Evaluation, labels: Sequence[str] | None, worst: int) -> str:
    first = next(iter(result.accuracy))
    rows = [["precision", "top-1", "95 % interval", "top-5", "95 % interval"]]
    if result.paired:
        rows[0] += [f"as {first}", "only " + first + " right", "only this right", "McNemar p"]
    for name, accuracy in result.accuracy.items():
        row = [name, *_share_cells(accuracy.top1), *_share_cells(accuracy.top5)]
        if name in result.paired:
            paired = result.paired[name]
            row += [
                f"{result.agreement[name].top1.share:.2%}",
                str(paired.only_first),
                str(paired.only_second),
                f"{paired.p_value:.2g}{' (exact)' if paired.is_exact else ''}",
            ]
        rows.append(row + [""] * (len(rows[0]) - len(row)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for name, accuracy in result.accuracy.items():
        if classes := accuracy.worst_classes(worst):
            lines += ["", f"worst classes of {name}"]
            lines += [_class_line(accuracy, c, labels) for c in classes]
    return "\n".join(lines)


def _class_line(accuracy: Accuracy, class_index: int, labels: Sequence[str] | None) -> str:
    share = accuracy.class_share(class_index)
    called = ", ".join(f"{label_of(labels, named)} ({count})" for named, count in accuracy.confused_with(class_index)[:3])
    return f"  {label_of(labels, class_index)}: {share.count} of {share.total} right; taken for {called}"


def _share_cells(share: Share) -> list[str]:
    low, high = share.interval
    return [f"{share.share:.2%}", f"{low:.1%} to {high:.1%}"]
