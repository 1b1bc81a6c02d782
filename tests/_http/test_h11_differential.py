"""Our parser beside h11: the same mutated responses, in the same segments, mean the same to both.

Either both accept a response with equal status, headers and body, or ours refuses it by one of the
rules in `STRICTER`. Where ours accepts what h11 refuses, `WIDER` gives the section of the RFC that
demands it.

The test runs for 20 seconds with the seed 0. For longer, with another seed::

    HFTRANSFER_FUZZ_SECONDS=600 HFTRANSFER_FUZZ_SEED=7 pytest tests/_http/test_h11_differential.py
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import h11
import pytest

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._http.connection import Connection
from hftransfer._http.exchange import BufferTarget, Exchange, Request
from hftransfer._http.rcvlowat import LowWaterMark
from hftransfer._http.route import Origin
from hftransfer._io.rate_limit import RateLimiter
from hftransfer.errors import TransferError
from hftransfer.options import Timeouts

SECONDS = float(os.environ.get("HFTRANSFER_FUZZ_SECONDS", "20"))
SEED = int(os.environ.get("HFTRANSFER_FUZZ_SEED", "0"))
MIN_CASES = 200
"""At least this many are compared, however slow the machine is; a free core makes 30,000."""

STRICTER: dict[str, tuple[str, re.Pattern[bytes]]] = {
    "only versions 1.0 and 1.1": (
        "no status line",
        re.compile(rb"HTTP/(?!1\.[01])[0-9]\.[0-9]"),
    ),
    "lengths of at most 18 digits": ("an invalid Content-Length", re.compile(rb"[0-9]{19}")),
    "at most 16 interim responses": (
        "interim responses",
        re.compile(rb"(?:HTTP/1\.[01] 1[0-9]{2}.*?){17}", re.DOTALL),
    ),
    "chunk sizes of at most 15 digits": (
        "a chunk without a valid size",
        re.compile(rb"[0-9A-Fa-f]{16}"),
    ),
    "no CR in the extension of a chunk": (
        "a chunk without a valid size",
        re.compile(rb";[^\n]*\r[^\n]"),
    ),
}
"""By rule: our message, and what the bytes have to contain."""

WIDER = {
    "spaces before the extension of a chunk (RFC 9112 section 7.1.1)": re.compile(
        rb"[0-9A-Fa-f][ \t]+;"
    ),
}


@dataclass(frozen=True)
class Meaning:
    """What a parser made of a response; of a header that occurs several times, the first value."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


# --- the responses

NAMES = [b"A", b"ETag", b"X-Long-Name", b"Date", b"content-type", b"Connection", b"Trailer"]
VALUES = [b"", b"x", b" \tpadded\t ", b'"quoted, list"', b"caf\xc3\xa9", b"\xff", b"close", b"5"]
FRAGMENTS = [
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b",", b"0", b"9" * 21, b"f" * 17),
    *(b"\r\n\r\n", b"\n\n", b"\r\n ", b"\r\n\t", b"\x0b", b"\x80", b"HTTP/1.1 ", b"HTTP/2.0 "),
    *(b"Content-Length: 5\r\n", b"Content-Length: 7\r\n", b"Content-Length: 5, 5\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n", b"Connection: close\r\n"),
    *(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 101 Switch\r\n\r\n", b"0\r\n\r\n", b"5\r\n"),
]


