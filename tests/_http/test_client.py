"""`_http.client`: what goes over the connection, and which error each misbehaviour is."""

from __future__ import annotations

import asyncio
import ssl
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._http.client import HttpClient
from hftransfer._http.status import is_redirect, retry_after, status_error
from hftransfer.errors import (
    AccessError,
    DestinationError,
    NetworkError,
    NotFoundError,
    RangeNotSupportedError,
    RejectedError,
    Response,
    ServerError,
    SourceChangedError,
    StalledError,
    ThrottledError,
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
from support.http import Exchange, Reply, open_client, raw_server

KIB = 1024
SIZE = 300 * KIB
SECRET = "Signature=do-not-show"


def served_file(hub: HubServer) -> tuple[str, bytes]:
    """Put one file on `hub` that the Hub host serves itself; return its URL and its bytes."""
    repo = hub.create_repo("acme/tiny", direct=True, files={"data.bin": RandomFile(SIZE, seed=1)})
    url = f"{hub.endpoint}/acme/tiny/resolve/main/data.bin?{SECRET}"
    return url, repo.blob("data.bin").read_bytes()


def answering(status: str, *headers: str, body: bytes = b"") -> Reply:
    """Return a reply with exactly this head and body."""

    async def reply(exchange: Exchange) -> None:
        await exchange.head(status, "Connection: close", *headers)
        await exchange.send(body)
        exchange.writer.close()

    return reply


# --- fill


@pytest.mark.asyncio
async def test_fill_reads_exactly_the_range_into_the_buffer(hub: HubServer) -> None:
    """The bytes land in the caller's memory, and only the range was asked for and sent."""
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
async def test_a_span_knows_when_it_was_first_answered(hub: HubServer) -> None:
    """By the clock of `time.monotonic`, and only by an response that brings what was asked for."""
    url, _ = served_file(hub)
    buffer = ByteRangeBuffer(0, memoryview(bytearray(1000)))
    hub.add_fault(Fault(action=Status(503)))
    async with open_client() as client:
        with pytest.raises(TransferError):
            await client.fill(url, buffer, size=SIZE)
        refused = buffer.response_started_at
        began = time.monotonic()
        await client.fill(url, buffer, size=SIZE)
        assert refused is None
        assert buffer.response_started_at is not None
        assert began <= buffer.response_started_at <= time.monotonic()


@pytest.mark.asyncio
async def test_fill_of_a_whole_body_needs_no_range(hub: HubServer) -> None:
    """With `ranged=False` no Range header is sent and the 200 is taken."""
    url, content = served_file(hub)
    memory = bytearray(SIZE)
    async with open_client() as client:
        await client.fill(url, ByteRangeBuffer(0, memoryview(memory)), size=SIZE, ranged=False)

    assert bytes(memory) == content
    assert [(request.range, request.status) for request in hub.requests] == [(None, 200)]


@pytest.mark.asyncio
async def test_the_whole_body_in_place_of_a_range_is_range_not_supported(hub: HubServer) -> None:
    """A server that ignores Range is recognised, not read into the wrong place."""
    url, _ = served_file(hub)
    hub.add_fault(Fault(action=IgnoreRange()))
    async with open_client() as client:
        with pytest.raises(RangeNotSupportedError, match="ignores ranges") as caught:
            await client.fill(url, ByteRangeBuffer(10, memoryview(bytearray(20))), size=SIZE)

    assert "do-not-show" not in str(caught.value)


@pytest.mark.asyncio
async def test_another_range_than_asked_for_is_a_network_error(hub: HubServer) -> None:
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
async def test_an_answer_that_contradicts_the_request_is_refused(
    status: str, headers: list[str], body: bytes, kind: type[TransferError], message: str
) -> None:
    """Size, range and length of a response must be the expected ones; no message has the query."""
    async with (
        raw_server(answering(status, *headers, body=body)) as server,
        open_client() as client,
    ):
        with pytest.raises(kind, match=message) as caught:
            await client.fill(
                f"{server.base}/f?{SECRET}", ByteRangeBuffer(4, memoryview(bytearray(4))), size=100
            )

    assert "do-not-show" not in str(caught.value)


@pytest.mark.asyncio
async def test_a_range_under_the_wrong_status_is_accepted() -> None:
    """rclone's S3 server answers 200 with the right Content-Range and the bytes asked for."""
    reply = answering("200 OK", "Content-Range: bytes 4-7/100", "Content-Length: 4", body=b"abcd")
    memory = bytearray(4)
    async with raw_server(reply) as server, open_client() as client:
        await client.fill(f"{server.base}/x", ByteRangeBuffer(4, memoryview(memory)), size=100)

    assert memory == b"abcd"


@pytest.mark.asyncio
async def test_an_unknown_total_is_accepted() -> None:
    """`Content-Range: bytes 4-7/*` names the right range of a body of unknown size."""
    reply = answering(
        "206 Partial Content", "Content-Range: bytes 4-7/*", "Content-Length: 4", body=b"abcd"
    )
    memory = bytearray(4)
    async with raw_server(reply) as server, open_client() as client:
        await client.fill(f"{server.base}/f", ByteRangeBuffer(4, memoryview(memory)), size=100)

    assert bytes(memory) == b"abcd"


@pytest.mark.asyncio
async def test_a_cut_body_names_how_far_it_came(hub: HubServer) -> None:
    """The error of a body that ends early says at which byte of the file it ended."""
    url, _ = served_file(hub)
    hub.add_fault(Fault(action=CutBody(70_000)))
    async with open_client() as client:
        with pytest.raises(NetworkError, match="the body ended at byte 70100 of 200100") as caught:
            await client.fill(url, ByteRangeBuffer(100, memoryview(bytearray(200_000))), size=SIZE)

    assert "do-not-show" not in str(caught.value)


@pytest.mark.asyncio
@pytest.mark.parametrize("after_bytes", [0, 70_000])
async def test_a_reset_is_a_network_error(hub: HubServer, after_bytes: int) -> None:
    """A reset inside the body, or before any response twice in a row, may be tried again."""
    url, _ = served_file(hub)
    hub.add_fault(Fault(action=ResetConnection(after_bytes), times=1 if after_bytes else 2))
    async with open_client() as client:
        with pytest.raises(NetworkError) as caught:
            await client.fill(url, ByteRangeBuffer(0, memoryview(bytearray(SIZE))), size=SIZE)

    assert "do-not-show" not in str(caught.value)


@pytest.mark.asyncio
@pytest.mark.parametrize("after_bytes", [0, 70_000])
async def test_silence_is_a_stall(hub: HubServer, after_bytes: int) -> None:
    """A server that stops in the middle raises after the read timeout, with the host's name."""
    url, _ = served_file(hub)
    hub.add_fault(Fault(action=Stall(after_bytes)))
    async with open_client(read=0.2) as client:
        with pytest.raises(StalledError, match=r"127\.0\.0\.1:\d+ sent nothing") as caught:
            await client.fill(url, ByteRangeBuffer(0, memoryview(bytearray(SIZE))), size=SIZE)

    assert "do-not-show" not in str(caught.value)


@pytest.mark.asyncio
async def test_a_port_without_a_server_is_a_network_error() -> None:
    """A refused connection names the host and may be tried again."""
    async with raw_server(answering("200 OK")) as server:
        pass
    async with open_client() as client:
        with pytest.raises(NetworkError, match=r"cannot connect to 127\.0\.0\.1") as caught:
            await client.request("GET", f"{server.base}/f?{SECRET}")

    assert "do-not-show" not in str(caught.value)


@pytest.mark.asyncio
@pytest.mark.parametrize("url", ["http://", "ftp://127.0.0.1/f", "no-scheme/f"])
async def test_an_impossible_url_is_rejected(url: str) -> None:
    """A URL that names no HTTP server is refused for good."""
    async with open_client() as client:
        with pytest.raises(RejectedError, match="not a valid URL"):
            await client.request("GET", f"{url}?{SECRET}")


# --- redirects, streams and requests


@pytest.mark.asyncio
async def test_a_redirect_is_returned_and_not_followed(hub: HubServer) -> None:
    """Every verb hands the redirect to its caller, who knows whose credentials to send."""
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
async def test_locate_reads_no_body(hub: HubServer) -> None:
    """Finding out where a file lies costs its head, not its bytes."""
    repo = hub.create_repo("acme/big", direct=True, files={"data.bin": RandomFile(64 << 20)})
    async with open_client() as client:
        response = await client.get_headers(f"{hub.endpoint}/acme/big/resolve/main/data.bin")

    assert (response.status, response.body) == (200, b"")
    assert response.headers["ETag"] == f'"{repo.blob("data.bin").sha256}"'
    assert hub.wait_idle()
    assert hub.requests[0].bytes_sent < 32 << 20


@pytest.mark.asyncio
async def test_a_stream_gives_the_body_in_pieces_of_any_length(hub: HubServer) -> None:
    """Consecutive `readinto` calls join up to the whole body."""
    url, content = served_file(hub)
    pieces = [bytearray(length) for length in (1, 99_999, SIZE - 100_000)]
    async with open_client() as client, client.stream(url, size=SIZE) as body:
        assert not isinstance(body, Response)
        for piece in pieces:
            await body.readinto(memoryview(piece))

    assert b"".join(pieces) == content


@pytest.mark.asyncio
async def test_a_cut_stream_names_how_far_it_came(hub: HubServer) -> None:
    """The position in the error counts from the start of the body."""
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
async def test_what_the_reader_of_a_stream_raises_is_left_alone(
    hub: HubServer, error: TransferError
) -> None:
    """A failure of the destination inside `stream` is not blamed on the source's host."""
    url, _ = served_file(hub)
    async with open_client() as client:
        with pytest.raises(type(error)) as caught:
            async with client.stream(url, size=SIZE):
                raise error

    assert caught.value is error


@pytest.mark.asyncio
async def test_a_stream_of_another_size_is_a_changed_source(hub: HubServer) -> None:
    """The announced length is compared with the listed one before a byte is used."""
    url, _ = served_file(hub)
    async with open_client() as client:
        with pytest.raises(SourceChangedError, match=f"it has {SIZE} bytes now, 7 were listed"):
            async with client.stream(url, size=7):
                pass


@pytest.mark.asyncio
async def test_a_signed_url_is_sent_byte_for_byte() -> None:
    """No escape is decoded, normalised or added: a signature covers the URL as it was given."""
    target = "/a%2Fb/%7Euser/it%27s?X=%2F%7E%27%20&Policy=ab~c_d-e__&plus=a+b%2Bc&empty="
    async with (
        raw_server(answering("200 OK", "Content-Length: 0")) as server,
        open_client() as client,
    ):
        await client.request("GET", server.base + target)

    assert server.requests[0].head.split(b"\r\n")[0] == f"GET {target} HTTP/1.1".encode()


@pytest.mark.asyncio
async def test_the_environment_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests go to the proxy, with its own credentials, but for the hosts that are excepted."""
    async with raw_server(answering("200 OK", "Content-Length: 0")) as proxy:
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
    """A token can be sent to a host for which ``~/.netrc`` names another login."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with (
        raw_server(answering("200 OK", "Content-Length: 0")) as server,
        open_client() as client,
    ):
        await client.request("GET", server.base, headers={"Authorization": "Bearer token"})

    assert b"Authorization: Bearer token\r\n" in server.requests[0].head


