"""`hftransfer._http.proxy`: requests through proxies, and the errors of proxies."""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any

import pytest

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._http.proxy import Proxy, ProxyEnvironment, parse_proxy
from hftransfer.errors import NetworkError, OptionsError, RejectedError, Secret, TransferError
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
        ("http://u@p:3128/", Proxy("p", 3128, Secret("Basic dTo="))),
        ("http://[::1]:8080", Proxy("::1", 8080, None)),
        ("https://p", None),
    ],
)
def test_which_proxies_are_reached_without_tls(url: str, proxy: Proxy | None) -> None:
    """Requests by the others are left to aiohttp."""
    assert parse_proxy(url) == proxy


def test_the_repr_of_a_proxy_hides_its_password() -> None:
    """A route or an origin in a log shows host and port."""
    shown = repr(parse_proxy("http://user:hidden@p:3128"))

    assert "3128" in shown
    assert "hidden" not in shown
    assert "dXNlcjpoaWRkZW4=" not in shown


P, Q = "http://p:3128", "http://q:3128"
# Environment, URL of a request, proxy for it, and whether httpx2 says the same (None: newer ones).
ENVIRONMENTS: list[tuple[dict[str, str], str, str | None, bool | None]] = [
    ({}, "https://h/", None, True),
    ({"HTTPS_PROXY": P}, "https://h/", P, True),
    ({"HTTPS_PROXY": P}, "http://h/", None, True),
    ({"HTTP_PROXY": P}, "http://h/", P, True),
    ({"HTTP_PROXY": P}, "https://h/", None, True),
    ({"ALL_PROXY": P}, "https://h/", P, True),
    ({"ALL_PROXY": P}, "http://h/", P, True),
    ({"all_proxy": P}, "http://h/", P, True),
    ({"ALL_PROXY": P, "HTTPS_PROXY": Q}, "https://h/", Q, True),
    ({"ALL_PROXY": P, "HTTPS_PROXY": Q}, "http://h/", P, True),
    ({"HTTPS_PROXY": P, "https_proxy": Q}, "https://h/", Q, True),
    ({"HTTPS_PROXY": P, "https_proxy": ""}, "https://h/", None, True),
    ({"HTTPS_PROXY": "p:3128"}, "https://h/", P, True),
    ({"HTTPS_PROXY": "u:w@p:3128"}, "https://h/", "http://u:w@p:3128", True),
    ({"HTTPS_PROXY": "https://p"}, "https://h/", "https://p", True),
    # A client of a CGI script can set the variable in upper case by a header.
    ({"HTTP_PROXY": P, "REQUEST_METHOD": "GET"}, "http://h/", None, True),
    ({"http_proxy": P, "REQUEST_METHOD": "GET"}, "http://h/", P, True),
    *(
        ({"ALL_PROXY": P, "NO_PROXY": entries}, url, None if excluded else P, agrees)
        for entries, url, excluded, agrees in [
            ("*", "https://h/", True, True),
            ("a.b, *", "https://h/", True, True),
            ("h", "https://h/", True, True),
            ("H.Org", "https://h.org/", True, True),
            ("h.org", "https://H.ORG/", True, True),
            ("h.org", "https://x.h.org/", True, True),
            ("h.org", "https://xh.org/", False, True),
            (".h.org", "https://x.h.org/", True, True),
            (".h.org", "https://h.org/", False, True),
            ("*.h.org", "https://x.h.org/", True, None),
            ("*.h.org", "https://y.x.h.org/", True, None),
            ("*.h.org", "https://h.org/", False, True),
            ("h.org:8443", "https://h.org:8443/", True, True),
            ("h.org:8443", "https://h.org/", False, True),
            ("h.org:443", "https://h.org/", True, False),
            ("https://h.org", "https://h.org/", True, True),
            ("https://h.org", "http://h.org/", False, True),
            ("localhost", "http://localhost:9000/", True, True),
            ("localhost", "http://x.localhost/", False, True),
            ("10.1.2.3", "http://10.1.2.3/", True, True),
            ("10.1.2.3:80", "http://10.1.2.3:81/", False, True),
            ("10.0.0.0/8", "http://10.1.2.3:9000/", True, True),
            ("10.0.0.0/8", "http://11.1.2.3/", False, True),
            ("2.3", "http://10.1.2.3/", False, False),
            ("::1", "http://[::1]:9000/", True, True),
            ("[::1]", "http://[::1]/", True, True),
            ("[::1]:9000", "http://[::1]:9000/", True, True),
            ("[::1]:9000", "http://[::1]/", False, True),
            ("fd00::/8", "http://[fd12::1]/", True, True),
            ("a.b h.org", "https://h.org/", True, False),
            (",, ,h.org,", "https://h.org/", True, True),
        ]
    ),
]