def make_response(rng: random.Random) -> bytes:
    """Return a response that is valid, or nearly so."""
    end = b"\n" if rng.random() < 0.1 else b"\r\n"
    body = rng.randbytes(rng.choice([0, 1, 5, 40, 300]))
    fields = [
        b"%s:%s%s" % (rng.choice(NAMES), rng.choice([b"", b" "]), rng.choice(VALUES))
        for _ in range(rng.randrange(4))
    ]
    framing = rng.choice(["length", "length", "chunked", "chunked", "close", "both", "twice"])
    sent = body
    if framing in ("length", "both", "twice"):
        fields.append(b"Content-Length: %d" % len(body))
    if framing == "twice":
        fields.append(b"content-length: %d" % (len(body) + rng.choice([0, 0, 1])))
    if framing in ("chunked", "both"):
        fields.append(b"Transfer-Encoding: " + rng.choice([b"chunked", b"Chunked"]))
        sent = make_chunks(rng, body)
    if fields and rng.random() < 0.2:
        fields[rng.randrange(len(fields))] += end + rng.choice([b" ", b"\t"]) + b"folded"
    rng.shuffle(fields)
    status = rng.choice([200, 200, 206, 204, 304, 404, 500, 302])
    version = rng.choice([b"1.1", b"1.1", b"1.1", b"1.0"])
    line = b"HTTP/%s %d%s" % (version, status, rng.choice([b"", b" ", b" OK", b" Not Found"]))
    interim = b"HTTP/1.1 103 Early%sLink: <x>%s%s" % (end, end, end)
    head = interim * rng.choice([0, 0, 0, 1, 2, 17]) + end.join([line, *fields, b"", b""])
    return head + sent


def make_chunks(rng: random.Random, body: bytes) -> bytes:
    """Return `body` as chunks, with extensions and trailers."""
    data = b""
    while body:
        piece, body = body[: (size := rng.randrange(1, 60))], body[size:]
        extension = rng.choice([b"", b"", b";a", b";a=b", b" ;a", b" "])
        data += b"%x%s\r\n%s\r\n" % (len(piece), extension, piece)
    trailer = rng.choice([b"", b"", b"A: 1\r\n", b"A: 1\r\n  more\r\nB:\n", b"no field\r\n"])
    return data + b"0\r\n" + trailer + b"\r\n"


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Return `data` after up to three changes of the kinds that confuse parsers."""
    changed = bytearray(data)
    for _ in range(rng.choice([0, 0, 1, 1, 1, 2, 3])):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            changed[at:at] = rng.choice(FRAGMENTS)
        elif kind == 1:
            del changed[at : at + rng.choice([1, 1, 2, 8])]
        elif kind == 2:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 3:
            changed[at:at] = changed[at : at + rng.randrange(1, 40)]
        elif kind == 4 and (line := changed.find(b"\r\n", at)) >= 0:
            changed[line : line + 2] = rng.choice(FRAGMENTS)
        else:
            del changed[at:]
    return bytes(changed)


def segments(rng: random.Random, data: bytes) -> Sequence[bytes]:
    """Cut `data` as a network may: at any place, sometimes into bytes."""
    size = rng.choice([1, 3, 17, 100, 10_000])
    cuts = sorted({rng.randrange(len(data) + 1) for _ in range(len(data) // size)})
    edges = [0, *cuts, len(data)]
    return [data[start:stop] for start, stop in pairwise(edges) if stop > start]


# --- the parsers


def by_h11(method: str, pieces: Sequence[bytes]) -> Meaning | str:
    """Return what h11 makes of a response, or why it refuses it."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=64 * 1024)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
    connection.send(h11.EndOfMessage())
    found: h11.Response | None = None
    body = b""
    try:
        for piece in (*pieces, b""):
            connection.receive_data(piece)
            while (event := connection.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.Response):
                    found = event
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    assert found is not None
                    headers: dict[bytes, bytes] = {}
                    for name, value in found.headers:
                        headers.setdefault(name, value)
                    return Meaning(found.status_code, headers, body)
                elif isinstance(event, h11.ConnectionClosed):
                    return "it ended early"
    except h11.RemoteProtocolError as error:
        return str(error)
    return "it ended early"


class _Transport:
    def write(self, data: bytes) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass

    def setsockopt(self, level: int, name: int, value: int) -> None:
        pass


