"""Errors of connections and bodies, worded alike for both HTTP clients (ours and aiohttp)."""

from __future__ import annotations

import os
import ssl
from urllib.parse import urlsplit

from hftransfer.errors import NetworkError, RejectedError, StalledError, redact

__all__ = (
    "authority_of",
    "broken_body",
    "cannot_connect",
    "connection_failed",
    "failure_reason",
    "invalid_header",
    "not_http",
    "proxy_refused",
    "stalled",
    "surplus_bytes",
    "too_slow",
    "truncated_body",
)


def authority_of(url: str) -> str:
    """Return host and port of `url` as they are written there, without user and password."""
    return urlsplit(url).netloc.rpartition("@")[2]


def truncated_body(url: str, position: int, stop: int) -> NetworkError:
    return NetworkError(f"{redact(url)}: the body ended at byte {position} of {stop}")


def broken_body(url: str, position: int, stop: int) -> NetworkError:
    return NetworkError(f"{redact(url)}: the connection broke at byte {position} of {stop}")


def surplus_bytes(url: str) -> NetworkError:
    return NetworkError(f"{redact(url)}: more bytes arrived than were announced")


def connection_failed(method: str, url: str, reason: str) -> NetworkError:
    return NetworkError(f"{method} {redact(url)}: the connection failed: {reason}")


def invalid_header(method: str, url: str) -> RejectedError:
    return RejectedError(
        f"{method} {redact(url)}: a header must not contain line breaks, null characters or halves "
        "of surrogate pairs"
    )


def not_http(method: str, url: str, reason: object) -> NetworkError:
    return NetworkError(f"{method} {redact(url)}: the response is not HTTP: {reason}")


def stalled(method: str, url: str, *, sending: bool) -> StalledError:
    """Return the error for a server that sent nothing, or accepted nothing of a request's body."""
    what = "accepted" if sending else "sent"
    return StalledError(f"{method} {redact(url)}: {authority_of(url)} {what} nothing for too long")


def too_slow(method: str, url: str) -> StalledError:
    """Return the error for a server that sends the response to a control request by drops."""
    return StalledError(
        f"{method} {redact(url)}: {authority_of(url)} began a response and did not end it in time"
    )


def cannot_connect(authority: str, reason: object) -> NetworkError:
    return NetworkError(f"cannot connect to {authority}: {reason}")


def proxy_refused(authority: str, status: int) -> NetworkError | RejectedError:
    """Return the error for a proxy that answered `status` instead of connecting to `authority`."""
    # A refusal for lack of credentials or permission (4xx) will be repeated.
    kind = NetworkError if status >= 500 else RejectedError
    return kind(f"the proxy for {authority} answered {status}")


def failure_reason(error: BaseException) -> str:
    """Return why a connection failed."""
    if isinstance(error, ssl.SSLError):
        return str(error.reason or "a TLS error")
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return str(error) if isinstance(error, OSError) else type(error).__name__
