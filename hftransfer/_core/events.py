"""Progress: small frozen events handed to an observer.

An observer is any callable that takes an event. It runs on the event loop and must
return quickly; what it raises is logged and never reaches the transfer.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol, TypeAlias

__all__ = (
    "BytesMoved",
    "Event",
    "FileFinished",
    "FileStarted",
    "Observer",
    "Retrying",
    "TransferStarted",
    "emit",
)

_logger = logging.getLogger("hftransfer")


@dataclass(frozen=True)
class TransferStarted:
    """The listing is known: how many files and bytes are to be moved."""

    files: int
    bytes: int


@dataclass(frozen=True)
class FileStarted:
    """Work on one file begins."""

    path: str
    size: int


@dataclass(frozen=True)
class BytesMoved:
    """`bytes` more of a file are verified and stored; negative after a restart of the file.

    `reused` is True for bytes kept from an earlier, interrupted transfer.
    """

    path: str
    bytes: int
    reused: bool = False


@dataclass(frozen=True)
class FileFinished:
    """A file is published; `skipped` if it was there already."""

    path: str
    size: int
    skipped: bool = False


@dataclass(frozen=True)
class Retrying:
    """A request failed and is tried again after `delay` seconds."""

    path: str
    error: Exception
    delay: float


Event: TypeAlias = TransferStarted | FileStarted | BytesMoved | FileFinished | Retrying


class Observer(Protocol):
    """Told what happens; see the module docstring."""

    def __call__(self, event: Event, /) -> None: ...


def emit(observer: Observer | None, event: Event) -> None:
    """Hand `event` to `observer`, whose failure is logged and goes no further."""
    if observer is None:
        return
    try:
        observer(event)
    except Exception:
        _logger.exception("a progress observer failed; the transfer goes on")
