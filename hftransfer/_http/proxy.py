"""HTTP proxies: which one the environment names, and tunnels through them (CONNECT, RFC 9110)."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import NamedTuple
from urllib.parse import urlsplit

from hftransfer._http.basic_auth import split_userinfo
from hftransfer._http.errors import proxy_refused
from hftransfer._http.no_proxy import NoProxy
from hftransfer._http.parser import MalformedResponseError, parse_head
from hftransfer.errors import NetworkError, OptionsError, Secret, redact

__all__ = ("Proxy", "ProxyEnvironment", "open_tunnel", "parse_proxy")

_MAX_HEAD = 64 * 1024


class ProxyEnvironment:
    """The proxies that the environment names, as httpx reads them; read once per host.

    ``HTTPS_PROXY`` or ``HTTP_PROXY`` for a scheme, else ``ALL_PROXY``, except for the hosts of
    ``NO_PROXY`` (see `NoProxy`). The variables in lower case have precedence; ``HTTP_PROXY`` in
    upper case is ignored in a CGI script, where a client can set it (CVE-2016-5385). A proxy
    without a scheme is one of http. Without such variables macOS's settings count.

    The threads of several event loops share one; a result that two of them compute is the same.
    """

    def __init__(self) -> None:
        self._urls: dict[tuple[str, str, int | None], str | None] = {}
        """Proxies by scheme, host and port."""
        self._has_proxies: bool | None = None

    def find(self, url: str) -> str | None:
        """Return the URL of the proxy for `url`, with its scheme, or None.

        Raises:
            OptionsError: if the proxy is of a kind that is not supported, or no URL.
        """
        if self._has_proxies is None:
            # Most environments name no proxy, and importing urllib.request is slow.
            self._has_proxies = sys.platform == "darwin" or any(
                name[-6:].lower() == "_proxy" and text for name, text in os.environ.items()
            )
        if not self._has_proxies:
            return None
        try:
            parts = urlsplit(url)
            key = (parts.scheme, parts.hostname or "", parts.port)
        except ValueError:
            return None  # the URL is rejected where it is used
        if key not in self._urls:
            self._urls[key] = _find_proxy(*key)
        return self._urls[key]


def _find_proxy(scheme: str, host: str, port: int | None) -> str | None:
    from urllib.request import getproxies, getproxies_environment, proxy_bypass

    proxies = getproxies_environment()
    if not proxies:
        proxies = getproxies()  # of the system, on macOS
        if proxy_bypass(host):
            return None
    found = proxies.get(scheme) or proxies.get("all")
    if not found or NoProxy(proxies.get("no", "")).excludes(scheme, host, port):
        return None
    text = found.strip()
    text = text if "://" in text else f"http://{text}"
    _check_proxy(text)
    return text


def _check_proxy(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_valid = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise OptionsError(
            f"the environment names the proxy {redact(url)!r}, which is not of the form "
            "http://host:port; correct HTTPS_PROXY, HTTP_PROXY or ALL_PROXY"
        )
    if parts.scheme not in ("http", "https"):
        raise OptionsError(
            f"the environment names the proxy {redact(url)!r}; proxies of {parts.scheme} are not "
            "supported: set HTTPS_PROXY and HTTP_PROXY to a proxy of http, or the host in NO_PROXY"
        )


class Proxy(NamedTuple):
    """A proxy that is reached without TLS."""

    host: str
    port: int
    authorization: Secret | None
    """The value of Proxy-Authorization, if the proxy's URL names a user."""


def parse_proxy(url: str) -> Proxy | None:
    """Return the proxy at `url`, or None if it is reached by TLS.

    Args:
        url: of a proxy of http or https, as `ProxyEnvironment.find` returns it.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        return None
    _, authorization = split_userinfo(url)
    return Proxy(parts.hostname, parts.port or 80, authorization)


async def open_tunnel(connected: socket.socket, proxy: Proxy, authority: str) -> None:
    """Make `proxy` connect to `authority`; bytes sent on the socket afterwards go there.

    Args:
        connected: a non-blocking socket, connected to the proxy.
        proxy: the proxy.
        authority: host and port of the server.

    Raises:
        NetworkError: if the proxy cannot connect, closes the connection or sends no HTTP.
        RejectedError: if the proxy refuses.
        OSError: if the connection to the proxy breaks.
    """
    loop = asyncio.get_running_loop()
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if proxy.authorization is not None:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    await loop.sock_sendall(connected, "\r\n".join([*lines, "", ""]).encode())
    received = b""
    while (end := received.find(b"\r\n\r\n")) < 0:
        # In TLS the client speaks first, so no byte of the server can follow the proxy's response.
        data = await loop.sock_recv(connected, 4096)
        if not data or len(received) > _MAX_HEAD:
            raise NetworkError(f"the proxy for {authority} closed the connection")
        received += data
    try:
        status = parse_head(received[:end], "CONNECT").status
    except MalformedResponseError as error:
        message = f"the response of the proxy for {authority} is not HTTP: {error}"
        raise NetworkError(message) from None
    if not 200 <= status < 300:
        raise proxy_refused(authority, status)
