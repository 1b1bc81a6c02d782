"""HTTP proxies: what they are told, and tunnels through them (RFC 9110, CONNECT)."""

from __future__ import annotations

import asyncio
import base64
import socket
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from hftransfer._http.errors import refused_by_proxy
from hftransfer._http.parser import MalformedResponseError, parse_head
from hftransfer.errors import NetworkError

__all__ = ("Proxy", "open_tunnel", "parse_proxy")

_LONGEST_HEAD = 64 * 1024


class Proxy(NamedTuple):
    """A proxy that is spoken to without TLS."""

    host: str
    port: int
    authorization: str | None
    """The value of Proxy-Authorization, where the proxy wants to know its user."""


def parse_proxy(url: str) -> Proxy | None:
    """Return the proxy at `url`, or None if it is of another kind."""
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
    """Have `proxy` connect to `authority`; what is sent afterwards goes there.

    Args:
        connected: a non-blocking socket, connected to the proxy.
        proxy: the proxy.
        authority: host and port.

    Raises:
        NetworkError: if it cannot connect, hangs up, or answers what is no HTTP.
        RejectedError: if it refuses.
        OSError: if its connection breaks.
    """
    loop = asyncio.get_running_loop()
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if proxy.authorization is not None:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    await loop.sock_sendall(connected, "\r\n".join([*lines, "", ""]).encode())
    answer = b""
    while (end := answer.find(b"\r\n\r\n")) < 0:
        # Nothing follows the head before the other end has been spoken to.
        data = await loop.sock_recv(connected, 4096)
        if not data or len(answer) > _LONGEST_HEAD:
            raise NetworkError(f"the proxy on the way to {authority} hung up")
        answer += data
    try:
        status = parse_head(answer[:end], "CONNECT").status
    except MalformedResponseError as error:
        raise NetworkError(f"the proxy on the way to {authority} speaks no HTTP: {error}") from None
    if not 200 <= status < 300:
        raise refused_by_proxy(authority, status)
