"""The record of the requests that a server received and of what it sent."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hftransfer.testing._responses import Host, Request

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class RequestRecord:
    """One request that a server received, as it was when `HubServer.requests` was read.

    Attributes:
        host: `"hub"` or `"cdn"`.
        method: HTTP method.
        path: percent-encoded path as sent.
        query: percent-encoded query as sent, without the question mark.
        headers: request headers; look-ups ignore case.
        status: status code of the response; 0 while none has been sent.
        range: the Range header, or `None`.
        bytes_sent: body bytes written to the connection's socket so far. If the client closed the
            connection, it may have read fewer, by up to the size of the socket buffers.
        connection: number of the connection, counted from 1 over both hosts.
        file: `repo_id/path` of the file that was requested, or `None`.
    """

    host: Host
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    status: int
    range: str | None
    bytes_sent: int
    connection: int
    file: str | None = None


class PendingRecord:
    """The record of one request, updated while the response is sent.

    Written in the server's thread. Readers may see `bytes_sent` a moment late.
    """

    def __init__(self, request: Request, connection: int) -> None:
        self._request = request
        self._connection = connection
        self.status = 0
        self.bytes_sent = 0
        self.file: str | None = None

    def snapshot(self) -> RequestRecord:
        """Return the record as it is now."""
        request = self._request
        return RequestRecord(
            host=request.host,
            method=request.method,
            path=request.path,
            query=request.query,
            headers=request.headers,
            status=self.status,
            range=request.range,
            bytes_sent=self.bytes_sent,
            connection=self._connection,
            file=self.file,
        )


class RequestLog:
    """Every request since the last `clear`; may be read from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._records: list[PendingRecord] = []
        self._in_flight = 0

    def begin(self, record: PendingRecord) -> None:
        """Add the record of a request that has just arrived."""
        with self._changed:
            self._records.append(record)
            self._in_flight += 1

    def end(self) -> None:
        """Record that the response to one request has ended."""
        with self._changed:
            self._in_flight -= 1
            self._changed.notify_all()

    def records(self) -> list[RequestRecord]:
        """Return a copy in order of arrival."""
        with self._changed:
            return [record.snapshot() for record in self._records]

    def clear(self) -> None:
        """Remove all records."""
        with self._changed:
            self._records.clear()

    def wait_idle(self, timeout: float | None) -> bool:
        """Block until every response has ended; return `False` if that takes too long."""
        with self._changed:
            return self._changed.wait_for(lambda: self._in_flight == 0, timeout)
