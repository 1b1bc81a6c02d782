"""HTTP requests and answers as values, and the rules of ranges and preconditions (RFC 9110)."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qsl, unquote

if TYPE_CHECKING:
    from collections.abc import Mapping
    from io import FileIO
    from pathlib import Path

Host = Literal["hub", "cdn"]


@dataclass(frozen=True)
class Call:
    """One request as it came over the wire; `path` and `query` are still percent-encoded."""

    host: Host
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def range(self) -> str | None:
        """The Range header, if there is one."""
        return self.headers.get("Range")

    @property
    def target(self) -> str:
        """Path and query as sent."""
        return f"{self.path}?{self.query}" if self.query else self.path

    def parameters(self) -> dict[str, str]:
        """Return the decoded query, the last value of each name."""
        return dict(parse_qsl(self.query, keep_blank_values=True))


@dataclass(frozen=True)
class FileBody:
    """Bytes `start` to `stop` (half open) of a file of `size` bytes."""

    source: Path
    start: int
    stop: int
    size: int

    def __len__(self) -> int:
        return self.stop - self.start

    def open(self) -> FileIO:
        """Open the file for reading, unbuffered."""
        return self.source.open("rb", buffering=0)


@dataclass(frozen=True)
class Answer:
    """What to send back.

    Attributes:
        status: HTTP status code.
        headers: Without Content-Length, which follows from the body.
        body: Bytes, or a piece of a file.
        file: `repo_id/path` of the repository file that the request was about.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | FileBody = b""
    file: str | None = None


def json_answer(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Answer:
    """Return `value` as a JSON answer."""
    content_type = {"Content-Type": "application/json; charset=utf-8"}
    return Answer(status, {**content_type, **(headers or {})}, json.dumps(value).encode())


def redirect_answer(
    status: int, location: str, *, headers: Mapping[str, str] | None = None
) -> Answer:
    """Return a redirect; like the Hub's it has a body, whose length is not the file's."""
    body = f"Redirecting to {unquote(location.partition('?')[0])}".encode()
    return Answer(
        status,
        {"Content-Type": "text/plain; charset=utf-8", "Location": location, **(headers or {})},
        body,
    )


class UnsatisfiableRangeError(Exception):
    """Raised when no byte of the file is in the range asked for."""


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """Return the half-open byte range that a Range header asks of a file of `size` bytes.

    Returns:
        `(start, stop)`, or `None` where a server may ignore the header: another unit, several
        ranges, or bad syntax.

    Raises:
        UnsatisfiableRangeError: The range lies outside the file.
    """
    match = re.fullmatch(r"bytes=([0-9]*)-([0-9]*)", header.replace(" ", ""))
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start = int(first)
        if last and int(last) < start:
            return None
        stop = min(int(last) + 1, size) if last else size
    if start >= stop:
        raise UnsatisfiableRangeError
    return start, stop


def negotiate(answer: Answer, headers: Mapping[str, str]) -> Answer:
    """Apply a request's preconditions and Range to an answer that carries a whole file.

    Args:
        answer: 200 with a whole `FileBody`; any other answer is returned as it is.
        headers: The request's headers, of which Range, If-Range and If-Match count.

    Returns:
        The answer itself, or 206, 412 or 416 in its place.
    """
    body = answer.body
    if answer.status != 200 or not isinstance(body, FileBody):
        return answer
    etag = answer.headers.get("ETag")
    expected = headers.get("If-Match")
    if expected is not None and expected.strip() != "*" and etag not in _entity_tags(expected):
        return dataclasses.replace(answer, status=412, body=b"Precondition Failed")
    asked = headers.get("Range")
    validator = headers.get("If-Range")
    if asked is None or (validator is not None and validator.strip() != etag):
        return answer
    try:
        piece = parse_range(asked, body.size)
    except UnsatisfiableRangeError:
        refused = {**answer.headers, "Content-Range": f"bytes */{body.size}"}
        return dataclasses.replace(answer, status=416, headers=refused, body=b"")
    return answer if piece is None else partial(answer, *piece)


def partial(answer: Answer, start: int, stop: int) -> Answer:
    """Return the 206 answer for bytes `start` to `stop` of the file that `answer` carries."""
    body = answer.body
    assert isinstance(body, FileBody)
    return dataclasses.replace(
        answer,
        status=206,
        headers={**answer.headers, "Content-Range": f"bytes {start}-{stop - 1}/{body.size}"},
        body=dataclasses.replace(body, start=start, stop=stop),
    )


def _entity_tags(header: str) -> list[str]:
    return [tag.strip() for tag in header.split(",")]
