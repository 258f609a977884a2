"""From an error to the answer that says so: ``{"error": ..., "hint": ...}`` with the status that fits."""

from deploykit.errors import BundleError, DeploykitError, ImageError, InputError, RequestError, UsageError


def status_of(error: DeploykitError) -> tuple[int, str]:
    """The HTTP status of an error that names a mistake, and one word for metrics.

    A picture that cannot be used is 422, a request that cannot be read or asks for what is not there is 400; what a backend fails
    is 500, since no caller can mend it.
    """
    if isinstance(error, RequestError):
        return error.status, error.kind
    if isinstance(error, ImageError):
        return 422, "bad_picture"
    if isinstance(error, InputError):
        return 400, "bad_tensor"
    if isinstance(error, UsageError | BundleError):
        return 400, "bad_request"
    return 500, "backend"


def body_of(error: DeploykitError) -> dict[str, str]:
    """What the answer says."""
    return {"error": str(error)} | ({"hint": error.hint} if error.hint else {})
