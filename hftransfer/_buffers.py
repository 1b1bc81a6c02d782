"""Data buffers under one memory budget.

Buffers are anonymous mappings (page-aligned), reused for as long as they fit what is
asked for, because fresh memory is the dearest thing in a transfer. Waiting for a buffer
is the engine's back-pressure: first come, first served, so that whoever asks in order
of a file's chunks is also served in that order.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from hftransfer.errors import OptionsError

__all__ = ("Buffer", "BufferPool")

_SMALLEST = 64 * 1024
_MIB = 1 << 20


class Buffer:
    """Memory on loan from a `BufferPool`; `view` is as long as was asked for."""

    __slots__ = ("_memory", "capacity", "view")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._memory = mmap.mmap(-1, capacity)
        self.view = memoryview(b"")

    def lend(self, size: int) -> Buffer:
        self.view = memoryview(self._memory)[:size]
        return self


def _capacity_for(size: int) -> int:
    """Round up, so that a buffer can serve many sizes: powers of two, then whole MiB."""
    if size <= _SMALLEST:
        return _SMALLEST
    if size <= _MIB:
        return 1 << (size - 1).bit_length()
    return -(-size // _MIB) * _MIB


class BufferPool:
    """All data memory of one client.

    Args:
        budget: bytes that buffers may take together, in use or idle. A single buffer
            larger than that is lent out only while nothing else is.
    """

    def __init__(self, budget: int) -> None:
        if budget < 1:
            raise OptionsError("the memory budget must be positive")
        self.budget = budget
        self.in_use = 0
        self._idle: dict[int, list[Buffer]] = {}
        self._idle_bytes = 0
        self._waiting: deque[tuple[int, anyio.Event]] = deque()
        self._granted: set[anyio.Event] = set()

    async def acquire(self, size: int) -> Buffer:
        """Return a buffer of `size` bytes, waiting in line until the budget allows it."""
        capacity = _capacity_for(size)
        if self._waiting or not self._fits(capacity):
            await self._wait(capacity)
        else:
            self.in_use += capacity
            try:
                await anyio.lowlevel.checkpoint()
            except BaseException:
                self._give_back(capacity)
                raise

        idle = self._idle.get(capacity)
        if idle:
            self._idle_bytes -= capacity
            return idle.pop().lend(size)
        self._evict(self.in_use + self._idle_bytes - self.budget)
        try:
            return Buffer(capacity).lend(size)
        except BaseException:
            self._give_back(capacity)
            raise

    def release(self, buffer: Buffer) -> None:
        """Take `buffer` back; its view must not be used any more."""
        buffer.view = memoryview(b"")
        self._idle.setdefault(buffer.capacity, []).append(buffer)
        self._idle_bytes += buffer.capacity
        self._give_back(buffer.capacity)

    @asynccontextmanager
    async def lease(self, size: int) -> AsyncIterator[memoryview]:
        """Lend the memory of a buffer for the length of a ``with`` block."""
        buffer = await self.acquire(size)
        try:
            yield buffer.view
        finally:
            self.release(buffer)

    def _fits(self, capacity: int) -> bool:
        return self.in_use == 0 or self.in_use + capacity <= self.budget

    async def _wait(self, capacity: int) -> None:
        event = anyio.Event()
        ticket = (capacity, event)
        self._waiting.append(ticket)
        try:
            await event.wait()
        except BaseException:
            if event in self._granted:
                self._give_back(capacity)
            else:
                self._waiting.remove(ticket)
                self._serve()
            raise
        finally:
            self._granted.discard(event)

    def _give_back(self, capacity: int) -> None:
        self.in_use -= capacity
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            capacity, event = self._waiting.popleft()
            self.in_use += capacity
            self._granted.add(event)
            event.set()

    def _evict(self, excess: int) -> None:
        """Drop idle buffers of other sizes, the largest first, until `excess` bytes are gone."""
        for capacity in sorted(self._idle, reverse=True):
            while excess > 0 and self._idle[capacity]:
                # The mapping goes with the last reference: a caller's stray view keeps it valid.
                self._idle[capacity].pop()
                self._idle_bytes -= capacity
                excess -= capacity
