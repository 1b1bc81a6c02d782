"""The meaning of statuses and headers: redirects, errors, delays, and the range of a body."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from urllib.parse import quote, urljoin, urlsplit

from hftransfer._core.plan import parse_content_range
from hftransfer._core.units import parse_count
from hftransfer.errors import (
    AccessError,
    NetworkError,
    NotFoundError,
    RangeNotSupportedError,
    RejectedError,
    Response,
    ServerError,
    SourceChangedError,
    ThrottledError,
    TransferError,
    redact,
)

__all__ = (
    "check_content_range",
    "is_outage_status",
    "is_redirect",
    "parse_http_date",
    "redirect_target",
    "retry_after",
    "status_error",
)

_REDIRECTS = (301, 302, 303, 307, 308)
_RATE_LIMIT = re.compile(
    r'"[^"]*"\s*;\s*r=(?P<remaining>[0-9]{1,18})\s*;\s*t=(?P<reset>[0-9]{1,18})(?![0-9])'
)
# ASCII that may stand in a URL, the percent sign included.
_URL_CHARACTERS = "!#$%&'()*+,-./:;=?@[]_~|^`{}\"\\"


def is_redirect(response: Response) -> bool:
    """Return True if `response` is a redirect to another URL."""
    return response.status in _REDIRECTS and "Location" in response.headers


def is_outage_status(status: int) -> bool:
    """Return True if a status says that the server is overloaded or fails at present.

    501 (not implemented), 505 (version not supported) and 507 (store full) will be repeated.
    """
    return status in (408, 429) or (status >= 500 and status not in (501, 505, 507))


def redirect_target(url: str, response: Response) -> str:
    """Return the URL to which `response` redirects the request for `url`.

    It is the Location byte for byte, because it may be signed; only bytes that no URL has (spaces,
    control characters, others than ASCII) are percent-encoded.

    Raises:
        RejectedError: if it is not a URL of http or https.
    """
    location = response.headers["Location"].strip()
    try:
        target = urljoin(url, quote(location, safe=_URL_CHARACTERS, errors="surrogateescape"))
        parts = urlsplit(target)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the host or the port
        is_url = False
    if not is_url:
        shown = redact(location)
        raise RejectedError(
            f"{response.method} {redact(url)}: redirected to {shown!r}, which is no http(s) URL"
        )
    return target


def status_error(response: Response, what: str = "") -> TransferError:
    """Return the error for the status of `response`.

    Args:
        response: with a status that is no success.
        what: the operation, for the message. Default: method and URL.
    """
    status = response.status
    subject = what or f"{response.method} {redact(response.url)}"
    message = f"{subject}: the server answered {status}{_excerpt(response)}"
    if status in (401, 403):
        return AccessError(message, response=response)
    if status in (404, 410):
        return NotFoundError(message, response=response)
    if status == 412:
        return SourceChangedError(
            f"{subject}: it was replaced while it was being read", response=response
        )
    if status == 429:
        return ThrottledError(message, response=response, retry_after=retry_after(response.headers))
    if status == 408 or status >= 500:
        return ServerError(
            message,
            response=response,
            retry_after=retry_after(response.headers),
            is_outage=is_outage_status(status),
        )
    return RejectedError(message, response=response)


def _excerpt(response: Response) -> str:
    """Return the start of a textual body, for an error message."""
    kind = response.headers.get("Content-Type", "")
    if not response.body or "html" in kind:
        return ""
    text = " ".join(response.body[:300].decode("utf-8", errors="replace").split())
    return f": {text}" if text.isprintable() else ""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks the client to wait, or None.

    Retry-After (seconds or a date, RFC 9110 section 10.2.3) comes first. The Hub sends RateLimit
    (draft-ietf-httpapi-ratelimit-headers) with every response, so it counts only when no request
    remains in its window.
    """
    if value := headers.get("Retry-After", "").strip():
        if (seconds := parse_count(value)) is not None:
            return float(seconds)
        date = parse_http_date(value)
        return None if date is None else max(0.0, date - time.time())
    matched = _RATE_LIMIT.search(headers.get("RateLimit", ""))
    if matched and matched["remaining"] == "0":
        return float(matched["reset"]) + 1
    return None


def parse_http_date(value: str) -> float | None:
    """Return a date (RFC 9110 section 5.6.7) in seconds since the epoch, or None if it is none."""
    from datetime import timezone  # rarely needed, and slow to load
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(value)
        if date.tzinfo is None:
            date = date.replace(tzinfo=timezone.utc)
        return date.timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def check_content_range(
    status: int, headers: Mapping[str, str], url: str, start: int, stop: int, size: int
) -> None:
    """Check that a 200 or 206 response is exactly ``[start, stop)`` of a body of `size` bytes.

    Raises:
        NetworkError: if the response has another range than the request.
        SourceChangedError: if the whole body has another size.
        RangeNotSupportedError: if the response to a Range is the whole body.
    """
    length = headers.get("Content-Length", "")
    content_range = parse_content_range(headers.get("Content-Range", ""))
    # rclone's S3 server sends the right range with status 200 instead of 206.
    is_partial = content_range == (start, stop, size) and length == str(stop - start)
    if status == 206 or is_partial:
        if content_range is None or content_range[:2] != (start, stop):
            received = headers.get("Content-Range")
            raise NetworkError(
                f"{redact(url)}: bytes {start}-{stop - 1} were requested, the response "
                f"has {'no Content-Range' if received is None else repr(received)}",
                is_outage=False,
            )
        if content_range[2] not in (None, size):
            raise SourceChangedError(
                f"{redact(url)}: it has {content_range[2]} bytes now, {size} were listed"
            )
        return
    if "Content-Encoding" not in headers and length not in ("", str(size)):
        raise SourceChangedError(f"{redact(url)}: it has {length} bytes now, {size} were listed")
    if (start, stop) != (0, size):
        raise RangeNotSupportedError(f"{redact(url)}: the server ignores ranges")
