"""Every fault of the test Hub, as a plain HTTP client sees it."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub
import pytest

from hftransfer.testing import (
    CorruptByte,
    CutBody,
    Drip,
    ExpireUrls,
    Fault,
    HubServer,
    IgnoreRange,
    RandomFile,
    Redirect,
    Repo,
    ResetConnection,
    Stall,
    Status,
    WrongRange,
)

SIZE = 300_000
NAME = "w/model.safetensors"


@pytest.fixture
def repo(hub: HubServer) -> Repo:
    """A repository with one LFS file and one regular file."""
    return hub.create_repo("acme/tiny", files={NAME: RandomFile(SIZE), "a.txt": b"0123456789"})


@contextmanager
def request(url: str, method: str = "GET", **headers: str) -> Iterator[http.client.HTTPResponse]:
    """Make one request on a new connection, without following redirects."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    try:
        connection.request(method, f"{parts.path}?{parts.query}", headers=headers)
        with connection.getresponse() as response:
            yield response
    finally:
        connection.close()


def signed_url(hub: HubServer) -> str:
    with request(f"{hub.endpoint}/acme/tiny/resolve/main/{NAME}") as response:
        return response.headers["Location"]


def test_status(repo: Repo, hub: HubServer) -> None:
    """The status is sent with its headers and body, once, and is counted."""
    handle = hub.add_fault(
        Fault(host="hub", action=Status(429, {"Retry-After": "3"}, b"slow down"))
    )
    url = f"{hub.endpoint}/api/models/acme/tiny"

    assert not handle.wait(0)
    with request(url) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "3")
        assert response.read() == b"slow down"
    with request(url) as response:
        assert response.status == 200
    assert handle.wait(10)
    assert handle.count == 1


def test_redirect(repo: Repo, hub: HubServer) -> None:
    """Location is sent byte for byte."""
    hub.add_fault(Fault(action=Redirect("http://elsewhere.invalid/%7Ea", status=307)))

    with request(f"{hub.endpoint}/api/models/acme/tiny") as response:
        assert (response.status, response.headers["Location"]) == (
            307,
            "http://elsewhere.invalid/%7Ea",
        )


def test_cut_body(repo: Repo, hub: HubServer) -> None:
    """Content-Length is that of the whole file; the connection is closed after a part."""
    handle = hub.add_fault(Fault(host="cdn", action=CutBody(1000)))
    with request(signed_url(hub)) as response:
        assert response.headers["Content-Length"] == str(SIZE)
        with pytest.raises(http.client.IncompleteRead) as cut:
            response.read()

    assert cut.value.partial == repo.blob(NAME).read_bytes()[:1000]
    assert handle.wait(10)
    assert hub.wait_idle()
    assert hub.requests[-1].bytes_sent == 1000


def test_cut_body_of_an_api_response(repo: Repo, hub: HubServer) -> None:
    """Responses that are not files can be cut, too."""
    hub.add_fault(Fault(host="hub", path="/api/*", action=CutBody(10)))
    with (
        request(f"{hub.endpoint}/api/models/acme/tiny") as response,
        pytest.raises(http.client.IncompleteRead),
    ):
        response.read()


def test_reset_before_the_response(repo: Repo, hub: HubServer) -> None:
    """With `after_bytes` 0 the client gets a reset and no response."""
    url = signed_url(hub)
    handle = hub.add_fault(Fault(host="cdn", action=ResetConnection()))

    with pytest.raises(ConnectionResetError), request(url):
        pass
    assert handle.wait(10)
    assert hub.wait_idle()
    assert (hub.requests[-1].status, hub.requests[-1].bytes_sent) == (0, 0)


def test_reset_in_the_body(repo: Repo, hub: HubServer) -> None:
    """The connection is reset after `after_bytes`, not closed."""
    url = signed_url(hub)
    hub.add_fault(Fault(host="cdn", action=ResetConnection(after_bytes=1000)))

    with request(url) as response, pytest.raises(ConnectionResetError):
        response.read()
    assert hub.wait_idle()
    assert hub.requests[-1].bytes_sent == 1000


@pytest.mark.parametrize("after", [0, 1000])
def test_stall_until_release(repo: Repo, hub: HubServer, after: int) -> None:
    """The first bytes are sent, and the rest after `release`."""
    handle = hub.add_fault(Fault(host="cdn", action=Stall(after)))
    with request(signed_url(hub)) as response:
        assert handle.wait(10)
        assert hub.requests[-1].bytes_sent == after
        assert not hub.wait_idle(0)
        hub.release()
        assert response.read() == repo.blob(NAME).read_bytes()


