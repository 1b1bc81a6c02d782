"""`hftransfer._http.parser`: heads, chunked and encoded bodies from bytes, or a refusal."""

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
    decode_content,
    parse_head,
)


def test_headers_are_found_in_any_case_and_the_first_of_several_counts() -> None:
    """Servers write names as they like."""
    headers = Headers([("ETag", "a"), ("etag", "b"), ("X-One", "1")])

    assert headers["eTAG"] == headers.get("ETag") == "a"
    assert "X-ONE" in headers
    assert "x-two" not in headers
    assert headers.get("x-two", "none") == "none"
    assert dict(headers) == {"etag": "a", "x-one": "1"}


@pytest.mark.parametrize(
    ("head", "method", "length", "chunked", "keeps"),
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
    ],
)
def test_where_a_body_ends(
    head: bytes, method: str, length: int | None, chunked: bool, keeps: bool
) -> None:
    """By its length, its chunks or its connection; and whether that is of further use."""
    found = parse_head(head, method)

    assert (found.length, found.chunked, found.keep_alive) == (length, chunked, keeps)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"SSH-2.0-OpenSSH",
        b"HTTP/2 200",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 200 OK\r\nno colon",
        b"HTTP/1.1 200 OK\r\nA: 1\r\n folded",
        b"HTTP/1.1 200 OK\r\nspace : 1",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
    ],
)
def test_what_is_no_head_is_refused(head: bytes) -> None:
    """Rather than guessed at: a wrong guess hands out wrong bytes."""
    with pytest.raises(MalformedResponseError):
        parse_head(head, "GET")


@given(st.binary(max_size=600))
def test_any_bytes_are_a_head_or_refused(data: bytes) -> None:
    """Nothing that a server sends raises another error."""
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
    st.sampled_from([b"", b"ETag: a\r\n"]),
)
def test_chunks_arrive_however_they_are_cut(
    pieces: list[bytes], cuts: list[int], trailer: bytes
) -> None:
    """The content is that of the chunks, and its end is noticed with its last byte."""
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


def test_bytes_behind_the_last_chunk_are_noticed() -> None:
    """The connection is then of no further use."""
    body = ChunkedDecoder()
    body.feed(_chunked([b"abc"]) + b"HTTP/1.1")

    assert body.ended
    assert body.has_surplus


@pytest.mark.parametrize("raw", [b"x\r\n", b"-1\r\n", b"3\r\nabcd\r\n", b"\r\n", b"a" * 20_000])
def test_what_are_no_chunks_is_refused(raw: bytes) -> None:
    """A body whose extent is not known is not handed out."""
    with pytest.raises(MalformedResponseError):
        ChunkedDecoder().feed(raw)


@pytest.mark.parametrize(
    ("encoding", "encoded"),
    [
        ("gzip", gzip.compress(b"words" * 100)),
        ("deflate", zlib.compress(b"words" * 100)),
        ("deflate", zlib.compress(b"words" * 100)[2:-4]),
    ],
)
def test_an_encoded_body_is_decoded_up_to_a_limit(encoding: str, encoded: bytes) -> None:
    """However much it would become."""
    assert decode_content(bytearray(encoded), encoding, 10_000) == b"words" * 100
    assert decode_content(bytearray(encoded), encoding, 7) == b"wordswo"


@pytest.mark.parametrize("encoding", ["gzip", "br"])
def test_an_encoding_that_is_unknown_or_damaged_is_refused(encoding: str) -> None:
    """Its bytes are not taken for the content."""
    with pytest.raises(MalformedResponseError):
        decode_content(bytearray(b"\x1f\x8bjunk"), encoding, 100)
