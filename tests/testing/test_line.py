"""`hftransfer.testing.Line` and `KillLoop`: a slow network, and processes that do not end well."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from hftransfer.testing import KillLoop, Line

TIMEOUT = 20


@pytest.fixture
def echo() -> Iterator[str]:
    """The URL of a server that sends back what it receives."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    while data := connection.recv(1 << 16):
                        connection.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(TIMEOUT)


def _connect(line: Line) -> socket.socket:
    host, _, port = line.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=TIMEOUT)


def _receive(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += connection.recv(count - len(data))
    return data


def test_bytes_are_relayed_and_counted(echo: str) -> None:
    """Unchanged, in both directions."""
    with Line(echo) as line, _connect(line) as connection:
        connection.sendall(b"a" * 1000)
        assert _receive(connection, 1000) == b"a" * 1000
        connection.sendall(b"b")
        assert _receive(connection, 1) == b"b"
        assert line.to_server == 1001
        assert line.to_client >= 1000


def test_all_connections_share_the_rate(echo: str) -> None:
    """The later connection gets nothing while the earlier one has used up the line."""
    with Line(echo, bytes_per_second=1000.0) as line:
        with _connect(line) as first, _connect(line) as second:
            first.sendall(b"x" * 100_000)  # the line needs more than a minute for these
            second.sendall(b"y")
            second.settimeout(0.3)
            with pytest.raises(TimeoutError):
                second.recv(1)
        assert line.to_client == 0


def test_a_kill_loop_kills_as_often_as_it_is_told() -> None:
    """The last process is left to end; its output is kept, and each kill is measured."""
    command = [sys.executable, "-c", "import sys, time; time.sleep(0.4); print('ended')"]
    loop = KillLoop(command, environ={}, seed=1, after=(0.0, 0.01))

    outcome = loop.run(3, measure=lambda: 7)

    assert (outcome.kills, outcome.runs, outcome.costs) == (3, 4, [7, 7, 7])
    assert [report.strip() for report in outcome.reports] == ["ended"]


def test_a_kill_loop_reports_a_failed_process() -> None:
    """With the output of the process, whose failure is the finding."""
    command = [sys.executable, "-c", "import sys; sys.exit('it broke')"]

    with pytest.raises(AssertionError, match="it broke"):
        KillLoop(command, environ={}, seed=1, after=(10.0, 10.0)).run(1)


def test_a_killed_client_ends_the_connection_to_the_server(echo: str) -> None:
    """The server sees the end, as it would over a network."""
    with Line(echo) as line:
        code = (
            "import socket, sys\n"
            "connection = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
            "connection.sendall(b'z'); connection.recv(1); print('sent', flush=True)\n"
            "sys.stdin.read()\n"
        )
        port = line.url.rpartition(":")[2]
        with subprocess.Popen(
            [sys.executable, "-c", code, port], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"sent\n"
            process.kill()
        with _connect(line) as next_client:  # the server serves one connection at a time
            next_client.sendall(b"n")
            assert next_client.recv(1) == b"n"
