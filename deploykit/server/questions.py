"""What people ask in an address: ``?top=3&method=grad-cam``, read strictly. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.datastructures import QueryParams

from deploykit.errors import RequestError
from deploykit.runtime.classes import find_class
from deploykit.runtime.explain_graphs import check_request
from deploykit.server.served_model import ServedModel

PREDICT_FIELDS = ("top", "precision")
EXPLAIN_FIELDS = (*PREDICT_FIELDS, "method", "layer", "class_index", "classes", "overlay")

MAX_CLASSES = 50
"""Explanations of one request: each has a map of its own."""

MAX_TOP = 1_000_000
_DEFAULT_TOP = 5


@dataclass(frozen=True)
class Question:
    """What is asked of a picture.

    Args:
        top: how many classes to name.
        precision: one that is served; None for the default.
        method, layer: see `deploykit.runtime.Explainer.explain`.
        classes: indices to explain; empty for the picture's own likeliest.
        explain_top: explain the ``top`` likeliest.
        overlay: draw the map over the photo too.
    """

    top: int = _DEFAULT_TOP
    precision: str | None = None
    method: str = "grad-cam"
    layer: str | None = None
    classes: tuple[int, ...] = ()
    explain_top: bool = False
    overlay: bool = False


def read_predict(query: QueryParams) -> Question:
    """The question of ``:predict``.

    Raises:
        RequestError: a field that does not exist, is given twice, or has no value it may have.
    """
    fields = _fields(query, PREDICT_FIELDS)
    return Question(top=_top(fields.get("top")), precision=fields.get("precision"))


def read_explain(query: QueryParams, model: ServedModel) -> Question:
    """The question of ``:explain`` to a model.

    Raises:
        RequestError: as above.
        UsageError: a method or class that does not exist; or a layer for a method that has no use for one.
    """
    fields = _fields(query, EXPLAIN_FIELDS, repeatable="class_index")
    classes = _classes(query.getlist("class_index"), model)
    if (wanted := fields.get("classes")) not in (None, "top"):
        raise RequestError(400, f"classes is {wanted[:40] if wanted else wanted!r}, expected top or nothing")
    if classes and wanted:
        raise RequestError(400, "class_index and classes=top exclude each other")
    question = Question(
        top=_top(fields.get("top")),
        precision=fields.get("precision"),
        method=fields.get("method", "grad-cam"),
        layer=fields.get("layer"),
        classes=classes,
        explain_top=wanted is not None,
        overlay=_flag(fields, "overlay"),
    )
    count = question.top if question.explain_top else len(classes)
    if count > MAX_CLASSES:
        raise RequestError(400, f"{count} classes to explain, at most {MAX_CLASSES} are allowed in one request")
    check_request(question.method, question.layer)
    return question


def _fields(query: QueryParams, known: Sequence[str], repeatable: str | None = None) -> dict[str, str]:
    for name in query:
        if name not in known:
            raise RequestError(400, f"unknown query field {name[:40]!r}, expected any of {', '.join(known)}")
        if name != repeatable and len(query.getlist(name)) > 1:
            raise RequestError(400, f"query field {name} is given twice")
    return dict(query)


def _top(text: str | None) -> int:
    if text is None:
        return _DEFAULT_TOP
    if not (text.isascii() and text.isdecimal() and len(text) < 8 and 1 <= int(text) <= MAX_TOP):
        raise RequestError(400, f"top is {text[:40]!r}, expected a whole number from 1 to {MAX_TOP:,}")
    return int(text)


def _flag(fields: dict[str, str], name: str) -> bool:
    value = fields.get(name, "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise RequestError(400, f"{name} is {value[:40]!r}, expected true or false")
    return value in ("true", "1")


def _classes(values: Sequence[str], model: ServedModel) -> tuple[int, ...]:
    """Indices of the classes that are named: by label, by index, or by several indices with commas between."""
    found: list[int] = []
    for value in values:
        parts = value.split(",")
        is_label = model.labels is not None and value in model.labels
        if not is_label and all(part.strip().isascii() and part.strip().isdecimal() and len(part) < 12 for part in parts):
            found += [find_class(int(part), model.labels, model.manifest.model.num_classes) for part in parts]
        else:
            found.append(find_class(value[:1000], model.labels, model.manifest.model.num_classes))
    return tuple(dict.fromkeys(found))
