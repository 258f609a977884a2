"""What the Python models share. Runs in Triton's process; `pb_utils` is the module that Triton's Python backend brings.

Triton answers a request with tensors, or with an error that its client gets as text: a mistake of the caller's as 400.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.errors import DeploykitError, ImageError, InputError, SessionError, UsageError

Array = npt.NDArray[Any]


def check_numpy(pb_utils: Any) -> None:
    """Refuse to serve where arrays would arrive as garbage.

    Releases up to 24.11 were compiled for numpy 1 alone (python_backend, pull request 384). With numpy 2 every array that comes
    from the server has strides of 0, so a picture is one pixel, and nothing tells.

    Raises:
        SessionError: this server and this numpy do not go together.
    """
    sent = np.arange(6, dtype=np.uint8).reshape(2, 3)
    # By way of a capsule, out of which the server's code makes the array, as it does with a request's.
    seen = pb_utils.Tensor.from_dlpack("check", pb_utils.Tensor("check", sent).to_dlpack()).as_numpy()
    if not np.array_equal(seen, sent):
        # The hint is part of the message, because Triton shows nothing else of an exception.
        raise SessionError(
            f"this Triton was compiled for numpy 1, and numpy {np.__version__} is installed: arrays arrive as garbage; "
            "pip install 'numpy<2' for the server's Python, or take a release after 24.11"
        )


def requested(request: Any) -> tuple[dict[str, Array], list[str]]:
    """A request's arrays, and the names of the outputs that it asks for."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}, list(request.requested_output_names())


def response(pb_utils: Any, found: Mapping[str, Array], wanted: list[str]) -> Any:
    """An answer with the outputs that were asked for."""
    tensors = [pb_utils.Tensor(name, np.ascontiguousarray(found[name])) for name in wanted]
    return pb_utils.InferenceResponse(tensors)


def refusal(pb_utils: Any, error: DeploykitError) -> Any:
    """An answer that says what is wrong, and what to do."""
    is_callers = isinstance(error, ImageError | InputError | UsageError)
    code = pb_utils.TritonError.INVALID_ARG if is_callers else pb_utils.TritonError.INTERNAL
    text = f"{error} ({error.hint})" if error.hint else str(error)
    return pb_utils.InferenceResponse([], pb_utils.TritonError(text, code))