@pytest.mark.asyncio
@pytest.mark.parametrize("length", [0, 1, 600 * KIB])
async def test_a_body_goes_out_with_its_length(length: int) -> None:
    """Memory is sent with Content-Length and no chunked framing, which S3 would refuse."""
    sent = bytes(index % 251 for index in range(length))
    async with (
        raw_server(answering("200 OK", "Content-Length: 2", body=b"ok")) as server,
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
async def test_requests_share_a_connection_until_the_wire_is_closed(hub: HubServer) -> None:
    """Answers that were read leave their connection for the next request."""
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


# --- TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_hub(authority: trustme.CA) -> HubServer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return HubServer(ssl_context=context)


@pytest.mark.asyncio
async def test_an_unknown_certificate_is_rejected_for_good(tls_hub: HubServer) -> None:
    """Without the CA nothing is asked, nothing is tried again, and the message says what to set."""
    with tls_hub as hub:
        url, _ = served_file(hub)
        async with open_client() as client:
            with pytest.raises(RejectedError, match=r"not trusted.*SSL_CERT_FILE") as caught:
                await client.request("GET", url)
        assert hub.requests == []

    assert "do-not-show" not in str(caught.value)


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["verify", "environment", "unverified"])
async def test_a_ca_bundle_makes_a_private_server_trusted(
    how: str,
    tls_hub: HubServer,
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bundle may be an argument or REQUESTS_CA_BUNDLE; False asks for no check at all."""
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    verify: bool | str | None = None
    if how == "verify":
        verify = str(bundle)
    elif how == "environment":
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    else:
        verify = False
    memory = bytearray(1000)
    with tls_hub as hub:
        url, content = served_file(hub)
        client = HttpClient(Timeouts(), verify=verify)
        await client.fill(url, ByteRangeBuffer(5, memoryview(memory)), size=SIZE)
        await client.aclose()

    assert bytes(memory) == content[5:1005]


# --- statuses


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
async def test_a_refusal_carries_the_servers_words_and_wait(hub: HubServer) -> None:
    """Retry-After and a textual body reach the error; a page of HTML does not."""
    url, _ = served_file(hub)
    text = {"Content-Type": "text/plain", "Retry-After": "3"}
    hub.add_fault(Fault(action=Status(429, text, b"slow\n down")))
    hub.add_fault(Fault(action=Status(503, {"Content-Type": "text/html"}, b"<h1>Oops</h1>")))
    memory = memoryview(bytearray(9))
    async with open_client() as client:
        with pytest.raises(ThrottledError, match=r"answered 429: slow down$") as throttled:
            await client.fill(url, ByteRangeBuffer(0, memory), size=SIZE)
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
    """Retry-After wins over an exhausted RateLimit; one that is not exhausted asks for nothing."""
    assert retry_after(headers) == seconds


@given(minutes=st.integers(1, 100_000))
def test_a_date_to_come_is_a_wait_until_then(minutes: int) -> None:
    """An HTTP date in Retry-After means the seconds until it, at most."""
    date = datetime.now(timezone.utc) + timedelta(minutes=minutes)
    seconds = retry_after({"Retry-After": format_datetime(date, usegmt=True)})

    assert seconds is not None
    assert 0 <= seconds <= 60 * minutes


@given(value=st.text(), limit=st.text())
def test_no_header_breaks_the_reading_of_headers(value: str, limit: str) -> None:
    """Whatever a server sends, the response is nothing or a wait that is not negative."""
    seconds = retry_after({"Retry-After": value, "RateLimit": limit})

    assert seconds is None or seconds >= 0
