"""`hftransfer._http.request_body`: bodies are sent from where they are, in memory or in a file."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import tracemalloc
from pathlib import Path
from typing import Any

import anyio
import pytest

from hftransfer._http import request_body
from hftransfer.errors import NetworkError, SourceChangedError, StalledError
from support.http import (
    KIB,
    LOOPS,
    MIB,
    QUIET,
    Exchange,
    Site,
    counting_rate_limiter,
    ignoring_data_after_close,
    in_file,
    mapped,
    open_files,
    random_bytes,
    until,
)

pytestmark = [pytest.mark.anyio, *QUIET]

# More than the socket buffers of a loopback connection hold.
LARGE = 20 * MIB


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


async def accept(exchange: Exchange) -> None:
    await exchange.head("200 OK", "Content-Length: 2")
    await exchange.send(b"ok")


@pytest.mark.parametrize("size", [0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, LARGE])
async def test_a_body_arrives_byte_for_byte(site: Site, either_client: None, size: int) -> None:
    """Any size, twice on one connection, with Content-Length and without Content-Type."""
    content = random_bytes(size)
    async with site.opened(accept) as (server, client):
        for _ in range(2):
            response = await client.request("PUT", f"{server.base}/part", body=memoryview(content))
            assert (response.status, response.body) == (200, b"ok")

    assert server.connections == 1
    assert len(server.requests) == 2
    for request in server.requests:
        assert request.body == content
        assert request.header("Content-Length") == str(size)
        assert request.header("Content-Type") is None
        assert request.header("Transfer-Encoding") is None


@pytest.mark.parametrize("kind", ["bytes", "integers", "map"])
async def test_any_memory_can_be_sent(site: Site, either_client: None, kind: str) -> None:
    """The bytes are sent, whatever the item size of the view."""
    content = random_bytes(MIB)
    async with site.opened(accept) as (server, client):
        with mapped(MIB) as memory:
            memory[:] = content
            views = {"bytes": content, "integers": memoryview(content).cast("I"), "map": memory}
            await client.request("PUT", f"{server.base}/part", body=views[kind])

    assert server.requests[0].body == content


@pytest.mark.parametrize("size", [0, 1, 64 * KIB, 64 * KIB + 1, LARGE])
@pytest.mark.parametrize("disk", ["cached", "slow", "no sendfile"])
async def test_a_part_of_a_file_arrives_byte_for_byte(
    site: Site,
    either_client: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    disk: str,
) -> None:
    """From the page cache or the disk, also if the file system lacks sendfile."""
    content = random_bytes(size + 20)
    real = os.preadv

    def preadv(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if flags:
            raise BlockingIOError
        return real(fd, buffers, offset)

    def sendfile(out: int, fd: int, offset: int, count: int) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    if disk == "slow":
        monkeypatch.setattr(os, "preadv", preadv)
    elif disk == "no sendfile":
        monkeypatch.setattr(os, "sendfile", sendfile)
    async with site.opened(accept) as (server, client):
        with in_file(tmp_path / "f", content) as whole:
            for _ in range(2):
                response = await client.request(
                    "PUT", f"{server.base}/p", body=whole.subrange(10, size)
                )
                assert (response.status, response.body) == (200, b"ok")

    assert server.connections == 1
    assert len(server.requests) == 2
    for request in server.requests:
        assert request.body == content[10 : 10 + size]
        assert request.header("Content-Length") == str(size)


@pytest.mark.parametrize("shorter", [True, False])
async def test_a_file_that_changes_while_it_is_sent_is_an_error(
    site: Site, tmp_path: Path, shorter: bool
) -> None:
    """Whatever the server responds; and the connection is closed."""
    path = tmp_path / "model.bin"

    async def reply(exchange: Exchange) -> None:
        await exchange.reader.readexactly(MIB)
        if exchange.request.connection == 1:
            if shorter:
                os.truncate(path, 2 * MIB)
            os.utime(path, ns=(0, 0))
            await exchange.reader.readexactly(LARGE - MIB)
        await accept(exchange)

    before = open_files()
    async with site.opened(reply, reads_body=False) as (server, client):
        url = f"{server.base}/part"
        with (
            in_file(path, random_bytes(LARGE)) as whole,
            pytest.raises(SourceChangedError, match=r"model\.bin was changed"),
        ):
            await client.request("PUT", url, body=whole)
        with in_file(path, random_bytes(MIB)) as whole:
            response = await client.request("PUT", url, body=whole)
            assert response.status == 200

    assert server.connections == 2
    await all_closed(before)


async def discard(exchange: Exchange) -> None:
    """Read a body slowly, in small pieces, without keeping it."""
    left = int(exchange.request.header("Content-Length") or 0)
    while left:
        left -= len(await exchange.reader.read(min(left, 16 * KIB)))
        await asyncio.sleep(0)
    await accept(exchange)


@pytest.mark.parametrize("origin", ["memory", "file"])
async def test_a_slow_server_costs_no_memory(site: Site, tmp_path: Path, origin: str) -> None:
    """Bytes that the server does not accept yet stay where they are and are not copied."""
    with mapped(LARGE) as memory, in_file(tmp_path / "f", bytes(LARGE)) as file:
        async with site.opened(discard, reads_body=False) as (server, client):
            url = f"{server.base}/part"
            await client.request("PUT", url, body=memory[:MIB])  # connect first
            tracemalloc.start()
            try:
                response = await client.request(
                    "PUT", url, body=file if origin == "file" else memory
                )
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()

    assert response.status == 200
    assert peak < 3 * MIB  # most of it is the server's


@pytest.mark.parametrize("closes", [True, False])
async def test_an_early_refusal_is_the_response(
    site: Site, either_client: None, closes: bool
) -> None:
    """A server may refuse in the middle of a body, and close or not: its response counts."""
    content = random_bytes(LARGE)

    async def reply(exchange: Exchange) -> None:
        await exchange.reader.readexactly(MIB)
        await exchange.head("403 Forbidden", "Content-Length: 6", "Connection: close")
        await exchange.send(b"denied")
        await exchange.flush()
        if closes:
            exchange.writer.close()
        else:
            await exchange.reader.read(-1)

    before = open_files()
    with ignoring_data_after_close():
        async with site.opened(reply, reads_body=False) as (server, client):
            for _ in range(3):
                try:
                    response = await client.request("PUT", f"{server.base}/part", body=content)
                except NetworkError:
                    # A TLS transport that cannot write does not read either.
                    assert site.tls
                    assert closes
                else:
                    assert (response.status, response.body) == (403, b"denied")
        await all_closed(before)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_connection_that_breaks_during_a_body_is_a_network_error(
    site: Site, either_client: None, how: str
) -> None:
    """The call does not hang, and no descriptor is left open."""
    content = random_bytes(LARGE)

    async def reply(exchange: Exchange) -> None:
        await exchange.reader.readexactly(MIB)
        exchange.reset() if how == "reset" else exchange.writer.transport.abort()

    before = open_files()
    async with site.opened(reply, reads_body=False) as (server, client):
        with pytest.raises(NetworkError) as caught:
            await client.request("PUT", f"{server.base}/part?do-not-show", body=content)
    assert "do-not-show" not in str(caught.value)
    await all_closed(before)


async def test_a_server_that_accepts_nothing_is_a_stall(site: Site, either_client: None) -> None:
    """The read timeout holds while a body is sent, too."""
    content = random_bytes(LARGE)
    may_end = asyncio.Event()

    async def reply(exchange: Exchange) -> None:
        exchange.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await may_end.wait()
        exchange.writer.transport.abort()

    before = open_files()
    async with site.opened(reply, reads_body=False, read=0.3) as (server, client):
        with pytest.raises(StalledError, match=r"127.0.0.1:\d+ accepted nothing for too long"):
            await client.request("PUT", f"{server.base}/part", body=content)
        may_end.set()
    await all_closed(before)


@pytest.mark.parametrize("loops", [1, 2])
async def test_a_cancelled_body_is_read_no_more(
    site: Site, either_client: None, loops: int
) -> None:
    """After a cancellation the memory may change, and the server receives none of that."""
    cancelled = asyncio.Event()
    received: list[bytes] = []

    async def reply(exchange: Exchange) -> None:
        if exchange.request.connection > 1:
            await exchange.reader.readexactly(MIB)
            await accept(exchange)
            return
        await exchange.reader.readexactly(MIB)
        await cancelled.wait()
        try:
            while data := await exchange.reader.read(MIB):
                received.append(data)
        finally:
            exchange.writer.close()

    before = open_files()
    with mapped(LARGE) as memory:
        memory[:] = b"\x01" * LARGE
        async with site.opened(reply, reads_body=False, loops=loops) as (server, client):
            client._loops.in_flight[0] = 10  # so the request goes to the loop thread, if any
            url = f"{server.base}/part"
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: client.request("PUT", url, body=memory))
                await until(lambda: server.connections == 1 and bool(server.requests))
                for _ in range(200):
                    await asyncio.sleep(0)
                tasks.cancel_scope.cancel()
            memory[:] = b"\x02" * LARGE
            cancelled.set()
            response = await client.request("PUT", url, body=memory[:MIB])
            assert response.status == 200

    assert server.connections == 2
    assert b"\x02" not in b"".join(received)
    assert len(b"".join(received)) < LARGE - MIB
    await all_closed(before)


@pytest.mark.parametrize("size", [100, MIB])
async def test_the_rate_limiter_counts_every_byte_that_is_sent(
    site: Site, either_client: None, size: int
) -> None:
    """Once, however the body is sent."""
    rate_limiter, counts = counting_rate_limiter()
    async with site.opened(accept, rate_limiter=rate_limiter) as (server, client):
        await client.request("PUT", f"{server.base}/part", body=bytes(size))

    assert sum(counts) == size


async def test_a_response_before_the_end_of_a_body_closes_the_connection(site: Site) -> None:
    """The server would take the rest of the body for the next request."""

    async def reply(exchange: Exchange) -> None:
        await exchange.reader.readexactly(MIB)
        await accept(exchange)
        await exchange.flush()
        await exchange.reader.read(-1)

    async with site.opened(reply, reads_body=False) as (server, client):
        for _ in range(2):
            response = await client.request("PUT", f"{server.base}/part", body=bytes(LARGE))
            assert response.status == 200

    assert server.connections == 2


async def test_a_default_timeout_of_sockets_does_not_block_the_loop(site: Site) -> None:
    """`socket.setdefaulttimeout`, set by other code, does not make sending blocking."""
    iterations = 0

    async def count() -> None:
        nonlocal iterations
        while True:
            iterations += 1
            await asyncio.sleep(0)

    socket.setdefaulttimeout(50.0)
    try:
        async with (
            site.opened(discard, reads_body=False) as (server, client),
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(count)
            await client.request("PUT", f"{server.base}/part", body=bytes(LARGE))
            tasks.cancel_scope.cancel()
    finally:
        socket.setdefaulttimeout(None)

    assert iterations > 10


async def test_without_a_descriptor_a_body_is_sent_by_the_transport(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transport may have no socket; the same bytes arrive."""
    monkeypatch.setattr(request_body, "_duplicate_socket", lambda transport: None)
    content = random_bytes(5 * MIB + 7)
    async with site.opened(accept) as (server, client):
        for _ in range(2):
            response = await client.request("PUT", f"{server.base}/part", body=content)
            assert response.status == 200

    assert [request.body == content for request in server.requests] == [True, True]
    assert server.connections == 1


async def test_a_body_is_replayed_from_its_first_byte(site: Site, either_client: None) -> None:
    """If the reused connection was closed by the server."""
    content = random_bytes(MIB)

    async def reply(exchange: Exchange) -> None:
        await accept(exchange)
        exchange.writer.close()

    async with site.opened(reply) as (server, client):
        for _ in range(5):
            response = await client.request("PUT", f"{server.base}/part", body=content)
            assert response.status == 200

    assert [request.body == content for request in server.requests] == [True] * 5


async def all_closed(before: dict[str, str]) -> None:
    """Wait until no socket is open that was not open before."""
    gc.collect()

    def are_closed() -> bool:
        now = open_files()
        return not {
            name for name, target in now.items() if "socket" in target and name not in before
        }

    await until(are_closed)
