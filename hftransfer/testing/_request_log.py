"""The record of the requests that a server received and of what it sent."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hftransfer.testing._responses import Call, Host

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class RequestRecord:
    """One request that a server received.

    Attributes:
        host: `"hub"` or `"cdn"`.
        method: HTTP method.
        path: Percent-encoded path as sent.
        query: Percent-encoded query as sent, without the question mark.
        headers: Request headers; look-ups ignore case.
        status: Status code of the answer; 0 while none was sent.
        range: The Range header, or `None`.
        bytes_sent: Body bytes handed to the connection's socket so far; of a client that went
            away that can be up to the socket buffers more than it has read.
        connection: Number of the connection, counted from 1 over both hosts.
        file: `repo_id/path` of the file that the request was about, or `None`.
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


class Exchange:
    """The record of one request while it grows."""

    def __init__(self, call: Call, connection: int) -> None:
        self._call = call
        self._connection = connection
        self.status = 0
        self.bytes_sent = 0
        self.file: str | None = None

    def snapshot(self) -> RequestRecord:
        """Return the record as it stands."""
        call = self._call
        return RequestRecord(
            host=call.host,
            method=call.method,
            path=call.path,
            query=call.query,
            headers=call.headers,
            status=self.status,
            range=call.range,
            bytes_sent=self.bytes_sent,
            connection=self._connection,
            file=self.file,
        )


class RequestLog:
    """Every request since the last `clear`, readable from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._exchanges: list[Exchange] = []
        self._in_flight = 0

    def begin(self, exchange: Exchange) -> None:
        """Add the record of a request that has just arrived."""
        with self._changed:
            self._exchanges.append(exchange)
            self._in_flight += 1

    def end(self) -> None:
        """Note that one request is over."""
        with self._changed:
            self._in_flight -= 1
            self._changed.notify_all()

    def records(self) -> list[RequestRecord]:
        """Return a copy in order of arrival."""
        with self._changed:
            return [exchange.snapshot() for exchange in self._exchanges]

    def clear(self) -> None:
        """Forget all records."""
        with self._changed:
            self._exchanges.clear()

    def wait_idle(self, timeout: float | None) -> bool:
        """Block until no request is being answered; return `False` if the time ran out."""
        with self._changed:
            return self._changed.wait_for(lambda: self._in_flight == 0, timeout)
