"""`hftransfer._http.pool`: exchanges, and what servers and callers can do to them."""

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
from hftransfer._http import connection
from hftransfer._http.client import HttpClient
from hftransfer.errors import (
    NetworkError,
    RejectedError,
    ServerError,
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
    """Fail where an exchange of this module's tests would go by aiohttp."""

    def unexpected(self: HttpClient) -> None:
        raise AssertionError("aiohttp was asked")

    monkeypatch.setattr(HttpClient, "_ready_aiohttp", unexpected)


def words(status: str, *headers: str, body: bytes = b"", closes: bool = False) -> Reply:
    """Return a reply that is always the same."""

    async def reply(exchange: Exchange) -> None:
        await exchange.head(status, *headers)
        await exchange.send(body)
        if closes:
            exchange.writer.close()

    return reply


async def in_pieces(exchange: Exchange, data: bytes) -> None:
    """Send byte by byte, each of which arrives alone."""
    for byte in data:
        exchange.writer.write(bytes([byte]))
        await exchange.flush()
        await asyncio.sleep(0)


# --- bodies


@pytest.mark.parametrize("size", [1, 100, 60 * KIB, 64 * KIB, 64 * KIB + 1, 300 * KIB])
async def test_a_small_body_lands_in_the_callers_memory(site: Site, size: int) -> None:
    """Every byte of it, over one connection, and nothing around it changes."""
    async with site.opened(ranged(CONTENT)) as (server, client):
        for _ in range(3):
            memory = bytearray(b"#" * (size + 2))
            buffer = ByteRangeBuffer(0, memoryview(memory)[1:-1])
            assert await client.fill(f"{server.base}/f", buffer, size=len(CONTENT)) is None
            assert memory == b"#" + CONTENT[:size] + b"#"
            assert buffer.missing == 0

    assert server.connections == 1


async def test_a_head_may_arrive_in_any_number_of_pieces(site: Site) -> None:
    """An interim response, the head and the body, all byte by byte."""

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
async def test_a_body_of_unknown_length_is_the_same(
    site: Site, headers: list[str], body: bytes, closes: bool
) -> None:
    """Servers may send a whole body as they like; a connection that is left usable is used."""
    async with site.opened(words("200 OK", *headers, body=body, closes=closes)) as (server, client):
        for _ in range(2):
            memory = bytearray(5)
            buffer = ByteRangeBuffer(0, memoryview(memory))
            await client.fill(f"{server.base}/f", buffer, size=5, ranged=False)
            assert memory == b"hello"
            response = await client.request("GET", f"{server.base}/f")
            assert response.body == b"hello"

    assert server.connections == (4 if closes else 1)


async def test_a_cut_body_keeps_what_has_arrived(site: Site) -> None:
    """The next request asks only for the rest."""

    async def reply(exchange: Exchange) -> None:
        start, stop = exchange.request.extent
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
    """Nobody can say which of the bytes are the right ones."""
    reply = words("200 OK", "Content-Length: 5", body=b"hello, world")
    async with site.opened(reply) as (server, client):
        with pytest.raises(NetworkError, match="more bytes arrived"):
            await client.fill(
                f"{server.base}/f", ByteRangeBuffer(0, memoryview(bytearray(5))), size=5
            )


async def test_an_answer_about_another_file_costs_its_connection(site: Site) -> None:
    """Its body is not read, so that nothing else can be read there."""
    reply = words("200 OK", "Content-Length: 7", body=b"another")
    async with site.opened(reply) as (server, client):
        for _ in range(2):
            with pytest.raises(SourceChangedError):
                await client.fill(
                    f"{server.base}/f", ByteRangeBuffer(0, memoryview(bytearray(5))), size=5
                )

    assert server.connections == 2


async def test_bytes_that_nobody_asked_for_cost_the_connection(site: Site) -> None:
    """They are not taken for the response to the next request."""
    reply = words("200 OK", "Content-Length: 2", body=b"okHTTP/1.1 200 OK\r\n\r\n")
    async with site.opened(reply) as (server, client):
        for _ in range(2):
            assert (await client.request("GET", f"{server.base}/")).body == b"ok"

    assert server.connections == 2


# --- connections


async def test_requests_at_once_have_connections_of_their_own(site: Site) -> None:
    """As many as are under way; later requests find them."""
    async with site.opened(ranged(CONTENT)) as (server, client):
        for _ in range(3):
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    buffer = ByteRangeBuffer(0, memoryview(bytearray(1000)))
                    tasks.start_soon(
                        lambda s=buffer: client.fill(f"{server.base}/f", s, size=len(CONTENT))  # type: ignore[misc]
                    )

    assert server.connections == 5


def reset_at_the_second() -> Reply:
    """Return a reply that breaks the connection of the second request, and of no other."""
    numbers = itertools.count(1)

    async def reply(exchange: Exchange) -> None:
        if next(numbers) == 2:
            exchange.reset()
            return
        await exchange.head("200 OK", "Content-Length: 0")

    return reply


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
async def test_a_connection_that_ended_while_idle_is_replaced(site: Site, method: str) -> None:
    """As servers end idle ones at any moment, also while the next request is on its way."""

    async with site.opened(reset_at_the_second()) as (server, client):
        await client.request("GET", f"{server.base}/")
        response = await client.request(method, f"{server.base}/", body=b"x" * (method == "PUT"))

    assert response.status == 200
    assert server.connections == 2


async def test_a_post_is_not_sent_twice(site: Site) -> None:
    """It may have been done: whoever knows what it does decides."""

    async with site.opened(reset_at_the_second()) as (server, client):
        await client.request("GET", f"{server.base}/")
        with pytest.raises(NetworkError, match="POST"):
            await client.request("POST", f"{server.base}/", body=b"x")

    assert len(server.requests) == 2


async def test_a_new_connection_that_ends_is_an_error(site: Site) -> None:
    """Only idle ones are replaced: a server that always hangs up is asked once."""

    async def reply(exchange: Exchange) -> None:
        exchange.writer.close()

    async with site.opened(reply) as (server, client):
        with pytest.raises(NetworkError, match="the server closed the connection"):
            await client.request("GET", f"{server.base}/")

    assert len(server.requests) == 1


async def test_a_cancelled_request_costs_its_connection(site: Site) -> None:
    """A late response cannot be taken for that of another request, nor be written anywhere."""
    asked = asyncio.Event()
    go_on = asyncio.Event()

    async def reply(exchange: Exchange) -> None:
        if exchange.request.connection == 1:
            asked.set()
            await go_on.wait()
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
                await asked.wait()
                scope.cancel()
        go_on.set()
        other = bytearray(1000)
        await client.fill(
            f"{server.base}/f", ByteRangeBuffer(0, memoryview(other)), size=len(CONTENT)
        )

    assert other == CONTENT[:1000]
    assert memory == bytes(1000)
    assert server.connections == 2


async def test_closing_leaves_no_socket(site: Site) -> None:
    """Idle connections and those under way, plain or not."""

    async def silent(exchange: Exchange) -> None:
        if exchange.request.head.startswith(b"GET /quick"):
            await exchange.head("200 OK", "Content-Length: 0")
        else:
            asked.set()

    asked = asyncio.Event()
    async with site.opened(silent) as (server, client):
        before = len(open_files())
        await client.request("GET", f"{server.base}/quick")
        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                with pytest.raises(NetworkError):
                    await client.request("GET", f"{server.base}/slow")

            tasks.start_soon(ask)
            await asked.wait()
            await client.aclose()
        # The server's ends of both go, too.
        await until(lambda: len(open_files()) <= before)


async def test_an_idle_connection_is_closed_in_time(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its server does it under the next request."""
    monkeypatch.setattr(connection, "_KEEP_ALIVE", 0.0)
    async with site.opened(words("200 OK", "Content-Length: 0"), read=0.3) as (server, client):
        await client.request("GET", f"{server.base}/")
        await until(lambda: not client._pool._open)

        assert client._pool._idle[next(iter(client._pool._idle))] == []


# --- waiting


@pytest.mark.parametrize(
    "begun", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1"]
)
async def test_silence_is_a_stall_wherever_it_begins(site: Site, begun: bytes) -> None:
    """Before the head, in it, and in the body; also on a connection that was used before."""

    async def reply(exchange: Exchange) -> None:
        if len(server.requests) == 1:
            await exchange.head("200 OK", "Content-Length: 0")
        else:
            await exchange.send(begun)

    async with site.opened(reply, read=0.05) as (server, client):
        await client.request("GET", f"{server.base}/")
        with pytest.raises(StalledError, match="sent nothing for too long"):
            await client.request("GET", f"{server.base}/")


async def test_the_words_of_a_refusal_are_not_waited_for_long(site: Site) -> None:
    """A refusal whose body trickles is taken as it is."""

    async def reply(exchange: Exchange) -> None:
        await exchange.head("500 Oh", "Content-Type: text/plain", "Content-Length: 1000")
        while not exchange.writer.is_closing():
            await exchange.send(b"a")
            await asyncio.sleep(0.01)

    async with site.opened(reply, read=0.05) as (server, client):
        with pytest.raises(ServerError, match=r"500: a+$"):
            await client.fill(
                f"{server.base}/f", ByteRangeBuffer(0, memoryview(bytearray(9))), size=9
            )


# --- what is not HTTP


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
async def test_an_answer_that_is_no_http_is_a_network_error(site: Site, response: bytes) -> None:
    """Never wrong bytes, and never a wait without an end."""

    async def reply(exchange: Exchange) -> None:
        await exchange.send(response)

    async with site.opened(reply) as (server, client):
        with pytest.raises(NetworkError, match="not HTTP"):
            await client.request("GET", f"{server.base}/")


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\0b", "a\rb"])
async def test_a_header_cannot_smuggle_another(site: Site, value: str) -> None:
    """Metadata come from elsewhere, and may hold anything."""
    async with site.opened(words("200 OK", "Content-Length: 0")) as (server, client):
        with pytest.raises(RejectedError, match="line breaks"):
            await client.request("PUT", f"{server.base}/", headers={"x-amz-meta-a": value})

    assert server.requests == []


async def test_a_cancelled_attempt_to_connect_leaves_no_socket(site: Site) -> None:
    """At whatever moment it is cancelled; unclosed sockets are errors in these tests."""
    async with site.opened(words("200 OK", "Content-Length: 0")) as (server, client):
        before = len(open_files())
        for rounds in range(20):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    for _ in range(3):
                        tasks.start_soon(lambda: client.request("GET", f"{server.base}/"))
                    for _ in range(rounds):
                        await asyncio.sleep(0)
                    scope.cancel()
        await client.aclose()
        gc.collect()
        await until(lambda: len(open_files()) <= before + 1)  # a selector's own at most


async def test_a_host_is_looked_up_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """By however many connections begin at once; again only after it could not be reached."""
    if not isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):
        pytest.skip("uvloop asks the system by itself")
    asked: list[object] = []
    real = asyncio.BaseEventLoop.getaddrinfo

    async def counted(self: asyncio.BaseEventLoop, host: Any, port: Any, **options: Any) -> Any:
        asked.append(host)
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
        assert len(asked) == 1

        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))  # and does not listen
            for _ in range(2):
                with pytest.raises(NetworkError, match="cannot connect"):
                    await client.request("GET", f"http://127.0.0.1:{silent.getsockname()[1]}/")
    assert len(asked) == 3
