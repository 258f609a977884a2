"""A multipart form's bytes in, the content of one named file out (RFC 7578). In memory: the body has been bounded before."""

from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from deploykit.errors import RequestError

_MOST_PARTS = 32


def read_file(body: bytes | bytearray, boundary: bytes, name: str) -> bytes:
    """The content of the one part of that name.

    Raises:
        RequestError: 400, no form, one that is cut off, or not exactly one part of that name.
    """
    parts = _Parts(name)
    try:
        parser = MultipartParser(boundary, parts.callbacks())
        parser.write(bytes(body))
        parser.finalize()
    except FormParserError as error:
        raise RequestError(400, f"the form cannot be read: {error}") from error
    if not parts.has_ended:
        raise RequestError(400, "the form ends before its last boundary")
    if len(parts.found) != 1:
        raise RequestError(
            400, f"the form has {len(parts.found)} files named {name!r}, expected one", f"curl -F {name}=@photo.jpg ..."
        )
    return bytes(parts.found[0])


class _Parts:
    """What the parser has told so far: the content of the wanted parts, and the header that is being read."""

    def __init__(self, wanted: str) -> None:
        self._wanted, self._name, self._count = wanted.encode(), b"", 0
        self._field, self._value = bytearray(), bytearray()
        self.found: list[bytearray] = []
        self.has_ended = False

    def callbacks(self) -> Any:
        """What the parser calls."""
        return {
            "on_part_begin": self._begin_part,
            "on_header_begin": self._begin_header,
            "on_header_field": lambda chunk, start, end: self._field.extend(chunk[start:end]),
            "on_header_value": lambda chunk, start, end: self._value.extend(chunk[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def _begin_part(self) -> None:
        self._count, self._name = self._count + 1, b""
        if self._count > _MOST_PARTS:
            raise RequestError(400, f"the form has more than {_MOST_PARTS} parts")

    def _begin_header(self) -> None:
        self._field, self._value = bytearray(), bytearray()

    def _end_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._name = parse_options_header(bytes(self._value))[1].get(b"name", b"")

    def _end_headers(self) -> None:
        if self._name == self._wanted:
            self.found.append(bytearray())

    def _data(self, chunk: bytes, start: int, end: int) -> None:
        if self._name == self._wanted:
            self.found[-1] += memoryview(chunk)[start:end]

    def _end(self) -> None:
        self.has_ended = True
