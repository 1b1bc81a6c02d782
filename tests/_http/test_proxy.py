"""`hftransfer._http.proxy`: requests through proxies, and the errors of proxies."""

from __future__ import annotations

from typing import Any

import pytest

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._http.proxy import Proxy, parse_proxy
from hftransfer.errors import NetworkError, RejectedError, TransferError
from support.http import (
    LOOPS,
    MIB,
    QUIET,
    Exchange,
    Site,
    http_proxy,
    open_client,
    random_bytes,
    ranged,
    raw_server,
)

pytestmark = [pytest.mark.anyio, *QUIET]

BODY = 3 * MIB


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


async def test_bodies_arrive_through_a_proxy(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forwarded or tunnelled; the connection to the proxy is reused."""
    content = random_bytes(BODY)
    async with http_proxy() as proxy, site.opened(ranged(content)) as (server, client):
        monkeypatch.setenv("HTTPS_PROXY" if site.tls else "HTTP_PROXY", proxy.url)
        for _ in range(3):
            memory = bytearray(BODY)
            await client.fill(f"{server.base}/f", ByteRangeBuffer(0, memoryview(memory)), size=BODY)
            assert memory == content
        await client.aclose()

    host = server.base.partition("//")[2]
    tunnel, forward = [f"CONNECT {host} HTTP/1.1"], [f"GET {server.base}/f HTTP/1.1"] * 3
    assert proxy.lines == (tunnel if site.tls else forward)
    assert (len(server.requests), server.connections) == (3, 1)


async def test_a_proxy_gets_its_credentials(
    site: Site, either_client: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """User and password are quoted in its URL; the server behind it does not get them."""
    content = random_bytes(1000)
    async with http_proxy() as proxy, site.opened(ranged(content)) as (server, client):
        url = proxy.url.replace("//", "//some%20one:p%40ss%3Aword@")
        monkeypatch.setenv("HTTPS_PROXY" if site.tls else "HTTP_PROXY", url)
        memory = bytearray(1000)
        await client.fill(f"{server.base}/f", ByteRangeBuffer(0, memoryview(memory)), size=1000)
        await client.aclose()

    assert memory == content
    assert proxy.users == ["some one:p@ss:word"]
    if site.tls:
        assert server.requests[0].header("Proxy-Authorization") is None


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://p", Proxy("p", 80, None)),
        ("http://u@p:3128/", Proxy("p", 3128, "Basic dTo=")),
        ("http://[::1]:8080", Proxy("::1", 8080, None)),
        ("https://p", None),
        ("socks5://p:1080", None),
        ("p:3128", None),
        ("http://p:port", None),
    ],
)
def test_which_proxies_are_supported(url: str, proxy: Proxy | None) -> None:
    """Requests by the others are left to aiohttp, which supports some and rejects the rest."""
    assert parse_proxy(url) == proxy


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"", "the proxy for h:443 closed the connection"),
        (b"x" * 99_000, "the proxy for h:443 closed the connection"),
        (b"SSH-2.0\r\n\r\n", "the response of the proxy for h:443 is not HTTP"),
    ],
)
async def test_a_tunnel_through_another_kind_of_server_is_an_error(
    sent: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the proxy, and no socket is left open."""

    async def reply(exchange: Exchange) -> None:
        exchange.writer.write(sent)
        exchange.writer.close()

    async with raw_server(reply) as server, open_client() as client:
        monkeypatch.setenv("HTTPS_PROXY", server.base)
        with pytest.raises(NetworkError, match=message):
            await client.request("GET", "https://h/")


@pytest.mark.parametrize(
    ("status", "kind"), [(407, RejectedError), (403, RejectedError), (502, NetworkError)]
)
async def test_a_proxy_that_refuses_a_tunnel_is_an_error(
    secure_site: Site,
    either_client: None,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    kind: type[TransferError],
) -> None:
    """Its kind says whether a retry can help; its message has no credentials."""
    async with (
        http_proxy(f"{status} No") as proxy,
        secure_site.opened(ranged(b"")) as (server, client),
    ):
        secret = proxy.url.replace("//", "//user:do-not-show@")
        monkeypatch.setenv("HTTPS_PROXY", secret)
        with pytest.raises(kind, match=f"the proxy .* answered {status}") as caught:
            await client.fill(
                f"{server.base}/f", ByteRangeBuffer(0, memoryview(bytearray(9))), size=9
            )

    assert "do-not-show" not in str(caught.value)
    assert server.requests == []
