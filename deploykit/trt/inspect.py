"""In which precision an engine's layers really run: the Engine Inspector's own report, counted. It needs a driver.

The report is JSON, ``{"Layers": [{"Name": ..., "Inputs": [{"Format/Datatype": ...}], "Outputs": [...]}]}``, and how the type is
worded changes with the version ("Channel major FP16 format ...", "Half"), so words are looked for. A plan that was built without
layer details lists names alone, which says nothing of precision.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from deploykit.errors import EngineError
from deploykit.trt.flavour import Flavour
from deploykit.trt.load import load_plan

_WORDS = {
    "int8": r"\bint8\b",
    "fp16": r"\b(fp16|half|float16)\b",
    "bf16": r"\b(bf16|bfloat16)\b",
    "fp8": r"\bfp8\b",
    "fp32": r"\b(fp32|float|float32)\b",
    "int32": r"\bint32\b",
    "int64": r"\bint64\b",
    "uint8": r"\buint8\b",
    "bool": r"\bbool\b",
}


class EngineLayer(NamedTuple):
    """A layer of an engine: its name, and its precision or ``unknown``."""

    name: str
    precision: str


def inspect_plan(flavour: Flavour, plan: bytes, *, version_compatible: bool = False) -> tuple[EngineLayer, ...]:
    """Load a plan and list its layers; ``version_compatible`` says whether it was built so.

    Raises:
        EngineError: the plan does not load.
    """
    runtime, engine = load_plan(flavour, plan, version_compatible=version_compatible)
    inspector = engine.create_engine_inspector()
    report = inspector.get_engine_information(flavour.api.LayerInformationFormat.JSON)
    # What a runtime made must go before it.
    del inspector, engine, runtime
    return read_layers(report)


def read_layers(report: str) -> tuple[EngineLayer, ...]:
    """The layers of an inspector's report; a layer's precision is the type of its first input: it multiplies in what it reads.

    Raises:
        EngineError: not JSON, or without layers.
    """
    try:
        layers = json.loads(report)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError(f"the Engine Inspector's report cannot be read: {error!r}") from error
    return tuple(EngineLayer(_name(layer), _precision(layer)) for layer in layers)


def count_precisions(layers: Sequence[EngineLayer]) -> dict[str, int] | None:
    """Layers by precision; None where the inspector tells that of no layer."""
    counts = Counter(precision for _, precision in layers)
    if counts["unknown"] == len(layers):
        return None
    return dict(sorted(counts.items()))


def _name(entry: Any) -> str:
    return str(entry.get("Name", "")) if isinstance(entry, dict) else str(entry)


def _precision(entry: Any) -> str:
    tensors = (entry.get("Inputs") or entry.get("Outputs") or [{}]) if isinstance(entry, dict) else [{}]
    text = str(tensors[0].get("Format/Datatype", tensors[0].get("Datatype", ""))).lower()
    return next((name for name, words in _WORDS.items() if re.search(words, text)), "unknown")
