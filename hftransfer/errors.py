"""All exceptions that hftransfer raises, and the functions that present them to users.

::

    TransferError
    ├── OptionsError (ValueError)            an option or argument is invalid
    ├── LocationError (ValueError)           a location string or a path in it is invalid
    ├── NotFoundError (FileNotFoundError)    no such source, bucket, repository or revision
    ├── AccessError (PermissionError)        credentials are missing, wrong or insufficient
    ├── DestinationError (OSError)           the destination cannot be written
    │   └── DiskFullError                    the disk or the quota is full
    ├── UnsupportedError                     the server, or this version, cannot do it
    │   └── RangeNotSupportedError           the server ignored the Range header
    ├── SourceChangedError                   the source changed during the transfer
    ├── IntegrityError                       bytes do not match their digest or size
    ├── RejectedError                        the server rejected the request (other 4xx)
    └── TransientError                       a retry may succeed
        ├── NetworkError (ConnectionError)   connection refused, reset or closed early
        ├── StalledError (TimeoutError)      no byte arrived within the read timeout
        ├── ServerError                      status 5xx
        ├── ThrottledError                   status 429, or 503 SlowDown of S3
        └── ExpiredError                     a signed URL or temporary credentials expired

The built-in exceptions in parentheses are further base classes, for callers that catch those. A
message states what was transferred, from where, how far it got and what the user can do. It never
contains a credential or the query of a signed URL (see `redact` and `scrub`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

__all__ = (
    "AccessError",
    "DestinationError",
    "DiskFullError",
    "ExpiredError",
    "IntegrityError",
    "LocationError",
    "NetworkError",
    "NotFoundError",
    "OptionsError",
    "RangeNotSupportedError",
    "RedactedUrl",
    "RejectedError",
    "Response",
    "Secret",
    "ServerError",
    "SourceChangedError",
    "StalledError",
    "ThrottledError",
    "TransferError",
    "TransientError",
    "UnsupportedError",
    "first_error",
    "redact",
    "scrub",
    "single_error",
    "without_credentials",
)


# User and password before a host. In hf://name@revision a name precedes the at sign.
_USERINFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<user>[^\s/?#'\"<>]*)@")
# The query of a URL, if it is not redacted yet.
_QUERY = re.compile(r"(?P<base>https?://[^\s?'\"<>]*)\?(?!…)[^\s'\"<>]*", re.IGNORECASE)
# Parameters of signed URLs (S3 with both signatures, CloudFront, Azure) and of tokens, also those
# that a header or a server's message repeats.
_PARAMETER = re.compile(
    r"\b(?P<name>X-Amz-(?:Signature|Credential|Security-Token)|AWSAccessKeyId|Signature|Policy"
    r"|Key-Pair-Id|Credential|sig|(?:access_|refresh_|id_|session_?)?token|api_?key|password)"
    r"(?P<sign>=|%3D)(?!…)[^\s&;,'\"<>]+",
    re.IGNORECASE,
)
_AUTHORIZATION = re.compile(
    r"\b(?P<name>(?:Proxy-)?Authorization['\"]?\s*[:=]\s*['\"]?)[^\r\n'\"]+"
    r"|\b(?P<scheme>Bearer)\s+[A-Za-z0-9._~+/=-]{8,}|\bhf_[A-Za-z0-9_]{6,}",
    re.IGNORECASE,
)


class Secret(str):
    """A credential: a string whose repr shows nothing of it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"


