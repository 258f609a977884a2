"""Counts the multiply-adds that ``deploykit models`` shows: every model of the registry is exported at its own size; none is run.

python -m benchmarks.count
"""

import json

from benchmarks.report import say
from deploykit.graph.multiply_adds import count_multiply_adds
from deploykit.models.catalogue import MODELS
from deploykit.models.counted import COUNTED_FILE
from deploykit.models.export import export_graph
from deploykit.models.registry import load_model


def main() -> None:
    counted = {}
    for name in MODELS:
        loaded = load_model(name)
        counted[name] = count_multiply_adds(export_graph(loaded.model, loaded.image))
        say(f"{name}: {counted[name]:,}")
    COUNTED_FILE.write_text(json.dumps(counted, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
