"""`hftransfer.testing.OutageProxy`: what a client sees before, during and after an outage."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import pytest

from hftransfer.testing import (
    HubServer,
    Outage,
    OutageProxy,
    RandomFile,
    Refuse,
    ResetConnection,
    Stall,
    Status,
)

PATH = "/acme/tiny/resolve/main/config.json"


@pytest.fixture
def proxy(hub: HubServer) -> Iterator[OutageProxy]:
    hub.create_repo("acme/tiny", direct=True, files={"config.json": b"{}"})
    with OutageProxy(hub.own_endpoint) as opened:
        yield opened


def get(proxy: OutageProxy, timeout: float = 10.0) -> tuple[int, dict[str, str], bytes]:
    """GET a file over a new connection; return status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=timeout)
    try:
        connection.request("GET", PATH)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def test_requests_pass_unchanged(proxy: OutageProxy, hub: HubServer) -> None:
    """Several on one connection, and bodies larger than a buffer."""
    repo = hub.create_repo("acme/big", direct=True, files={"big.bin": RandomFile(3 << 20, seed=1)})
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
    for _ in range(3):
        connection.request("GET", "/acme/big/resolve/main/big.bin")
        assert connection.getresponse().read() == repo.blob("big.bin").read_bytes()
    connection.close()

    assert proxy.requests == 3


def test_an_outage_starts_at_a_request_and_ends_on_command(proxy: OutageProxy) -> None:
    """The port is the same before and after it."""
    outage = proxy.add_outage(Outage(action=Refuse(), after=2))
    url = proxy.url
    assert get(proxy)[0] == get(proxy)[0] == 200
    assert not outage.wait(0)

    with pytest.raises(ConnectionError):  # the third request starts it
        get(proxy)
    assert outage.wait(10)
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            get(proxy)

    outage.end()
    assert get(proxy)[0] == 200
    assert proxy.url == url
    assert not outage.is_active


def test_an_outage_starts_on_command_and_resets_open_connections(proxy: OutageProxy) -> None:
    """As if the process of the server had ended."""
    outage = proxy.add_outage(Outage(action=Refuse(), after=None))
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
    connection.request("GET", PATH)
    connection.getresponse().read()

    outage.begin()

    assert outage.count == 1
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        connection.request("GET", PATH)
        connection.getresponse()
    connection.close()
    outage.end()
    assert get(proxy)[0] == 200


@pytest.mark.parametrize("code", [429, 503])
def test_a_status_is_sent_for_a_number_of_requests(proxy: OutageProxy, code: int) -> None:
    """With its headers and body; the outage ends by itself."""
    action = Status(code, {"Retry-After": "2"}, b"down")
    outage = proxy.add_outage(Outage(action=action, after=1, times=2))

    responses = [get(proxy) for _ in range(4)]

    assert [status for status, _, _ in responses] == [200, code, code, 200]
    assert responses[1][1]["Retry-After"] == "2"
    assert responses[1][2] == b"down"
    assert outage.count == 2
    assert not outage.is_active


def test_connections_are_reset_or_silent(proxy: OutageProxy) -> None:
    """Each request of the outage, until its end."""
    reset = proxy.add_outage(Outage(action=ResetConnection()))
    with pytest.raises(ConnectionError):
        get(proxy)
    reset.end()

    silent = proxy.add_outage(Outage(action=Stall(), times=1))
    with pytest.raises(TimeoutError):
        get(proxy, timeout=0.05)
    assert silent.count == 1
    assert get(proxy)[0] == 200


def test_wrong_arguments_are_rejected() -> None:
    """Numbers that cannot be counted, and URLs of servers that cannot be reached."""
    with pytest.raises(ValueError, match="cannot be counted"):
        Outage(action=Refuse(), times=2)
    with pytest.raises(ValueError, match="negative"):
        Outage(action=Refuse(), after=-1)
    with pytest.raises(ValueError, match="not http"):
        OutageProxy("https://host")
