"""A session that several callers share: their requests are put into runs together, and each gets its own rows back.

Worker threads take from the queue themselves, so no event loop stands between one run and the next, nor between a picture's
decoding and its run. Where runs of one thread share the cores with decoding (`deploykit.server.cores`), the same threads do both:
they decode until a run is full or nothing is left to decode, then they run. There is one thread more than there are runs, because
one often waits for Python's lock while another thread answers. Elsewhere a run is on a GPU or on all cores, and decoders of their
own make the next batch meanwhile.

A run that fails is repeated for each of its requests alone. Arrays are checked before they wait, so what fails a run is either the
backend (then each request fails again, by itself) or what one request asks of it (memory, a value that an operator refuses): nobody
pays for a neighbour. It costs one more run per request, and only when something is wrong already.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace

from deploykit.errors import InputError, RequestError, SessionError
from deploykit.runtime.session import Array, Session, TensorInfo, check_feeds, check_output_names
from deploykit.server.batch_queue import Answer, BatchQueue, Job, Undecoded
from deploykit.server.cores import Cores
from deploykit.server.rows import check_rows, join, split
from deploykit.server.settings import BatchSettings
from deploykit.server.statistics import Run, Statistics


def late(deadline_passed: str = "in the queue") -> RequestError:
    """The refusal of a request whose time is up."""
    return RequestError(
        504, f"the request's time was up {deadline_passed}", "give it more time, or ask less at once", kind="timeout"
    )


class Batcher:
    """Owns a session and the threads that run it; `close` it.

    Args:
        session: whose first dimensions are rows; threads may share it.
        settings: see `BatchSettings`.
        observe: told of every run, in the thread that ran it.
        clock: seconds, never going back.
        cores: of which each run takes one, and each decoding.
    """

    def __init__(
        self,
        session: Session,
        settings: BatchSettings,
        observe: Callable[[Run], None] = lambda run: None,
        clock: Callable[[], float] = time.monotonic,
        cores: Cores | None = None,
    ) -> None:
        self._session, self._observe, self._clock, self._cores = session, observe, clock, cores or Cores()
        # A graph that takes one photo of any size a run says so by its first dimension.
        fixed = [info.shape[0] for info in session.inputs if isinstance(info.shape[0], int)]
        self.max_batch_size = min([settings.max_batch_size, *fixed])
        self._queue = BatchQueue(replace(settings, max_batch_size=self.max_batch_size))
        self.statistics = Statistics()
        self._changed = threading.Condition()
        self._is_closed = False
        self._instances, self._running = settings.instances, 0
        self._rows_at_once = settings.rows_at_once or self.max_batch_size
        self._decoding = 0  # requests that are neither in the queue nor jobs yet
        count = settings.instances + (self._cores.decoders is None)
        self._threads = [threading.Thread(target=self._work, daemon=True, name=f"batch-{i}") for i in range(count)]
        for thread in self._threads:
            thread.start()

    @property
    def backend(self) -> str:
        """What answers, with its version."""
        return self._session.backend

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The tensors that a request gives."""
        return self._session.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The tensors that it can ask for."""
        return self._session.outputs

    def submit(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None, deadline: float) -> "Future[Answer]":
        """Let a request wait for its run.

        Args:
            feeds: see `Session.run`; checked here, before it can meet others.
            outputs: names; None for all.
            deadline: on the batcher's clock; not started by then, it fails with 504.

        Returns:
            The answer to come. Cancelling it takes the request out of the queue, unless its run has begun.

        Raises:
            InputError: arrays or outputs that the graph does not take.
            RequestError: too many rows, or the queue is full.
        """
        names = tuple(check_output_names(outputs, self.outputs))
        job = self._make_job(feeds, names, deadline, Future())
        with self._changed:
            self._check_open()
            self._queue.add(job)
            self._changed.notify()
        self._drop_if_cancelled(job)
        return job.future

    def submit_undecoded(
        self, decode: Callable[[], Mapping[str, Array]], outputs: Sequence[str] | None, deadline: float
    ) -> "Future[Answer]":
        """Let a request wait for being decoded, and then for its run.

        Args:
            decode: makes the arrays, in a thread of the batcher's; see `submit` for what they must be.
            outputs, deadline: as in `submit`.

        Returns:
            The answer to come, or what ``decode`` has raised. Cancelling it takes the request out of the queue, unless its run
            has begun.

        Raises:
            InputError: outputs that the graph does not have.
            RequestError: the queue is full.
        """
        request = Undecoded(decode, tuple(check_output_names(outputs, self.outputs)), deadline)
        with self._changed:
            self._check_open()
            self._queue.add_undecoded(request)
            self._changed.notify()
        self._drop_if_cancelled(request)
        if self._cores.decoders is not None:
            self._cores.decoders.submit(self._decode_next)
        return request.future

    def depth(self) -> int:
        """How many requests wait."""
        return len(self._queue)

    def close(self) -> None:
        """Finish what waits, then stop the threads and close the session. Closing twice is harmless."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._session.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise SessionError("the session is closed", hint="open it again")

    def _drop_if_cancelled(self, request: Job | Undecoded) -> None:
        request.future.add_done_callback(lambda future: self._forget(request) if future.cancelled() else None)

    def _forget(self, request: Job | Undecoded) -> None:
        with self._changed:
            self._queue.discard(request)
            self._changed.notify()

    def _make_job(self, feeds: Mapping[str, Array], outputs: tuple[str, ...], deadline: float, future: "Future[Answer]") -> Job:
        arrays = check_feeds(feeds, self.inputs)
        rows = {len(array) for array in arrays.values()}
        if len(rows) != 1:
            raise InputError(f"inputs disagree about their rows: {', '.join(map(str, sorted(rows)))}")
        return Job(arrays, rows.pop(), outputs, self._clock(), deadline, future)

    def _work(self) -> None:
        while (work := self._next()) is not None:
            if isinstance(work, Undecoded):
                self._decode(work)
                continue
            if started := [job for job in work if job.future.set_running_or_notify_cancel()]:
                self._run(started)
            with self._changed:
                self._running -= 1

    def _next(self) -> list[Job] | Undecoded | None:
        """Wait for something to decode, or for the jobs of the next run; None when closed."""
        with self._changed:
            while True:
                self._expire()
                should_decode = self._cores.decoders is None and self._queue.should_decode()
                jobs, wait = ([], None) if should_decode else self._take_jobs()
                if work := self._take_undecoded() if should_decode else jobs:
                    if len(self._queue):  # another thread may be able to do what is left
                        self._changed.notify()
                    return work
                if self._is_closed and not self._decoding and not len(self._queue):
                    self._changed.notify_all()  # the others can end as well
                    return None
                self._changed.wait(wait)

    def _take_jobs(self) -> tuple[list[Job], float | None]:
        """The jobs of a run, where one may start; where not, for how many seconds to wait, or None."""
        if self._running == self._instances:
            return [], None
        jobs, wait = self._queue.take(self._clock(), at_once=self._is_closed)
        self._running += bool(jobs)
        return jobs, wait

    def _expire(self) -> None:
        for request in self._queue.expire(self._clock()):
            if request.future.set_running_or_notify_cancel():
                request.future.set_exception(late())

    def _take_undecoded(self) -> Undecoded | None:
        """Something to decode."""
        request = self._queue.take_undecoded()
        self._decoding += request is not None
        return request

    def _decode_next(self) -> None:
        """What a decoder does: one request, unless it has been cancelled or is late."""
        with self._changed:
            self._expire()
            request = self._take_undecoded()
            self._changed.notify()
        if request is not None:
            self._decode(request)

    def _decode(self, request: Undecoded) -> None:
        """Make a job of a request and let it wait for its run."""
        try:
            with self._cores:
                feeds = request.decode()
            job = self._make_job(feeds, request.outputs, request.deadline, request.future)
            with self._changed:
                self._queue.add_decoded(job)
            self._drop_if_cancelled(job)
        except Exception as error:  # whatever a decoder raises, its thread must go on for the others
            if request.future.set_running_or_notify_cancel():
                request.future.set_exception(error)
        with self._changed:
            self._decoding -= 1
            if self._cores.decoders is not None:  # else this thread looks for a run next, itself
                self._changed.notify()

    def _run(self, jobs: list[Job]) -> None:
        rows, begun = sum(job.rows for job in jobs), self._clock()
        error: Exception | None = None
        try:
            with self._cores:
                outputs = self._compute(join([job.feeds for job in jobs]), jobs[0].outputs)
        except Exception as caught:  # whatever a backend raises, its thread must go on for the others
            error = caught
        ended = self._clock()
        waited = tuple(begun - job.queued_at for job in jobs)
        run = Run(rows, len(jobs), waited, ended - begun, error is not None, len(self._queue))
        self.statistics.add(run)
        self._observe(run)
        if error is None:
            first = 0
            for job, queue_s in zip(jobs, waited, strict=True):
                own = {name: array[first : first + job.rows] for name, array in outputs.items()}
                first += job.rows
                job.future.set_result(Answer(own, queue_s, ended - begun, rows))
        elif len(jobs) == 1:
            jobs[0].future.set_exception(error)
        else:
            for job in jobs:
                self._run([job])

    def _compute(self, feeds: dict[str, Array], names: tuple[str, ...]) -> dict[str, Array]:
        found = []
        for part in split(feeds, self._rows_at_once):
            outputs = self._session.run(part, names)
            check_rows(outputs, len(next(iter(part.values()))))
            found.append(outputs)
        return join(found)
