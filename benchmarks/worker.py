"""Sides in processes of their own: thread pools, memory and imports of one side must not meet another's.

A worker loads its side once and then answers over a pipe, burst by burst, so that rounds interleave across processes.
"""

import contextlib
import multiprocessing
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from deploykit.benchmark.timing import Call, Side, run_burst


class SideAbsent(Exception):  # noqa: N818 - no failure: a side that this machine cannot have, with the reason
    """This machine has not got what a side needs."""


class Worker:
    """A process of its own, which begins to load at once.

    Args:
        make: a function of a module's top level; in the new process it gives the calls by name, or raises `SideAbsent`.
        arguments: for ``make``.
    """

    def __init__(self, make: Callable[..., Mapping[str, Call]], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit thread pools whose threads do not run
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments))
        self._process.start()
        theirs.close()  # so that a worker's death reads as the end of the pipe

    def absence(self) -> str:
        """Wait until the side is loaded; empty, or why this machine cannot have it."""
        return str(self._receive())

    def side(self, name: str) -> Side:
        """The call of that name, to be measured."""
        return lambda calls: self._ask(name, calls)

    def answer(self, name: str) -> Any:
        """What the call of that name gives."""
        return self._ask(name, 0)

    def close(self) -> None:
        """End the process. Closing twice is harmless."""
        if not self._connection.closed:
            self._connection.close()
            self._process.join()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ask(self, name: str, calls: int) -> Any:
        self._connection.send((name, calls))
        return self._receive()

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            raise RuntimeError(f"a worker ended with exit code {code}; what it said stands above") from None


def _serve(connection: Connection, make: Callable[..., Mapping[str, Call]], arguments: tuple[Any, ...]) -> None:
    try:
        calls = make(*arguments)
    except SideAbsent as absent:
        connection.send(str(absent))
        return
    connection.send("")
    with contextlib.suppress(EOFError, BrokenPipeError):  # the other end was closed: the work is done
        while True:
            name, count = connection.recv()
            connection.send(run_burst(calls[name], count) if count else calls[name]())