@pytest.mark.parametrize(("environ", "url", "proxy", "agrees"), ENVIRONMENTS)
def test_the_proxy_of_an_environment(
    environ: dict[str, str],
    url: str,
    proxy: str | None,
    agrees: bool | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As httpx2 finds it, by which huggingface_hub 2 sends, but for the rows that say otherwise."""
    _set_proxies(environ, monkeypatch)

    assert ProxyEnvironment().find(url) == proxy
    if agrees is not None and (httpx_finds := _found_by_httpx(url)) is not None:
        assert (httpx_finds == (proxy or "none")) is agrees


def _set_proxies(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)


def _found_by_httpx(url: str) -> str | None:
    """Return the proxy that httpx uses, "none", or None if it is not installed."""
    if importlib.util.find_spec("httpx2") is None:
        return None  # httpx 0.28, of huggingface_hub 1, reads no networks and no ``*.x``
    httpx, utils = importlib.import_module("httpx2"), importlib.import_module("httpx2._utils")
    try:
        mounts = utils.get_environment_proxies()
        patterns = sorted((utils.URLPattern(key), value) for key, value in mounts.items())
    except Exception:  # noqa: BLE001 - an entry that httpx takes for an invalid URL
        return "an error"
    target = httpx.URL(url)
    return next((value or "none" for each, value in patterns if each.matches(target)), "none")


@pytest.mark.parametrize(
    ("proxy", "message"),
    [
        ("socks5://u:hidden@p:1080", "proxies of socks5 are not supported"),
        ("socks5h://p", "proxies of socks5h are not supported"),
        ("ftp://p", "proxies of ftp are not supported"),
        ("http://u:hidden@p:port", "not of the form http://host:port"),
        ("http://", "not of the form"),
        ("http://p:99999", "not of the form"),
        ("http://[::1", "not of the form"),
    ],
)
async def test_a_proxy_that_cannot_be_used_is_an_error(
    proxy: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any connection, and without its password; a host of NO_PROXY does not need it."""
    _set_proxies({"ALL_PROXY": proxy, "NO_PROXY": "127.0.0.1"}, monkeypatch)
    async with open_client() as client:
        for url in ("http://h/", "https://h/", "http://u@h/"):
            with pytest.raises(OptionsError, match=message) as caught:
                await client.request("GET", url)
            assert "hidden" not in str(caught.value)

    async with raw_server(ranged(b"abc")) as server, open_client() as client:
        buffer = ByteRangeBuffer(0, memoryview(bytearray(3)))
        await client.fill(f"{server.base}/f", buffer, size=3)
        assert buffer.filled == 3


async def test_all_proxy_and_no_scheme_carry_both_kinds_of_requests(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``ALL_PROXY=host:port``."""
    async with http_proxy() as proxy, site.opened(ranged(b"abc")) as (server, client):
        _set_proxies({"ALL_PROXY": proxy.url.removeprefix("http://")}, monkeypatch)
        await client.fill(f"{server.base}/f", ByteRangeBuffer(0, memoryview(bytearray(3))), size=3)
        await client.aclose()

    assert len(proxy.lines) == 1


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
