"""User and password in a URL, and the header that carries them (RFC 7617)."""

from __future__ import annotations

import base64
from urllib.parse import unquote, urlsplit, urlunsplit

from hftransfer.errors import Secret

__all__ = ("basic_authorization", "split_userinfo")


def basic_authorization(user: str, password: str) -> Secret:
    """Return the value of Authorization, or Proxy-Authorization, for a user."""
    encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
    return Secret(f"Basic {encoded}")


def split_userinfo(url: str) -> tuple[str, Secret | None]:
    """Return `url` without user and password, and the value of Authorization for them.

    Args:
        url: user and password in it are percent-encoded; without them it is returned unchanged.

    Raises:
        ValueError: if `url` is malformed.
    """
    parts = urlsplit(url)
    userinfo, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, None
    user, _, password = userinfo.partition(":")
    bare = urlunsplit(parts._replace(netloc=host))
    return bare, basic_authorization(unquote(user), unquote(password))
