"""`hftransfer._http.pool`: requests over reused connections, and how they can fail.

The tests of stalls wait for a short read timeout, because uvloop's clock cannot be moved.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import itertools
import socket
from typing import Any

import anyio
import pytest

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._http.client import HttpClient
from hftransfer.errors import (
    NetworkError,
    RejectedError,
    SourceChangedError,
    StalledError,
)
from support.http import (
    KIB,
    LOOPS,
    QUIET,
    Exchange,
    Reply,
    Site,
    open_files,
    partial_head,
    random_bytes,
    ranged,
    until,
)

pytestmark = [pytest.mark.anyio, *QUIET]

CONTENT = random_bytes(300 * KIB)


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True)
def without_aiohttp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a request of this module's tests is sent by aiohttp."""

    def unexpected(self: HttpClient) -> None:
        raise AssertionError("a request was sent by aiohttp")

    monkeypatch.setattr(HttpClient, "_ready_aiohttp", unexpected)


def fixed_reply(status: str, *headers: str, body: bytes = b"", closes: bool = False) -> Reply:
    """Return a reply that always sends this response."""

    async def reply(exchange: Exchange) -> None:
        await exchange.head(status, *headers)
        await exchange.send(body)
        if closes:
            exchange.writer.close()

    return reply


async def in_pieces(exchange: Exchange, data: bytes) -> None:
    """Send byte by byte, so that each arrives alone."""
    for byte in data:
        exchange.writer.write(bytes([byte]))
        await exchange.flush()
        await asyncio.sleep(0)


# --- bodies


@pytest.mark.parametrize("size", [1, 100, 60 * KIB, 64 * KIB, 64 * KIB + 1, 300 * KIB])
async def test_a_small_body_is_received_into_the_callers_memory(site: Site, size: int) -> None:
    """Every byte arrives, over one connection, and the memory around it does not change."""
    async with site.opened(ranged(CONTENT)) as (server, client):
        for _ in range(3):
            memory = bytearray(b"#" * (size + 2))
            buffer = ByteRangeBuffer(0, memoryview(memory)[1:-1])
            assert await client.fill(f"{server.base}/f", buffer, size=len(CONTENT)) is None
            assert memory == b"#" + CONTENT[:size] + b"#"
            assert buffer.missing == 0

    assert server.connections == 1


async def test_a_head_may_arrive_in_any_number_of_pieces(site: Site) -> None:
    """An interim response, the head and the body arrive byte by byte."""

    async def reply(exchange: Exchange) -> None:
        await in_pieces(
            exchange,
            b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        )

    memory = bytearray(5)
    async with site.opened(reply) as (server, client):
        await client.fill(
            f"{server.base}/f", ByteRangeBuffer(0, memoryview(memory)), size=5, ranged=False
        )

    assert memory == b"hello"


