"""`hftransfer.testing.DripProxy`: it forwards every byte, and lets chosen ones trickle."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from hftransfer.testing import DripProxy

BODY = bytes(range(256)) * 40


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self._respond(self.rfile.read(int(self.headers["Content-Length"])))

    def do_GET(self) -> None:
        self._respond(BODY)

    def _respond(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[DripProxy]:
    """A proxy in front of a server that returns what is put."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with DripProxy(f"http://127.0.0.1:{server.server_address[1]}") as running:
                yield running
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def connection(proxy: DripProxy) -> Iterator[http.client.HTTPConnection]:
    client = http.client.HTTPConnection(urlsplit(proxy.endpoint).netloc, timeout=10)
    yield client
    client.close()


def test_requests_pass_unchanged(proxy: DripProxy, connection: http.client.HTTPConnection) -> None:
    """Several on one connection, with and without bodies; each is recorded."""
    for number in range(3):
        connection.request("PUT", f"/put?n={number}", body=BODY, headers={"X-Name": "value"})
        assert connection.getresponse().read() == BODY
        connection.request("GET", "/get")
        assert connection.getresponse().read() == BODY

    requests = proxy.requests
    assert [request.method for request in requests] == ["PUT", "GET"] * 3
    assert requests[2].target == "/put?n=1"
    assert requests[2].headers["x-name"] == "value"
    assert {request.connection for request in requests} == {1}
    assert [request.number for request in requests] == list(range(1, 7))


def test_drip_of_the_response(proxy: DripProxy, connection: http.client.HTTPConnection) -> None:
    """The second matching request, and no other one; the bytes are the right ones."""
    drip = proxy.add_drip(2000, when=lambda request: request.target == "/get", after=1)

    for _ in range(2):
        connection.request("GET", "/get")
        response = connection.getresponse()
        head = response.read(100)
        assert head == BODY[:100]
        if drip.count:
            return  # the rest would take five seconds
        assert response.read() == BODY[100:]
    pytest.fail("nothing trickled")


def test_drip_of_the_request(proxy: DripProxy, connection: http.client.HTTPConnection) -> None:
    """The server receives the body slowly, and completely."""
    drip = proxy.add_drip(100_000, direction="request", after_bytes=len(BODY) - 500)

    connection.request("PUT", "/put", body=BODY)

    assert connection.getresponse().read() == BODY
    assert drip.count == 1


def test_bad_arguments(proxy: DripProxy) -> None:
    """A rate of nothing, and a server that the proxy cannot speak to."""
    with pytest.raises(ValueError, match="positive"):
        proxy.add_drip(0)
    with pytest.raises(ValueError, match="http://HOST:PORT"):
        DripProxy("https://host")
