"""HTTP proxies: which one the environment names, and tunnels through them (CONNECT, RFC 9110)."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import sys
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from hftransfer._http.errors import proxy_refused
from hftransfer._http.parser import MalformedResponseError, parse_head
from hftransfer.errors import NetworkError

__all__ = ("Proxy", "ProxyEnvironment", "open_tunnel", "parse_proxy")

_MAX_HEAD = 64 * 1024


class ProxyEnvironment:
    """The proxies that the environment names (``HTTPS_PROXY``, ``NO_PROXY``), read once per host.

    The threads of several event loops share one; a result that two of them compute is the same.
    """

    def __init__(self) -> None:
        self._urls: dict[tuple[str, str], str | None] = {}
        """Proxies by scheme and host."""
        self._has_proxies: bool | None = None

    def find(self, url: str) -> str | None:
        """Return the URL of the proxy for `url`, or None."""
        if self._has_proxies is None:
            # Most environments name no proxy, and importing urllib.request is slow.
            self._has_proxies = sys.platform == "darwin" or any(
                name[-6:].lower() == "_proxy" and text for name, text in os.environ.items()
            )
        if not self._has_proxies:
            return None
        parts = urlsplit(url)
        key = (parts.scheme, parts.hostname or "")
        if key not in self._urls:
            from urllib.request import getproxies, proxy_bypass

            is_bypassed = proxy_bypass(key[1])
            self._urls[key] = None if is_bypassed else getproxies().get(key[0])
        return self._urls[key]


class Proxy(NamedTuple):
    """A proxy that is reached without TLS."""

    host: str
    port: int
    authorization: str | None
    """The value of Proxy-Authorization, if the proxy's URL names a user."""


def parse_proxy(url: str) -> Proxy | None:
    """Return the proxy at `url`, or None if it is of another kind (SOCKS, HTTPS) or malformed."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme != "http" or not host:
        return None
    authorization = None
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {base64.b64encode(user.encode()).decode()}"
    return Proxy(host, port or 80, authorization)


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
