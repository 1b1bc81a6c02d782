"""Progress events, and how they reach an observer.

An observer is any callable that takes an event. It is called in the thread of the event loop and
must return quickly. An exception that it raises is logged and does not affect the transfer.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

__all__ = (
    "BytesMoved",
    "Event",
    "FileFinished",
    "FileNotVerified",
    "FileStarted",
    "ListingProgress",
    "Observer",
    "Recovered",
    "Retrying",
    "TransferStarted",
    "Waiting",
    "emit",
)

_logger = logging.getLogger("hftransfer")


@dataclass(frozen=True)
class TransferStarted:
    """The source was listed: `files` files of together `bytes` bytes will be transferred.

    If `is_complete` is False, only the beginning was listed: `ListingProgress` events follow.
    """

    files: int
    bytes: int
    is_complete: bool = True


@dataclass(frozen=True)
class ListingProgress:
    """More of the source was listed: `files` files of together `bytes` bytes so far.

    The last such event has `is_complete`: its numbers are those of the whole transfer.
    """

    files: int
    bytes: int
    is_complete: bool


@dataclass(frozen=True)
class FileStarted:
    """The transfer of one file of `size` bytes begins."""

    path: str
    size: int


@dataclass(frozen=True)
class BytesMoved:
    """`bytes` more bytes of a file are verified and stored.

    Negative if the file is transferred again from its beginning: the sum over all events of a file
    is its progress. `reused` is True for bytes that an interrupted transfer had stored.
    """

    path: str
    bytes: int
    reused: bool = False


@dataclass(frozen=True)
class FileFinished:
    """A file has its final name; `skipped` if every destination had it before."""

    path: str
    size: int
    skipped: bool = False


@dataclass(frozen=True)
class FileNotVerified:
    """A file of a verification is ``wrong``, ``missing`` or ``unchecked`` (without a digest).

    `Verification` has the paths of the first ones; these events come for all of them.
    """

    path: str
    result: Literal["wrong", "missing", "unchecked"]
    difference: str = ""
    """For ``wrong``: a description."""


@dataclass(frozen=True)
class Retrying:
    """A request for `path` failed with `error` and will be repeated after `delay` seconds."""

    path: str
    error: Exception
    delay: float


@dataclass(frozen=True)
class Waiting:
    """A server is down, or asks to wait: all requests to it wait for the next attempt.

    Announced once per attempt, not once per request; `str` returns a sentence for users.
    """

    origin: str
    """Scheme, host and port of the server."""
    reason: str
    """Why the last request failed; without any secret."""
    delay: float
    """Seconds until the next attempt."""
    elapsed: float
    """Seconds since the first request that failed."""
    requested: bool
    """True if the server named the time to wait (``Retry-After``)."""

    def __str__(self) -> str:
        if self.requested:
            return f"{self.origin} asks to wait: {self.delay:.0f} s ({self.reason})"
        return (
            f"no answer from {self.origin} for {self.elapsed:.0f} s, "
            f"trying again in {self.delay:.0f} s ({self.reason})"
        )


@dataclass(frozen=True)
class Recovered:
    """A server responds again, `seconds` after the first failure; follows `Waiting`."""

    origin: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.origin} answers again after {self.seconds:.0f} s"


Event: TypeAlias = (
    TransferStarted
    | ListingProgress
    | FileStarted
    | BytesMoved
    | FileFinished
    | FileNotVerified
    | Retrying
    | Waiting
    | Recovered
)


class Observer(Protocol):
    """A callable that receives the events of a transfer; see the module docstring."""

    def __call__(self, event: Event, /) -> None: ...


def emit(observer: Observer | None, event: Event) -> None:
    """Call `observer`, if there is one, with `event`; log the exception that it raises."""
    if observer is None:
        return
    try:
        observer(event)
    except Exception:
        _logger.exception("the progress observer raised an exception; the transfer continues")
