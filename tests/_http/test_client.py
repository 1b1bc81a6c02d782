"""`hftransfer._http.client`: what is sent, and the error for each misbehaviour of a server."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._http.client import HttpClient
from hftransfer._http.status import is_redirect
from hftransfer.errors import (
    DestinationError,
    NetworkError,
    RangeNotSupportedError,
    RejectedError,
    Response,
    SourceChangedError,
    StalledError,
    TransferError,
)
from hftransfer.options import Timeouts
from hftransfer.testing import (
    CutBody,
    Fault,
    HubServer,
    IgnoreRange,
    RandomFile,
    Redirect,
    ResetConnection,
    Stall,
    Status,
    WrongRange,
)
from support.http import KIB, Exchange, Reply, open_client, raw_server
from support.hub import SECRET, SIZE, served_file


def closing_reply(status: str, *headers: str, body: bytes = b"") -> Reply:
    """Return a reply with this head and body that closes the connection."""

    async def reply(exchange: Exchange) -> None:
        await exchange.head(status, "Connection: close", *headers)
        await exchange.send(body)
        exchange.writer.close()

    return reply


# --- fill


@pytest.mark.asyncio
async def test_fill_reads_exactly_the_range_into_the_buffer(hub: HubServer) -> None:
    """The bytes are in the caller's memory, and only their range was requested and sent."""
    url, content = served_file(hub)
    memory = bytearray(1000)
    async with open_client() as client:
        response = await client.fill(url, ByteRangeBuffer(70_000, memoryview(memory)), size=SIZE)

    assert response is None
    assert bytes(memory) == content[70_000:71_000]
    assert hub.wait_idle()
    (request,) = hub.requests
    assert (request.range, request.status, request.bytes_sent) == ("bytes=70000-70999", 206, 1000)
    assert request.headers["Accept-Encoding"] == "identity"


@pytest.mark.asyncio
async def test_a_buffer_records_when_its_first_response_started(hub: HubServer) -> None:
    """By the clock of `time.monotonic`, and only for a response that was accepted."""
    url, _ = served_file(hub)
    buffer = ByteRangeBuffer(0, memoryview(bytearray(1000)))
    hub.add_fault(Fault(action=Status(503)))
    async with open_client() as client:
        with pytest.raises(TransferError):
            await client.fill(url, buffer, size=SIZE)
        after_error = buffer.response_started_at
        began = time.monotonic()
        await client.fill(url, buffer, size=SIZE)
        assert after_error is None
        assert buffer.response_started_at is not None
        assert began <= buffer.response_started_at <= time.monotonic()


@pytest.mark.asyncio
async def test_fill_of_a_whole_body_needs_no_range(hub: HubServer) -> None:
    """With `ranged=False` no Range header is sent and the 200 is accepted."""
    url, content = served_file(hub)
    memory = bytearray(SIZE)
    async with open_client() as client:
        await client.fill(url, ByteRangeBuffer(0, memoryview(memory)), size=SIZE, ranged=False)

    assert bytes(memory) == content
    assert [(request.range, request.status) for request in hub.requests] == [(None, 200)]


@pytest.mark.asyncio
async def test_the_whole_body_in_place_of_a_range_is_range_not_supported(hub: HubServer) -> None:
    """A server that ignores Range is detected before its body is stored in the wrong place."""
    url, _ = served_file(hub)
    hub.add_fault(Fault(action=IgnoreRange()))
    async with open_client() as client:
        with pytest.raises(RangeNotSupportedError, match="ignores ranges") as caught:
            await client.fill(url, ByteRangeBuffer(10, memoryview(bytearray(20))), size=SIZE)

    assert "do-not-show" not in str(caught.value)


