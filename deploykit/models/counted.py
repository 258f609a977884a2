"""The multiply-adds of the registry's models, counted from their exported graphs at the size of their image spec.

The figures stand in a file that benchmarks/count.py writes, with `deploykit.graph.multiply_adds`: exporting every model to list
them would take minutes.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

COUNTED_FILE = Path(__file__).parent / "catalogue" / "multiply_adds.json"


@cache
def multiply_adds() -> Mapping[str, int]:
    """Multiply-adds of one image by the model's name; a model that was not counted yet is absent."""
    return {name: int(count) for name, count in json.loads(COUNTED_FILE.read_text(encoding="utf-8")).items()}
