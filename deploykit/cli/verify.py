"""``deploykit verify``: is a bundle whole, and does every stage of the chain in it answer as the one before?

For a bundle neither torch nor onnx is needed: the golden vectors hold what torch answered. Checking a bare graph needs onnx, and so
does naming the node at which two graphs part.
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
from deploykit.cli.verify_hops import check_graph_hops
from deploykit.cli.verify_plans import check_plan_hops
from deploykit.errors import ParityError, UsageError


@click.command(name="verify")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--provider", default="cpu", show_default=True, help="ONNX Runtime's: cpu, cuda, tensorrt, openvino, ...")
@click.option("--onnxruntime", "release", metavar="RELEASE", help="For a graph: an ONNX Runtime that must read it, such as 1.18.")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def command(path: Path, provider: str, release: str | None, as_json: bool) -> None:
    """Check that a bundle, or an ONNX graph, is whole and answers as it should.

    For a bundle: every file has the digest that was written and is not stale, the labels fit, and hop by hop each stage answers as
    the one before it: torch's golden vectors, the fp32 graphs, those of further precisions, TensorRT's plans where they can run.
    FP16 and INT8 are held to what was measured when they were written, with onnx installed node by node.
    For a .onnx file: it is well-formed, not too new, and loads.
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
    if skipped := [check.name for check in checks if not check.was_run]:
        console.note(f"{len(skipped)} of {len(checks)} checks cannot be run on this machine; the others hold")


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
    checks += check_graph_hops(bundle, provider)
    checks += check_plan_hops(bundle)
    return checks


def _labels(bundle: Bundle) -> str:
    labels = bundle.labels()
    return f"{len(labels):,} names" if labels is not None else "none: classes are known by number"