@pytest.mark.asyncio
async def test_another_range_than_requested_is_a_network_error(hub: HubServer) -> None:
    """Content-Range is compared with the request, so shifted bytes are never stored."""
    url, _ = served_file(hub)
    hub.add_fault(Fault(action=WrongRange(shift=64)))
    async with open_client() as client:
        with pytest.raises(
            NetworkError, match=r"bytes 10-29 were requested, the response has 'bytes 74-93/"
        ):
            await client.fill(url, ByteRangeBuffer(10, memoryview(bytearray(20))), size=SIZE)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("status", "headers", "body", "kind", "message"),
    [
        (
            "206 Partial Content",
            ["Content-Range: bytes 4-7/999", "Content-Length: 4"],
            b"abcd",
            SourceChangedError,
            "it has 999 bytes now, 100 were listed",
        ),
        (
            "206 Partial Content",
            ["Content-Length: 4"],
            b"abcd",
            NetworkError,
            "the response has no Content-Range",
        ),
        (
            "206 Partial Content",
            ["Content-Range: bytes 4-7/100", "Content-Length: 6"],
            b"abcdef",
            NetworkError,
            "more bytes arrived than were announced",
        ),
        (
            "206 Partial Content",
            ["Content-Range: bytes 4-7/100", "Content-Length: 3"],
            b"abc",
            NetworkError,
            "the body ended at byte 7 of 8",
        ),
        (
            "200 OK",
            ["Content-Length: 50"],
            b"x" * 50,
            SourceChangedError,
            "it has 50 bytes now, 100 were listed",
        ),
        ("206 Partial Content", ["no colon here"], b"", NetworkError, "the response is not HTTP"),
    ],
)
async def test_a_response_that_contradicts_the_request_is_an_error(
    status: str, headers: list[str], body: bytes, kind: type[TransferError], message: str
) -> None:
    """Size, range and length of a response must be the expected ones; no message has the query."""
    async with (
        raw_server(closing_reply(status, *headers, body=body)) as server,
        open_client() as client,
    ):
        with pytest.raises(kind, match=message) as caught:
            await client.fill(
                f"{server.base}/f?{SECRET}", ByteRangeBuffer(4, memoryview(bytearray(4))), size=100
            )

    assert "do-not-show" not in str(caught.value)


@pytest.mark.asyncio
async def test_a_range_under_the_wrong_status_is_accepted() -> None:
    """rclone's S3 server sends status 200 with the requested bytes and their Content-Range."""
    reply = closing_reply(
        "200 OK", "Content-Range: bytes 4-7/100", "Content-Length: 4", body=b"abcd"
    )
    memory = bytearray(4)
    async with raw_server(reply) as server, open_client() as client:
        await client.fill(f"{server.base}/x", ByteRangeBuffer(4, memoryview(memory)), size=100)

    assert memory == b"abcd"


@pytest.mark.asyncio
async def test_an_unknown_total_is_accepted() -> None:
    """`Content-Range: bytes 4-7/*` names the right range of a body of unknown size."""
    reply = closing_reply(
        "206 Partial Content", "Content-Range: bytes 4-7/*", "Content-Length: 4", body=b"abcd"
    )
    memory = bytearray(4)
    async with raw_server(reply) as server, open_client() as client:
        await client.fill(f"{server.base}/f", ByteRangeBuffer(4, memoryview(memory)), size=100)

    assert bytes(memory) == b"abcd"


@pytest.mark.asyncio
async def test_the_error_of_a_truncated_body_has_its_position(hub: HubServer) -> None:
    """It says at which byte of the file the body ended."""
    url, _ = served_file(hub)
    hub.add_fault(Fault(action=CutBody(70_000)))
    async with open_client() as client:
        with pytest.raises(NetworkError, match="the body ended at byte 70100 of 200100") as caught:
            await client.fill(url, ByteRangeBuffer(100, memoryview(bytearray(200_000))), size=SIZE)

    assert "do-not-show" not in str(caught.value)


@pytest.mark.asyncio
@pytest.mark.parametrize("after_bytes", [0, 70_000])
async def test_a_reset_is_a_network_error(hub: HubServer, after_bytes: int) -> None:
    """A reset in the body, or before the response on two connections, may be retried."""
    url, _ = served_file(hub)
    hub.add_fault(Fault(action=ResetConnection(after_bytes), times=1 if after_bytes else 2))
    async with open_client() as client:
        with pytest.raises(NetworkError) as caught:
            await client.fill(url, ByteRangeBuffer(0, memoryview(bytearray(SIZE))), size=SIZE)

    assert "do-not-show" not in str(caught.value)


@pytest.mark.asyncio
@pytest.mark.parametrize("after_bytes", [0, 70_000])
async def test_silence_is_a_stall(hub: HubServer, after_bytes: int) -> None:
    """Silence for the read timeout, before the head or in the body; the error has the host."""
    url, _ = served_file(hub)
    hub.add_fault(Fault(action=Stall(after_bytes)))
    async with open_client(read=0.2) as client:
        with pytest.raises(StalledError, match=r"127\.0\.0\.1:\d+ sent nothing") as caught:
            await client.fill(url, ByteRangeBuffer(0, memoryview(bytearray(SIZE))), size=SIZE)

    assert "do-not-show" not in str(caught.value)


