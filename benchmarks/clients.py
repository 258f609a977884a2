"""Clients of an HTTP server on this machine, many at a time: the bytes of one request in; latencies and failures out.

Each client is a thread with one connection that it keeps, and sends its next request when it has the answer to the last (a closed
loop). Requests are made once and answers are read no further than they must be, so that the clients take little of the machine.
"""

import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

HOST = "127.0.0.1"
TIMEOUT_S = 60.0

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)")


@dataclass(frozen=True)
class Load:
    """What the clients saw.

    Args:
        latencies_ms: of the requests that were answered with 200, in no order.
        per_second: answers with 200 a second while every client had a request under way. What is answered behind that is none
            of it, or a server that runs empty would count.
        failures: how often, by the status or the name of the error.
    """

    latencies_ms: tuple[float, ...]
    per_second: float
    failures: Mapping[str, int]


def multipart(field: str, name: str, data: bytes, content_type: str) -> tuple[bytes, str]:
    """A form with one file: its body, and its content type (RFC 7578)."""
    boundary = "7d1f0c5c3b2a4e69"
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\nContent-Type: {content_type}\r\n\r\n'
    )
    return head.encode() + data + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def post(path: str, body: bytes, content_type: str) -> bytes:
    """The bytes of a request."""
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def drive(
    port: int,
    request: bytes,
    *,
    clients: int,
    seconds: float,
    warm_s: float = 0.0,
    check: Callable[[bytes], bool] | None = None,
) -> Load:
    """Send a request again and again from so many clients at once, for so long.

    Args:
        warm_s: how long they do so before; of what is answered then only failures are counted.
        check: whether the body of an answer is right; one that is not counts as the failure ``wrong answer``.
    """
    answers: list[list[tuple[float, float]]] = [[] for _ in range(clients)]  # when it came, and how long it took
    failures: Counter[str] = Counter()
    barrier = threading.Barrier(clients + 1)
    stop = threading.Event()

    def work(mine: list[tuple[float, float]]) -> None:
        connection: socket.socket | None = None
        barrier.wait()
        while not stop.is_set():
            start = time.perf_counter()
            try:
                connection = connection or socket.create_connection((HOST, port), timeout=TIMEOUT_S)
                status, body, is_last = exchange(connection, request)
            except OSError as error:
                failures[type(error).__name__] += 1
                close(connection)
                connection = None
                time.sleep(0.01)  # a server that refuses connections must not be asked ten thousand times a second
                continue
            if status != "200":
                failures[status] += 1
            elif check is not None and not check(body):
                failures["wrong answer"] += 1
            else:
                mine.append((now := time.perf_counter(), (now - start) * 1e3))
            if is_last:
                close(connection)
                connection = None
        close(connection)

    threads = [threading.Thread(target=work, args=(mine,), daemon=True) for mine in answers]
    for thread in threads:
        thread.start()
    begin = time.perf_counter() + warm_s
    barrier.wait()
    stop.wait(warm_s + seconds)
    end = time.perf_counter()
    stop.set()
    for thread in threads:
        thread.join()
    seen = [answer for mine in answers for answer in mine if answer[0] >= begin]
    return Load(tuple(ms for _, ms in seen), sum(when <= end for when, _ in seen) / (end - begin), dict(failures))


def exchange(connection: socket.socket, request: bytes) -> tuple[str, bytes, bool]:
    """Send a request and read its answer: the status, the body, and whether the server says that the connection ends with it.

    Raises:
        OSError: the connection ended before the answer did, or what came is no answer with a Content-Length.
    """
    connection.sendall(request)
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += _more(connection)
    head = data[:end].lower()
    if (length := _LENGTH.search(head)) is None:
        raise OSError("the answer has no Content-Length")
    left = int(length[1]) - (len(data) - end - 4)
    parts = [data[end + 4 :]]
    while left > 0:
        parts.append(_more(connection))
        left -= len(parts[-1])
    return head[9:12].decode("latin-1"), b"".join(parts), b"\r\nconnection: close" in head


def close(connection: socket.socket | None) -> None:
    """Close a connection, if there is one."""
    if connection is not None:
        connection.close()


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 16)
    if not data:
        raise ConnectionResetError("the connection ended in the middle of an answer")
    return data
