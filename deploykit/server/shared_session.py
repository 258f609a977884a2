"""A session whose runs join those of everybody else who asks the same graph: what explains pictures, in front of a `Batcher`.

In: what `Session.run` takes, in a thread that may wait. Out: the same answers; the runs are the batcher's, with its limits.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

from deploykit.runtime.session import Array, TensorInfo
from deploykit.server.batcher import Batcher
from deploykit.server.rows import join, split


class SharedSession:
    """Asks a batcher; see `deploykit.runtime.session.Session`. The batcher stays its owner's: closing this leaves it open.

    Args:
        timeout_s: how long a run may wait in the queue, where `until` says nothing else.
    """

    def __init__(self, batcher: Batcher, timeout_s: float) -> None:
        self._batcher, self._timeout_s = batcher, timeout_s
        self._of_thread = threading.local()

    @contextlib.contextmanager
    def until(self, deadline: float) -> Iterator[None]:
        """Let the runs of this thread leave the queue at a moment of the monotonic clock: when nobody waits for them any more."""
        self._of_thread.deadline = deadline
        try:
            yield
        finally:
            del self._of_thread.deadline

    @property
    def backend(self) -> str:
        """What answers, with its version."""
        return self._batcher.backend

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The tensors that `run` takes."""
        return self._batcher.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The tensors that `run` can give."""
        return self._batcher.outputs

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Wait for the answers, in as many runs as the rows need.

        Raises:
            RequestError: the queue is full, or the time is up.
            InputError, SessionError: as `Session.run`.
        """
        deadline = getattr(self._of_thread, "deadline", None) or time.monotonic() + self._timeout_s
        waiting = [self._batcher.submit(part, outputs, deadline) for part in split(feeds, self._batcher.max_batch_size)]
        return join([future.result().outputs for future in waiting])

    def close(self) -> None:
        """Nothing: the batcher is closed by its owner."""

    def __enter__(self) -> "SharedSession":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