@pytest.mark.asyncio
async def test_a_port_without_a_server_is_a_network_error() -> None:
    """The error has the host, and the request may be retried."""
    async with raw_server(closing_reply("200 OK")) as server:
        pass
    async with open_client() as client:
        with pytest.raises(NetworkError, match=r"cannot connect to 127\.0\.0\.1") as caught:
            await client.request("GET", f"{server.base}/f?{SECRET}")

    assert "do-not-show" not in str(caught.value)


@pytest.mark.asyncio
@pytest.mark.parametrize("url", ["http://", "ftp://127.0.0.1/f", "no-scheme/f"])
async def test_a_url_without_an_http_server_is_rejected(url: str) -> None:
    """It is not retried."""
    async with open_client() as client:
        with pytest.raises(RejectedError, match="not a valid URL"):
            await client.request("GET", f"{url}?{SECRET}")


# --- redirects, streams and requests


@pytest.mark.asyncio
async def test_a_redirect_is_returned_and_not_followed(hub: HubServer) -> None:
    """Every method returns it to its caller, who knows which credentials to send where."""
    url, _ = served_file(hub)
    elsewhere = f"{hub.cdn_endpoint}/elsewhere?{SECRET}"
    hub.add_fault(Fault(action=Redirect(elsewhere), times=None))
    async with open_client() as client:
        filled = await client.fill(url, ByteRangeBuffer(0, memoryview(bytearray(9))), size=SIZE)
        located = await client.get_headers(url)
        requested = await client.request("GET", url)
        async with client.stream(url, size=SIZE) as streamed:
            pass

    for response in (filled, located, requested, streamed):
        assert isinstance(response, Response)
        assert is_redirect(response)
        assert response.headers["Location"] == elsewhere
        assert "do-not-show" not in repr(response)
    assert [request.host for request in hub.requests] == ["hub"] * 4


@pytest.mark.asyncio
async def test_get_headers_reads_no_body(hub: HubServer) -> None:
    """The server sends only what fits into the socket buffers before the client closes."""
    repo = hub.create_repo("acme/big", direct=True, files={"data.bin": RandomFile(64 << 20)})
    async with open_client() as client:
        response = await client.get_headers(f"{hub.endpoint}/acme/big/resolve/main/data.bin")

    assert (response.status, response.body) == (200, b"")
    assert response.headers["ETag"] == f'"{repo.blob("data.bin").sha256}"'
    assert hub.wait_idle()
    assert hub.requests[0].bytes_sent < 32 << 20


@pytest.mark.asyncio
async def test_a_stream_is_read_in_pieces_of_any_length(hub: HubServer) -> None:
    """Consecutive `readinto` calls return the whole body."""
    url, content = served_file(hub)
    pieces = [bytearray(length) for length in (1, 99_999, SIZE - 100_000)]
    async with open_client() as client, client.stream(url, size=SIZE) as body:
        assert not isinstance(body, Response)
        for piece in pieces:
            await body.readinto(memoryview(piece))

    assert b"".join(pieces) == content


@pytest.mark.asyncio
async def test_the_error_of_a_truncated_stream_has_its_position(hub: HubServer) -> None:
    """It counts from the start of the body, over all calls."""
    url, _ = served_file(hub)
    hub.add_fault(Fault(action=CutBody(150_000)))
    async with open_client() as client, client.stream(url, size=SIZE) as body:
        assert not isinstance(body, Response)
        await body.readinto(memoryview(bytearray(100_000)))
        with pytest.raises(NetworkError, match=f"the body ended at byte 150000 of {SIZE}"):
            await body.readinto(memoryview(bytearray(100_000)))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "error", [DestinationError("the disk is gone"), StalledError("the other side of the copy")]
)
async def test_an_error_of_the_reader_of_a_stream_is_not_translated(
    hub: HubServer, error: TransferError
) -> None:
    """A failure of the destination inside `stream` is not one of the source's host."""
    url, _ = served_file(hub)
    async with open_client() as client:
        with pytest.raises(type(error)) as caught:
            async with client.stream(url, size=SIZE):
                raise error

    assert caught.value is error


