"""Errors of connections and bodies, worded alike for both HTTP clients (ours and aiohttp)."""

from __future__ import annotations

import os
import socket
import ssl
from urllib.parse import urlsplit

from hftransfer.errors import NetworkError, RejectedError, StalledError, TransferError, redact

__all__ = (
    "authority_of",
    "broken_body",
    "cannot_connect",
    "connection_failed",
    "failure_reason",
    "invalid_header",
    "is_unknown_host",
    "is_wrong_protocol",
    "not_http",
    "proxy_refused",
    "stalled",
    "surplus_bytes",
    "too_slow",
    "truncated_body",
)

# OpenSSL's names for a server that speaks no TLS at this port, or no version or cipher that this
# machine accepts. Other failures of a handshake are those of a connection.
_PROTOCOL_ERRORS = (
    "HTTP_REQUEST",
    "NO_PROTOCOLS_AVAILABLE",
    "SSLV3_ALERT_HANDSHAKE_FAILURE",
    "TLSV1_ALERT_PROTOCOL_VERSION",
    "UNSUPPORTED_PROTOCOL",
    "WRONG_VERSION_NUMBER",
)


def authority_of(url: str) -> str:
    """Return host and port of `url` as they are written there, without user and password."""
    return urlsplit(url).netloc.rpartition("@")[2]


def truncated_body(url: str, position: int, stop: int) -> NetworkError:
    return NetworkError(f"{redact(url)}: the body ended at byte {position} of {stop}")


def broken_body(url: str, position: int, stop: int) -> NetworkError:
    return NetworkError(f"{redact(url)}: the connection broke at byte {position} of {stop}")


def surplus_bytes(url: str) -> NetworkError:
    return NetworkError(f"{redact(url)}: more bytes arrived than were announced", is_outage=False)


def connection_failed(method: str, url: str, reason: str) -> NetworkError:
    return NetworkError(f"{method} {redact(url)}: the connection failed: {reason}")


def invalid_header(method: str, url: str) -> RejectedError:
    return RejectedError(
        f"{method} {redact(url)}: a header must not contain line breaks, null characters or halves "
        "of surrogate pairs"
    )


def not_http(method: str, url: str, reason: object) -> NetworkError:
    message = f"{method} {redact(url)}: the response is not HTTP: {reason}"
    return NetworkError(message, is_outage=False)


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


def is_unknown_host(error: TransferError) -> bool:
    """Return True if the name service says that the host of `cannot_connect` does not exist.

    Without a network it says that it cannot tell at present (``EAI_AGAIN``).
    """
    cause = getattr(error.__cause__, "os_error", error.__cause__)  # of aiohttp, or its own
    unknown = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
    return isinstance(cause, socket.gaierror) and cause.errno in unknown


def is_wrong_protocol(error: TransferError) -> bool:
    """Return True if the two sides of a TLS handshake do not understand each other."""
    cause = getattr(error.__cause__, "os_error", error.__cause__)
    return isinstance(cause, ssl.SSLError) and cause.reason in _PROTOCOL_ERRORS


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