def by_ours(
    method: str, pieces: Sequence[bytes], target: BufferTarget | None = None
) -> Meaning | str:
    """Return what our connection makes of a response, or why it refuses it."""
    transport = _Transport()
    connection = Connection(
        Origin("http", "h", 80),
        Timeouts(),
        RateLimiter(),
        LowWaterMark(transport, secure=False),
        lambda _: None,
    )
    connection.connection_made(cast("asyncio.Transport", transport))
    exchange = Exchange(Request(method, "http://h/f", {}, None, 1 << 20, target))
    connection.begin(b"", exchange)
    for piece in pieces:
        left = memoryview(piece)
        while left and not exchange.response.done():
            space = connection.get_buffer(len(left))
            count = min(len(space), len(left))
            space[:count] = left[:count]
            connection.buffer_updated(count)
            left = left[count:]
    connection.connection_lost(None)
    if (error := exchange.response.exception()) is not None:
        assert isinstance(error, TransferError) or type(error).__name__ == "StaleConnectionError"
        return str(error)
    response = exchange.response.result()
    headers = {
        name.encode("utf-8", "surrogateescape"): value.encode("utf-8", "surrogateescape")
        for name, value in response.headers.items()
    }
    return Meaning(response.status, headers, response.body)


def normalized(meaning: Meaning) -> Meaning:
    """Write the length as we do, without zeros before it."""
    headers = dict(meaning.headers)
    if b"content-length" in headers:
        headers[b"content-length"] = b"%d" % int(headers[b"content-length"])
    if b"transfer-encoding" in headers:
        headers[b"transfer-encoding"] = headers[b"transfer-encoding"].lower()
    return Meaning(meaning.status, headers, meaning.body)


def contradiction(data: bytes, ours: Meaning | str, theirs: Meaning | str) -> str | None:
    """Return how the parsers disagree beyond the documented rules, or None."""
    if isinstance(ours, Meaning) and isinstance(theirs, Meaning):
        return None if normalized(ours) == normalized(theirs) else "they mean different things"
    if isinstance(ours, Meaning):
        if any(pattern.search(data) for pattern in WIDER.values()):
            return None
        return "only ours accepts it"
    if isinstance(theirs, Meaning):
        for message, pattern in STRICTER.values():
            if message in ours and pattern.search(data):
                return None
        return "only h11 accepts it"
    return None


def filled_target(theirs: Meaning | str) -> tuple[BufferTarget, bytearray]:
    """Return a target of the size of the body, as for a file of a known size."""
    size = len(theirs.body) if isinstance(theirs, Meaning) else 5
    memory = bytearray(size)
    return BufferTarget(ByteRangeBuffer(0, memoryview(memory)), "http://h/f", size), memory


@pytest.mark.extended
@pytest.mark.timeout(SECONDS + 60)
def test_mutated_responses_mean_the_same_to_h11() -> None:
    """Collected in memory, and received in place into the buffer of a file."""

    async def main() -> None:
        deadline = time.monotonic() + SECONDS
        cases = accepted = 0
        while cases < MIN_CASES or time.monotonic() < deadline:
            rng = random.Random(f"{SEED}/{cases}")
            cases += 1
            data = mutate(rng, make_response(rng))
            method = rng.choice(["GET", "GET", "GET", "HEAD"])
            pieces = segments(rng, data)
            theirs, ours = by_h11(method, pieces), by_ours(method, pieces)
            where = f"case {SEED}/{cases - 1}: {method}, {pieces!r}: {ours!r}, h11: {theirs!r}"
            assert contradiction(data, ours, theirs) is None, where
            accepted += isinstance(ours, Meaning) and isinstance(theirs, Meaning)
            target, memory = filled_target(theirs)
            placed = by_ours("GET", pieces, target)
            if method == "GET" and isinstance(placed, Meaning) and placed.status in (200, 206):
                if isinstance(theirs, Meaning):
                    assert bytes(memory) == theirs.body, where
                assert not isinstance(ours, str), where
            if cases % 1000 == 0:
                await asyncio.sleep(0)
        logging.getLogger(__name__).info("%d responses, both accepted %d", cases, accepted)
        assert accepted > cases // 10

    asyncio.run(main())


def test_the_comparison_notices_a_difference() -> None:
    """In the status, a header or the body, and a refusal that no rule explains."""
    one = Meaning(200, {b"a": b"1"}, b"abc")

    assert contradiction(b"", one, one) is None
    for other in (
        Meaning(206, one.headers, one.body),
        Meaning(200, {b"a": b"1 "}, one.body),
        Meaning(200, {}, one.body),
        Meaning(200, one.headers, b"ab"),
        "refused",
    ):
        assert contradiction(b"", one, other) is not None
        assert contradiction(b"", other, one) is not None
