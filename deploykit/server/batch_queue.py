"""Which waiting requests share a run: the rule of dynamic batching, without threads and without a clock of its own.

In: jobs, what is still to be decoded, and what time it is. Out: the jobs of the next run, or how long to wait. Words are Triton's:
https://github.com/triton-inference-server/server/blob/main/docs/user_guide/batcher.md
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeAlias

from deploykit.errors import RequestError
from deploykit.runtime.session import Array
from deploykit.server.settings import BatchSettings

Kind: TypeAlias = tuple[tuple[str, ...], tuple[tuple[str, tuple[int, ...]], ...]]
"""Outputs, and input names with the shape of a row."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What a job gets.

    Args:
        outputs: its own rows of the outputs it asked for.
        queue_s: from its arrival, or from when it was decoded, until its run began.
        infer_s: of that run.
        batch_rows: rows that the run had, its own and others'.
    """

    outputs: Mapping[str, Array]
    queue_s: float
    infer_s: float
    batch_rows: int


@dataclass(frozen=True, eq=False)
class Job:
    """One request's rows, which stay together.

    Args:
        feeds: checked arrays for every input, all with the same first dimension.
        rows: that dimension.
        outputs: what to compute.
        queued_at: when it arrived or was decoded, on the clock that `BatchQueue.take` is told.
        deadline: when it is of no use any more, on the same clock.
        future: where its answer goes. Cancelled, it takes the job out of the queue.
        kind: what jobs must have alike to share a run: the outputs, and the shape of a row of every input.
    """

    feeds: Mapping[str, Array]
    rows: int
    outputs: tuple[str, ...]
    queued_at: float
    deadline: float
    future: "Future[Answer]" = field(default_factory=Future)
    kind: Kind = field(init=False)

    def __post_init__(self) -> None:
        rows = tuple(sorted((name, array.shape[1:]) for name, array in self.feeds.items()))
        object.__setattr__(self, "kind", (self.outputs, rows))

    @property
    def size_bytes(self) -> int:
        """What its arrays hold."""
        return sum(array.nbytes for array in self.feeds.values())


@dataclass(frozen=True, eq=False)
class Undecoded:
    """A request whose arrays are still to be made.

    Args:
        decode: makes them: for every input, by name. It may take its time, and raise.
        outputs, deadline, future: of the job that it becomes, see `Job`.
    """

    decode: Callable[[], Mapping[str, Array]]
    outputs: tuple[str, ...]
    deadline: float
    future: "Future[Answer]" = field(default_factory=Future)


class BatchQueue:
    """Requests in the order of their arrival. Not locked: its owner is (`deploykit.server.batcher`)."""

    def __init__(self, settings: BatchSettings) -> None:
        self._settings = settings
        # Dictionaries are ordered, and any request leaves in constant time.
        self._jobs: dict[Job, None] = {}
        self._undecoded: dict[Undecoded, None] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._jobs) + len(self._undecoded)

    def add(self, job: Job) -> None:
        """Let a job wait.

        Raises:
            RequestError: it has more rows than a run may have, or as much waits as may.
        """
        self._check_count()
        self.add_decoded(job)

    def add_undecoded(self, request: Undecoded) -> None:
        """Let a request wait for being decoded.

        Raises:
            RequestError: as many wait as may.
        """
        self._check_count()
        self._undecoded[request] = None

    def should_decode(self) -> bool:
        """Whether decoding would bring a run that is not full nearer to it."""
        return bool(self._undecoded) and len(self._jobs) < self._settings.max_batch_size

    def take_undecoded(self) -> Undecoded | None:
        """The request that waits longest for being decoded, which is taken out."""
        if not self._undecoded:
            return None
        request = next(iter(self._undecoded))
        del self._undecoded[request]
        return request

    def add_decoded(self, job: Job) -> None:
        """Let the job wait that a request has become, which was counted when it came.

        Raises:
            RequestError: it has more rows than a run may have, or the jobs that wait hold as much as they may.
        """
        most = self._settings.max_batch_size
        if job.rows > most:
            raise RequestError(400, f"the request has {job.rows} rows, at most {most} are allowed (max_batch_size)")
        # One job is taken whatever its size: it has passed the limit of an upload or of a picture.
        if self._jobs and self._bytes + job.size_bytes > self._settings.max_queue_bytes:
            raise _full(f"the requests that wait hold {self._bytes:,} bytes")
        self._jobs[job] = None
        self._bytes += job.size_bytes

    def discard(self, request: Job | Undecoded) -> None:
        """Take a request out, if it still waits."""
        if isinstance(request, Undecoded):
            self._undecoded.pop(request, None)
        elif request in self._jobs:
            self._remove(request)

    def expire(self, now: float) -> list[Job | Undecoded]:
        """Take out the requests whose deadline has passed."""
        waiting: list[Job | Undecoded] = [*self._jobs, *self._undecoded]
        late = [request for request in waiting if request.deadline <= now]
        for request in late:
            self.discard(request)
        return late

    def take(self, now: float, *, at_once: bool = False) -> tuple[list[Job], float | None]:
        """The jobs of the next run, which are taken out.

        They are of one kind and follow each other: a large job is never passed by later ones of its kind. A run starts
        when it is full, or when its oldest job has waited ``max_queue_delay_us``.

        Args:
            at_once: wait for no more jobs, because none will come.

        Returns:
            The jobs; where there are none, for how many seconds to wait, or None for until something arrives.
        """
        delay = 0.0 if at_once else self._settings.max_queue_delay_us / 1e6
        soonest: float | None = None
        for kind in dict.fromkeys(job.kind for job in self._jobs):
            jobs, is_full = self._group(kind)
            wait = jobs[0].queued_at + delay - now
            if is_full or wait <= 0:
                for job in jobs:
                    self._remove(job)
                return jobs, None
            soonest = wait if soonest is None else min(soonest, wait)
        return [], soonest

    def _check_count(self) -> None:
        if len(self) >= self._settings.max_queue_size:
            raise _full(f"{len(self)} requests are waiting, no more are allowed (max_queue_size)")

    def _remove(self, job: Job) -> None:
        del self._jobs[job]
        self._bytes -= job.size_bytes

    def _group(self, kind: Kind) -> tuple[list[Job], bool]:
        """The first jobs of a kind that fit into a run, and whether no other fits."""
        jobs: list[Job] = []
        rows = 0
        for job in self._jobs:
            if job.kind != kind:
                continue
            if rows + job.rows > self._settings.max_batch_size:
                return jobs, True
            jobs.append(job)
            rows += job.rows
        return jobs, rows == self._settings.max_batch_size


def _full(message: str) -> RequestError:
    return RequestError(503, message, "ask again later", kind="queue_full", headers={"retry-after": "1"})
