"""`hftransfer._http.route`: which URLs can be sent as they are, and the head of a request."""

from __future__ import annotations

import pytest

from hftransfer._http.exchange import Request
from hftransfer._http.proxy import ProxyEnvironment
from hftransfer._http.route import RouteTable, request_head
from hftransfer._io.file_range import MemoryRange


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme}_PROXY".upper(), raising=False)


@pytest.mark.parametrize(
    ("url", "authority", "path"),
    [
        ("http://Host.example/a%2Fb?x=1&y", "host.example:80", "/a%2Fb?x=1&y"),
        ("https://h:8443/", "h:8443", "/"),
        ("http://[::1]:9000/f", "[::1]:9000", "/f"),
    ],
)
def test_a_plain_url_has_a_route(url: str, authority: str, path: str) -> None:
    """Its path is sent as it is."""
    found = RouteTable(ProxyEnvironment()).find(url)

    assert found is not None
    assert (found[0].origin.authority, found[1]) == (authority, path)


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "http://user:word@h/f",
        "http://h/with space",
        "http://h/f#fragment",
        "http://h/\N{LATIN SMALL LETTER U WITH DIAERESIS}",
        "ftp://h/f",
        "HTTP://h/f",
    ],
)
def test_an_unusual_url_has_none(url: str) -> None:
    """It has to be quoted, contains a user, or is not of HTTP: aiohttp sends or rejects it."""
    assert RouteTable(ProxyEnvironment()).find(url) is None


def test_a_proxy_of_https_has_no_route(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests by it are sent by aiohttp; those to other schemes are not affected."""
    monkeypatch.setenv("https_proxy", "https://p:1080")
    routes = RouteTable(ProxyEnvironment())

    assert routes.find("https://h/f") is None
    assert routes.find("http://h/f") is not None


@pytest.mark.parametrize(
    ("method", "body", "expected"),
    [
        ("GET", None, b""),
        ("POST", None, b"Content-Length: 0\r\n"),
        ("PUT", b"", b"Content-Length: 0\r\n"),
        ("PUT", b"abc", b"Content-Length: 3\r\n"),
    ],
)
def test_a_head_has_the_length_of_the_body(
    method: str, body: bytes | None, expected: bytes
) -> None:
    """Also without a body where the method lets servers expect one."""
    found = RouteTable(ProxyEnvironment()).find("http://h:81/f")
    assert found is not None
    content = None if body is None else MemoryRange(memoryview(body))
    request = Request(method, "http://h:81/f", {"A": "1"}, content, 0)

    assert request_head(request, *found) == (
        b"%s /f HTTP/1.1\r\nHost: h:81\r\nAccept: */*\r\nA: 1\r\n%s\r\n"
        % (method.encode(), expected)
    )
