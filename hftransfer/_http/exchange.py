"""One exchange of HTTP/1.1: a request, and what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._http.errors import failed, reason_of
from hftransfer._http.parser import Headers
from hftransfer._http.proxy import Proxy
from hftransfer._io.rate_limit import PendingDelay
from hftransfer.errors import NetworkError, Response

__all__ = ("Exchange", "Origin", "StaleError", "broken")


class Origin(NamedTuple):
    """The other end, and how it is reached."""

    scheme: str
    host: str
    port: int
    proxy: Proxy | None = None

    @property
    def authority(self) -> str:
        """Host and port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class StaleError(Exception):
    """A connection ended before the first byte of an answer."""


class Exchange:
    """One request, and what becomes of it.

    Args:
        method: HTTP method.
        url: for messages.
        limit: bytes of the body that are kept, where it goes into no span.
        span: where the body goes if `accepts` says so. It may be made shorter meanwhile;
            then the exchange ends with it, and costs its connection.
        accepts: told status and headers; returns True for a body that belongs into the
            span. What it raises ends the exchange.
        head_alone: do not read the body of an answer below 300.
    """

    __slots__ = (
        *("accepts", "answered", "done", "head_alone", "is_direct", "limit", "method"),
        *("pending_delay", "span", "stop", "url"),
    )

    def __init__(
        self,
        method: str,
        url: str,
        limit: int,
        span: ByteRangeBuffer | None = None,
        accepts: Callable[[int, Headers], bool] | None = None,
        *,
        head_alone: bool = False,
    ) -> None:
        self.head_alone = head_alone
        self.method = method
        self.url = url
        self.limit = limit
        self.span = span
        self.stop = 0 if span is None else span.stop
        """Where the body ends in the file: where the span ended when this was asked for."""
        self.accepts = accepts
        self.answered = False
        """True once a byte of the answer has come."""
        self.is_direct = False
        """True if the end of the body was not read together with what may follow it."""
        self.pending_delay: PendingDelay | None = None
        """The pause that the last bytes cost."""
        self.done: asyncio.Future[Response] = asyncio.get_running_loop().create_future()


def broken(exchange: Exchange, exc: BaseException | None) -> NetworkError:
    """Return what to say of a connection that ended before its answer."""
    reason = "the server hung up" if exc is None else reason_of(exc)
    return failed(exchange.method, exchange.url, reason)
