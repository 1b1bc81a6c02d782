"""Sends responses to connections: sendfile, throttling, faults, and counting the bytes.

Plain connections get file bodies by `sendfile`, at most 1 MiB per call, so that the count of
bytes sent is never far behind. For TLS connections the file is read and written. A throttled
body is sent in smaller steps, each after a delay.
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
    Drip,
    FaultHandle,
    IgnoreRange,
    Redirect,
    ResetConnection,
    Stall,
    Status,
    WrongRange,
)
from hftransfer.testing._request_log import PendingRecord
from hftransfer.testing._responses import (
    FileBody,
    Request,
    Response,
    apply_conditions,
    partial_content,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import FileIO

# Most bytes per sendfile call, and per read of a file that is sent over TLS.
_SENDFILE_BYTES = 1 << 20
_READ_BYTES = 1 << 18
# A throttled body is sent in this many steps per second.
_STEPS_PER_SECOND = 50
# Unused time of a throttled body that may be made up for afterwards, seconds.
_BURST_SECONDS = 0.1
_BODY_FAULTS = (CorruptByte, CutBody, Drip, ResetConnection, Stall)


class ResponseSender:
    """Sends one response over one connection.

    Args:
        request: aiohttp's request to respond to.
        record: where the status and the bytes sent are recorded.
        rate: returns the present limit in bytes per second, or `None` for no limit.
        released: returns the event that ends the present stalls.
    """

    def __init__(
        self,
        request: web.BaseRequest,
        record: PendingRecord,
        *,
        rate: Callable[[], float | None],
        released: Callable[[], asyncio.Event],
    ) -> None:
        self._request = request
        self._record = record
        self._rate = rate
        self._released = released
        self._loop = asyncio.get_running_loop()
        self._send_at = self._loop.time()
        """Loop time at which the next bytes of a throttled body may be sent."""

    async def send(self, response: Response, handle: FaultHandle | None) -> web.StreamResponse:
        """Send `response`; `handle` is the fault that hits the request, if any."""
        action = handle.fault.action if handle is not None else None
        if isinstance(action, ResetConnection) and action.after_bytes == 0:
            _happened(handle)
            reset(self._transport())
            return web.Response()
        length = 0 if self._request.method == "HEAD" else len(response.body)
        if isinstance(action, Stall) and length == 0:
            await self._stall(handle)
        elif not isinstance(action, _BODY_FAULTS):
            _happened(handle)  # before the client can see any of it
        stream = web.StreamResponse(status=response.status, headers=response.headers)
        stream.content_length = len(response.body)
        self._record.status = response.status
        try:
            await stream.prepare(self._request)
            if length:
                await self._send_body(stream, response.body, handle)
            await stream.write_eof()
        except ConnectionError:
            # The client closed the connection, which is not an error. aiohttp would log it.
            transport = self._request.transport
            if transport is not None and not transport.is_closing():
                transport.abort()
        return stream

    async def _send_body(
        self, stream: web.StreamResponse, body: bytes | FileBody, handle: FaultHandle | None
    ) -> None:
        action = handle.fault.action if handle is not None else None
        length = len(body)
        if isinstance(action, CorruptByte):
            assert isinstance(body, FileBody)
            corrupted = action.offset - body.start
            await self._send_part(stream, body, 0, corrupted)
            _happened(handle)
            await self._send_inverted(stream, body, corrupted)
            await self._send_part(stream, body, corrupted + 1, length)
        elif isinstance(action, Drip):
            await self._send_part(stream, body, 0, action.after_bytes)
            _happened(handle)
            self._rate = lambda: action.bytes_per_second
            await self._send_part(stream, body, action.after_bytes, length)
        elif isinstance(action, CutBody | ResetConnection | Stall):
            await self._send_part(stream, body, 0, action.after_bytes)
            if isinstance(action, Stall):
                await self._stall(handle)
                await self._send_part(stream, body, action.after_bytes, length)
                return
            _happened(handle)
            if isinstance(action, CutBody):
                self._transport().close()
            else:
                reset(self._transport())
        else:
            await self._send_part(stream, body, 0, length)

    async def _stall(self, handle: FaultHandle | None) -> None:
        released = self._released()
        _happened(handle)
        await released.wait()

    async def _send_inverted(
        self, stream: web.StreamResponse, body: FileBody, position: int
    ) -> None:
        """Send the bitwise complement of the byte at `position` of the body."""
        with body.open() as file:
            (value,) = os.pread(file.fileno(), 1, body.start + position)
        await self._throttle(1)
        await stream.write(bytes([value ^ 0xFF]))
        self._record.bytes_sent += 1

    async def _send_part(
        self, stream: web.StreamResponse, body: bytes | FileBody, start: int, stop: int
    ) -> None:
        """Send the bytes `start` to `stop` of the body."""
        if isinstance(body, bytes):
            while start < stop:
                count = await self._throttle(stop - start)
                await self._write(stream, body[start : start + count])
                start += count
            return
        with body.open() as file:
            position, end = body.start + start, body.start + stop
            while position < end:
                count = await self._throttle(end - position)
                if self._transport().get_extra_info("sslcontext") is None:
                    count = await self._sendfile(file, position, count)
                else:
                    data = os.pread(file.fileno(), min(count, _READ_BYTES), position)
                    await self._write(stream, data)
                    count = len(data)
                if count == 0:
                    raise RuntimeError(f"{body.source} was truncated while it was served")
                position += count

    async def _write(self, stream: web.StreamResponse, data: bytes) -> None:
        await stream.write(data)
        self._record.bytes_sent += len(data)

    async def _sendfile(self, file: FileIO, position: int, count: int) -> int:
        """Send from `file`; return the number of bytes sent, and record it on an error too.

        `loop.sendfile` leaves the file's position after the last byte that it sent.
        """
        file.seek(position)
        try:
            sent = await self._loop.sendfile(self._transport(), file, position, count)
        except BaseException:
            self._record.bytes_sent += file.tell() - position
            raise
        self._record.bytes_sent += sent
        return sent

    async def _throttle(self, wanted: int) -> int:
        """Wait until the rate limit permits; return how many bytes to send, at most `wanted`."""
        rate = self._rate()
        if rate is None:
            return min(wanted, _SENDFILE_BYTES)
        count = max(1, min(wanted, _SENDFILE_BYTES, int(rate / _STEPS_PER_SECOND)))
        now = self._loop.time()
        self._send_at = max(self._send_at, now - _BURST_SECONDS) + count / rate
        if self._send_at > now:
            await asyncio.sleep(self._send_at - now)
        return count

    def _transport(self) -> asyncio.WriteTransport:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client closed the connection")
        return transport


def apply_fault(response: Response, request: Request, action: Action | None) -> Response:
    """Return the response that a fault sends in place of the regular one.

    Faults of the body are applied later, by `ResponseSender`.

    Args:
        response: the regular response, with the whole file if it has one.
        request: the request; its Range and preconditions are applied here.
        action: the fault's action, or `None`.
    """
    if isinstance(action, Status):
        return Response(action.code, action.headers, action.body, response.file)
    if isinstance(action, Redirect):
        return Response(action.status, {"Location": action.location}, b"", response.file)
    if isinstance(action, IgnoreRange):
        return response
    ranged = apply_conditions(response, request.headers)
    if isinstance(action, WrongRange) and isinstance(ranged.body, FileBody):
        body = ranged.body
        start = min(max(0, body.start + action.shift), body.size - 1)
        return partial_content(response, start, min(start + len(body), body.size))
    return ranged


def reset(transport: asyncio.WriteTransport) -> None:
    """Close a connection with RST and discard what was not sent yet."""
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _happened(handle: FaultHandle | None) -> None:
    if handle is not None:
        handle.happened()
