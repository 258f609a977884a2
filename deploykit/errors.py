"""The errors deploykit raises for what a caller can mend.

    DeploykitError
    ├── UsageError          the request itself is wrong: an unknown name, options that exclude each other (exit code 2)
    ├── MissingExtraError   a package that this verb needs is not installed
    ├── ImageError          a file that cannot be used as a picture
    ├── WeightsError        a checkpoint that does not fit, cannot be read safely, or cannot be had
    ├── ExportError         a model that does not become an ONNX graph
    ├── GraphError          an ONNX graph that is malformed, too new, or uses what deploykit cannot handle
    ├── ParityError         two stages of the chain that should agree, and do not
    ├── MeasurementError    a latency that cannot be believed, or two that cannot be compared
    ├── BundleError         a bundle that is missing, damaged, stale, or in the way
    ├── EngineError         a plan that cannot be built, is damaged, or was made for another GPU or another TensorRT
    ├── RequestError        a request that the server does not answer, with the HTTP status that says so
    └── SessionError        a backend that is not there or does not load the file
        └── InputError      an array of the wrong name, dtype, rank or shape (also a ValueError)

Every message says what was seen and what is allowed; ``hint`` says what to do. Anything else that escapes is a defect of deploykit.
"""

from collections.abc import Mapping


class DeploykitError(Exception):
    """Base of all errors that name a mistake the caller can mend.

    Args:
        message: what was seen and what is allowed, in one line where possible.
        hint: what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(DeploykitError):
    """The request itself is wrong."""

    exit_code = 2


class MissingExtraError(DeploykitError):
    """A package that is needed is not installed."""


class ImageError(DeploykitError):
    """A file that cannot be used as a picture."""


class WeightsError(DeploykitError):
    """A checkpoint that does not fit, cannot be read safely, or cannot be had."""


class ExportError(DeploykitError):
    """A model that does not become an ONNX graph."""


class GraphError(DeploykitError):
    """An ONNX graph that is malformed, too new, or uses what deploykit cannot handle."""


class ParityError(DeploykitError):
    """Two stages of the chain that should agree, and do not."""


class BundleError(DeploykitError):
    """A bundle that is missing, damaged, stale, or in the way."""


class EngineError(DeploykitError):
    """A plan that cannot be built, is damaged, or was made for another GPU or another TensorRT."""


class RequestError(DeploykitError):
    """A request that the server does not answer.

    Args:
        status: of the HTTP answer (RFC 9110), 400 to 599.
        message, hint: see `DeploykitError`.
        kind: one word for metrics, such as ``queue_full``.
        headers: further ones of the answer, such as ``retry-after``.
    """

    def __init__(
        self,
        status: int,
        message: str,
        hint: str | None = None,
        *,
        kind: str = "bad_request",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.status, self.kind, self.headers = status, kind, dict(headers or {})


class MeasurementError(DeploykitError):
    """A latency that cannot be believed, or two that cannot be compared."""


class SessionError(DeploykitError):
    """A backend that is not there or does not load the file."""


class InputError(SessionError, ValueError):
    """An array of the wrong name, dtype, rank or shape."""
