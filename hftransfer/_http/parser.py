"""Answers of HTTP/1.1 (RFC 9112) from bytes: the head, chunked bodies, encoded bodies. Pure."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

__all__ = ("ChunkedBody", "Head", "Headers", "MalformedResponseError", "decoded", "parse_head")

_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([0-9]{3})(?: [^\r\n]*)?(?=\r\n|\Z)")
# All lines at once: a head is read for every small file.
_LINES = re.compile(r"(?:\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n]*)*")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?", re.DOTALL)
_LONGEST_LINE = 16 * 1024
_WITHOUT_BODY = (204, 304)


class MalformedResponseError(ValueError):
    """Raised when bytes are no answer of HTTP/1.1."""


class Headers(dict[str, str]):
    """The headers of an answer: names in lower case, to be asked for in any case.

    Of a header that was sent several times, the first counts.
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


class Head(NamedTuple):
    """What an answer says before its body."""

    status: int
    headers: Headers
    length: int | None
    """Bytes of the body; None for one that is chunked, or ends with the connection."""
    chunked: bool
    keeps: bool
    """True if the connection can be used again after the body."""


def parse_head(data: bytes, method: str) -> Head:
    """Return what the head of an answer says.

    Args:
        data: from the status line up to the empty line, without its end.
        method: of the request.

    Raises:
        MalformedResponseError: if it is none, or cannot be told where its body ends.
    """
    text = data.decode("utf-8", errors="surrogateescape")
    matched = _STATUS_LINE.match(text)
    if matched is None:
        raise MalformedResponseError("no status line of HTTP/1.1")
    if _LINES.fullmatch(text, matched.end()) is None:
        raise MalformedResponseError("a line of the head is no header")
    headers = Headers()
    lengths: set[str] = set()
    for line in text[matched.end() + 2 :].split("\r\n") if matched.end() < len(text) else ():
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        headers.setdefault(name, value)
        if name == "content-length":
            lengths.add(value)
    status = int(matched[2])
    keeps = matched[1] == "1" and "close" not in headers.get("connection", "").lower()
    if method == "HEAD" or status in _WITHOUT_BODY or status < 200:
        return Head(status, headers, 0, chunked=False, keeps=keeps)
    if (coding := headers.get("transfer-encoding")) is not None:
        if coding.lower() != "chunked":
            raise MalformedResponseError("an unknown transfer coding")
        return Head(status, headers, None, chunked=True, keeps=keeps and not lengths)
    if not lengths:
        return Head(status, headers, None, chunked=False, keeps=False)
    length = lengths.pop()
    if lengths or not (length.isascii() and length.isdigit()):
        raise MalformedResponseError("no length of the body")
    return Head(status, headers, int(length), chunked=False, keeps=keeps)


class ChunkedBody:
    """A chunked body, fed with pieces of any length."""

    def __init__(self) -> None:
        self._content = bytearray()
        self.ended = False
        self.surplus = False
        """True if bytes came after the end of the body."""
        self._raw = bytearray()
        self._left = 0
        """Bytes that are missing of the present chunk, with the line end behind it."""
        self._in_trailer = False

    def feed(self, data: bytes | memoryview) -> None:
        """Take further bytes.

        Raises:
            MalformedResponseError: if they are no chunks.
        """
        self._raw += data
        while self._raw and not self.ended:
            if not (self._take_chunk() if self._left else self._take_line()):
                return
        self.surplus = bool(self._raw)

    def take(self) -> memoryview:
        """Return what has come of the content since the last call."""
        content, self._content = self._content, bytearray()
        return memoryview(content)

    def _take_chunk(self) -> bool:
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
            raise MalformedResponseError("a chunk is longer than it says")
        del raw[:2]
        self._left = 0
        return True

    def _take_line(self) -> bool:
        raw = self._raw
        end = raw.find(b"\r\n", 0, _LONGEST_LINE)
        if end < 0:
            if len(raw) >= _LONGEST_LINE:
                raise MalformedResponseError("a line of a chunked body is too long")
            return False
        line = bytes(raw[:end])
        del raw[: end + 2]
        if self._in_trailer:
            self.ended = not line
            return True
        matched = _CHUNK_SIZE.fullmatch(line)
        if matched is None:
            raise MalformedResponseError("a chunk has no size")
        size = int(matched[1], 16)
        self._in_trailer = size == 0
        self._left = size + 2 if size else 0
        return True


def decoded(content: bytearray, encoding: str, limit: int) -> bytearray:
    """Return a body without its Content-Encoding, at most `limit` bytes of it.

    Raises:
        MalformedResponseError: if it has another encoding than it says, or one that nobody
            asked for and nobody knows.
    """
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise MalformedResponseError("an unknown content encoding")
    for window in (47, -15):  # gzip and zlib, and what some take "deflate" for
        try:
            return bytearray(zlib.decompressobj(window).decompress(bytes(content), limit))
        except zlib.error:
            continue
    raise MalformedResponseError("a damaged content encoding")
