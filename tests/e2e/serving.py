"""A real ``deploykit serve`` for tests: started on a free port, watched, and always ended."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

START_S = 60
END_S = 30


@dataclass(eq=False)
class Server:
    """A server that answers.

    Args:
        process: of the server; with ``--workers`` of their parent.
        address: such as ``http://127.0.0.1:41234``.
        lines: what it has written to stderr so far.
    """

    process: "subprocess.Popen[str]"
    address: str
    lines: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(END_S)

    def memory_kib(self, field_name: str = "VmRSS") -> int:
        """Resident memory now, or at its highest (``VmHWM``), in KiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith(f"{field_name}:")).split()[1])


@contextlib.contextmanager
def serving(*arguments: str | Path, **environment: str) -> Iterator[Server]:
    """Start ``deploykit serve ARGUMENT... --port 0``, wait until it takes requests, and end it with the block."""
    command = [sys.executable, "-m", "deploykit", "serve", *map(str, arguments), "--port", "0"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    lines: list[str] = []
    assert process.stdout is not None
    assert process.stderr is not None
    reader = threading.Thread(target=lines.extend, args=(process.stderr,), daemon=True)
    watchdog = threading.Timer(START_S, process.kill)
    watchdog.start()
    reader.start()
    try:
        address = process.stdout.readline().strip()
        watchdog.cancel()
        assert address.startswith("http://"), "".join(lines)
        yield Server(process, address, lines)
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        reader.join(END_S)
        process.stdout.close()
        process.stderr.close()
