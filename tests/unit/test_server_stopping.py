"""The end of a socket: connections that have begun are kept, and none begins."""

import socket
import sys

import pytest

from deploykit.errors import UsageError
from deploykit.server.run import open_socket
from deploykit.server.stopping import refuse_connections


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has filters of sockets")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_of_a_socket_that_refuses_connections_those_in_its_queue_are_whole_and_no_other_begins(host: str) -> None:
    try:
        listening = open_socket(host, 0)
    except UsageError:
        assert host == "::1"
        pytest.skip("this machine has no IPv6")
    with listening, socket.create_connection(listening.getsockname()[:2]) as before:
        refuse_connections(listening)
        with pytest.raises(TimeoutError):
            socket.create_connection(listening.getsockname()[:2], timeout=0.3)
        listening.setblocking(False)
        connection, _ = listening.accept()
        with connection:
            before.sendall(b"asked")
            assert connection.recv(10) == b"asked"
            connection.sendall(b"answered")
        assert before.recv(10) == b"answered"
        with pytest.raises(BlockingIOError):
            listening.accept()
