"""`hftransfer._http.loops`: bodies received in further threads, which end when they should."""

from __future__ import annotations

import asyncio
import os
import threading
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._http.client import HttpClient
from hftransfer._http.exchange import Request
from hftransfer._http.loops import LoopThread
from hftransfer._http.pool import ConnectionPool
from hftransfer.errors import (
    AccessError,
    NetworkError,
    Response,
    SourceChangedError,
    StalledError,
)
from hftransfer.options import Timeouts
from support.http import (
    KIB,
    LOOPS,
    MIB,
    QUIET,
    Exchange,
    Site,
    counting_throttle,
    partial_head,
    random_bytes,
    ranged,
    set_read_timeout,
    until,
)

pytestmark = [pytest.mark.anyio, *QUIET]

BODY = 3 * MIB


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def threads() -> set[threading.Thread]:
    """The threads before the test."""
    return set(threading.enumerate())


def loop_threads_since(threads: set[threading.Thread]) -> list[threading.Thread]:
    """Threads that run a loop of their own; the workers of the test's own loop stay and idle."""
    workers = ("AnyIO", "asyncio_", "uvloop_")
    return [
        thread
        for thread in threading.enumerate()
        if thread not in threads and not thread.name.startswith(workers)
    ]


@pytest.fixture
def used_threads(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """The thread of each request, in the order of the requests."""
    used: list[threading.Thread] = []
    real = ConnectionPool.send

    async def send(self: ConnectionPool, request: Request) -> Response:
        used.append(threading.current_thread())
        return await real(self, request)

    monkeypatch.setattr(ConnectionPool, "send", send)
    return used


async def fill_at_once(
    client: HttpClient, url: str, memory: bytearray, *, every: int, length: int | None = None
) -> None:
    """Fill `memory` from the file at `url`, as long as it, by requests side by side.

    Args:
        every: bytes from the start of one request's range to the next.
        length: bytes of each range; None for all of them.
    """

    async def fill(start: int) -> None:
        stop = start + (every if length is None else length)
        await client.fill(
            url, ByteRangeBuffer(start, memoryview(memory)[start:stop]), size=len(memory)
        )

    async with anyio.create_task_group() as tasks:
        for start in range(0, len(memory), every):
            tasks.start_soon(fill, start)


@pytest.mark.parametrize("loops", [1, 2, 3])
async def test_bodies_are_spread_over_the_loops(
    site: Site, loops: int, used_threads: list[threading.Thread], threads: set[threading.Thread]
) -> None:
    """Each loop receives a part, every byte is right, and closing ends the threads."""
    content = random_bytes(12 * BODY)
    memory = bytearray(len(content))
    async with site.opened(ranged(content), loops=loops) as (server, client):
        await fill_at_once(client, f"{server.base}/f", memory, every=BODY)
        assert len(loop_threads_since(threads)) == loops - 1

    assert memory == content
    assert len(set(used_threads)) == loops
    assert loop_threads_since(threads) == []


@pytest.mark.parametrize("loops", [1, 3])
async def test_bodies_are_sent_from_every_loop(
    site: Site, loops: int, used_threads: list[threading.Thread], threads: set[threading.Thread]
) -> None:
    """Large ones: each loop sends a part, and every byte is right. Small ones stay here."""
    bodies = [random_bytes(MIB + index, seed=index) for index in range(6)]

    async def accept(exchange: Exchange) -> None:
        await exchange.head("200 OK", "Content-Length: 0")

    async with site.opened(accept, loops=loops) as (server, client):
        await client.request("PUT", f"{server.base}/f", body=bytes(MIB - 1))
        assert used_threads == [threading.current_thread()]
        async with anyio.create_task_group() as tasks:
            for body in bodies:
                put = partial(client.request, "PUT", f"{server.base}/f", body=body)
                tasks.start_soon(put)
        assert len(loop_threads_since(threads)) == loops - 1

    assert sorted(request.body for request in server.requests[1:]) == sorted(bodies)
    assert len(set(used_threads)) == loops
    assert loop_threads_since(threads) == []


@pytest.mark.parametrize(("cores", "loops"), [(1, 1), (3, 3), (64, 4)])
async def test_unless_told_otherwise_tls_has_a_loop_per_core(
    site: Site,
    cores: int,
    loops: int,
    used_threads: list[threading.Thread],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Decrypting takes cores, of which not all are taken; without TLS one loop does."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    content = random_bytes(6 * BODY)
    async with site.opened(ranged(content), loops=None) as (server, client):
        await fill_at_once(client, f"{server.base}/f", bytearray(len(content)), every=BODY)

    assert len(set(used_threads)) == (1 if site.tls is None else loops)


async def test_small_bodies_stay_in_the_running_loop(
    site: Site, threads: set[threading.Thread]
) -> None:
    """A thread is not started for what would be done sooner than it wakes up."""
    content = random_bytes(8 * MIB)
    memory = bytearray(len(content))
    async with site.opened(ranged(content), loops=2) as (server, client):
        await fill_at_once(client, f"{server.base}/f", memory, every=MIB, length=MIB - 1)
        assert loop_threads_since(threads) == []

    for start in range(0, len(content), MIB):
        assert memory[start : start + MIB - 1] == content[start : start + MIB - 1]


async def cut(exchange: Exchange) -> None:
    await partial_head(exchange, 0, BODY, BODY)
    await exchange.send(bytes(MIB))
    exchange.writer.close()


async def refuse(exchange: Exchange) -> None:
    await exchange.head("403 Forbidden", "Content-Length: 2")
    await exchange.send(b"no")


async def change(exchange: Exchange) -> None:
    await partial_head(exchange, 0, BODY, BODY + 1)


async def stall(exchange: Exchange) -> None:
    await partial_head(exchange, 0, BODY, BODY)
    await exchange.reader.read()


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (cut, NetworkError),
        (refuse, AccessError),
        (change, SourceChangedError),
        (stall, StalledError),
    ],
)
async def test_errors_keep_their_type_between_threads(
    site: Site, reply: Any, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails in a lane fails as it would have here, and the lane goes on working."""
    content = random_bytes(BODY)
    whole = ranged(content)
    failing = iter([True])

    async def failing_once(exchange: Exchange) -> None:
        await (reply if next(failing, False) else whole)(exchange)

    async with site.opened(failing_once, loops=2) as (server, client):
        client._loops.in_flight[0] = 10  # the running loop is busy
        memory = bytearray(BODY)
        if reply is stall:
            set_read_timeout(client, 0.3)
        with pytest.raises(kind):
            await client.fill(f"{server.base}/f", ByteRangeBuffer(0, memoryview(memory)), size=BODY)
        set_read_timeout(client, 30.0)
        await client.fill(f"{server.base}/f", ByteRangeBuffer(0, memoryview(memory)), size=BODY)
        assert client._loops.in_flight == [10, 0]

    assert memory == content


async def test_a_cancelled_body_in_a_lane_is_written_no_more(
    site: Site, threads: set[threading.Thread]
) -> None:
    """When the call has returned, the other thread no longer touches the memory."""
    content = b"\xff" * (8 * BODY)
    cancelled, hung_up = asyncio.Event(), asyncio.Event()

    async def reply(exchange: Exchange) -> None:
        start, stop = exchange.request.extent
        half = (start + stop) // 2
        await partial_head(exchange, start, stop, len(content))
        try:
            await exchange.send(content[start:half])
            await cancelled.wait()  # a reader as quick as the sender would have all of it by then
            if exchange.request.connection > 1:
                await exchange.send(content[half:stop])
                return
            await exchange.send(content[half : half + KIB])
            await exchange.reader.read()  # until the client has hung up
        finally:
            hung_up.set()

    memory = bytearray(len(content))
    buffer = ByteRangeBuffer(0, memoryview(memory))
    async with site.opened(reply, loops=2) as (server, client):
        client._loops.in_flight[0] = 10
        url = f"{server.base}/f"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: client.fill(url, buffer, size=len(content)))
            await until(lambda: buffer.filled > MIB)
            tasks.cancel_scope.cancel()
        cancelled.set()
        before, filled = bytes(memory), buffer.filled
        assert filled < len(content)
        await hung_up.wait()
        assert memory == before
        assert buffer.filled == filled

        other = bytearray(BODY)
        await client.fill(url, ByteRangeBuffer(5, memoryview(other)), size=len(content))
        assert other == content[:BODY]

    assert loop_threads_since(threads) == []


async def test_a_wire_closed_under_cancellation_leaves_no_thread(
    site: Site, threads: set[threading.Thread]
) -> None:
    """`aclose` in a scope that was cancelled still ends every loop."""
    with anyio.CancelScope() as scope:
        async with site.opened(ranged(random_bytes(BODY)), loops=3) as (server, client):
            client._loops.in_flight[0] = 10
            await client.fill(
                f"{server.base}/f", ByteRangeBuffer(0, memoryview(bytearray(BODY))), size=BODY
            )
            assert len(loop_threads_since(threads)) == 1
            scope.cancel()

    assert loop_threads_since(threads) == []


async def test_a_wire_may_be_used_again_after_it_was_closed(
    site: Site, threads: set[threading.Thread]
) -> None:
    """Closing twice is fine, and a later body starts a lane anew."""
    content = random_bytes(BODY)
    async with site.opened(ranged(content), loops=2) as (server, client):
        client._loops.in_flight[0] = 10
        for _ in range(2):
            memory = bytearray(BODY)
            await client.fill(f"{server.base}/f", ByteRangeBuffer(0, memoryview(memory)), size=BODY)
            assert memory == content
            await client.aclose()
            await client.aclose()
            assert loop_threads_since(threads) == []

    assert server.connections == 2


async def test_one_cap_holds_for_all_loops(site: Site) -> None:
    """Every byte is counted once, whichever thread received it."""
    throttle, taken = counting_throttle()
    content = random_bytes(6 * BODY)
    async with site.opened(ranged(content), loops=2, rate_limiter=throttle) as (server, client):
        await fill_at_once(client, f"{server.base}/f", bytearray(len(content)), every=BODY)

    assert sum(taken) == len(content)


# --- a lane alone


async def test_a_lane_runs_the_same_kind_of_loop() -> None:
    """uvloop beside uvloop, asyncio beside asyncio, in another thread."""
    lane = LoopThread()
    lane.open()

    async def where() -> tuple[type, int]:
        return type(asyncio.get_running_loop()), threading.get_ident()

    try:
        kind, thread = await lane.run(where)
    finally:
        await lane.aclose()

    assert kind.__module__ == type(asyncio.get_running_loop()).__module__
    assert thread != threading.get_ident()


@pytest.mark.parametrize("cancellations", [1, 5])
async def test_a_cancelled_call_waits_until_its_work_has_ended(cancellations: int) -> None:
    """However often asyncio cancels the caller, it comes back only after the work."""
    lane = LoopThread()
    lane.open()
    started, ended = threading.Event(), threading.Event()
    may_end = threading.Event()

    async def work() -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                while not may_end.is_set():
                    await anyio.lowlevel.checkpoint()
            ended.set()

    try:
        task = asyncio.ensure_future(lane.run(work))
        await until(started.is_set)
        for _ in range(cancellations):
            task.cancel()
            for _ in range(10):
                await asyncio.sleep(0)
            assert not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()
    finally:
        may_end.set()
        await lane.aclose()


async def test_a_call_that_is_cancelled_at_once_neither_hangs_nor_leaks() -> None:
    """A cancellation may come before the lane has begun with the work."""
    lane = LoopThread()
    lane.open()
    running: list[str] = []

    async def work() -> None:
        running.append("begun")
        try:
            await anyio.sleep_forever()
        finally:
            running.append("ended")

    try:
        for _ in range(20):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await lane.run(work)
            assert running.count("begun") == running.count("ended")
    finally:
        await lane.aclose()


async def test_connections_of_a_wire_that_was_never_used_close(threads: set[Any]) -> None:
    """No thread is started for closing."""
    client = HttpClient(Timeouts(), loops=4)
    await client.aclose()

    assert loop_threads_since(threads) == []