def test_a_response_without_a_body_stalls_before_its_status(repo: Repo, hub: HubServer) -> None:
    """A HEAD request gets no status line before `release`."""
    url = signed_url(hub)
    handle = hub.add_fault(Fault(host="cdn", method="HEAD", action=Stall()))
    statuses: list[int] = []

    def send() -> None:
        with request(url, "HEAD") as response:
            statuses.append(response.status)

    sending = threading.Thread(target=send)
    sending.start()
    assert handle.wait(10)
    assert hub.requests[-1].status == 0
    hub.release()
    sending.join(10)
    assert statuses == [200]


def test_a_stall_ends_when_the_client_disconnects(repo: Repo, hub: HubServer) -> None:
    """The server detects the closed connection, and its response ends."""
    handle = hub.add_fault(Fault(host="cdn", action=Stall(1000)))
    with request(signed_url(hub)):
        assert handle.wait(10)

    assert hub.wait_idle()
    assert hub.requests[-1].bytes_sent == 1000


def test_close_ends_a_stall() -> None:
    """Leaving the context closes the connection of a stalled response."""
    with HubServer() as hub:
        hub.create_repo("acme/tiny", files={NAME: RandomFile(SIZE)})
        handle = hub.add_fault(Fault(host="cdn", action=Stall(10)))
        parts = urlsplit(signed_url(hub))
        client = socket.create_connection(("localhost", parts.port or 0), timeout=10)
        client.sendall(f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert handle.wait(10)

    with client:
        received = client.makefile("rb").read()
    assert received.startswith(b"HTTP/1.1 200 ")
    assert len(received) < SIZE


def test_ignore_range(repo: Repo, hub: HubServer) -> None:
    """A ranged request gets 200 and the whole file; requests without a Range do not match."""
    url = signed_url(hub)
    handle = hub.add_fault(Fault(action=IgnoreRange()))

    with request(url) as response:
        assert response.status == 200
    assert handle.count == 0
    with request(url, Range="bytes=5-9") as response:
        assert (response.status, len(response.read())) == (200, SIZE)
        assert "Content-Range" not in response.headers
    with request(url, Range="bytes=5-9") as response:
        assert response.status == 206


@pytest.mark.parametrize(("shift", "start"), [(3, 8), (-3, 2), (-100, 0)])
def test_wrong_range(repo: Repo, hub: HubServer, shift: int, start: int) -> None:
    """Another range than the requested one is sent and declared in Content-Range."""
    hub.add_fault(Fault(action=WrongRange(shift)))

    with request(signed_url(hub), Range="bytes=5-9") as response:
        assert response.status == 206
        assert response.headers["Content-Range"] == f"bytes {start}-{start + 4}/{SIZE}"
        assert response.read() == repo.blob(NAME).read_bytes()[start : start + 5]


def test_corrupt_byte(repo: Repo, hub: HubServer) -> None:
    """One byte is inverted, in the first response that contains it and in no other."""
    url, content = signed_url(hub), repo.blob(NAME).read_bytes()
    handle = hub.add_fault(Fault(action=CorruptByte(1000)))

    with request(url, Range="bytes=0-999") as response:
        assert response.read() == content[:1000]
    assert handle.count == 0
    corrupted = bytes([content[1000] ^ 0xFF])
    with request(url, Range="bytes=990-1009") as response:
        assert response.read() == content[990:1000] + corrupted + content[1001:1010]
    with request(url) as response:
        assert response.read() == content
    assert handle.count == 1


@pytest.mark.parametrize("offset", [0, SIZE - 1])
def test_corrupt_byte_at_the_ends(repo: Repo, hub: HubServer, offset: int) -> None:
    """The first and the last byte of a file can be inverted."""
    content = bytearray(repo.blob(NAME).read_bytes())
    content[offset] ^= 0xFF
    hub.add_fault(Fault(action=CorruptByte(offset)))

    with request(signed_url(hub)) as response:
        assert response.read() == content


def test_expire_urls(repo: Repo, hub: HubServer) -> None:
    """After the fault, URLs signed earlier are rejected and new ones are served."""
    early = signed_url(hub)
    hub.add_fault(Fault(host="cdn", after=1, action=ExpireUrls()))
    statuses = []
    for url in (early, early, early):
        with request(url) as response:
            statuses.append(response.status)
    with request(signed_url(hub)) as response:
        statuses.append(response.status)

    assert statuses == [200, 403, 403, 200]


def test_after_and_times(repo: Repo, hub: HubServer) -> None:
    """A fault passes `after` matches, then hits `times`; `None` is unlimited."""
    url = f"{hub.endpoint}/api/models/acme/tiny"

    def statuses(count: int) -> list[int]:
        seen = []
        for _ in range(count):
            with request(url) as response:
                seen.append(response.status)
        return seen

    hub.add_fault(Fault(after=1, times=2, action=Status(503)))
    assert statuses(5) == [200, 503, 503, 200, 200]
    hub.add_fault(Fault(times=None, action=Status(500)))
    assert statuses(3) == [500, 500, 500]
    hub.clear_faults()
    assert statuses(1) == [200]


def test_the_first_matching_fault_hits(repo: Repo, hub: HubServer) -> None:
    """A request is hit by one fault, in the order in which they were added."""
    first = hub.add_fault(Fault(action=Status(500)))
    second = hub.add_fault(Fault(action=Status(502)))
    seen = []
    for _ in range(3):
        with request(f"{hub.endpoint}/api/models/acme/tiny") as response:
            seen.append(response.status)

    assert seen == [500, 502, 200]
    assert (first.count, second.count) == (1, 1)


@pytest.mark.parametrize(
    ("fault", "hit"),
    [
        (Fault(action=Status(500)), True),
        (Fault(action=Status(500), host="hub"), False),
        (Fault(action=Status(500), method="HEAD"), False),
        (Fault(action=Status(500), ranged=True), True),
        (Fault(action=Status(500), ranged=False), False),
        (Fault(action=Status(500), path="*/model.safetensors"), True),
        (Fault(action=Status(500), path="/xet-bridge-us/*"), True),
        (Fault(action=Status(500), path="*.txt"), False),
        (Fault(action=CutBody(10)), False),
        (Fault(action=ResetConnection(10)), False),
        (Fault(action=Stall(10)), False),
    ],
)
def test_which_requests_a_fault_matches(
    repo: Repo, hub: HubServer, fault: Fault, hit: bool
) -> None:
    """Host, method, Range, path or file, and the length of the body decide."""
    url = signed_url(hub)
    handle = hub.add_fault(fault)
    with request(url, Range="bytes=0-9") as response:
        response.read()

    assert handle.count == int(hit)


def test_huggingface_hub_survives_a_cut(repo: Repo, hub: HubServer) -> None:
    """A real client requests the rest from the CDN and has the right bytes."""
    hub.add_fault(Fault(host="cdn", method="GET", path=f"*/{NAME}", action=CutBody(1000)))
    path = huggingface_hub.hf_hub_download("acme/tiny", NAME, endpoint=hub.endpoint)

    assert Path(path).read_bytes() == repo.blob(NAME).read_bytes()
    sent = [record.bytes_sent for record in hub.requests if record.host == "cdn"]
    assert len(sent) == 2
    assert sent[0] == 1000


def test_drip(repo: Repo, hub: HubServer) -> None:
    """The bytes before it arrive at once, those behind it one by one, and none is wrong."""
    handle = hub.add_fault(Fault(host="cdn", action=Drip(100, after_bytes=1000)))
    content = repo.blob(NAME).read_bytes()

    with request(signed_url(hub)) as response:
        assert response.read(1003) == content[:1003]
        assert handle.count == 1
    with request(signed_url(hub)) as response:
        assert response.read() == content


def test_fault_of_a_byte_and_of_a_connection(repo: Repo, hub: HubServer) -> None:
    """`contains` hits the responses with that byte of the file, `when` what its function says."""
    byte = hub.add_fault(Fault(host="cdn", contains=5000, action=Status(500), times=None))
    second = hub.add_fault(Fault(when=lambda each: each.connection == 2, action=Status(418)))
    url = signed_url(hub)

    with request(url, Range="bytes=0-4999") as response:
        assert response.status == 418  # on the second connection
    with request(url, Range="bytes=0-4999") as response:
        assert response.status == 206
    with request(url, Range="bytes=5000-5000") as response:
        assert response.status == 500
    assert byte.count == second.count == 1


def test_rate_of_a_drip_is_positive() -> None:
    """`Stall` sends nothing."""
    with pytest.raises(ValueError, match="positive"):
        Drip(0)
