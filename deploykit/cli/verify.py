"""``deploykit verify``: is a bundle whole, and does every precision in it answer as the model did?

For a bundle neither torch nor onnx is needed: the golden vectors hold what torch answered. Checking a bare graph needs onnx.
"""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click

from deploykit.bundle import Bundle
from deploykit.cli import console
from deploykit.cli.checks import Check, as_text, attempt
from deploykit.cli.options import warn_if_untrained
from deploykit.errors import BundleError, ParityError, UsageError
from deploykit.image import normalize
from deploykit.parity import (
    BATCH_SIZES,
    batches_of,
    compare_at_batch_sizes,
    compare_logits,
    compare_maps,
)
from deploykit.runtime.classifier import TWIN_SUFFIX, run_predict
from deploykit.runtime.ort import OrtSession
from deploykit.spec import Precision


@click.command(name="verify")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--provider", default="cpu", show_default=True, help="ONNX Runtime's: cpu, cuda, tensorrt, openvino, ...")
@click.option("--onnxruntime", "release", metavar="RELEASE", help="For a graph: an ONNX Runtime that must read it, such as 1.18.")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def command(path: Path, provider: str, release: str | None, as_json: bool) -> None:
    """Check that a bundle, or an ONNX graph, is whole and answers as it should.

    For a bundle: every file has the digest that was written and is not stale, the labels fit, and every precision answers the
    golden vectors within its tolerance at several batch sizes. For a .onnx file: it is well-formed, not too new, and loads.
    """
    if path.suffix == ".onnx":
        # Imported here because it needs onnx, which a machine that only serves bundles does not have.
        from deploykit.cli.verify_graph import check_graph

        checks = check_graph(path, release, provider)
    elif release is not None:
        raise UsageError("--onnxruntime goes with a .onnx file", hint=f"{path}/fp32/predict.onnx, for example")
    else:
        bundle = Bundle.open(path)
        warn_if_untrained(bundle)
        checks = check_bundle(bundle, provider)
    if as_json:
        console.result(json.dumps([asdict(check) for check in checks], indent=2, ensure_ascii=False))
    else:
        console.result(as_text(checks))
    if failed := [check.name for check in checks if not check.passed]:
        raise ParityError(f"{path}: {len(failed)} of {len(checks)} checks failed: {', '.join(failed)}")


def check_bundle(bundle: Bundle, provider: str) -> list[Check]:
    """Everything that can be checked about a bundle on this machine."""
    damage = bundle.damage()
    files = bundle.manifest.files
    size = sum(record.size_bytes for record in files.values()) / 1e6
    again = "copy the bundle again from where it was made, or export it again with --force"
    checks = [Check(name, False, what, again) for name, what in damage.items()]
    if not damage:
        checks.append(Check("files", True, f"{len(files)} files, {size:.1f} MB, every digest as written"))
    checks.append(attempt("labels", partial(_labels, bundle)))
    for kind, check in (("predict", _golden), ("explain", _explain)):
        for precision in bundle.precisions:
            names = [f"{precision}/{kind}{suffix}" for suffix in ("", TWIN_SUFFIX)]
            checks += [attempt(n, partial(check, bundle, precision, f"{n}.onnx", provider)) for n in names if f"{n}.onnx" in files]
    return checks


def _labels(bundle: Bundle) -> str:
    labels = bundle.labels()
    return f"{len(labels):,} names" if labels is not None else "none: classes are known by number"


def _golden(bundle: Bundle, precision: Precision, graph: str, provider: str) -> str:
    golden, manifest = bundle.golden(), bundle.manifest
    steps = sum(len(batches_of(len(golden.image), size)) for size in BATCH_SIZES)
    with (
        OrtSession(bundle.file(graph), provider=provider) as session,
        console.progress(f"asking {graph} for the golden vectors", steps) as advance,
    ):
        record = compare_at_batch_sizes(
            lambda pixels: run_predict(session, manifest.image, manifest.input, pixels),
            golden.image,
            golden.logits,
            precision,
            reference_name="the golden vectors",
            candidate_name=session.backend,
            on_batch=advance,
        )
    found = f"{record.relative_difference:.1e} of the largest logit from the golden vectors, {record.tolerance:.0e} allowed"
    if not record.is_equal:
        raise ParityError(found)
    return f"{found}; batches of {', '.join(map(str, record.batch_sizes))} on {record.candidate}"


def _explain(bundle: Bundle, precision: Precision, graph: str, provider: str) -> str:
    """The golden maps, scaled to 1, of each picture's own top-1; and the logits once more, since it is this graph that explains."""
    golden, manifest = bundle.golden(), bundle.manifest
    if golden.cam is None or golden.explained_class is None:
        raise BundleError(f"{bundle.path} explains, and its golden vectors hold no map", hint="export the model again with --force")
    with OrtSession(bundle.file(graph), provider=provider) as session:
        image = normalize(golden.image, manifest.image) if manifest.input == "float" else golden.image
        answer = session.run({"image": image, "class_index": golden.explained_class}, ["logits", "cam"])
    names = {"reference_name": "the golden vectors", "candidate_name": session.backend}
    rows = len(golden.image)
    compared = compare_logits(golden.logits, answer["logits"], precision, pictures=rows, batch_sizes=(rows,), **names)
    maps = compare_maps(golden.cam, answer["cam"], precision)
    found = f"maps differ from the golden ones by {maps}; logits within {compared.relative_difference:.1e}"
    if not (compared.is_equal and maps.is_equal):
        raise ParityError(found)
    return found
