"""`hftransfer._http.exchange`: which response may fill a buffer."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._http.exchange import BufferTarget
from hftransfer.errors import RangeNotSupportedError

URL = "http://h/f"
RANGE = {"Content-Range": "bytes 10-19/100", "Content-Length": "10"}


def test_a_target_accepts_the_requested_range_alone() -> None:
    """It records when the response started, and passes its headers on."""
    seen: list[Mapping[str, str]] = []
    buffer = ByteRangeBuffer(10, memoryview(bytearray(10)))
    target = BufferTarget(buffer, URL, 100, seen.append)

    for status in (302, 404, 500):
        assert not target.accept(status, {})
    with pytest.raises(RangeNotSupportedError):
        target.accept(200, {"Content-Length": "100"})
    assert (seen, buffer.response_started_at) == ([], None)

    assert target.accept(206, RANGE)
    assert seen == [RANGE]
    assert buffer.response_started_at is not None


def test_a_target_keeps_the_range_of_its_request() -> None:
    """A buffer that is shortened after the request still gets the response to that request."""
    buffer = ByteRangeBuffer(10, memoryview(bytearray(10)))
    target = BufferTarget(buffer, URL, 100)
    buffer.split_off(1)

    assert (target.start, target.stop) == (10, 20)
    assert buffer.stop == 15
    assert target.accept(206, RANGE)
