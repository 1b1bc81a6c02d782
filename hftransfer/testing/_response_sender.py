"""Writes answers to connections: sendfile, throttling, faults, and the record of what was sent.

Plain connections get file bodies by `sendfile`, in pieces so that the record of bytes is never far
behind; TLS connections get them read and written. A throttled body goes the same way in smaller
pieces, each paid for before it is sent.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from typing import TYPE_CHECKING

from aiohttp import web

from hftransfer.testing._faults import (
    Action,
    CorruptByte,
    CutBody,
    FaultHandle,
    IgnoreRange,
    Redirect,
    ResetConnection,
    Stall,
    Status,
    WrongRange,
)
from hftransfer.testing._request_log import Exchange
from hftransfer.testing._responses import Answer, Call, FileBody, negotiate, partial

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import FileIO

_PIECE_BYTES = 1 << 20
_READ_BYTES = 1 << 18
_PACES_PER_SECOND = 50
_BURST_SECONDS = 0.1
_BODY_FAULTS = (CorruptByte, CutBody, ResetConnection, Stall)


class Delivery:
    """Sends one answer over one connection.

    Args:
        request: The request to answer.
        exchange: Where to note the status and the bytes sent.
        rate: Returns the allowed bytes per second at the moment, or `None` for no limit.
        released: Returns the event that ends the present stalls.
    """

    def __init__(
        self,
        request: web.BaseRequest,
        exchange: Exchange,
        *,
        rate: Callable[[], float | None],
        released: Callable[[], asyncio.Event],
    ) -> None:
        self._request = request
        self._exchange = exchange
        self._rate = rate
        self._released = released
        self._loop = asyncio.get_running_loop()
        self._paid_until = self._loop.time()

    async def send(self, answer: Answer, handle: FaultHandle | None) -> web.StreamResponse:
        """Send `answer`, spoilt by the fault of `handle` if there is one."""
        action = handle.fault.action if handle is not None else None
        if isinstance(action, ResetConnection) and action.after_bytes == 0:
            _happened(handle)
            reset(self._transport())
            return web.Response()
        length = 0 if self._request.method == "HEAD" else len(answer.body)
        if isinstance(action, Stall) and length == 0:
            await self._stall(handle)
        elif not isinstance(action, _BODY_FAULTS):
            _happened(handle)  # before the client can see anything of it
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.content_length = len(answer.body)
        self._exchange.status = answer.status
        try:
            await response.prepare(self._request)
            if length:
                await self._send_body(response, answer.body, handle)
            await response.write_eof()
        except ConnectionError:
            # The client has gone, which is its right: aiohttp would log a traceback.
            transport = self._request.transport
            if transport is not None and not transport.is_closing():
                transport.abort()
        return response

    async def _send_body(
        self, response: web.StreamResponse, body: bytes | FileBody, handle: FaultHandle | None
    ) -> None:
        action = handle.fault.action if handle is not None else None
        length = len(body)
        if isinstance(action, CorruptByte):
            assert isinstance(body, FileBody)
            spoilt = action.offset - body.start
            await self._send_piece(response, body, 0, spoilt)
            _happened(handle)
            await self._send_inverted(response, body, spoilt)
            await self._send_piece(response, body, spoilt + 1, length)
        elif isinstance(action, CutBody | ResetConnection | Stall):
            await self._send_piece(response, body, 0, action.after_bytes)
            if isinstance(action, Stall):
                await self._stall(handle)
                await self._send_piece(response, body, action.after_bytes, length)
                return
            _happened(handle)
            if isinstance(action, CutBody):
                self._transport().close()
            else:
                reset(self._transport())
        else:
            await self._send_piece(response, body, 0, length)

    async def _stall(self, handle: FaultHandle | None) -> None:
        released = self._released()
        _happened(handle)
        await released.wait()

    async def _send_inverted(
        self, response: web.StreamResponse, body: FileBody, position: int
    ) -> None:
        with body.open() as file:
            (value,) = os.pread(file.fileno(), 1, body.start + position)
        await self._pay(1)
        await response.write(bytes([value ^ 0xFF]))
        self._exchange.bytes_sent += 1

    async def _send_piece(
        self, response: web.StreamResponse, body: bytes | FileBody, start: int, stop: int
    ) -> None:
        """Send the bytes `start` to `stop` of the body."""
        if isinstance(body, bytes):
            await self._write(response, body[start:stop])
            return
        with body.open() as file:
            position, end = body.start + start, body.start + stop
            while position < end:
                count = await self._pay(end - position)
                if self._transport().get_extra_info("sslcontext") is None:
                    count = await self._sendfile(file, position, count)
                else:
                    piece = os.pread(file.fileno(), min(count, _READ_BYTES), position)
                    await self._write(response, piece)
                    count = len(piece)
                if count == 0:
                    raise RuntimeError(f"{body.source} was truncated while it was served")
                position += count

    async def _write(self, response: web.StreamResponse, piece: bytes) -> None:
        await response.write(piece)
        self._exchange.bytes_sent += len(piece)

    async def _sendfile(self, file: FileIO, position: int, count: int) -> int:
        """Send from `file` and return how many bytes; on failure count those that went out.

        `loop.sendfile` leaves the file's position behind the last byte that it sent.
        """
        file.seek(position)
        try:
            sent = await self._loop.sendfile(self._transport(), file, position, count)
        except BaseException:
            self._exchange.bytes_sent += file.tell() - position
            raise
        self._exchange.bytes_sent += sent
        return sent

    async def _pay(self, wanted: int) -> int:
        """Wait until bytes may be sent and return how many, at most `wanted`."""
        rate = self._rate()
        if rate is None:
            return min(wanted, _PIECE_BYTES)
        count = max(1, min(wanted, _PIECE_BYTES, int(rate / _PACES_PER_SECOND)))
        now = self._loop.time()
        self._paid_until = max(self._paid_until, now - _BURST_SECONDS) + count / rate
        if self._paid_until > now:
            await asyncio.sleep(self._paid_until - now)
        return count

    def _transport(self) -> asyncio.WriteTransport:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client went away")
        return transport


def spoil(answer: Answer, call: Call, action: Action | None) -> Answer:
    """Return the answer that a fault puts in place of the real one.

    Args:
        answer: The real answer, with a whole file where it has one.
        call: The request.
        action: The fault's action, or `None`.
    """
    if isinstance(action, Status):
        return Answer(action.code, action.headers, action.body, answer.file)
    if isinstance(action, Redirect):
        return Answer(action.status, {"Location": action.location}, b"", answer.file)
    if isinstance(action, IgnoreRange):
        return answer
    ranged = negotiate(answer, call.headers)
    if isinstance(action, WrongRange) and isinstance(ranged.body, FileBody):
        body = ranged.body
        start = min(max(0, body.start + action.shift), body.size - 1)
        return partial(answer, start, min(start + len(body), body.size))
    return ranged


def reset(transport: asyncio.WriteTransport) -> None:
    """Close a connection with RST, dropping what was not sent yet."""
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _happened(handle: FaultHandle | None) -> None:
    if handle is not None:
        handle.happened()
