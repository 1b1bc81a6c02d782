"""Every error that hftransfer raises, in one tree.

::

    TransferError
    ├── OptionsError (ValueError)            an option or argument is out of range
    ├── LocationError (ValueError)           a location string cannot be understood
    ├── NotFoundError (FileNotFoundError)    no such source, bucket, repository or revision
    ├── AccessError (PermissionError)        credentials missing, wrong or not sufficient
    ├── DestinationError (OSError)           the destination cannot be written
    │   └── DiskFullError                    no room for what is to be written
    ├── UnsupportedError                     the other side, or this version, cannot do it
    │   └── RangeNotSupportedError           a ranged request got the whole body
    ├── SourceChangedError                   the source was replaced during its transfer
    ├── IntegrityError                       bytes do not match their digest or size
    ├── RejectedError                        a request was refused for good (other 4xx)
    └── TransientError                       may succeed when tried again
        ├── NetworkError (ConnectionError)   connection refused, reset, cut short
        ├── StalledError (TimeoutError)      nothing arrived for too long
        ├── ServerError                      5xx
        ├── ThrottledError                   429 or SlowDown
        └── ExpiredError                     a signed URL or its credentials ran out

Built-in exceptions are mixed in where generic code expects them. An error says what
was being moved, from where, how far it got and what to do; it never contains a
credential or the query of a signed URL (`redact`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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
    "RejectedError",
    "Response",
    "ServerError",
    "SourceChangedError",
    "StalledError",
    "ThrottledError",
    "TransferError",
    "TransientError",
    "UnsupportedError",
    "first_error",
    "redact",
    "single_error",
)


def redact(url: str) -> str:
    """Return `url` without user, query and fragment: what may be shown to people."""
    try:
        parts = urlsplit(url)
    except ValueError:  # no part of it can be told from a secret
        return "(malformed URL)"
    host = parts.netloc.rpartition("@")[2]
    shown = f"{parts.scheme}://{host}{parts.path}" if parts.scheme else parts.path
    return f"{shown}?…" if parts.query else shown


@dataclass(frozen=True)
class Response:
    """A complete, small HTTP response: the outcome of a control request or of a refusal."""

    method: str
    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    def __repr__(self) -> str:
        return f"<Response {self.method} {redact(self.url)} {self.status}>"


class TransferError(Exception):
    """Base class of all errors of this package.

    Args:
        message: one or two sentences for a person.
        response: the HTTP response that caused the error, if one did.
    """

    def __init__(self, message: str, *, response: Response | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.response = response

    def __str__(self) -> str:
        return self.message


class OptionsError(TransferError, ValueError):
    """Raised when an option or argument is out of range or unknown."""


class LocationError(TransferError, ValueError):
    """Raised when a location string or a file path inside one cannot be used."""


class NotFoundError(TransferError, FileNotFoundError):
    """Raised when the source, bucket, repository, revision or key does not exist."""


class AccessError(TransferError, PermissionError):
    """Raised when credentials are missing, wrong or not sufficient."""


class DestinationError(TransferError, OSError):
    """Raised when the destination cannot be written."""


class DiskFullError(DestinationError):
    """Raised when there is no room for what is to be written."""


class UnsupportedError(TransferError):
    """Raised when the other side, or this version, cannot do what was asked."""


class RangeNotSupportedError(UnsupportedError):
    """Raised when a ranged request was answered with the whole body."""


class SourceChangedError(TransferError):
    """Raised when the source was replaced while it was being moved."""


class IntegrityError(TransferError):
    """Raised when bytes do not match their digest or size."""


class RejectedError(TransferError):
    """Raised when a request was refused for a reason that trying again cannot change."""


class TransientError(TransferError):
    """Raised for a failure that may not happen again.

    Args:
        retry_after: seconds the other side asked to wait, if it did.
    """

    def __init__(
        self, message: str, *, response: Response | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, response=response)
        self.retry_after = retry_after


class NetworkError(TransientError, ConnectionError):
    """Raised when a connection was refused, reset or cut short."""


class StalledError(TransientError, TimeoutError):
    """Raised when nothing arrived for longer than the timeout."""


class ServerError(TransientError):
    """Raised for a 5xx response."""


class ThrottledError(TransientError):
    """Raised for 429, 503 SlowDown and their like."""


class ExpiredError(TransientError):
    """Raised when a signed URL, or the credentials behind it, ran out."""


def first_error(group: BaseException) -> BaseException:
    """Return the error that a person should see out of a (nested) exception group.

    The first error of our own tree wins over other exceptions, and any exception over
    a cancellation; the remaining ones are kept as notes (``__notes__``) of the winner.
    A `group` that is no exception group is returned as it is.
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
            return 0  # never hidden behind a failure
        if isinstance(error, TransferError):
            return 1
        return 2 if isinstance(error, Exception) else 3

    leaves.sort(key=rank)
    winner, *others = leaves
    for other in others:
        note = f"also failed: {type(other).__name__}: {other}"
        # BaseException.add_note exists from Python 3.11 on; the attribute is what it sets.
        notes = getattr(winner, "__notes__", [])
        if note not in notes:
            winner.__notes__ = [*notes, note]  # type: ignore[attr-defined,unused-ignore]
    return winner


@contextmanager
def single_error() -> Iterator[None]:
    """Raise `first_error` of an exception group that leaves the block, in its place."""
    try:
        yield
    except BaseException as error:
        winner = first_error(error)
        if winner is error:
            raise
        raise winner from winner.__cause__
