"""`hftransfer._http.hedging`: a small request whose answer is late is sent again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._http import hedging
from hftransfer._http.client import HttpClient
from hftransfer._http.exchange import Request
from hftransfer._http.hedging import AnswerTimes, RequestHedger
from hftransfer.errors import NetworkError, Response
from hftransfer.options import Timeouts
from hftransfer.testing import Drip, Fault, HubServer, Stall

REQUEST = Request("GET", "http://host/path?list=1", {}, None, 1000)

Step = Callable[[Request], Awaitable[Response]]


@pytest.fixture
def short_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a request be late after 20 ms."""
    monkeypatch.setattr(hedging, "_MIN_DELAY", 0.02)


def _answer(text: str, status: int = 200) -> Step:
    async def send(request: Request) -> Response:
        return Response("GET", request.url, status, {}, text.encode())

    return send


async def _hang(request: Request) -> Response:
    await asyncio.get_running_loop().create_future()
    raise AssertionError("unreachable")


async def _fail(request: Request) -> Response:
    raise NetworkError("broken")


class _Server:
    """Answers requests by steps, in order; the last one answers all that follow."""

    def __init__(self, *steps: Step) -> None:
        self.requests: list[Request] = []
        self.in_flight = 0
        self._steps = steps

    async def send(self, request: Request) -> Response:
        step = self._steps[min(len(self.requests), len(self._steps) - 1)]
        self.requests.append(request)
        self.in_flight += 1
        try:
            return await step(request)
        finally:
            self.in_flight -= 1


# --- the decision


@given(seconds=st.lists(st.floats(0, 100), max_size=200))
def test_delay_is_well_above_the_usual_time(seconds: list[float]) -> None:
    """And 2 s at least, as for the first request."""
    times = AnswerTimes()
    for value in seconds:
        times.record(value, 0.0)

    assert times.delay >= 2.0
    recent = seconds[-64:]
    assert sum(value > times.delay for value in recent) <= len(recent) / 10


def test_request_is_repeated_if_it_alone_is_slow() -> None:
    """Others were answered meanwhile, or there are none and the answer trickles."""
    times = AnswerTimes()
    times.in_flight = 1

    assert times.should_repeat(started=0.0, delay=2.0, now=2.0, received=4000)
    assert not times.should_repeat(started=0.0, delay=2.0, now=2.0, received=1 << 20)

    times.in_flight = 8
    assert not times.should_repeat(started=0.0, delay=2.0, now=2.0, received=0)
    times.record(0.1, now=1.9)
    assert times.should_repeat(started=0.0, delay=2.0, now=2.0, received=0)


# --- requests


@pytest.mark.asyncio
async def test_request_in_time_is_sent_once() -> None:
    """Over any connection."""
    server = _Server(_answer("first"))

    assert (await RequestHedger(server.send).send(REQUEST)).body == b"first"

    assert [request.needs_new_connection for request in server.requests] == [False]


@pytest.mark.asyncio
@pytest.mark.usefixtures("short_delay")
async def test_late_request_is_sent_again_over_a_new_connection() -> None:
    """The first answer counts, and the late request has ended when it is returned."""
    server = _Server(_hang, _answer("second"))

    assert (await RequestHedger(server.send).send(REQUEST)).body == b"second"

    assert [request.needs_new_connection for request in server.requests] == [False, True]
    assert server.in_flight == 0


@pytest.mark.asyncio
@pytest.mark.usefixtures("short_delay")
async def test_copies_are_few() -> None:
    """If none is answered, three are sent, and the caller's timeout ends them all."""
    server = _Server(_hang)
    hedger = RequestHedger(server.send)

    with pytest.raises(TimeoutError), anyio.fail_after(0.5):
        await hedger.send(REQUEST)

    assert len(server.requests) == 4
    assert hedger.copies == 3
    assert server.in_flight == 0


@pytest.mark.asyncio
@pytest.mark.usefixtures("short_delay")
@pytest.mark.parametrize("bad", [_fail, _answer("slow down", 503), _answer("slow down", 429)])
async def test_failed_copy_does_not_count(bad: Step) -> None:
    """The first request may still be answered."""
    ended = asyncio.Event()

    async def late(request: Request) -> Response:
        await ended.wait()
        return await _answer("first")(request)

    async def fail(request: Request) -> Response:
        asyncio.get_running_loop().call_soon(ended.set)
        return await bad(request)

    server = _Server(late, fail)

    assert (await RequestHedger(server.send).send(REQUEST)).body == b"first"


@pytest.mark.asyncio
@pytest.mark.usefixtures("short_delay")
async def test_failure_of_the_first_request_waits_for_its_copy() -> None:
    """And is raised if there is none that succeeds."""
    copied = asyncio.Event()

    async def fail_later(request: Request) -> Response:
        await copied.wait()
        raise NetworkError("broken")

    async def answer_later(request: Request) -> Response:
        copied.set()
        await asyncio.sleep(0)
        return await _answer("second")(request)

    server = _Server(fail_later, answer_later)
    assert (await RequestHedger(server.send).send(REQUEST)).body == b"second"

    with pytest.raises(NetworkError, match="broken"):
        await RequestHedger(_Server(_fail).send).send(REQUEST)


@pytest.mark.asyncio
@pytest.mark.usefixtures("short_delay")
async def test_nobody_is_repeated_if_all_are_slow_alike() -> None:
    """Sixteen requests wait for the same server, which answers them all at once."""
    open_gate = asyncio.Event()

    async def wait(request: Request) -> Response:
        await open_gate.wait()
        return await _answer("late")(request)

    server = _Server(wait)
    hedger = RequestHedger(server.send)
    async with anyio.create_task_group() as tasks:
        for _ in range(16):
            tasks.start_soon(hedger.send, REQUEST)
        await anyio.sleep(0.1)  # five times the delay
        open_gate.set()

    assert hedger.copies == 0
    assert len(server.requests) == 16


@pytest.mark.asyncio
@pytest.mark.usefixtures("short_delay")
@pytest.mark.parametrize("action", [Stall(), Drip(20.0, after_bytes=10)], ids=["stall", "drip"])
async def test_trickling_answer_of_a_real_server(hub: HubServer, action: Stall | Drip) -> None:
    """The answer of the second connection is returned at once; HEAD is sent again as well."""
    hub.create_repo("acme/tiny", files={"a.txt": b"0123456789" * 200})
    url = f"{hub.endpoint}/api/models/acme/tiny/tree/main?recursive=true"
    fault = hub.add_fault(Fault(path="*/tree/*", action=action))
    client = HttpClient(Timeouts())
    try:
        response = await client.request("GET", url)
        hub.clear_faults()
        head = hub.add_fault(Fault(method="HEAD", action=Stall()))
        headers = await client.request("HEAD", f"{hub.endpoint}/acme/tiny/resolve/main/a.txt")
    finally:
        await client.aclose()
        hub.release()

    assert response.status == 200
    assert b"a.txt" in response.body
    assert headers.status in (200, 307)
    assert fault.count == head.count == 1
    listings = [record.connection for record in hub.requests if "/tree/" in record.path]
    assert len(set(listings)) == len(listings) >= 2
