"""`hftransfer._http.status`: the meaning of statuses and headers."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._http.status import retry_after, status_error
from hftransfer.errors import (
    AccessError,
    NotFoundError,
    RejectedError,
    Response,
    ServerError,
    SourceChangedError,
    ThrottledError,
    TransferError,
)
from hftransfer.testing import Fault, HubServer, Status
from support.http import open_client
from support.hub import SECRET, SIZE, served_file


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, AccessError),
        (403, AccessError),
        (404, NotFoundError),
        (410, NotFoundError),
        (412, SourceChangedError),
        (429, ThrottledError),
        (408, ServerError),
        (500, ServerError),
        (503, ServerError),
        (400, RejectedError),
        (416, RejectedError),
    ],
)
def test_each_status_is_one_error(status: int, kind: type[TransferError]) -> None:
    """The error carries the response and shows method and path without the query."""
    response = Response("GET", f"http://user:pw@host/a/b?{SECRET}", status, {})
    error = status_error(response)

    assert type(error) is kind
    assert error.response is response
    assert "GET http://host/a/b" in str(error)
    assert "do-not-show" not in str(error)
    assert "pw" not in str(error)


@pytest.mark.asyncio
async def test_an_error_has_the_servers_text_and_delay(hub: HubServer) -> None:
    """Retry-After and a body of plain text are in the error; a page of HTML is not."""
    url, _ = served_file(hub)
    text = {"Content-Type": "text/plain", "Retry-After": "3"}
    hub.add_fault(Fault(action=Status(429, text, b"slow\n down")))
    hub.add_fault(Fault(action=Status(503, {"Content-Type": "text/html"}, b"<h1>Oops</h1>")))
    memory = memoryview(bytearray(9))
    async with open_client() as client:
        with pytest.raises(ThrottledError, match=r"answered 429: slow down$") as throttled:
            await client.fill(url, ByteRangeBuffer(0, memory), size=SIZE)
    async with open_client() as client:  # the first one waits for three seconds
        with pytest.raises(ServerError, match=r"answered 503$") as broken:
            await client.fill(url, ByteRangeBuffer(0, memory), size=SIZE)

    assert throttled.value.retry_after == 3.0
    assert broken.value.retry_after is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": " 7 "}, 7.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "\N{SUPERSCRIPT TWO}"}, None),
        ({"Retry-After": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"RateLimit": '"api";r=0;t=55'}, 56.0),
        ({"RateLimit": '"api" ; r=0 ; t=0'}, 1.0),
        ({"RateLimit": '"api";r=1;t=55'}, None),
        ({"RateLimit": '"api";r=499;t=300'}, None),
        ({"RateLimit": "nonsense"}, None),
        ({"RateLimit": '"api";r=0;t=55', "Retry-After": "2"}, 2.0),
    ],
)
def test_how_long_a_server_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    """Retry-After precedes an exhausted RateLimit; one that is not exhausted does not count."""
    assert retry_after(headers) == seconds


@given(minutes=st.integers(1, 100_000))
def test_a_future_date_is_the_delay_until_then(minutes: int) -> None:
    """An HTTP date in Retry-After means the seconds until it, at most."""
    date = datetime.now(timezone.utc) + timedelta(minutes=minutes)
    seconds = retry_after({"Retry-After": format_datetime(date, usegmt=True)})

    assert seconds is not None
    assert 0 <= seconds <= 60 * minutes


@given(value=st.text(), limit=st.text())
def test_any_header_is_a_delay_or_ignored(value: str, limit: str) -> None:
    """Whatever a server sends, the result is None or a delay that is not negative."""
    seconds = retry_after({"Retry-After": value, "RateLimit": limit})

    assert seconds is None or seconds >= 0
