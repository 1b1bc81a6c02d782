"""Parsing of HTTP/1.1 responses (RFC 9112): heads, chunked bodies, encoded bodies. No I/O."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

__all__ = (
    "ChunkedDecoder",
    "Headers",
    "MalformedResponseError",
    "ReceiveBuffer",
    "ResponseHead",
    "decode_content",
    "parse_head",
)

_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([0-9]{3})(?: [^\r\n]*)?(?=\r\n|\Z)")
# Matches all header lines at once, because a head is parsed for every small file.
_LINES = re.compile(r"(?:\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n]*)*")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?", re.DOTALL)
_MAX_LINE = 16 * 1024
_WITHOUT_BODY = (204, 304)
_RECEIVE_BUFFER = 64 * 1024


class MalformedResponseError(ValueError):
    """Raised when bytes are not a response of HTTP/1.1."""


class Headers(dict[str, str]):
    """The headers of a response: names in lower case, looked up in any case.

    Of a header that was sent several times, the first value counts.
    """

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__()
        for name, value in fields:
            self.setdefault(name.lower(), value)

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


class ResponseHead(NamedTuple):
    """The status and the headers of a response, and how its body ends."""

    status: int
    headers: Headers
    length: int | None
    """Bytes of the body; None if it is chunked or ends with the connection."""
    chunked: bool
    keep_alive: bool
    """True if the connection can be used again after the body."""


def parse_head(data: bytes, method: str) -> ResponseHead:
    """Parse the head of a response.

    Args:
        data: from the status line up to the empty line, without the line end before that.
        method: of the request.

    Raises:
        MalformedResponseError: if it is malformed, or the length of the body is ambiguous.
    """
    text = data.decode("utf-8", errors="surrogateescape")
    matched = _STATUS_LINE.match(text)
    if matched is None:
        raise MalformedResponseError("no status line of HTTP/1.1")
    if _LINES.fullmatch(text, matched.end()) is None:
        raise MalformedResponseError("a line of the head is not a header")
    headers = Headers()
    lengths: set[str] = set()
    for line in text[matched.end() + 2 :].split("\r\n") if matched.end() < len(text) else ():
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        headers.setdefault(name, value)
        if name == "content-length":
            lengths.add(value)
    status = int(matched[2])
    keep_alive = matched[1] == "1" and "close" not in headers.get("connection", "").lower()
    if method == "HEAD" or status in _WITHOUT_BODY or status < 200:
        return ResponseHead(status, headers, 0, chunked=False, keep_alive=keep_alive)
    if (coding := headers.get("transfer-encoding")) is not None:
        if coding.lower() != "chunked":
            raise MalformedResponseError("an unknown transfer coding")
        keep_alive = keep_alive and not lengths
        return ResponseHead(status, headers, None, chunked=True, keep_alive=keep_alive)
    if not lengths:
        return ResponseHead(status, headers, None, chunked=False, keep_alive=False)
    length = lengths.pop()
    if lengths or not (length.isascii() and length.isdigit()):
        raise MalformedResponseError("an invalid Content-Length")
    return ResponseHead(status, headers, int(length), chunked=False, keep_alive=keep_alive)


class ReceiveBuffer:
    """Memory for the bytes that are copied after they were received.

    That is every head, and each body, or part of one, that cannot be received in place.
    """

    def __init__(self) -> None:
        self._memory = memoryview(bytearray(_RECEIVE_BUFFER))
        self._filled = 0
        """Bytes of an incomplete head."""

    def space(self) -> memoryview:
        """Return the memory for the next bytes."""
        return self._memory[self._filled :]

    def received(self, count: int) -> memoryview:
        """Return the `count` bytes just received, when no head is incomplete."""
        return self._memory[:count]

    def take_head(self, count: int, method: str) -> tuple[ResponseHead, memoryview] | None:
        """Add the `count` bytes just received to the head; return the head if it is complete.

        Interim responses (status 1xx) are skipped: no request asks for one.

        Args:
            count: bytes that were written into `space`.
            method: of the request.

        Returns:
            The head and the bytes received after it, or None.

        Raises:
            MalformedResponseError: if the head is malformed or too long.
        """
        self._filled += count
        data = self._memory[: self._filled].tobytes()
        while (end := data.find(b"\r\n\r\n")) >= 0:
            head = parse_head(data[:end], method)
            rest = len(data) - end - 4
            if head.status >= 200:
                self._filled = 0
                return head, self._memory[len(data) - rest : len(data)]
            data = data[end + 4 :]
            self._memory[:rest] = data
            self._filled = rest
        if self._filled >= _RECEIVE_BUFFER:
            raise MalformedResponseError("its head is too long")
        return None

    def clear(self) -> None:
        """Discard an incomplete head."""
        self._filled = 0


class ChunkedDecoder:
    """Decodes a chunked body from pieces of any length."""

    def __init__(self) -> None:
        self.ended = False
        self.has_surplus = False
        """True if bytes came after the end of the body."""
        self._content = bytearray()
        self._raw = bytearray()
        self._left = 0
        """Bytes still missing of the current chunk, the line end after it included."""
        self._in_trailer = False

    def feed(self, data: bytes | memoryview) -> None:
        """Decode further bytes.

        Raises:
            MalformedResponseError: if they are not chunks.
        """
        self._raw += data
        while self._raw and not self.ended:
            if not (self._decode_chunk() if self._left else self._decode_line()):
                return
        self.has_surplus = bool(self._raw)

    def take(self) -> memoryview:
        """Return the content decoded since the last call."""
        content, self._content = self._content, bytearray()
        return memoryview(content)

    def _decode_chunk(self) -> bool:
        """Decode a part of the current chunk; return False if more bytes are needed for it."""
        raw = self._raw
        if self._left > 2:
            count = min(self._left - 2, len(raw))
            self._content += raw[:count]
            del raw[:count]
            self._left -= count
            return True
        if len(raw) < 2:
            return False
        if raw[:2] != b"\r\n":
            raise MalformedResponseError("a chunk is longer than its size")
        del raw[:2]
        self._left = 0
        return True

    def _decode_line(self) -> bool:
        """Decode a chunk's size or a trailer line; return False if its end is not there yet."""
        raw = self._raw
        end = raw.find(b"\r\n", 0, _MAX_LINE)
        if end < 0:
            if len(raw) >= _MAX_LINE:
                raise MalformedResponseError("a line of a chunked body is too long")
            return False
        line = bytes(raw[:end])
        del raw[: end + 2]
        if self._in_trailer:
            self.ended = not line
            return True
        matched = _CHUNK_SIZE.fullmatch(line)
        if matched is None:
            raise MalformedResponseError("a chunk without a valid size")
        size = int(matched[1], 16)
        self._in_trailer = size == 0
        self._left = size + 2 if size else 0
        return True


def decode_content(content: bytearray, encoding: str, limit: int) -> bytearray:
    """Undo a Content-Encoding; return at most `limit` bytes of the result.

    Raises:
        MalformedResponseError: if the bytes do not have this encoding, or it is unknown. The
            client asks for none ("identity").
    """
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise MalformedResponseError("an unknown content encoding")
    # 47 detects gzip and zlib; -15 is raw deflate, which some servers send as "deflate".
    for window_bits in (47, -15):
        try:
            return bytearray(zlib.decompressobj(window_bits).decompress(bytes(content), limit))
        except zlib.error:
            continue
    raise MalformedResponseError("a damaged content encoding")
