"""Data buffers under one memory budget: stretches of a single, reused mapping.

Fresh memory is the dearest thing in a transfer: each page costs a fault, in a virtual
machine often one of the host's as well. So a client maps its budget once and lends
page-aligned stretches of it, from the low end, which stays warm; what was never needed
is never touched. Waiting for a buffer is the engine's back-pressure: first come, first
served, so that whoever asks in order of a file's chunks is also served in that order.
"""

from __future__ import annotations

import mmap
from bisect import insort
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio

from hftransfer.errors import OptionsError

__all__ = ("Arena", "Buffer", "BufferPool")

_GRAIN = 64 * 1024


class Arena:
    """Which stretches of ``[0, size)`` are free: lowest first, neighbours joined."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = [(0, size)]
        """Free stretches as (start, stop), sorted; no two touch."""

    def take(self, size: int) -> int | None:
        """Return the start of the lowest free stretch of `size` bytes, now taken, or None."""
        for index, (start, stop) in enumerate(self.free):
            if stop - start > size:
                self.free[index] = (start + size, stop)
                return start
            if stop - start == size:
                del self.free[index]
                return start
        return None

    def give(self, start: int, size: int) -> None:
        """Free a stretch that was taken."""
        insort(self.free, (start, start + size))
        joined: list[tuple[int, int]] = []
        for first, last in self.free:
            if joined and joined[-1][1] == first:
                joined[-1] = (joined[-1][0], last)
            else:
                joined.append((first, last))
        self.free = joined


class Buffer:
    """Memory on loan from a `BufferPool`; `view` is as long as was asked for."""

    __slots__ = ("capacity", "start", "view")

    def __init__(self, view: memoryview, capacity: int, start: int | None) -> None:
        self.view = view
        self.capacity = capacity
        self.start = start


class BufferPool:
    """All data memory of one client.

    Args:
        budget: bytes that may be lent together. A single buffer larger than that is
            lent only while nothing else is, from a mapping of its own.
    """

    def __init__(self, budget: int) -> None:
        if budget < 1:
            raise OptionsError("the memory budget must be positive")
        self.budget = max(budget - budget % _GRAIN, _GRAIN)
        self.in_use = 0
        self._arena = Arena(self.budget)
        self._memory: mmap.mmap | None = None
        self._waiting: deque[tuple[int, anyio.Event]] = deque()
        self._granted: dict[anyio.Event, int | None] = {}

    async def acquire(self, size: int) -> Buffer:
        """Return a buffer of `size` bytes, waiting in line until the budget allows it."""
        capacity = max(1, -(-size // _GRAIN)) * _GRAIN
        if not self._waiting and self._fits(capacity):
            start = self._take(capacity)
            try:
                await anyio.lowlevel.checkpoint()
            except BaseException:
                self._give_back(capacity, start)
                raise
        else:
            start = await self._wait(capacity)
        try:
            return Buffer(self._view(start, capacity)[:size], capacity, start)
        except BaseException:
            self._give_back(capacity, start)
            raise

    def release(self, buffer: Buffer) -> None:
        """Take `buffer` back; its view must not be used any more."""
        buffer.view = memoryview(b"")
        self._give_back(buffer.capacity, buffer.start)

    @asynccontextmanager
    async def lease(self, size: int) -> AsyncIterator[memoryview]:
        """Lend the memory of a buffer for the length of a ``with`` block."""
        buffer = await self.acquire(size)
        try:
            yield buffer.view
        finally:
            self.release(buffer)

    def _view(self, start: int | None, capacity: int) -> memoryview:
        if start is None:
            return memoryview(_map(capacity))
        if self._memory is None:
            self._memory = _map(self.budget)
        return memoryview(self._memory)[start : start + capacity]

    def _fits(self, capacity: int) -> bool:
        if self.in_use == 0:
            return True
        return any(stop - start >= capacity for start, stop in self._arena.free)

    def _take(self, capacity: int) -> int | None:
        """Take memory that is known to be free; None for a mapping of its own."""
        start = self._arena.take(capacity)
        if start is None:
            # Nothing else may be lent beside it.
            self._arena.take(self.budget)
        self.in_use += capacity
        return start

    async def _wait(self, capacity: int) -> int | None:
        event = anyio.Event()
        ticket = (capacity, event)
        self._waiting.append(ticket)
        try:
            await event.wait()
        except BaseException:
            if event in self._granted:
                self._give_back(capacity, self._granted.pop(event))
            else:
                self._waiting.remove(ticket)
                self._serve()
            raise
        return self._granted.pop(event)

    def _give_back(self, capacity: int, start: int | None) -> None:
        if start is None:
            self._arena.give(0, self.budget)
        else:
            self._arena.give(start, capacity)
        self.in_use -= capacity
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            capacity, event = self._waiting.popleft()
            self._granted[event] = self._take(capacity)
            event.set()


def _map(size: int) -> mmap.mmap:
    # Python maps shared memory by default, which gets no huge pages and costs more per fault.
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(AttributeError, OSError, ValueError):  # not every kernel has huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