@pytest.mark.asyncio
async def test_a_stream_of_another_size_is_a_changed_source(hub: HubServer) -> None:
    """Content-Length is compared with the expected size before a byte is read."""
    url, _ = served_file(hub)
    async with open_client() as client:
        with pytest.raises(SourceChangedError, match=f"it has {SIZE} bytes now, 7 were listed"):
            async with client.stream(url, size=7):
                pass


@pytest.mark.asyncio
async def test_a_signed_url_is_sent_byte_for_byte() -> None:
    """No escape is decoded, normalised or added, because the signature covers the URL."""
    target = "/a%2Fb/%7Euser/it%27s?X=%2F%7E%27%20&Policy=ab~c_d-e__&plus=a+b%2Bc&empty="
    async with (
        raw_server(closing_reply("200 OK", "Content-Length: 0")) as server,
        open_client() as client,
    ):
        await client.request("GET", server.base + target)

    assert server.requests[0].head.split(b"\r\n")[0] == f"GET {target} HTTP/1.1".encode()


@pytest.mark.asyncio
async def test_the_environment_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests go to the proxy, with its credentials, except for the hosts in NO_PROXY."""
    async with raw_server(closing_reply("200 OK", "Content-Length: 0")) as proxy:
        monkeypatch.setenv("http_proxy", proxy.base.replace("//", "//user:word@"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        async with open_client() as client:
            await client.request("GET", "http://elsewhere.test/x")
            await client.request("GET", f"{proxy.base}/y")

    first, second = (request.head for request in proxy.requests)
    assert first.startswith(b"GET http://elsewhere.test/x HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic " in first
    assert second.startswith(b"GET /y HTTP/1.1\r\n")


@pytest.mark.asyncio
async def test_a_netrc_file_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token can be sent to a host for which ``~/.netrc`` has another login."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with (
        raw_server(closing_reply("200 OK", "Content-Length: 0")) as server,
        open_client() as client,
    ):
        await client.request("GET", server.base, headers={"Authorization": "Bearer token"})

    assert b"Authorization: Bearer token\r\n" in server.requests[0].head


@pytest.mark.asyncio
@pytest.mark.parametrize("length", [0, 1, 600 * KIB])
async def test_a_body_is_sent_with_its_length(length: int) -> None:
    """With Content-Length, not chunked, which S3 would refuse."""
    sent = bytes(index % 251 for index in range(length))
    async with (
        raw_server(closing_reply("200 OK", "Content-Length: 2", body=b"ok")) as server,
        open_client() as client,
    ):
        response = await client.request("PUT", f"{server.base}/part", body=memoryview(sent))

    assert (response.status, response.body) == (200, b"ok")
    (request,) = server.requests
    lines = [line.lower() for line in request.head.split(b"\r\n")]
    assert f"content-length: {length}".encode() in lines
    assert not any(line.startswith(b"transfer-encoding") for line in lines)
    assert not any(line.startswith((b"content-type", b"user-agent")) for line in lines)
    assert request.body == sent


@pytest.mark.asyncio
async def test_requests_share_a_connection_until_the_client_is_closed(hub: HubServer) -> None:
    """A response that was read leaves its connection to the next request."""
    url, _ = served_file(hub)
    async with open_client() as client:
        for start in (0, 100, 200):
            await client.fill(url, ByteRangeBuffer(start, memoryview(bytearray(100))), size=SIZE)
    async with open_client() as client:
        await client.request("GET", url)

    assert [request.connection for request in hub.requests] == [1, 1, 1, 2]


@pytest.mark.asyncio
async def test_aclose_closes_idle_connections() -> None:
    """After `aclose` the server sees the end of the connection, and the client opens a new one."""
    ended = asyncio.Event()

    async def reply(exchange: Exchange) -> None:
        await exchange.head("200 OK", "Content-Length: 0")
        await exchange.reader.read()
        ended.set()

    client = HttpClient(Timeouts())
    async with raw_server(reply) as server:
        await client.request("GET", f"{server.base}/")
        assert not ended.is_set()
        await client.aclose()
        await ended.wait()
        await client.aclose()
        await client.request("GET", f"{server.base}/")
        await client.aclose()

    assert len(server.requests) == 2
