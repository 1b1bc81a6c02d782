"""`hftransfer.testing.scale`: the server itself; `tests/scenarios/test_scale` uses it."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from hftransfer.testing.scale import ScaleServer


def test_open_connections_are_closed_when_the_server_stops() -> None:
    """A client that keeps its connection finds it closed, and no socket is left to the GC."""
    with ScaleServer(files=1) as server:
        port = urlsplit(server.endpoint).port
        client = socket.create_connection(("127.0.0.1", port or 0))
        client.sendall(b"HEAD /scale/data/0000/0000000.bin HTTP/1.1\r\nHost: scale\r\n\r\n")
        assert client.recv(8) == b"HTTP/1.1"
    with client:
        client.settimeout(5)
        try:
            while client.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass
