"""`hftransfer._http.response_body`: bodies arrive in the caller's memory, and the pool stays clean.

The tests of stalls wait for a short read timeout, because uvloop's clock cannot be moved.
"""

from __future__ import annotations

import asyncio
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._http import connection, response_body
from hftransfer.errors import (
    AccessError,
    NetworkError,
    RejectedError,
    Response,
    StalledError,
    TransferError,
)
from support.http import (
    KIB,
    LOOPS,
    MIB,
    QUIET,
    Exchange,
    Reply,
    Site,
    mapped,
    partial_head,
    random_bytes,
    ranged,
    set_read_timeout,
    until,
)

pytestmark = [pytest.mark.anyio, *QUIET]

# Larger than the socket buffers of a loopback connection, so that it takes several reads.
LARGE = 16 * MIB
BODY = 3 * MIB


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail if more of a body is copied than can arrive together with its head."""
    copied: Counter[response_body.ResponseBody] = Counter()
    real = response_body.ResponseBody._put

    def put(self: response_body.ResponseBody, buffer: ByteRangeBuffer, data: memoryview) -> bool:
        copied[self] += len(data)
        return real(self, buffer, data)

    monkeypatch.setattr(response_body.ResponseBody, "_put", put)
    yield
    assert max(copied.values()) <= 64 * KIB


# --- whole bodies


async def test_a_large_body_is_received_into_the_callers_memory(site: Site, in_place: None) -> None:
    """Every byte is there, the memory around it does not change, and nothing large is allocated."""
    content = random_bytes(LARGE)
    with mapped(LARGE + 2 * KIB) as memory:
        async with site.opened(ranged(content)) as (server, client):
            url = f"{server.base}/f"
            await client.fill(url, ByteRangeBuffer(0, memory[:MIB]), size=LARGE)  # connect first
            tracemalloc.start()
            try:
                await client.fill(url, ByteRangeBuffer(0, memory[KIB : KIB + LARGE]), size=LARGE)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()

        assert memory[KIB : KIB + LARGE] == content
        assert bytes(memory[KIB + LARGE :]) == bytes(KIB)
    assert peak < 3 * MIB  # the pieces of the server and of TLS


async def test_one_connection_serves_many_bodies(site: Site, in_place: None) -> None:
    """Twenty consecutive bodies arrive over the connection of the first."""
    content = random_bytes(20 * MIB)
    memory = bytearray(len(content))
    async with site.opened(ranged(content)) as (server, client):
        for start in range(0, len(content), MIB):
            buffer = ByteRangeBuffer(start, memoryview(memory)[start : start + MIB])
            assert await client.fill(f"{server.base}/f", buffer, size=len(content)) is None

    assert memory == content
    assert (len(server.requests), server.connections) == (20, 1)


async def test_bodies_of_every_small_size_share_a_connection(site: Site) -> None:
    """Whether a body ends within or after the read that brought its head makes no difference."""
    content = random_bytes(600 * KIB)
    sizes = [1, 2, 255, 16 * KIB, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 256 * KIB, 600 * KIB - 7]
    async with site.opened(ranged(content)) as (server, client):
        for size in sizes:
            memory = bytearray(size)
            await client.fill(
                f"{server.base}/f", ByteRangeBuffer(7, memoryview(memory)), size=len(content)
            )
            assert memory == content[7 : 7 + size]

    assert server.connections == 1


async def test_a_body_may_come_together_with_its_head(site: Site, either_client: None) -> None:
    """A small body is complete with the head."""
    content = random_bytes(100 * KIB)

    async def reply(exchange: Exchange) -> None:
        start, stop = exchange.request.byte_range
        head = f"HTTP/1.1 206 P\r\nContent-Range: bytes {start}-{stop - 1}/{len(content)}\r\n"
        head += f"Content-Length: {stop - start}\r\n\r\n"
        exchange.writer.write(head.encode() + content[start:stop])

    memory = bytearray(1000)
    async with site.opened(reply) as (server, client):
        for start in (0, 5000):
            await client.fill(
                f"{server.base}/f", ByteRangeBuffer(start, memoryview(memory)), size=len(content)
            )
            assert memory == content[start : start + 1000]

    assert server.connections == 1


@pytest.mark.parametrize("pauses_at", [0, 1, 70_000, BODY - 1])
async def test_a_body_may_arrive_in_two_parts(site: Site, pauses_at: int) -> None:
    """The head alone, or nearly all bytes: the rest is received in place."""
    content = random_bytes(BODY)
    buffer = ByteRangeBuffer(0, memoryview(bytearray(BODY)))

    async def reply(exchange: Exchange) -> None:
        await partial_head(exchange, 0, BODY, BODY)
        await exchange.send(content[:pauses_at])
        await until(lambda: buffer.filled == pauses_at)
        await exchange.send(content[pauses_at:])

    async with site.opened(reply) as (server, client):
        await client.fill(f"{server.base}/f", buffer, size=BODY)
        assert buffer.memory == content
        buffer.reset()
        await client.fill(f"{server.base}/f", buffer, size=BODY)

    assert server.connections == 1


# --- bodies of unknown length


async def chunked(exchange: Exchange) -> None:
    content = random_bytes(BODY)
    await exchange.head("200 OK", "Transfer-Encoding: chunked")
    for start in range(0, BODY, 100_000):
        piece = content[start : start + 100_000]
        await exchange.send(b"%x\r\n%s\r\n" % (len(piece), piece))
    await exchange.send(b"0\r\n\r\n")


async def until_close(exchange: Exchange) -> None:
    await exchange.head("200 OK", "Connection: close")
    await exchange.send(random_bytes(BODY))
    exchange.writer.close()


@pytest.mark.parametrize(("reply", "connections"), [(chunked, 1), (until_close, 2)])
async def test_a_body_without_a_length_is_received(
    site: Site, either_client: None, reply: Reply, connections: int
) -> None:
    """Chunked, or ended by the connection."""
    async with site.opened(reply) as (server, client):
        for _ in range(2):
            memory = bytearray(BODY)
            buffer = ByteRangeBuffer(0, memoryview(memory))
            await client.fill(f"{server.base}/f", buffer, size=BODY, ranged=False)
            assert memory == random_bytes(BODY)

    assert server.connections == connections


# --- bodies that break


def broken_once(content: bytes, at: int, how: str, buffer: ByteRangeBuffer) -> Reply:
    """Return a reply that breaks the first body after `at` bytes of it have arrived."""
    whole = ranged(content)
    breaks = iter([True])

    async def reply(exchange: Exchange) -> None:
        if not next(breaks, False):
            await whole(exchange)
            return
        start, stop = exchange.request.byte_range
        await partial_head(exchange, start, stop, len(content))
        await exchange.send(content[start : start + at])
        await until(lambda: buffer.filled == at)
        exchange.reset() if how == "reset" else exchange.writer.close()

    return reply


@pytest.mark.parametrize(
    ("how", "message"),
    [("cut", "the body ended at byte {}"), ("reset", "(broke|ended) at byte {}")],
)
async def test_a_broken_body_keeps_what_arrived(
    site: Site, either_client: None, how: str, message: str
) -> None:
    """The error says where it broke; the next request is for the rest, on a new connection."""
    content = random_bytes(BODY)
    memory = bytearray(BODY - 5)
    buffer = ByteRangeBuffer(5, memoryview(memory))
    arrived = 2 * MIB
    async with site.opened(broken_once(content, arrived, how, buffer)) as (server, client):
        url = f"{server.base}/f?secret"
        expected = rf"/f\?…: .*{message.format(5 + arrived)} of {BODY}"
        with pytest.raises(NetworkError, match=expected):
            await client.fill(url, buffer, size=BODY)
        assert buffer.filled == arrived
        assert await client.fill(url, buffer, size=BODY) is None

    assert memory == content[5:]
    assert [request.header("Range") for request in server.requests] == [
        f"bytes=5-{BODY - 1}",
        f"bytes={5 + arrived}-{BODY - 1}",
    ]
    assert [request.connection for request in server.requests] == [1, 2]


async def test_a_server_may_close_right_after_the_last_byte(site: Site, in_place: None) -> None:
    """The end of the connection is not an error when the body is complete."""
    content = random_bytes(BODY)
    whole = ranged(content)

    async def reply(exchange: Exchange) -> None:
        await whole(exchange)
        exchange.writer.close()

    async with site.opened(reply) as (server, client):
        for _ in range(3):
            memory = bytearray(BODY)
            await client.fill(f"{server.base}/f", ByteRangeBuffer(0, memoryview(memory)), size=BODY)
            assert memory == content

    assert server.connections == 3


@pytest.mark.parametrize("surplus", ["a byte", "another response", "as much again"])
async def test_bytes_after_a_body_close_the_connection(
    site: Site, in_place: None, surplus: str
) -> None:
    """They are never mistaken for the response to the next request."""
    content = random_bytes(BODY)
    extra = {
        "a byte": b"x",
        "another response": b"HTTP/1.1 206 P\r\nContent-Length: 1\r\n\r\nx",
        "as much again": content,
    }[surplus]

    buffer = ByteRangeBuffer(0, memoryview(bytearray()))

    async def reply(exchange: Exchange) -> None:
        await partial_head(exchange, 0, BODY, BODY)
        # The socket is empty, so the last bytes and the surplus arrive together.
        await exchange.send(content[: -64 * KIB])
        await until(lambda: buffer.filled == BODY - 64 * KIB)
        exchange.writer.write(content[-64 * KIB :] + extra)

    async with site.opened(reply) as (server, client):
        for _ in range(3):
            memory = bytearray(BODY + 100)
            buffer = ByteRangeBuffer(0, memoryview(memory)[:BODY])
            await client.fill(f"{server.base}/f", buffer, size=BODY)
            assert memory[:BODY] == content
            assert memory[BODY:] == bytes(100)

    assert server.connections == 3


@pytest.mark.parametrize(
    ("more", "message"), [(6, "more bytes arrived"), (-6, f"ended at byte {BODY - 6} of {BODY}")]
)
async def test_a_length_that_contradicts_the_range_is_an_error(
    site: Site, either_client: None, more: int, message: str
) -> None:
    """A body of another length than its range fails at its end, not by a timeout."""
    content = random_bytes(BODY + 6)

    async def reply(exchange: Exchange) -> None:
        await exchange.head(
            "206 Partial Content",
            f"Content-Range: bytes 0-{BODY - 1}/{BODY}",
            f"Content-Length: {BODY + more}",
        )
        await exchange.send(content[: BODY + more])

    async with site.opened(reply) as (server, client):
        with pytest.raises(NetworkError, match=message):
            await client.fill(
                f"{server.base}/f", ByteRangeBuffer(0, memoryview(bytearray(BODY))), size=BODY
            )


async def test_a_cancelled_request_writes_no_more(site: Site, either_client: None) -> None:
    """After the cancellation the memory is the caller's, and the next request is right."""
    content = b"\xff" * LARGE
    with mapped(LARGE) as memory:
        buffer = ByteRangeBuffer(0, memory)
        cancelled, hung_up = asyncio.Event(), asyncio.Event()

        async def reply(exchange: Exchange) -> None:
            start, stop = exchange.request.byte_range
            half = (start + stop) // 2
            await partial_head(exchange, start, stop, LARGE)
            try:
                await exchange.send(content[start:half])
                await cancelled.wait()
                if exchange.request.connection > 1:
                    await exchange.send(content[half:stop])
                    return
                await exchange.send(content[half : half + KIB])
                await exchange.reader.read()  # until the client has closed the connection
            finally:
                if stop - start == LARGE:
                    hung_up.set()

        async with site.opened(reply) as (server, client):
            url = f"{server.base}/f"
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: client.fill(url, buffer, size=LARGE))
                await until(lambda: buffer.filled > MIB)
                tasks.cancel_scope.cancel()
            cancelled.set()
            before = bytes(memory)
            assert buffer.filled < LARGE
            # The server goes on sending until it notices that the connection is closed.
            await hung_up.wait()
            assert memory == before

            await client.fill(url, ByteRangeBuffer(9, memory[:MIB]), size=LARGE)

        assert [request.connection for request in server.requests] == [1, 2]


async def test_a_cancellation_at_the_last_byte_closes_the_connection(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the end of the body and the return of the call nothing is reused."""
    content = random_bytes(BODY)
    scope = anyio.CancelScope()
    real = connection.Connection._finish

    def finish(*args: Any, **options: Any) -> None:
        real(*args, **options)
        scope.cancel()

    async with site.opened(ranged(content)) as (server, client):
        url = f"{server.base}/f"
        with monkeypatch.context() as patch:
            patch.setattr(connection.Connection, "_finish", finish)
            buffer = ByteRangeBuffer(0, memoryview(bytearray(BODY)))
            with scope:
                await client.fill(url, buffer, size=BODY)
        assert scope.cancelled_caught
        assert buffer.memory == content
        await client.fill(url, ByteRangeBuffer(0, memoryview(bytearray(BODY))), size=BODY)

    assert server.connections == 2


async def test_a_silent_server_is_a_stall(site: Site, either_client: None) -> None:
    """What arrived is kept; the connection is closed."""
    content = random_bytes(BODY)
    buffer = ByteRangeBuffer(0, memoryview(bytearray(BODY)))
    whole = ranged(content)

    async def reply(exchange: Exchange) -> None:
        if exchange.request.connection > 1:
            await whole(exchange)
            return
        await partial_head(exchange, 0, BODY, BODY)
        await exchange.send(content[:MIB])
        await exchange.reader.read()  # until the client gives up

    async with site.opened(reply) as (server, client):
        set_read_timeout(client, 0.3)
        with pytest.raises(StalledError, match=r"127\.0\.0\.1:\d+ sent nothing for too long"):
            await client.fill(f"{server.base}/f", buffer, size=BODY)
        arrived = buffer.filled  # not all that was sent, if this machine was too slow for 0.3 s
        set_read_timeout(client, 30.0)
        await client.fill(f"{server.base}/f", buffer, size=BODY)

    assert buffer.memory == content
    assert server.requests[1].byte_range == (arrived, BODY)
    assert server.connections == 2


async def test_a_buffer_that_is_split_ends_early(site: Site, either_client: None) -> None:
    """The other half belongs to another request: the connection is closed at the split."""
    content = random_bytes(BODY)
    memory = bytearray(BODY)
    buffer = ByteRangeBuffer(0, memoryview(memory))
    split, ended = asyncio.Event(), asyncio.Event()

    async def reply(exchange: Exchange) -> None:
        start, stop = exchange.request.byte_range
        await partial_head(exchange, start, stop, BODY)
        if start:
            await exchange.send(content[start:stop])
            return
        await exchange.send(content[: BODY // 4])
        await split.wait()
        await exchange.send(content[BODY // 4 : BODY - 1])
        await exchange.reader.read()  # the client closes before the last byte
        ended.set()

    async with site.opened(reply) as (server, client):
        url = f"{server.base}/f"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: client.fill(url, buffer, size=BODY))
            await until(lambda: buffer.filled == BODY // 4)
            other = buffer.split_off(1)
            split.set()
        assert other is not None
        assert buffer.missing == 0
        await client.fill(url, other, size=BODY)

    assert memory == content
    assert server.requests[1].byte_range == (other.start, BODY)
    assert server.connections == 2


async def test_a_split_ends_a_body_without_a_length(site: Site, either_client: None) -> None:
    """A body that is copied ends at the split, too."""
    content = random_bytes(BODY)
    buffer = ByteRangeBuffer(0, memoryview(bytearray(BODY)))
    split = asyncio.Event()

    async def reply(exchange: Exchange) -> None:
        await exchange.head("200 OK", "Transfer-Encoding: chunked")
        for start, stop in ((0, BODY // 4), (BODY // 4, BODY)):
            await exchange.send(b"%x\r\n%s\r\n" % (stop - start, content[start:stop]))
            await split.wait()
        await exchange.reader.read()  # the end of the body is never sent

    async with site.opened(reply) as (server, client), anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: client.fill(f"{server.base}/f", buffer, size=BODY, ranged=False))
        await until(lambda: buffer.filled == BODY // 4)
        buffer.split_off(1)
        split.set()

    assert buffer.missing == 0
    assert buffer.memory[: buffer.limit] == content[: buffer.limit]


# --- errors and redirects


@pytest.mark.parametrize(
    ("status", "kind"),
    [("416 Range Not Satisfiable", RejectedError), ("403 Forbidden", AccessError), ("302", None)],
)
async def test_an_error_keeps_the_connection(
    site: Site, either_client: None, status: str, kind: type[TransferError] | None
) -> None:
    """A response whose short body was read leaves its connection to the next request."""

    async def reply(exchange: Exchange) -> None:
        await exchange.head(f"{status} -", "Location: /elsewhere", "Content-Length: 5")
        await exchange.send(b"sorry")

    buffer = ByteRangeBuffer(0, memoryview(bytearray(BODY)))
    async with site.opened(reply) as (server, client):
        for _ in range(3):
            if kind is None:
                response = await client.fill(f"{server.base}/f", buffer, size=BODY)
                assert isinstance(response, Response)
            else:
                with pytest.raises(kind, match="sorry"):
                    await client.fill(f"{server.base}/f", buffer, size=BODY)

    assert server.connections == 1


async def test_an_error_whose_body_never_ends_is_still_raised(
    site: Site, either_client: None
) -> None:
    """The status is known, so a body that stalls is cut."""

    async def reply(exchange: Exchange) -> None:
        # In one piece, so that the head does not arrive without the first bytes of the body.
        await exchange.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 500\r\n\r\nbecause")
        await exchange.reader.read()

    async with site.opened(reply) as (server, client):
        set_read_timeout(client, 0.2)
        with pytest.raises(AccessError, match="answered 403: because"):
            await client.fill(
                f"{server.base}/f", ByteRangeBuffer(0, memoryview(bytearray(9))), size=9
            )
