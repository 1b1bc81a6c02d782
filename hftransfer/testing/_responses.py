"""HTTP requests and responses as values, and the rules for ranges and preconditions (RFC 9110)."""

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
class Request:
    """One request as received; `path` and `query` are percent-encoded.

    `connection` is the number of its connection, counted from 1 over both hosts.
    """

    host: Host
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = b""
    connection: int = 0

    @property
    def range(self) -> str | None:
        """The Range header, if there is one."""
        return self.headers.get("Range")

    @property
    def target(self) -> str:
        """Path and query as sent."""
        return f"{self.path}?{self.query}" if self.query else self.path

    def parameters(self) -> dict[str, str]:
        """Return the decoded query; of repeated names the last value."""
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
class Response:
    """A response to send.

    Attributes:
        status: HTTP status code.
        headers: without Content-Length, which is derived from the body.
        body: bytes, or a range of a file.
        file: `repo_id/path` of the repository file that was requested, or `None`.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | FileBody = b""
    file: str | None = None


def json_response(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return `value` as a JSON response."""
    content_type = {"Content-Type": "application/json; charset=utf-8"}
    return Response(status, {**content_type, **(headers or {})}, json.dumps(value).encode())


def redirect_response(
    status: int, location: str, *, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a redirect. As on the Hub it has a body, so that Content-Length is not the file's."""
    body = f"Redirecting to {unquote(location.partition('?')[0])}".encode()
    return Response(
        status,
        {"Content-Type": "text/plain; charset=utf-8", "Location": location, **(headers or {})},
        body,
    )


class UnsatisfiableRangeError(Exception):
    """Raised when the requested range contains no byte of the file."""


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """Return the half-open byte range that a Range header requests of a file of `size` bytes.

    Returns:
        `(start, stop)`, or `None` if a server may ignore the header: another unit, several
        ranges, or invalid syntax.

    Raises:
        UnsatisfiableRangeError: if the range is outside the file.
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


def apply_conditions(response: Response, headers: Mapping[str, str]) -> Response:
    """Apply the preconditions and the Range of a request to a response with a whole file.

    Args:
        response: 200 with a whole `FileBody`; any other response is returned unchanged.
        headers: the request's headers; Range, If-Range and If-Match are used.

    Returns:
        The response itself, or 206, 412 or 416 in its place.
    """
    body = response.body
    if response.status != 200 or not isinstance(body, FileBody):
        return response
    etag = response.headers.get("ETag")
    expected = headers.get("If-Match")
    if expected is not None and expected.strip() != "*" and etag not in _entity_tags(expected):
        return dataclasses.replace(response, status=412, body=b"Precondition Failed")
    range_header = headers.get("Range")
    validator = headers.get("If-Range")
    if range_header is None or (validator is not None and validator.strip() != etag):
        return response
    try:
        found = parse_range(range_header, body.size)
    except UnsatisfiableRangeError:
        unsatisfied = {**response.headers, "Content-Range": f"bytes */{body.size}"}
        return dataclasses.replace(response, status=416, headers=unsatisfied, body=b"")
    return response if found is None else partial_content(response, *found)


def partial_content(response: Response, start: int, stop: int) -> Response:
    """Return the 206 response for the bytes `start` to `stop` of the file in `response`."""
    body = response.body
    assert isinstance(body, FileBody)
    return dataclasses.replace(
        response,
        status=206,
        headers={**response.headers, "Content-Range": f"bytes {start}-{stop - 1}/{body.size}"},
        body=dataclasses.replace(body, start=start, stop=stop),
    )


def _entity_tags(header: str) -> list[str]:
    return [tag.strip() for tag in header.split(",")]
