"""How a URL is reached: its server, the proxy for it, and the head of a request to it."""

from __future__ import annotations

import re
from typing import NamedTuple

from hftransfer._http.errors import invalid_header
from hftransfer._http.exchange import Request
from hftransfer._http.proxy import Proxy, ProxyEnvironment, parse_proxy
from hftransfer.errors import Secret

__all__ = ("Origin", "Route", "RouteTable", "request_head")

# The URLs that can be sent as they are: a plain host, and a path in which nothing has to be quoted.
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?"
    r"(?P<path>/[!-\"$-~]*)"
)
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """A server, and the proxy for it: connections with equal ones are interchangeable."""

    scheme: str
    host: str
    port: int
    proxy: Proxy | None = None

    @property
    def authority(self) -> str:
        """Host and port, as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Route(NamedTuple):
    """How an origin is reached, and what is the same in all requests to it."""

    origin: Origin
    prefix: str
    """Precedes the path in the request line: nothing, or scheme and host for a forwarding proxy."""
    headers: str
    """Complete header lines."""


class RouteTable:
    """The routes to all hosts.

    Args:
        proxies: of the environment.
    """

    def __init__(self, proxies: ProxyEnvironment) -> None:
        self._proxies = proxies
        self._routes: dict[tuple[str, str, str | None], Route | None] = {}
        """By scheme, host and port; None for those that are reached by a proxy of https."""

    def find(self, url: str) -> tuple[Route, str] | None:
        """Return the route to the host of `url`, and the path of the URL.

        Returns None if the URL has to be quoted or contains a user, or if the proxy for it is
        reached by TLS.

        Raises:
            OptionsError: if the environment names no valid proxy.
        """
        matched = _URL.fullmatch(url)
        if matched is None:
            return None
        scheme, host, port, path = matched.groups()
        key = scheme, host, port
        if key not in self._routes:
            proxy_url = self._proxies.find(url)
            proxy = None if proxy_url is None else parse_proxy(proxy_url)
            is_unusual = bool(proxy_url) and proxy is None
            self._routes[key] = None if is_unusual else _make_route(scheme, host, port, proxy)
        route = self._routes[key]
        return None if route is None else (route, path)


def _make_route(scheme: str, host: str, port: str | None, proxy: Proxy | None) -> Route:
    default = _DEFAULT_PORTS[scheme]
    number = int(port) if port else default
    authority = host.lower() if number == default else f"{host.lower()}:{number}"
    origin = Origin(scheme, host.lower().strip("[]"), number, proxy)
    headers = f"Host: {authority}\r\nAccept: */*\r\n"
    if proxy is None or scheme == "https":
        return Route(origin, "", headers)
    if proxy.authorization is not None:
        headers += f"Proxy-Authorization: {proxy.authorization}\r\n"
    return Route(origin, f"{scheme}://{authority}", Secret(headers))


def request_head(request: Request, route: Route, path: str) -> bytes:
    """Return the head of a request, the empty line at its end included.

    Raises:
        RejectedError: if a header contains a line break, a null character or half of a surrogate
            pair.
    """
    lines = [f"{request.method} {route.prefix}{path} HTTP/1.1\r\n{route.headers}"]
    lines += [f"{name}: {value}\r\n" for name, value in request.headers.items()]
    if request.body is not None or request.method in ("POST", "PUT"):
        lines.append(f"Content-Length: {len(request.body or b'')}\r\n")
    head = "".join(lines)
    breaks = len(lines) + route.headers.count("\n")
    if head.count("\n") != breaks or head.count("\r") != breaks or "\0" in head:
        raise invalid_header(request.method, request.url)
    try:
        return f"{head}\r\n".encode("utf-8", errors="surrogateescape")
    except UnicodeEncodeError:
        # The exception contains the head, with its credentials.
        raise invalid_header(request.method, request.url) from None
