"""`hftransfer._core.events`: observers receive events, and their failures are isolated."""

from __future__ import annotations

import dataclasses
import logging

import pytest

from hftransfer._core.events import (
    BytesMoved,
    Event,
    FileFinished,
    FileStarted,
    Retrying,
    TransferStarted,
    emit,
)

EVENTS: list[Event] = [
    TransferStarted(files=1, bytes=10),
    FileStarted("a", 10),
    BytesMoved("a", 4, reused=True),
    Retrying("a", ValueError("x"), 0.5),
    BytesMoved("a", -4),
    FileFinished("a", 10),
]


def test_an_observer_receives_every_event_in_order() -> None:
    """Any callable can be an observer, such as the append of a list."""
    received: list[Event] = []

    for event in EVENTS:
        emit(received.append, event)

    assert received == EVENTS


def test_an_observer_is_optional() -> None:
    """Without an observer an event is dropped."""
    emit(None, EVENTS[0])


def test_an_exception_of_an_observer_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A broken progress bar does not break a transfer, and leaves a traceback in the log."""

    def broken(event: Event) -> None:
        raise ZeroDivisionError(type(event).__name__)

    with caplog.at_level(logging.ERROR, logger="hftransfer"):
        emit(broken, EVENTS[0])

    (record,) = caplog.records
    assert record.name == "hftransfer"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


def test_an_observer_can_interrupt() -> None:
    """KeyboardInterrupt passes through: it ends the transfer."""

    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        emit(interrupted, EVENTS[0])


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_events_cannot_be_changed(event: Event) -> None:
    """Observers share events, so none may change what another one receives."""
    name = dataclasses.fields(event)[0].name

    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(event, name, None)
