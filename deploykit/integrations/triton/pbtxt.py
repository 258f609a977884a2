"""Protocol buffers' text format, as far as config.pbtxt needs it; nothing here knows what Triton's fields mean.

In: fields by name: text, `Word` (an enum's name), bool, int, a message (again fields by name), or a list of one kind of these. Out:
text that ``google.protobuf.text_format`` and Triton read. None and empty lists are left out; an empty message is written.

https://protobuf.dev/reference/protobuf/textformat-spec/
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Fields: TypeAlias = Mapping[str, Any]

_ESCAPES = {ord("\\"): "\\\\", ord('"'): '\\"', ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}


class Word(str):
    """The name of an enum's value, which is written without quotes."""


def write_message(fields: Fields, indent: str = "") -> str:
    """The fields of one message, one per line, in the order given."""
    return "".join(_field(name, value, indent) for name, value in fields.items())


def _field(name: str, value: object, indent: str) -> str:
    if value is None or value == []:
        return ""
    if isinstance(value, Mapping):
        return f"{indent}{name} {{\n{write_message(value, indent + '  ')}{indent}}}\n"
    if isinstance(value, list) and isinstance(value[0], Mapping):
        return "".join(_field(name, message, indent) for message in value)
    if isinstance(value, list):
        return f"{indent}{name}: [{', '.join(map(_scalar, value))}]\n"
    return f"{indent}{name}: {_scalar(value)}\n"


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Word | int):
        return str(value)
    if isinstance(value, str):
        return quote(value)
    raise TypeError(f"no field of config.pbtxt holds a {type(value).__name__}: {value!r}")


def quote(text: str) -> str:
    """A string literal: ASCII, with everything else as octal escapes of its UTF-8 bytes."""
    return '"' + "".join(_ESCAPES.get(b) or (chr(b) if 32 <= b < 127 else f"\\{b:03o}") for b in text.encode()) + '"'


def map_entries(values: Mapping[str, str | Fields]) -> Sequence[Fields]:
    """A map field: messages with ``key`` and ``value``."""
    return [{"key": key, "value": value} for key, value in values.items()]
