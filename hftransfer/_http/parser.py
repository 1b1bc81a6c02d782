"""Parsing of HTTP/1.1 responses (RFC 9112): heads, chunked bodies, encoded bodies. No I/O."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from hftransfer._core.units import parse_count

__all__ = (
    "ChunkedDecoder",
    "Headers",
    "MalformedResponseError",
    "ReceiveBuffer",
    "ResponseHead",
    "decode_content",
    "parse_head",
)

# NUL, VT and FF are no part of a value (RFC 9110 section 5.5).
_VALUE = r"[^\0\r\n\v\f]*"
_STATUS_LINE = re.compile(rf"HTTP/1\.([01]) ([1-9][0-9]{{2}})(?: {_VALUE})?(?=\r?\n|\Z)")
# Matches all header lines at once, because a head is parsed for every small file.
_LINES = re.compile(rf"(?:\r?\n[!#$%&'*+.^_`|~0-9A-Za-z-]+:{_VALUE})*")
_FOLD = re.compile(r"\r?\n[ \t]+")
_BLANK_LINE = re.compile(rb"\n\r?\n")
_PREFIX = b"HTTP/1."
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")
# Bytes of a line of a chunked body, and of its trailer.
_MAX_LINE = 16 * 1024
# Interim responses before the final one; servers send one or two.
_MAX_INTERIM = 16
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


class _Fields(NamedTuple):
    """Header or trailer fields, and those of them that frame the message."""

    headers: Headers
    length: int | None
    chunked: bool
    close: bool
    """True if the connection ends after the message."""


def _parse_fields(text: str) -> _Fields:
    """Parse header or trailer lines, each with the line end before it.

    A folded line is joined to the one before it by a space (obs-fold, RFC 9112 section 5.2), and
    equal lengths count as one, also ``5, 5`` (section 6.3).

    Raises:
        MalformedResponseError: if they are malformed, or the length of the body is ambiguous.
    """
    if "\n " in text or "\n\t" in text:
        if _FOLD.match(text):
            raise MalformedResponseError("its first header is a continued line")
        text = _FOLD.sub(" ", text)
    if _LINES.fullmatch(text) is None:
        raise MalformedResponseError("a line of the head is not a header")
    headers = Headers()
    lengths: set[str] = set()
    codings: list[str] = []
    close = False
    for line in text.split("\n")[1:]:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t\r")
        headers.setdefault(name, value)
        if name == "content-length":
            lengths.update(each.strip(" \t") for each in value.split(","))
        elif name == "transfer-encoding":
            codings.append(value.lower())
        elif name == "connection":
            close = close or "close" in value.lower()
    if codings and codings != ["chunked"]:
        raise MalformedResponseError("an unknown transfer coding")
    length = None
    if lengths:
        length = parse_count(lengths.pop())
        if lengths or length is None:
            raise MalformedResponseError("an invalid Content-Length")
        headers["content-length"] = str(length)
    return _Fields(headers, length, bool(codings), close)


def parse_head(data: bytes, method: str) -> ResponseHead:
    """Parse the head of a response.

    Lines may end with LF alone (RFC 9112 section 2.2).

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
    headers, length, chunked, close = _parse_fields(text[matched.end() :])
    status = int(matched[2])
    keep_alive = matched[1] == "1" and not close
    if method == "HEAD" or status in _WITHOUT_BODY or status < 200:
        return ResponseHead(status, headers, 0, chunked=False, keep_alive=keep_alive)
    if chunked:
        keep_alive = keep_alive and length is None
        return ResponseHead(status, headers, None, chunked=True, keep_alive=keep_alive)
    keep_alive = keep_alive and length is not None
    return ResponseHead(status, headers, length, chunked=False, keep_alive=keep_alive)


class ReceiveBuffer:
    """Memory for the bytes that are copied after they were received.

    That is every head, and each body, or part of one, that cannot be received in place.
    """

    def __init__(self) -> None:
        self._bytes = bytearray(_RECEIVE_BUFFER)
        self._memory = memoryview(self._bytes)
        self._filled = 0
        """Bytes of an incomplete head."""
        self.interim = 0
        """Interim responses before the head that were skipped."""

    @property
    def has_partial_head(self) -> bool:
        """True if some bytes of a head, or an interim response before it, have arrived."""
        return bool(self._filled or self.interim)

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
            MalformedResponseError: if the head is malformed or too long, or if it follows too many
                interim responses.
        """
        searched = max(0, self._filled - 2)  # the empty line may have begun in earlier bytes
        self._filled += count
        while found := _BLANK_LINE.search(self._bytes, searched, self._filled):
            data = self._memory[: found.start()].tobytes().removesuffix(b"\r")
            head = parse_head(data, method)
            rest = self._memory[found.end() : self._filled]
            if head.status >= 200:
                self.clear()
                return head, rest
            self._skip_interim(head, rest)
            searched = 0
        if not _PREFIX.startswith(self._bytes[: min(self._filled, len(_PREFIX))]):
            raise MalformedResponseError("no status line of HTTP/1.1")
        if self._filled >= _RECEIVE_BUFFER:
            raise MalformedResponseError("its head is too long")
        return None

    def _skip_interim(self, head: ResponseHead, rest: memoryview) -> None:
        self.interim += 1
        if self.interim > _MAX_INTERIM:
            raise MalformedResponseError(f"more than {_MAX_INTERIM} interim responses")
        if head.status == 101:
            raise MalformedResponseError("it switches to another protocol, unasked")
        self._memory[: len(rest)] = rest
        self._filled = len(rest)

    def clear(self) -> None:
        """Discard an incomplete head."""
        self._filled = self.interim = 0


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
        """Decode a chunk's size or the trailer; return False if its end is not there yet."""
        raw = self._raw
        if self._in_trailer:
            return self._decode_trailer()
        end = raw.find(b"\n", 0, _MAX_LINE)
        if end < 0:
            return self._await_line()
        if raw[end - 1 : end] != b"\r":
            raise MalformedResponseError("a line of a chunked body does not end with CRLF")
        matched = _CHUNK_SIZE.fullmatch(bytes(raw[: end - 1]))
        if matched is None:
            raise MalformedResponseError("a chunk without a valid size")
        del raw[: end + 1]
        size = int(matched[1], 16)
        self._in_trailer = size == 0
        self._left = size + 2 if size else 0
        return True

    def _decode_trailer(self) -> bool:
        """Check the trailer, whose fields are not used; return False if its end is missing."""
        raw = self._raw
        first = raw[:2]
        if first == b"\r\n" or first[:1] == b"\n":
            del raw[: raw.index(b"\n") + 1]
            self.ended = True
            return True
        found = _BLANK_LINE.search(raw, 0, _MAX_LINE)
        if found is None:
            return self._await_line()
        text = raw[: found.start()].decode("utf-8", errors="surrogateescape").removesuffix("\r")
        _parse_fields(f"\n{text}")
        del raw[: found.end()]
        self.ended = True
        return True

    def _await_line(self) -> bool:
        if len(self._raw) >= _MAX_LINE:
            raise MalformedResponseError("a line of a chunked body is too long")
        return False


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
