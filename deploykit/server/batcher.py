"""A session that several callers share: their requests are put into runs together, and each gets its own rows back.

Worker threads take from the queue themselves, so no event loop stands between one run and the next.

A run that fails is repeated for each of its requests alone. Arrays are checked before they wait, so what fails a run is either the
backend (then each request fails again, by itself) or what one request asks of it (memory, a value that an operator refuses): nobody
pays for a neighbour. It costs one more run per request, and only when something is wrong already.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace

import numpy as np

from deploykit.errors import InputError, RequestError, SessionError
from deploykit.runtime.session import Array, Session, TensorInfo, check_feeds, check_output_names
from deploykit.server.batch_queue import Answer, BatchQueue, Job
from deploykit.server.cores import Cores
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
        cores: of which each run takes one.
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
        self._threads = [threading.Thread(target=self._work, daemon=True, name=f"batch-{i}") for i in range(settings.instances)]
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
        arrays = check_feeds(feeds, self.inputs)
        rows = {len(array) for array in arrays.values()}
        if len(rows) != 1:
            raise InputError(f"inputs disagree about their rows: {', '.join(map(str, sorted(rows)))}")
        job = Job(arrays, rows.pop(), names, self._clock(), deadline)
        with self._changed:
            if self._is_closed:
                raise SessionError("the session is closed", hint="open it again")
            self._queue.add(job)
            self._changed.notify()
        job.future.add_done_callback(lambda future: self._forget(job) if future.cancelled() else None)
        return job.future

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

    def _forget(self, job: Job) -> None:
        with self._changed:
            self._queue.discard(job)

    def _work(self) -> None:
        while jobs := self._next():
            started = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if started:
                self._run(started)

    def _next(self) -> list[Job]:
        """Wait for the jobs of the next run; none when closed."""
        with self._changed:
            while True:
                for job in self._queue.expire(now := self._clock()):
                    if job.future.set_running_or_notify_cancel():
                        job.future.set_exception(late())
                jobs, wait = self._queue.take(now, at_once=self._is_closed)
                if jobs:
                    # Another thread may be able to start a run with what is left.
                    self._changed.notify()
                    return jobs
                if self._is_closed:
                    return []
                self._changed.wait(wait)

    def _run(self, jobs: list[Job]) -> None:
        rows, begun = sum(job.rows for job in jobs), self._clock()
        error: Exception | None = None
        try:
            with self._cores:
                outputs = self._session.run(_merge(jobs), jobs[0].outputs)
            _check_rows(outputs, rows)
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


def _merge(jobs: Sequence[Job]) -> Mapping[str, Array]:
    if len(jobs) == 1:
        return jobs[0].feeds
    return {name: np.concatenate([job.feeds[name] for job in jobs]) for name in jobs[0].feeds}


def _check_rows(outputs: Mapping[str, Array], rows: int) -> None:
    """Refuse answers that cannot be told apart by row.

    Raises:
        SessionError: an output's first dimension is not the batch's.
    """
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != rows:
            raise SessionError(f"output {name} has shape {list(array.shape)} for a batch of {rows}")
