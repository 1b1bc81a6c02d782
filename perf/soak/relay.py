"""A TCP relay between clients and a server, which injects the faults of a network.

It knows no HTTP, so that it treats every client and server alike. One event loop in a thread serves
all relays.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ("Conditions", "Relay", "RelayThread")

T = TypeVar("T")
_READ_BYTES = 64 * 1024
_TRICKLE_BYTES_PER_SECOND = 2000
_STALL_SECONDS = 20.0
_ACCEPT_SECONDS = 0.1
# Without TLS nothing protects heads and listings, so a byte is damaged only after this many full
# reads in a row: then it is in the body of a file.
_FULL_READS_OF_A_FILE = 4
# Damage is rarest: a file without digests of its chunks is read at most twice, and a second damage
# to it is an error, as it should be.
_FAULTS = (*("cut", "reset", "stall", "trickle") * 5, "damage")


@dataclass
class Conditions:
    """The state of the line at present; may be changed at any time."""

    fault_rate: float = 0.0
    """Share of new connections that suffer a fault."""
    bytes_per_second: int | None = None
    """Of all connections together and each direction; None for no limit."""


class RelayThread:
    """The thread of the event loop in which all relays run; a context manager that stops it."""

    def __init__(self) -> None:
        self.loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="soak-relay")
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run `coroutine` in the loop and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def __enter__(self) -> RelayThread:
        return self

    def __exit__(self, *_: object) -> None:
        self.run(_end_tasks())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


async def _end_tasks() -> None:
    """Cancel the connections that remain, and wait until they are closed."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)  # transports are closed in the next iteration


class Relay:
    """Accepts connections on a loopback port and relays them to a server.

    Its methods are called from other threads than that of the loop.

    Args:
        thread: in whose loop it runs.
        host, port: of the server.
        conditions: shared by the relays of a soak.
        generator: of everything random.
    """

    def __init__(
        self,
        thread: RelayThread,
        host: str,
        port: int,
        conditions: Conditions,
        generator: random.Random,
    ) -> None:
        self._thread = thread
        self._target = (host, port)
        self._conditions = conditions
        self._random = generator
        self._counts: Counter[str] = Counter()
        self._connections: set[_Connection] = set()
        self._writers: weakref.WeakSet[asyncio.StreamWriter] = weakref.WeakSet()
        """Of both sides of all connections."""
        self._pace = _Pace(conditions)
        self.port = 0
        """Of the relay."""
        self._server: asyncio.Server | None = None
        thread.run(self._listen())

    @property
    def counts(self) -> Mapping[str, int]:
        """How often each fault has happened, and the number of connections."""
        return dict(self._counts)

    def refuse(self) -> None:
        """Reset all connections and refuse new ones until `accept` is called."""
        self._thread.run(self._stop())
        self._counts["outage"] += 1

    def accept(self) -> None:
        """Accept connections again, on the same port."""
        self._thread.run(self._listen())

    def close(self) -> None:
        """Close the port and all connections."""
        self._thread.run(self._close())

    async def _close(self) -> None:
        await self._stop()
        # What was accepted just now is not known to this object before its task has begun.
        await asyncio.sleep(_ACCEPT_SECONDS)
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(
                self._relay, "127.0.0.1", self.port, backlog=1024, limit=_READ_BYTES
            )
            self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._connections):
            connection.reset()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._counts["connection"] += 1
        self._writers.add(writer)
        fault = None
        if self._random.random() < self._conditions.fault_rate:
            fault = self._random.choice(_FAULTS)
        try:
            upstream = await asyncio.open_connection(*self._target, limit=_READ_BYTES)
        except OSError:
            writer.transport.abort()
            return
        self._writers.add(upstream[1])
        connection = _Connection((reader, writer), upstream, self._pace)
        if fault is not None:
            after = int(self._random.expovariate(1 / (2 << 20)))
            connection.plan(fault, after, lambda: self._counts.update([fault]))
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)


class _Pace:
    """Spreads bytes over time, by the rate of the conditions."""

    def __init__(self, conditions: Conditions) -> None:
        self._conditions = conditions
        self._next = 0.0

    async def wait(self, size: int) -> None:
        rate = self._conditions.bytes_per_second
        if rate is None:
            return
        now = asyncio.get_running_loop().time()
        self._next = max(self._next, now) + size / rate
        await asyncio.sleep(self._next - now)


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Connection:
    """One connection: its two directions end together."""

    def __init__(self, client: Stream, server: Stream, pace: _Pace) -> None:
        self._client = client
        self._server = server
        self._pace = pace
        self._fault: str | None = None
        self._after = 0
        self._moved = 0
        self._happened: Callable[[], object] = lambda: None

    def plan(self, fault: str, after: int, happened: Callable[[], object]) -> None:
        """Let a fault happen once this many bytes were relayed; `happened` is called then."""
        self._fault = fault
        self._after = after
        self._happened = happened

    async def run(self) -> None:
        """Relay until one side closes or a fault ends the connection."""
        (from_client, to_client), (from_server, to_server) = self._client, self._server
        directions = [
            asyncio.ensure_future(self._move(from_client, to_server)),
            asyncio.ensure_future(self._move(from_server, to_client)),
        ]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
            to_client.close()
            to_server.close()

    def reset(self) -> None:
        """Reset the client's side, and close the other."""
        transport = self._client[1].transport
        if not transport.is_closing():
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
        self._server[1].transport.abort()

    async def _move(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        full_reads = 0
        try:
            while data := await reader.read(_READ_BYTES):
                await self._pace.wait(len(data))
                self._moved += len(data)
                full_reads = full_reads + 1 if len(data) == _READ_BYTES else 0
                in_file = full_reads >= _FULL_READS_OF_A_FILE
                due = self._fault is not None and self._moved > self._after
                if due and (in_file or self._fault != "damage"):
                    data = await self._suffer(data)
                writer.write(data)
                await writer.drain()
        except OSError:
            return  # the other side is closed then

    async def _suffer(self, data: bytes) -> bytes:
        """Let the planned fault happen to `data`; return what is relayed of it.

        Raises:
            ConnectionError: if the connection is to end here.
        """
        fault = self._fault
        if fault == "trickle":
            self._happened()
            self._happened = lambda: None
            await asyncio.sleep(len(data) / _TRICKLE_BYTES_PER_SECOND)
            return data
        self._fault = None
        self._happened()
        if fault == "damage":
            position = len(data) // 2
            return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]
        if fault == "stall":
            await asyncio.sleep(_STALL_SECONDS)
            return data
        if fault == "reset":
            self.reset()
        raise ConnectionError(fault)
