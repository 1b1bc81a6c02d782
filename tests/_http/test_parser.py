"""`hftransfer._http.parser`: heads, chunked and encoded bodies from bytes, or an error."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._http.parser import (
    ChunkedDecoder,
    Headers,
    MalformedResponseError,
    ReceiveBuffer,
    decode_content,
    parse_head,
)


def test_headers_are_found_in_any_case_and_the_first_of_several_counts() -> None:
    """Servers write the names in different ways."""
    headers = Headers([("ETag", "a"), ("etag", "b"), ("X-One", "1")])

    assert headers["eTAG"] == headers.get("ETag") == "a"
    assert "X-ONE" in headers
    assert "x-two" not in headers
    assert headers.get("x-two", "none") == "none"
    assert dict(headers) == {"etag": "a", "x-one": "1"}


@pytest.mark.parametrize(
    ("head", "method", "length", "chunked", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5", "GET", 5, False, True),
        (b"HTTP/1.1 200\r\nContent-Length:5", "GET", 5, False, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: Close", "GET", 5, False, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5", "GET", 5, False, False),
        (b"HTTP/1.1 200 OK", "GET", None, False, False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked", "GET", None, True, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5", "HEAD", 0, False, True),
        (b"HTTP/1.1 204 No Content", "GET", 0, False, True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9", "GET", 0, False, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\ncontent-length: 5", "GET", 5, False, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5", "GET", 5, False, True),
        (b"HTTP/1.1 200 OK\nContent-Length: 5", "GET", 5, False, True),
        (b"HTTP/1.1 200 OK\r\nA: 1\r\n\tfolded\r\nContent-Length: 5", "GET", 5, False, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length:\r\n 5\r\nB: 2", "GET", 5, False, True),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: a\r\nConnection: close",
            *("GET", 5, False, False),
        ),
    ],
)
def test_where_a_body_ends(
    head: bytes, method: str, length: int | None, chunked: bool, keep_alive: bool
) -> None:
    """After its length, its last chunk or with its connection, which may be kept alive or not."""
    found = parse_head(head, method)

    assert (found.length, found.chunked, found.keep_alive) == (length, chunked, keep_alive)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"SSH-2.0-OpenSSH",
        b"HTTP/2 200",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 200 OK\r\nno colon",
        b"HTTP/1.1 200 OK\r\nspace : 1",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000,
        b"HTTP/1.1 200 OK\r\nContent-Length: " + "\u0665".encode(),
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2",
        b"HTTP/1.1 204 No Content\r\nContent-Length: x",
        b"HTTP/1.1 200 OK\r\n folded",
        b"HTTP/1.1 200 OK\r\nA: \0",
        b"HTTP/1.1 200 OK\r\nA: 1\rB: 2",
        b"HTTP/1.1 099 Low",
    ],
)
def test_a_malformed_head_is_an_error(head: bytes) -> None:
    """A wrong guess of where the body ends would return wrong bytes."""
    with pytest.raises(MalformedResponseError):
        parse_head(head, "GET")


@given(st.binary(max_size=600))
def test_any_bytes_are_a_head_or_an_error(data: bytes) -> None:
    """No bytes of a server raise another error."""
    try:
        parse_head(data, "GET")
    except MalformedResponseError:
        pass


def _chunked(pieces: list[bytes], trailer: bytes = b"") -> bytes:
    chunks = b"".join(b"%x;x=y\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece)
    return chunks + b"0\r\n" + trailer + b"\r\n"


@given(
    st.lists(st.binary(max_size=50), max_size=6),
    st.lists(st.integers(1, 40), max_size=30),
    st.sampled_from([b"", b"ETag: a\r\n", b"A: 1\nB: 2\r\n c\r\n"]),
)
def test_chunks_are_decoded_from_pieces_of_any_length(
    pieces: list[bytes], cuts: list[int], trailer: bytes
) -> None:
    """The content is that of the chunks, and its end is detected with its last byte."""
    raw = _chunked(pieces, trailer)
    body = ChunkedDecoder()
    position = 0
    for cut in [*cuts, len(raw)]:
        assert body.ended == (position >= len(raw))
        body.feed(raw[position : position + cut])
        position += cut

    assert body.ended
    assert not body.has_surplus
    assert bytes(body.take()) == b"".join(pieces)


def test_bytes_after_the_last_chunk_are_detected() -> None:
    """The connection cannot be reused then."""
    body = ChunkedDecoder()
    body.feed(_chunked([b"abc"]) + b"HTTP/1.1")

    assert body.ended
    assert body.has_surplus


@pytest.mark.parametrize(
    "raw",
    [
        *(b"x\r\n", b"-1\r\n", b"3\r\nabcd\r\n", b"\r\n", b"a" * 20_000),
        *(b"1;" + b"x" * 20_000, b"f" * 5000 + b"\r\n", b"1\nx\r\n", b"1;\rx\r\n"),
        *(b"0\r\nno field\r\n\r\n", b"0\r\nContent-Length: x\r\n\r\n"),
        b"0\r\n" + b"A: 1\r\n" * 5000,
    ],
)
def test_malformed_chunks_are_an_error(raw: bytes) -> None:
    """It is not known where such a body ends."""
    with pytest.raises(MalformedResponseError):
        ChunkedDecoder().feed(raw)


@pytest.mark.parametrize(
    ("encoding", "encoded"),
    [
        ("gzip", gzip.compress(b"words" * 100)),
        ("deflate", zlib.compress(b"words" * 100)),
        ("deflate", zlib.compress(b"words" * 100)[2:-4]),
    ],
    ids=["gzip", "zlib", "raw deflate"],
)
def test_an_encoded_body_is_decoded_up_to_a_limit(encoding: str, encoded: bytes) -> None:
    """However large the decoded body would be."""
    assert decode_content(bytearray(encoded), encoding, 10_000) == b"words" * 100
    assert decode_content(bytearray(encoded), encoding, 7) == b"wordswo"


@pytest.mark.parametrize("encoding", ["gzip", "br"])
def test_an_unknown_or_damaged_encoding_is_an_error(encoding: str) -> None:
    """The encoded bytes are not returned as the content."""
    with pytest.raises(MalformedResponseError):
        decode_content(bytearray(b"\x1f\x8bjunk"), encoding, 100)


# --- ReceiveBuffer


def write(buffer: ReceiveBuffer, data: bytes) -> int:
    """Write as much of `data` as there is memory for; return how many bytes."""
    space = buffer.space()
    count = min(len(space), len(data))
    space[:count] = data[:count]
    return count


@given(st.lists(st.integers(1, 30), max_size=20))
def test_a_head_is_taken_from_pieces_of_any_length(cuts: list[int]) -> None:
    """Interim responses before it are skipped, and the bytes after it are returned."""
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    data = interim + head + b"hello"
    buffer = ReceiveBuffer()
    position = 0
    taken = None
    for cut in [*cuts, len(data)]:
        count = write(buffer, data[position : position + cut])
        position += count
        taken = buffer.take_head(count, "GET")
        assert (taken is not None) == (position >= len(interim + head))
        if taken is not None:
            break

    assert taken is not None
    assert taken[0].length == 5
    assert bytes(taken[1]) == data[len(interim + head) : position]
    assert len(buffer.space()) > len(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "no status line"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "another protocol"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 17, "more than 16 interim responses"),
        (b"HTTP/1.1 100 Continue\r\n\r\nbanner", "no status line"),
    ],
)
def test_what_cannot_become_a_response_is_an_error_at_once(data: bytes, message: str) -> None:
    """Instead of waiting until the server says no more."""
    buffer = ReceiveBuffer()
    with pytest.raises(MalformedResponseError, match=message):
        buffer.take_head(write(buffer, data), "GET")


def test_a_head_without_end_is_an_error() -> None:
    """A response cannot fill the memory of the client."""
    buffer = ReceiveBuffer()
    with pytest.raises(MalformedResponseError, match="too long"):
        line = b"HTTP/1.1 200 OK"
        while count := write(buffer, line + b"x" * 5000):
            buffer.take_head(count, "GET")
            line = b""
