"""What the status of an HTTP answer means: redirects, errors, and how long to wait."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

from hftransfer._core.plan import parse_content_range
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

__all__ = ("check_extent", "is_redirect", "retry_after", "status_error")

_REDIRECTS = (301, 302, 303, 307, 308)
_RATE_LIMIT = re.compile(r'"[^"]*"\s*;\s*r=(?P<remaining>\d+)\s*;\s*t=(?P<reset>\d+)')


def is_redirect(response: Response) -> bool:
    """Return True if `response` sends the client elsewhere."""
    return response.status in _REDIRECTS and "Location" in response.headers


def status_error(response: Response, what: str = "") -> TransferError:
    """Return the error that the status of `response` means.

    Args:
        response: the refusal.
        what: what was being done, for the message. Default: method and URL.
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
        return ServerError(message, response=response, retry_after=retry_after(response.headers))
    return RejectedError(message, response=response)


def _excerpt(response: Response) -> str:
    """Return the start of a textual body, for an error message."""
    kind = response.headers.get("Content-Type", "")
    if not response.body or "html" in kind:
        return ""
    text = " ".join(response.body[:300].decode("utf-8", errors="replace").split())
    return f": {text}" if text.isprintable() else ""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait: Retry-After, else an exhausted RateLimit.

    Retry-After is seconds or a date (RFC 9110, 10.2.3). A Hub sends RateLimit
    (draft-ietf-httpapi-ratelimit-headers) on every answer, so it counts only when
    nothing remains.
    """
    if value := headers.get("Retry-After", "").strip():
        if value.isascii() and value.isdigit():
            return float(value)
        date = parse_http_date(value)
        return None if date is None else max(0.0, date - time.time())
    matched = _RATE_LIMIT.search(headers.get("RateLimit", ""))
    if matched and matched["remaining"] == "0":
        return float(matched["reset"]) + 1
    return None


def parse_http_date(value: str) -> float | None:
    """Return a date of a header (RFC 9110, 5.6.7) in seconds since the epoch; None for others."""
    from datetime import timezone  # rarely needed, and slow to load
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(value)
        if date.tzinfo is None:
            date = date.replace(tzinfo=timezone.utc)
        return date.timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def check_extent(
    status: int, headers: Mapping[str, str], url: str, start: int, stop: int, size: int
) -> None:
    """Check that a 200 or 206 answer is exactly ``[start, stop)`` of a body of `size` bytes.

    Raises:
        NetworkError: if another range was answered than asked for.
        SourceChangedError: if the body has another size now.
        RangeNotSupportedError: if the answer to a Range is the whole body.
    """
    length = headers.get("Content-Length", "")
    extent = parse_content_range(headers.get("Content-Range", ""))
    # rclone's S3 server answers a range right in all but the status.
    misnamed = extent == (start, stop, size) and length == str(stop - start)
    if status == 206 or misnamed:
        if extent is None or extent[:2] != (start, stop):
            raise NetworkError(
                f"{redact(url)}: bytes {start}-{stop - 1} were asked for, "
                f"{headers.get('Content-Range', 'an unnamed range')!r} was answered"
            )
        if extent[2] not in (None, size):
            raise SourceChangedError(
                f"{redact(url)}: it has {extent[2]} bytes now, {size} were listed"
            )
        return
    if "Content-Encoding" not in headers and length not in ("", str(size)):
        raise SourceChangedError(f"{redact(url)}: it has {length} bytes now, {size} were listed")
    if (start, stop) != (0, size):
        raise RangeNotSupportedError(f"{redact(url)}: the server ignores ranges")