class RedactedUrl(str):
    """A URL whose repr is `redact` of it: it may contain a user and a password."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(redact(self))


def redact(url: str) -> str:
    """Return `url` without user, password, query and fragment, for messages and logs."""
    try:
        # Without a scheme, ``user:password@host`` would be one with the scheme ``user``.
        parts = urlsplit(url if "//" in url else f"//{url}")
    except ValueError:  # any part of it may be a secret
        return "(malformed URL)"
    host = parts.netloc.rpartition("@")[2]
    shown = f"{parts.scheme}://{host}{parts.path}" if parts.scheme else f"{host}{parts.path}"
    return f"{shown}?…" if parts.query else shown


def scrub(text: str) -> str:
    """Return `without_credentials` of `text`, with other characters than printable ones escaped.

    A server must not control the terminal.
    """
    text = without_credentials(text)
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode()
        for each in text
    )


def without_credentials(text: str) -> str:
    """Return `text` without the credentials that it may quote.

    `redact` shortens a URL that we show. This removes what others have put into a text: the user
    who names a signed URL as a location, a server that repeats the request in its response, an
    exception of a library. Removed are user and query of URLs, the parameters of signatures,
    Authorization headers and tokens.
    """
    if "@" in text:
        text = _USERINFO.sub(_without_userinfo, text)
    text = _QUERY.sub(r"\g<base>?…", text)
    text = _AUTHORIZATION.sub(_without_value, text)
    return _PARAMETER.sub(r"\g<name>\g<sign>…", text)


def _without_userinfo(matched: re.Match[str]) -> str:
    scheme, user = matched["scheme"], matched["user"]
    return matched[0] if scheme == "hf" and ":" not in user else f"{scheme}://"


def _without_value(matched: re.Match[str]) -> str:
    return f"{matched['name'] or matched['scheme'] or 'hf_'}…"


@dataclass(frozen=True)
class Response:
    """A complete HTTP response with a small body: that of a control request, or an error."""

    method: str
    """Of the request."""
    url: str
    """Of the request; it may contain a signature (see `redact`)."""
    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    origin: object = field(default=None, compare=False)
    """As `TransientError.origin`, if the status is one of a server that is down."""

    def __repr__(self) -> str:
        return f"<Response {self.method} {redact(self.url)} {self.status}>"

    def without_credentials(self) -> Response:
        """Return this response for files and for the messages of other libraries.

        The URL is redacted, and `without_credentials` is applied to headers and body.
        """
        body = self.body.decode("utf-8", "surrogateescape")
        return Response(
            self.method,
            redact(self.url),
            self.status,
            {name.lower(): without_credentials(value) for name, value in self.headers.items()},
            without_credentials(body).encode("utf-8", "surrogateescape"),
        )

    def __reduce__(self) -> tuple[object, ...]:
        # Errors are pickled into files and logs; the receiver sends no request to this URL.
        safe = self.without_credentials()
        return (Response, (safe.method, safe.url, safe.status, safe.headers, safe.body))


class TransferError(Exception):
    """Base class of all exceptions of this package.

    Args:
        message: one or two sentences for the user; `scrub` is applied to it.
        response: the HTTP response that caused the error, if one did.
    """

    def __init__(self, message: str, *, response: Response | None = None) -> None:
        self.message = message
        super().__init__(self.message)
        self.response = response

    @property
    def message(self) -> str:
        """One or two sentences for the user, without credentials."""
        return self._message

    @message.setter
    def message(self, text: str) -> None:
        self._message = scrub(text)

    def __str__(self) -> str:
        return self.message


class OptionsError(TransferError, ValueError):
    """Raised when an option or an argument has an invalid value."""


class LocationError(TransferError, ValueError):
    """Raised when a location string, or a file path inside a location, is invalid."""


class NotFoundError(TransferError, FileNotFoundError):
    """Raised when the source, bucket, repository, revision or key does not exist."""


class AccessError(TransferError, PermissionError):
    """Raised when credentials are missing, wrong or insufficient (HTTP 401, 403)."""


class DestinationError(TransferError, OSError):
    """Raised when the destination cannot be written."""


class DiskFullError(DestinationError):
    """Raised when the disk or the quota has not enough space."""


class UnsupportedError(TransferError):
    """Raised when the server, or this version of hftransfer, does not support an operation."""


class RangeNotSupportedError(UnsupportedError):
    """Raised when the server answers a Range request with the whole body."""


class SourceChangedError(TransferError):
    """Raised when the source was changed or removed during its transfer."""


class IntegrityError(TransferError):
    """Raised when bytes do not match their expected digest or size."""


class RejectedError(TransferError):
    """Raised when the server rejects a request with a status that a retry cannot change."""


class TransientError(TransferError):
    """Raised for a failure after which a retry may succeed.

    Args:
        message: one or two sentences for the user.
        response: the HTTP response that caused the error, if one did.
        retry_after: seconds that the server asked to wait (``Retry-After``), if it did.
        is_outage: see the attribute. Default: that of the class.
    """

    is_outage = False
    """True if it looks like an outage: the network fails, or the server with 429 or 5xx. It is
    retried until the deadline; other failures a number of times (see `RetryPolicy`)."""

    def __init__(
        self,
        message: str,
        *,
        response: Response | None = None,
        retry_after: float | None = None,
        is_outage: bool | None = None,
    ) -> None:
        super().__init__(message, response=response)
        self.retry_after = retry_after
        if is_outage is not None:
            self.is_outage = is_outage
        self.origin = None if response is None else response.origin
        """The server that failed; its `str` has scheme, host and port. None if that is unknown."""
        self.sent = True
        """False if no request was sent, because the server is known to be down."""


class NetworkError(TransientError, ConnectionError):
    """Raised when a connection is refused, reset or closed before the end of a body."""

    is_outage = True


class StalledError(TransientError, TimeoutError):
    """Raised when no byte arrives within the read timeout (`Timeouts.read`)."""

    is_outage = True


class ServerError(TransientError):
    """Raised for a response with status 5xx."""

    is_outage = True


class ThrottledError(TransientError):
    """Raised when the server limits the request rate: status 429, or 503 SlowDown of S3."""

    is_outage = True


class ExpiredError(TransientError):
    """Raised when a signed URL, or the temporary credentials of its signature, expired."""


def first_error(group: BaseException) -> BaseException:
    """Return the one exception of a (nested) exception group that is shown to the user.

    In this order of preference: KeyboardInterrupt and SystemExit, a `TransferError`, another
    exception, a cancellation; among equals the first. The others become notes (``__notes__``) of
    the returned exception. A `group` that is not an exception group is returned unchanged.
    """
    leaves: list[BaseException] = []
    pending = [group]
    while pending:
        error = pending.pop(0)
        nested = getattr(error, "exceptions", None)
        if nested is None:
            leaves.append(error)
        else:
            pending = [*nested, *pending]

    def rank(error: BaseException) -> int:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            return 0
        if isinstance(error, TransferError):
            return 1
        return 2 if isinstance(error, Exception) else 3

    leaves.sort(key=rank)
    winner, *others = leaves
    for other in others:
        note = scrub(f"also failed: {type(other).__name__}: {other}")
        # BaseException.add_note, new in Python 3.11, does the same.
        notes = getattr(winner, "__notes__", [])
        if note not in notes:
            winner.__notes__ = [*notes, note]  # type: ignore[attr-defined,unused-ignore]
    return winner


@contextmanager
def single_error() -> Iterator[None]:
    """Replace an exception group that the block raises by its `first_error`."""
    try:
        yield
    except BaseException as error:
        winner = first_error(error)
        if winner is error:
            raise
        raise winner from winner.__cause__