@pytest.mark.parametrize(
    ("headers", "body", "closes"),
    [
        (["Transfer-Encoding: chunked"], b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", False),
        ([], b"hello", True),
        (
            ["Content-Encoding: gzip", "Content-Length: 25"],
            gzip.compress(b"hello", mtime=0),
            False,
        ),
    ],
    ids=["chunked", "until the end", "gzip"],
)
async def test_a_body_of_unknown_length_is_received(
    site: Site, headers: list[str], body: bytes, closes: bool
) -> None:
    """Chunked, encoded or ended by the connection; the connection is reused if it can be."""
    reply = fixed_reply("200 OK", *headers, body=body, closes=closes)
    async with site.opened(reply) as (server, client):
        for _ in range(2):
            memory = bytearray(5)
            buffer = ByteRangeBuffer(0, memoryview(memory))
            await client.fill(f"{server.base}/f", buffer, size=5, ranged=False)
            assert memory == b"hello"
            response = await client.request("GET", f"{server.base}/f")
            assert response.body == b"hello"

    assert server.connections == (4 if closes else 1)


async def test_a_truncated_body_keeps_what_has_arrived(site: Site) -> None:
    """The next request is for the rest only."""

    async def reply(exchange: Exchange) -> None:
        start, stop = exchange.request.byte_range
        await partial_head(exchange, start, stop, len(CONTENT))
        await exchange.send(CONTENT[start : stop if start else 1000])
        exchange.writer.close()

    memory = bytearray(100_000)
    buffer = ByteRangeBuffer(0, memoryview(memory))
    async with site.opened(reply) as (server, client):
        with pytest.raises(NetworkError, match="ended at byte 1000 of 100000"):
            await client.fill(f"{server.base}/f", buffer, size=len(CONTENT))
        await client.fill(f"{server.base}/f", buffer, size=len(CONTENT))

    assert [request.header("Range") for request in server.requests] == [
        "bytes=0-99999",
        "bytes=1000-99999",
    ]
    assert memory == CONTENT[:100_000]


async def test_more_than_was_announced_is_an_error(site: Site) -> None:
    """It is not known which of the bytes are the right ones."""
    reply = fixed_reply("200 OK", "Content-Length: 5", body=b"hello, world")
    async with site.opened(reply) as (server, client):
        with pytest.raises(NetworkError, match="more bytes arrived"):
            await client.fill(
                f"{server.base}/f", ByteRangeBuffer(0, memoryview(bytearray(5))), size=5
            )


async def test_a_response_for_another_file_closes_the_connection(site: Site) -> None:
    """Its body is not read, so the connection cannot be reused."""
    reply = fixed_reply("200 OK", "Content-Length: 7", body=b"another")
    async with site.opened(reply) as (server, client):
        for _ in range(2):
            with pytest.raises(SourceChangedError):
                await client.fill(
                    f"{server.base}/f", ByteRangeBuffer(0, memoryview(bytearray(5))), size=5
                )

    assert server.connections == 2


async def test_surplus_bytes_close_the_connection(site: Site) -> None:
    """They are not mistaken for the response to the next request."""
    reply = fixed_reply("200 OK", "Content-Length: 2", body=b"okHTTP/1.1 200 OK\r\n\r\n")
    async with site.opened(reply) as (server, client):
        for _ in range(2):
            assert (await client.request("GET", f"{server.base}/")).body == b"ok"

    assert server.connections == 2


# --- connections


async def test_concurrent_requests_have_a_connection_each(site: Site) -> None:
    """Later requests reuse these connections."""
    async with site.opened(ranged(CONTENT)) as (server, client):
        for _ in range(3):
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    buffer = ByteRangeBuffer(0, memoryview(bytearray(1000)))
                    tasks.start_soon(
                        lambda b=buffer: client.fill(f"{server.base}/f", b, size=len(CONTENT))  # type: ignore[misc]
                    )

    assert server.connections == 5


def reset_second_request() -> Reply:
    """Return a reply that resets the connection of the second request only."""
    numbers = itertools.count(1)

    async def reply(exchange: Exchange) -> None:
        if next(numbers) == 2:
            exchange.reset()
            return
        await exchange.head("200 OK", "Content-Length: 0")

    return reply


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
async def test_a_request_on_a_stale_connection_is_replayed(site: Site, method: str) -> None:
    """Servers close idle connections at any time, also while the next request is on its way."""
    async with site.opened(reset_second_request()) as (server, client):
        await client.request("GET", f"{server.base}/")
        response = await client.request(method, f"{server.base}/", body=b"x" * (method == "PUT"))

    assert response.status == 200
    assert server.connections == 2


async def test_a_post_is_not_replayed(site: Site) -> None:
    """It is not idempotent and may have been executed: the caller decides."""
    async with site.opened(reset_second_request()) as (server, client):
        await client.request("GET", f"{server.base}/")
        with pytest.raises(NetworkError, match="POST"):
            await client.request("POST", f"{server.base}/", body=b"x")

    assert len(server.requests) == 2


async def test_a_new_connection_that_ends_is_an_error(site: Site) -> None:
    """Only reused connections can be stale: a server that always closes gets one request."""

    async def reply(exchange: Exchange) -> None:
        exchange.writer.close()

    async with site.opened(reply) as (server, client):
        with pytest.raises(NetworkError, match="the server closed the connection"):
            await client.request("GET", f"{server.base}/")

    assert len(server.requests) == 1


async def test_a_cancelled_request_closes_its_connection(site: Site) -> None:
    """A late response is not mistaken for that of another request, and not stored."""
    received, may_respond = asyncio.Event(), asyncio.Event()

    async def reply(exchange: Exchange) -> None:
        if exchange.request.connection == 1:
            received.set()
            await may_respond.wait()
        await partial_head(exchange, 0, 1000, len(CONTENT))
        await exchange.send(CONTENT[:1000])

    memory = bytearray(1000)
    async with site.opened(reply) as (server, client):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(
                    lambda: client.fill(
                        f"{server.base}/f",
                        ByteRangeBuffer(0, memoryview(memory)),
                        size=len(CONTENT),
                    )
                )
                await received.wait()
                scope.cancel()
        may_respond.set()
        other = bytearray(1000)
        await client.fill(
            f"{server.base}/f", ByteRangeBuffer(0, memoryview(other)), size=len(CONTENT)
        )

    assert other == CONTENT[:1000]
    assert memory == bytes(1000)
    assert server.connections == 2


async def test_closing_leaves_no_socket(site: Site) -> None:
    """Idle connections and those with an exchange are closed."""

    async def silent(exchange: Exchange) -> None:
        if exchange.request.head.startswith(b"GET /quick"):
            await exchange.head("200 OK", "Content-Length: 0")
        else:
            received.set()

    received = asyncio.Event()
    async with site.opened(silent) as (server, client):
        before = len(open_files())
        await client.request("GET", f"{server.base}/quick")
        async with anyio.create_task_group() as tasks:

            async def request_slow() -> None:
                with pytest.raises(NetworkError):
                    await client.request("GET", f"{server.base}/slow")

            tasks.start_soon(request_slow)
            await received.wait()
            await client.aclose()
        # The server closes its ends, too.
        await until(lambda: len(open_files()) <= before)


# --- stalls


@pytest.mark.parametrize(
    ("begun", "message"),
    [
        (b"", "sent nothing for too long"),
        (b"HTTP/1.1 200", "did not end it in time"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1", "sent nothing for too long"),
    ],
)
async def test_silence_is_a_stall_wherever_it_begins(
    site: Site, begun: bytes, message: str
) -> None:
    """Before the head, in it, and in the body, on a connection that was used before."""

    async def reply(exchange: Exchange) -> None:
        if len(server.requests) == 1:
            await exchange.head("200 OK", "Content-Length: 0")
        else:
            await exchange.send(begun)

    async with site.opened(reply, read=0.05) as (server, client):
        await client.request("GET", f"{server.base}/")
        with pytest.raises(StalledError, match=message):
            await client.request("GET", f"{server.base}/")


# --- malformed responses and requests


@pytest.mark.parametrize(
    "response",
    [
        b"220 smtp.example ESMTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000,
    ],
    ids=["smtp", "length", "chunks", "encoding", "endless"],
)
async def test_a_response_that_is_not_http_is_a_network_error(site: Site, response: bytes) -> None:
    """It neither returns wrong bytes nor waits without end."""

    async def reply(exchange: Exchange) -> None:
        await exchange.send(response)

    async with site.opened(reply) as (server, client):
        with pytest.raises(NetworkError, match="not HTTP"):
            await client.request("GET", f"{server.base}/")


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\0b", "a\rb"])
async def test_a_header_cannot_contain_another(site: Site, value: str) -> None:
    """Header values may be metadata of a user's object, with any characters."""
    async with site.opened(fixed_reply("200 OK", "Content-Length: 0")) as (server, client):
        with pytest.raises(RejectedError, match="line breaks"):
            await client.request("PUT", f"{server.base}/", headers={"x-amz-meta-a": value})

    assert server.requests == []


async def test_a_cancelled_attempt_to_connect_leaves_no_socket(site: Site) -> None:
    """Whenever it is cancelled. An unclosed socket is a ResourceWarning, which fails the test."""
    async with site.opened(fixed_reply("200 OK", "Content-Length: 0")) as (server, client):
        before = len(open_files())
        for iterations in range(20):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    for _ in range(3):
                        tasks.start_soon(lambda: client.request("GET", f"{server.base}/"))
                    for _ in range(iterations):
                        await asyncio.sleep(0)
                    scope.cancel()
        await client.aclose()
        gc.collect()
        await until(lambda: len(open_files()) <= before + 1)  # perhaps one of the selector


async def test_a_host_is_looked_up_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many connections are opened; again only after it could not be reached."""
    if not isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):
        pytest.skip("uvloop resolves names in C")
    lookups: list[object] = []
    real = asyncio.BaseEventLoop.getaddrinfo

    async def counted(self: asyncio.BaseEventLoop, host: Any, port: Any, **options: Any) -> Any:
        lookups.append(host)
        return await real(self, host, port, **options)

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", counted)
    arrived = 0

    async def reply(exchange: Exchange) -> None:
        nonlocal arrived
        arrived += 1
        await until(lambda: arrived >= 5)
        await exchange.head("200 OK", "Content-Length: 0")

    async with site.opened(reply) as (server, client):
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(lambda: client.request("GET", f"{server.base}/"))
        assert server.connections == 5
        assert len(lookups) == 1

        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))  # does not listen
            for _ in range(2):
                with pytest.raises(NetworkError, match="cannot connect"):
                    await client.request("GET", f"http://127.0.0.1:{silent.getsockname()[1]}/")
    assert len(lookups) == 3
