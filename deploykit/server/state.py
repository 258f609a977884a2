"""What every endpoint of one server shares, and what is noted about one request."""

import time
from dataclasses import dataclass, field

from starlette.requests import Request

from deploykit.server.logs import Log
from deploykit.server.metrics import Metrics
from deploykit.server.pool import Pool
from deploykit.server.repository import Repository
from deploykit.server.settings import Settings
from deploykit.server.uploads import HeldBytes


@dataclass(eq=False)
class State:
    """One server's parts.

    Args:
        convert: threads that read large requests and write large answers.
        explain: threads that explain and draw.
        held: bytes of bodies in memory.
        draining: set when the server is to stop: it is not ready any more and closes connections behind their answers.
        in_flight: requests that are worked on.
        shares_socket: with other processes, which may go on when this one ends.
    """

    settings: Settings
    repository: Repository
    metrics: Metrics
    log: Log
    convert: Pool
    explain: Pool
    held: HeldBytes
    draining: bool = False
    in_flight: int = 0
    shares_socket: bool = False


@dataclass(eq=False)
class Note:
    """What is logged and counted of one request.

    Args:
        request_id: in the answer's header and the log.
        endpoint: what was asked for, in few words such as ``predict``.
        model: a served model's name, or empty.
        error: one word for why it failed.
        message: the reason.
        stages_ms: by name, see `deploykit.server.metrics.STAGES`.
    """

    request_id: str
    started: float = field(default_factory=time.perf_counter)
    endpoint: str = "other"
    model: str = ""
    error: str | None = None
    message: str | None = None
    stages_ms: dict[str, float] = field(default_factory=dict)

    def elapsed_ms(self) -> float:
        """Since the request began."""
        return (time.perf_counter() - self.started) * 1e3


def state_of(request: Request) -> State:
    """The server's parts."""
    state = request.app.state.server
    assert isinstance(state, State)  # noqa: S101 a defect, not a user's mistake
    return state


def note_of(request: Request) -> Note:
    """What is noted about a request."""
    note = request.scope["deploykit.note"]
    assert isinstance(note, Note)  # noqa: S101 as above
    return note
