"""Redirects of stores and gateways: where the next request goes, and what it may carry. No I/O.

Hugging Face's gateway, for example, answers a GET by 302 to a signed URL of a CDN. Credentials
belong to the store: a request to another origin is not signed, and carries neither the key of an
encrypted object nor a condition on the store's own ETag.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from hftransfer._http.status import is_redirect
from hftransfer.errors import RejectedError, Response, redact

__all__ = ("MAX_REDIRECTS", "Redirect", "foreign_headers", "redirect_of")

MAX_REDIRECTS = 5
"""Redirects that are followed for one request."""

# Of these, any method repeats the request; the others turn it into a GET (RFC 9110 section 15.4).
_METHOD_KEPT = (307, 308)
_ALL = (301, 302, 303, *_METHOD_KEPT)
# Headers that another origin may get: what the bytes are, and which of them are wanted.
_FOREIGN = ("content-", "range", "x-amz-meta-", "x-amz-checksum-")
_AWS_S3 = re.compile(
    r"(?:[^.]+\.)*s3(?:-accesspoint)?(?:-fips)?(?:\.dualstack)?(?:[.-][a-z]{2}(?:-[a-z]+)+-\d)?"
    r"\.amazonaws\.com(?:\.cn)?"
)
_NOT_FOREIGN = "x-amz-checksum-mode"  # asks for a checksum; a signed URL may not allow it


class Redirect(NamedTuple):
    """The next request."""

    url: str
    is_same_origin: bool
    """True if the signature of the store's credentials may be sent there."""


def redirect_of(response: Response, context: str) -> Redirect | None:
    """Return where a response sends the request, or None if that is not to be followed.

    Args:
        response: to the request.
        context: the object or bucket; start of the message.

    Raises:
        RejectedError: if the redirect leads from https to http, or to no URL of HTTP.
    """
    if not is_redirect(response) or response.headers.get("X-Amz-Bucket-Region"):
        return None
    if response.status not in (_ALL if response.method == "GET" else _METHOD_KEPT):
        return None
    try:
        url = urljoin(response.url, response.headers["Location"])
        here, there = urlsplit(response.url), urlsplit(url)
        is_usable = there.scheme in (here.scheme, "https") and bool(there.hostname)
        origins = [(parts.scheme, parts.hostname, parts.port) for parts in (here, there)]
    except ValueError:
        is_usable = False
    if not is_usable or not url.isascii() or not url.isprintable():
        raise RejectedError(
            f"{context}: {redact(response.url)} redirects to an unusable URL", response=response
        )
    is_aws = all(_is_aws(parts.hostname) for parts in (here, there))
    return Redirect(url, origins[0] == origins[1] or is_aws)


def _is_aws(host: str | None) -> bool:
    """Return True if `host` is S3 of AWS, and not a machine or balancer of one of its customers."""
    return host is not None and _AWS_S3.fullmatch(host) is not None


def foreign_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return those of `headers` that may be sent to another origin."""
    return {
        name: value
        for name, value in headers.items()
        if name.lower().startswith(_FOREIGN) and name.lower() != _NOT_FOREIGN
    }
