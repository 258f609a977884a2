"""JSON schemas of what goes in and out, for the description of the interface (JSON Schema 2020-12, as OpenAPI 3.1 takes it)."""

from collections.abc import Mapping
from typing import Any

from deploykit.runtime.explain_graphs import ALL_METHODS
from deploykit.server.tensors import DATATYPES

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}


def record(fields: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None, **more: Any) -> Schema:
    """An object with these fields, all of them there but the optional ones, and no others."""
    return {
        "type": "object",
        "properties": {**fields, **(optional or {})},
        "required": list(fields),
        "additionalProperties": False,
        **more,
    }


def several(item: Schema, **more: Any) -> Schema:
    """A list."""
    return {"type": "array", "items": item, **more}


def named(name: str) -> Schema:
    """One of `SCHEMAS`, by reference."""
    return {"$ref": f"#/components/schemas/{name}"}


_ABOUT: dict[str, Schema] = {"model": TEXT, "precision": TEXT, "backend": TEXT, "request_id": TEXT}

_CLASS_FIELDS: dict[str, Schema] = {
    "class_index": COUNT,
    "label": {**TEXT, "description": "its name; 'class 7' where no names are known"},
    "probability": {"type": "number", "minimum": 0, "maximum": 1},
}

_CLASS_KINDS: dict[str, Schema] = {
    "logit": {**NUMBER, "description": "of a classifier: before softmax"},
    "share": {**NUMBER, "description": "of a segmentation model: part of the picture, 0 to 1"},
}

_PNG: Schema = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png"}
_GREY = record({"width": COUNT, "height": COUNT, "png_b64": _PNG}, description="8-bit grey at the network's size")

SCHEMAS: dict[str, Schema] = {
    "Error": record({"error": {**TEXT, "description": "what was seen and what is allowed"}}, {"hint": TEXT}),
    "Model": record(
        {
            "name": TEXT,
            "task": {"enum": ["classification", "segmentation"]},
            "trained": {**FLAG, "description": "false: random weights, whose answers mean nothing"},
            "default_precision": TEXT,
            "precisions": several(TEXT),
            "explain_precisions": several(TEXT),
            "classes": COUNT,
            "has_labels": FLAG,
            "layers": several(TEXT, description="that it can explain at, the first is the default"),
            "methods": several({"enum": list(ALL_METHODS)}),
            "image": record({"height": COUNT, "width": COUNT}),
            "bundle_digest": {**TEXT, "pattern": "^[0-9a-f]{64}$"},
        }
    ),
    "Models": record({"models": several(named("Model"))}),
    "Labels": record({"labels": several(TEXT)}),
    "Samples": record({"samples": several(record({"name": TEXT, "url": TEXT}))}),
    "Picture": record(
        {"image": record({"b64": {"type": "string", "contentEncoding": "base64", "description": "the file, base64"}})},
        examples=[
            {"image": {"b64": "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="}}
        ],
    ),
    "Prediction": record(_CLASS_FIELDS, _CLASS_KINDS),
    "Timing": {
        "type": "object",
        "description": "milliseconds",
        "properties": dict.fromkeys(("upload", "decode", "queue", "infer", "explain", "draw", "total"), NUMBER),
        "required": ["total"],
        "additionalProperties": False,
    },
    "Predictions": record({**_ABOUT, "predictions": several(named("Prediction")), "timing_ms": named("Timing")}),
    "Explanation": record(
        {
            **_CLASS_FIELDS,
            "method": {"enum": list(ALL_METHODS)},
            "layer": TEXT,
            "has_evidence": {**FLAG, "description": "false: nothing in the picture speaks for the class, and the map is black"},
            "is_even": {
                **FLAG,
                "description": "true: there is as much evidence at one place as at any other, and the map is black",
            },
            "map": _GREY,
        },
        {
            **_CLASS_KINDS,
            "mask": {**_GREY, "description": "a segmentation model's: 255 where a pixel has the class"},
            "overlay_png_b64": _PNG,
        },
    ),
    "Explanations": record(
        {
            **_ABOUT,
            "predictions": several(named("Prediction")),
            "photo": record({"width": COUNT, "height": COUNT}, description="upright, in pixels"),
            "box": record(
                dict.fromkeys(("left", "top", "width", "height"), NUMBER),
                description="the part of the photo that the network saw, in its pixels: the map lies on it",
            ),
            "explanations": several(named("Explanation")),
            "timing_ms": named("Timing"),
        }
    ),
    "ServerMetadata": record({"name": TEXT, "version": TEXT, "extensions": several(TEXT)}),
    "TensorMetadata": record({"name": TEXT, "datatype": {"enum": list(DATATYPES)}, "shape": several({"type": "integer"})}),
    "ModelMetadata": record(
        {
            "name": TEXT,
            "versions": several(TEXT),
            "platform": TEXT,
            "inputs": several(named("TensorMetadata")),
            "outputs": several(named("TensorMetadata")),
        }
    ),
    "ModelConfig": {
        "type": "object",
        "description": "Triton's ModelConfig",
        "required": ["name", "max_batch_size", "input", "output"],
    },
    "Index": several(record({"name": TEXT, "version": TEXT, "state": {"enum": ["READY"]}, "reason": TEXT})),
    "Statistics": {"type": "object", "description": "Triton's model_stats", "required": ["model_stats"]},
    "InferInput": {
        "type": "object",
        "properties": {
            "name": TEXT,
            "shape": several({"type": "integer", "minimum": 0}),
            "datatype": {"enum": list(DATATYPES)},
            "data": {"type": "array", "description": "numbers, nested or in a row; none where binary_data_size is given"},
            "parameters": {"type": "object", "properties": {"binary_data_size": COUNT}},
        },
        "required": ["name", "shape", "datatype"],
    },
    "InferOutput": {
        "type": "object",
        "properties": {
            "name": TEXT,
            "parameters": {"type": "object", "properties": {"binary_data": FLAG, "classification": COUNT}},
        },
        "required": ["name"],
    },
    "InferRequest": {
        "type": "object",
        "properties": {
            "id": TEXT,
            "inputs": several(named("InferInput"), minItems=1),
            "outputs": several(named("InferOutput")),
            "parameters": {
                "type": "object",
                "properties": {
                    "binary_data_output": FLAG,
                    "timeout": {**COUNT, "description": "microseconds"},
                    "precision": TEXT,
                },
            },
        },
        "required": ["inputs"],
    },
    "InferAnswer": record(
        {
            "model_name": TEXT,
            "model_version": TEXT,
            "outputs": several(
                record(
                    {"name": TEXT, "datatype": TEXT, "shape": several(COUNT)},
                    {"data": {"type": "array"}, "parameters": record({"binary_data_size": COUNT})},
                )
            ),
        },
        {"id": TEXT},
    ),
}
