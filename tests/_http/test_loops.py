"""`hftransfer._http.loops`: requests in loop threads, and the end of the threads."""

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
    counting_rate_limiter,
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
    """The threads that existed before the test."""
    return set(threading.enumerate())


def loop_threads_since(threads: set[threading.Thread]) -> list[threading.Thread]:
    """Return the new threads that run an event loop, without the worker threads of the test's."""
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
    """Fill `memory` from the file of the same size at `url`, by concurrent requests.

    Args:
        client: sends the requests.
        url: of the file.
        memory: to fill.
        every: bytes from the start of one request's range to the next.
        length: bytes of each range. Default: `every`.
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
    """Each loop receives a part, every byte is right, and `aclose` ends the threads."""
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
    """Each loop sends some of the large bodies; small bodies are sent by the running loop."""
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
async def test_by_default_tls_has_a_loop_per_core_up_to_four(
    site: Site,
    cores: int,
    loops: int,
    used_threads: list[threading.Thread],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without TLS, one loop is enough."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    content = random_bytes(6 * BODY)
    async with site.opened(ranged(content), loops=None) as (server, client):
        await fill_at_once(client, f"{server.base}/f", bytearray(len(content)), every=BODY)

    assert len(set(used_threads)) == (1 if site.tls is None else loops)


async def test_small_bodies_stay_in_the_running_loop(
    site: Site, threads: set[threading.Thread]
) -> None:
    """They are received sooner than another thread would wake up."""
    content = random_bytes(8 * MIB)
    memory = bytearray(len(content))
    async with site.opened(ranged(content), loops=2) as (server, client):
        await fill_at_once(client, f"{server.base}/f", memory, every=MIB, length=MIB - 1)
        assert loop_threads_since(threads) == []

    for start in range(0, len(content), MIB):
        assert memory[start : start + MIB - 1] == content[start : start + MIB - 1]


async def truncate(exchange: Exchange) -> None:
    await partial_head(exchange, 0, BODY, BODY)
    await exchange.send(bytes(MIB))
    exchange.writer.close()


async def refuse(exchange: Exchange) -> None:
    await exchange.head("403 Forbidden", "Content-Length: 2")
    await exchange.send(b"no")


async def send_other_size(exchange: Exchange) -> None:
    await partial_head(exchange, 0, BODY, BODY + 1)


async def stall(exchange: Exchange) -> None:
    await partial_head(exchange, 0, BODY, BODY)
    await exchange.reader.read()


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (truncate, NetworkError),
        (refuse, AccessError),
        (send_other_size, SourceChangedError),
        (stall, StalledError),
    ],
)
async def test_errors_keep_their_type_between_threads(
    site: Site, reply: Any, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in a loop thread is the same as in the running loop, and the thread works on."""
    content = random_bytes(BODY)
    whole = ranged(content)
    failing = iter([True])

    async def failing_once(exchange: Exchange) -> None:
        await (reply if next(failing, False) else whole)(exchange)

    async with site.opened(failing_once, loops=2) as (server, client):
        client._loops.in_flight[0] = 10  # so that the request goes to the loop thread
        memory = bytearray(BODY)
        if reply is stall:
            set_read_timeout(client, 0.3)
        with pytest.raises(kind):
            await client.fill(f"{server.base}/f", ByteRangeBuffer(0, memoryview(memory)), size=BODY)
        set_read_timeout(client, 30.0)
        await client.fill(f"{server.base}/f", ByteRangeBuffer(0, memoryview(memory)), size=BODY)
        assert client._loops.in_flight == [10, 0]

    assert memory == content


async def test_a_cancelled_request_in_a_loop_thread_writes_no_more(
    site: Site, threads: set[threading.Thread]
) -> None:
    """When the cancelled call has returned, the loop thread no longer writes into the memory."""
    content = b"\xff" * (8 * BODY)
    cancelled, hung_up = asyncio.Event(), asyncio.Event()

    async def reply(exchange: Exchange) -> None:
        start, stop = exchange.request.byte_range
        half = (start + stop) // 2
        await partial_head(exchange, start, stop, len(content))
        try:
            await exchange.send(content[start:half])
            await cancelled.wait()  # else a fast client would have received all of it before
            if exchange.request.connection > 1:
                await exchange.send(content[half:stop])
                return
            await exchange.send(content[half : half + KIB])
            await exchange.reader.read()  # until the client has closed the connection
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


async def test_closing_a_client_in_a_cancelled_scope_leaves_no_thread(
    site: Site, threads: set[threading.Thread]
) -> None:
    """`aclose` ends every loop thread although its scope is cancelled."""
    with anyio.CancelScope() as scope:
        async with site.opened(ranged(random_bytes(BODY)), loops=3) as (server, client):
            client._loops.in_flight[0] = 10
            await client.fill(
                f"{server.base}/f", ByteRangeBuffer(0, memoryview(bytearray(BODY))), size=BODY
            )
            assert len(loop_threads_since(threads)) == 1
            scope.cancel()

    assert loop_threads_since(threads) == []


async def test_a_client_can_be_used_again_after_it_was_closed(
    site: Site, threads: set[threading.Thread]
) -> None:
    """Closing twice is allowed, and a later body starts a loop thread again."""
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


async def test_one_rate_limiter_serves_all_loops(site: Site) -> None:
    """Every byte is counted once, whichever thread received it."""
    rate_limiter, counts = counting_rate_limiter()
    content = random_bytes(6 * BODY)
    opened = site.opened(ranged(content), loops=2, rate_limiter=rate_limiter)
    async with opened as (server, client):
        await fill_at_once(client, f"{server.base}/f", bytearray(len(content)), every=BODY)

    assert sum(counts) == len(content)


# --- LoopThread


async def test_a_loop_thread_runs_the_same_kind_of_loop() -> None:
    """uvloop if the test runs on uvloop, else asyncio, and in another thread."""
    thread = LoopThread()
    thread.open()

    async def where() -> tuple[type, int]:
        return type(asyncio.get_running_loop()), threading.get_ident()

    try:
        kind, identity = await thread.run(where)
    finally:
        await thread.aclose()

    assert kind.__module__ == type(asyncio.get_running_loop()).__module__
    assert identity != threading.get_ident()


@pytest.mark.parametrize("cancellations", [1, 5])
async def test_a_cancelled_call_waits_until_its_function_has_ended(cancellations: int) -> None:
    """However often asyncio cancels the caller, `run` returns only after the function."""
    thread = LoopThread()
    thread.open()
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
        task = asyncio.ensure_future(thread.run(work))
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
        await thread.aclose()


async def test_a_call_that_is_cancelled_at_once_neither_hangs_nor_leaves_a_task() -> None:
    """A cancellation may come before the loop thread has started the function."""
    thread = LoopThread()
    thread.open()
    states: list[str] = []

    async def work() -> None:
        states.append("begun")
        try:
            await anyio.sleep_forever()
        finally:
            states.append("ended")

    try:
        for _ in range(20):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await thread.run(work)
            assert scope.cancelled_caught
            assert states.count("begun") == states.count("ended")
    finally:
        await thread.aclose()


async def test_closing_an_unused_client_starts_no_thread(threads: set[threading.Thread]) -> None:
    """`aclose` has nothing to do in a loop that was never used."""
    client = HttpClient(Timeouts(), loops=4)
    await client.aclose()

    assert loop_threads_since(threads) == []
