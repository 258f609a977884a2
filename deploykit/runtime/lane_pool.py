"""Lanes for the threads that share a session: each run takes one, alone, and gives it back. In: how to make one. Out: lanes.

A lane is made when all others are busy, up to a bound; beyond it a thread waits for its turn, so memory is bounded too. A lane in
which something failed is freed instead of given back. Closing does not wait: what runs ends and gets its answer, and with the last
lane the rest is freed.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

from deploykit.errors import SessionError
from deploykit.runtime.device import Device
from deploykit.runtime.lane import Lane


class LanePool:
    """Owns lanes, and what they are made from. Threads may share it.

    Args:
        device: made active around everything that belongs to it.
        make: a new lane.
        most: how many there may be.
        free_rest: called once, after the last lane is gone.
    """

    def __init__(self, device: Device, make: Callable[[], Lane], most: int, free_rest: Callable[[], None]) -> None:
        self._device, self._make, self._most, self._free_rest = device, make, most, free_rest
        self._idle: list[Lane] = []
        self._count = 0
        self._is_closed = self._is_rest_free = False
        self._changed = threading.Condition()
        self._process = os.getpid()

    @contextlib.contextmanager
    def take(self) -> Iterator[Lane]:
        """A lane of one's own, with the device active; the warmest that is idle.

        Raises:
            SessionError: the pool is closed, or no lane can be made.
        """
        with self._device.activate():
            lane = self._get()
            try:
                yield lane
            except BaseException:
                # What went wrong is what counts; after it CUDA may refuse to free, too.
                with contextlib.suppress(SessionError):
                    self._give_back(lane, is_whole=False)
                raise
            self._give_back(lane, is_whole=True)

    def close(self) -> None:
        """Free the idle lanes now and each other one when it is given back. Twice is harmless.

        In a child process nothing is freed: the memory is the parent's.
        """
        if os.getpid() != self._process:
            return
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            idle, self._idle = self._idle, []
            self._changed.notify_all()
        with self._device.activate():
            self._free(idle)

    def _get(self) -> Lane:
        with self._changed:
            while True:
                if self._is_closed:
                    raise SessionError("the session is closed", hint="open it again")
                if self._idle:
                    return self._idle.pop()
                if self._count < self._most:
                    self._count += 1
                    break
                self._changed.wait()
        try:
            return self._make()
        except BaseException:
            self._forget()
            raise

    def _give_back(self, lane: Lane, *, is_whole: bool) -> None:
        with self._changed:
            if is_whole and not self._is_closed:
                self._idle.append(lane)
                self._changed.notify()
                return
        self._free([lane])

    def _free(self, lanes: list[Lane]) -> None:
        with contextlib.ExitStack() as freeing:
            freeing.callback(self._forget, 0)
            for lane in lanes:
                freeing.callback(self._forget)
                freeing.callback(lane.close)

    def _forget(self, lanes: int = 1) -> None:
        """Count lanes out; after a close the last one takes the rest with it."""
        with self._changed:
            self._count -= lanes
            is_last = self._is_closed and self._count == 0 and not self._is_rest_free
            self._is_rest_free |= is_last
            self._changed.notify()
        if is_last:
            self._free_rest()
