"""What went wrong on a connection, in the same words whichever client it was that saw it."""

from __future__ import annotations

import os
import ssl
from urllib.parse import urlsplit

from hftransfer.errors import NetworkError, RejectedError, StalledError, redact

__all__ = (
    "broke_at",
    "cut_short",
    "failed",
    "host_of",
    "no_http",
    "reason_of",
    "refused_by_proxy",
    "silent",
    "too_long",
    "unreachable",
    "untrusted",
)


def host_of(url: str) -> str:
    """Return host and port of `url` as they stand there, without anybody's credentials."""
    return urlsplit(url).netloc.rpartition("@")[2]


def cut_short(url: str, position: int, stop: int) -> NetworkError:
    return NetworkError(f"{redact(url)}: the body ended at byte {position} of {stop}")


def broke_at(url: str, position: int, stop: int) -> NetworkError:
    return NetworkError(f"{redact(url)}: the connection broke at byte {position} of {stop}")


def too_long(url: str) -> NetworkError:
    return NetworkError(f"{redact(url)}: more bytes arrived than were announced")


def failed(method: str, url: str, reason: str) -> NetworkError:
    return NetworkError(f"{method} {redact(url)}: the connection failed: {reason}")


def no_http(method: str, url: str, reason: object) -> NetworkError:
    return NetworkError(f"{method} {redact(url)}: the answer is not HTTP: {reason}")


def silent(method: str, url: str, *, took: bool) -> StalledError:
    """Return what to say of a server that sent nothing, or took nothing of a request."""
    what = "took" if took else "sent"
    return StalledError(f"{method} {redact(url)}: {host_of(url)} {what} nothing for too long")


def unreachable(host: str, reason: object) -> NetworkError:
    return NetworkError(f"cannot connect to {host}: {reason}")


def refused_by_proxy(host: str, status: int) -> NetworkError | RejectedError:
    """Return what to say of a proxy that answered `status` in place of connecting to `host`."""
    # One that refuses for want of credentials or permission will do so again.
    kind = NetworkError if status >= 500 else RejectedError
    return kind(f"the proxy on the way to {host} answered {status}")


def untrusted(host: str, reason: object) -> RejectedError:
    return RejectedError(
        f"the certificate of {host} is not trusted ({reason}); "
        "name its CA bundle in REQUESTS_CA_BUNDLE or SSL_CERT_FILE"
    )


def reason_of(error: BaseException) -> str:
    """Return why a connection failed."""
    if isinstance(error, ssl.SSLError):
        return str(error.reason or "a TLS error")
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return str(error) if isinstance(error, OSError) else type(error).__name__
