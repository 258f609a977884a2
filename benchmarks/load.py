"""The models that benchmarks run, as bundles."""

import sys
from pathlib import Path

from deploykit.cli.export_bundle import Choices, write_bundle
from deploykit.cli.export_model import prove_model
from deploykit.models.registry import load_model


def export_network(name: str, target: Path, choices: Choices) -> None:
    """Write the bundle of a model with the random weights of a fixed seed; what it says stays off stdout, where results go."""
    write_bundle(target, prove_model(load_model(name), choices), None, choices)
    print(f"{name}: {target.name} is written", file=sys.stderr)
