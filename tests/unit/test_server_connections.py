"""An answer's head leaves with its body."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from deploykit.server.connections import JoinedTransport


class Recording:
    """A transport that writes down what it is asked."""

    def __init__(self) -> None:
        self.done: list[bytes | str] = []

    def writelines(self, pieces: Iterable[bytes]) -> None:
        self.done.append(b"".join(pieces))

    def close(self) -> None:
        self.done.append("closed")

    def is_closing(self) -> bool:
        return "closed" in self.done

    def get_extra_info(self, name: str) -> str:
        return f"the {name}"


def run(body: Callable[[JoinedTransport, Recording], Awaitable[None]]) -> list[bytes | str]:
    """What a transport is asked by the end, when ``body`` has used it through a joined one."""

    async def use() -> list[bytes | str]:
        recording = Recording()
        await body(JoinedTransport(recording, asyncio.get_running_loop()), recording)
        await asyncio.sleep(0)
        return recording.done

    return asyncio.run(use())


def test_what_is_written_in_one_turn_of_the_loop_is_sent_at_once_and_the_next_turn_apart() -> None:
    async def body(joined: JoinedTransport, recording: Recording) -> None:
        joined.write(b"head ")
        joined.write(b"body")
        assert recording.done == []
        await asyncio.sleep(0)
        joined.write(b"more")

    assert run(body) == [b"head body", b"more"]


def test_closing_sends_what_has_been_written_first_and_once() -> None:
    async def body(joined: JoinedTransport, _: Recording) -> None:
        joined.write(b"the last words")
        joined.close()

    assert run(body) == [b"the last words", "closed"]


def test_nothing_is_sent_on_a_connection_that_has_ended_meanwhile() -> None:
    async def body(joined: JoinedTransport, recording: Recording) -> None:
        joined.write(b"for nobody")
        recording.close()

    assert run(body) == ["closed"]


def test_all_else_is_the_transport_s() -> None:
    async def body(joined: JoinedTransport, _: Recording) -> None:
        assert joined.get_extra_info("peername") == "the peername"
        assert not joined.is_closing()

    assert run(body) == []
