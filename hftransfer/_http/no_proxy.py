"""The hosts that ``NO_PROXY`` excludes from the proxies. Pure, no I/O.

The entries are read as httpx2 reads them, by which huggingface_hub 2 sends. As in curl, entries
may also be separated by spaces, and the default port of a scheme is a port.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

__all__ = ("NoProxy",)

_DEFAULT_PORTS = {"http": 80, "https": 443}
_ENTRY = re.compile(
    r"(?:(?P<scheme>[a-z][a-z0-9+.-]*)://)?"
    r"(?:\[(?P<bracketed>[^\]]+)\]|(?P<host>[^\[\]/:]*))(?::(?P<port>[0-9]{1,5}))?/?"
)

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class _Rule(NamedTuple):
    """One entry."""

    network: _Network | None
    """For an address or a network; excludes `name`."""
    name: str
    with_subdomains: bool
    with_itself: bool
    scheme: str | None
    port: int | None


class NoProxy:
    """The entries of ``NO_PROXY``.

    ==================  ==========================================================
    entry               hosts that it excludes
    ==================  ==========================================================
    ``*``               all
    ``example.org``     example.org and its subdomains
    ``.example.org``    the subdomains of example.org, but not itself; ``*.example.org`` is the same
    ``localhost``       localhost alone
    ``10.1.2.3``        this address; IPv6 with or without brackets
    ``10.0.0.0/8``      the addresses of this network; IPv6, too. Names are not resolved.
    ``host:8080``       the host at this port alone
    ``https://host``    the host for https alone
    ==================  ==========================================================

    Args:
        text: entries, separated by commas or spaces. One that is none of these is ignored.
    """

    def __init__(self, text: str) -> None:
        entries = re.split(r"[\s,]+", text.strip().lower())
        self._excludes_all = "*" in entries
        rules = [_parse(entry) for entry in entries if entry]
        self._rules = [rule for rule in rules if rule is not None]

    def excludes(self, scheme: str, host: str, port: int | None) -> bool:
        """Return True if requests to a host use no proxy.

        Args:
            scheme: http or https.
            host: name or address, without brackets.
            port: None for the default port of the scheme.
        """
        if self._excludes_all:
            return True
        host = host.lower().rstrip(".")
        address = _address(host)
        number = port or _DEFAULT_PORTS.get(scheme)
        return any(
            rule.scheme in (None, scheme)
            and rule.port in (None, number)
            and _matches(rule, host, address)
            for rule in self._rules
        )


def _matches(
    rule: _Rule, host: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None
) -> bool:
    if rule.network is not None:
        return address is not None and address in rule.network
    if address is not None:
        return False
    if rule.with_itself and host == rule.name:
        return True
    return rule.with_subdomains and host.endswith(f".{rule.name}")


def _parse(entry: str) -> _Rule | None:
    network = _network(entry)
    if network is not None:
        return _Rule(network, "", False, True, None, None)
    matched = _ENTRY.fullmatch(entry)
    if matched is None:
        return None
    scheme = None if matched["scheme"] == "all" else matched["scheme"]
    port = int(matched["port"]) if matched["port"] else None
    name = matched["bracketed"] or matched["host"]
    network = _network(name)
    if network is not None:
        return _Rule(network, "", False, True, scheme, port)
    if matched["bracketed"]:
        return None
    bare = name.removeprefix("*").lstrip(".").rstrip(".")
    if not bare or "*" in bare:
        return None
    with_itself = not name.startswith((".", "*."))
    return _Rule(None, bare, bare != "localhost", with_itself, scheme, port)


def _network(text: str) -> _Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
