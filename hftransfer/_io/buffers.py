"""Data buffers under one memory budget: stretches of a single, reused mapping.

Fresh memory is the dearest thing in a transfer: each page costs a fault, in a virtual
machine often one of the host's as well. So a client maps its budget once and lends
page-aligned stretches of it, from the low end, which stays warm; what was never needed
is never touched. Waiting for a buffer is the engine's back-pressure: first come, first
served, so that whoever asks in order of a file's chunks is also served in that order.

The first use of a stretch costs its page faults. A thread takes them, as soon as the
stretch is lent and before it is written to, so that the event loop does not.
"""

from __future__ import annotations

import mmap
import threading
from bisect import insort
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio

from hftransfer.errors import OptionsError

__all__ = ("Allocator", "Buffer", "BufferPool")

_GRAIN = 64 * 1024
# Faults of less are taken sooner than a thread would have been started…
_WARMED_AT_LEAST = 4 << 20
# … which takes them for one huge page at a time, so that nobody waits long for the
# kernel's lock of the address space.
_WARMED_AT_ONCE = 2 << 20
_MADV_POPULATE_WRITE = 23  # Linux 5.14, see madvise(2); Python does not name it


class Allocator:
    """Which stretches of ``[0, size)`` are free: lowest first, neighbours joined."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.free_ranges = [(0, size)]
        """Free stretches as (start, stop), sorted; no two touch."""

    def allocate(self, size: int) -> int | None:
        """Return the start of the lowest free stretch of `size` bytes, now taken, or None."""
        for index, (start, stop) in enumerate(self.free_ranges):
            if stop - start > size:
                self.free_ranges[index] = (start + size, stop)
                return start
            if stop - start == size:
                del self.free_ranges[index]
                return start
        return None

    def free(self, start: int, size: int) -> None:
        """Free a stretch that was taken."""
        insort(self.free_ranges, (start, start + size))
        joined: list[tuple[int, int]] = []
        for first, last in self.free_ranges:
            if joined and joined[-1][1] == first:
                joined[-1] = (joined[-1][0], last)
            else:
                joined.append((first, last))
        self.free_ranges = joined


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
        self._allocator = Allocator(self.budget)
        self._memory: mmap.mmap | None = None
        self._warmer: _Warmer | None = None
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
            self._warmer = _Warmer(self._memory)
        assert self._warmer is not None
        self._warmer.warm(start + capacity)
        return memoryview(self._memory)[start : start + capacity]

    def _fits(self, capacity: int) -> bool:
        if self.in_use == 0:
            return True
        return any(stop - start >= capacity for start, stop in self._allocator.free_ranges)

    def _take(self, capacity: int) -> int | None:
        """Take memory that is known to be free; None for a mapping of its own."""
        start = self._allocator.allocate(capacity)
        if start is None:
            # Nothing else may be lent beside it.
            self._allocator.allocate(self.budget)
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
            self._allocator.free(0, self.budget)
        else:
            self._allocator.free(start, capacity)
        self.in_use -= capacity
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            capacity, event = self._waiting.popleft()
            self._granted[event] = self._take(capacity)
            event.set()


class _Warmer:
    """Takes the page faults of a mapping, from its low end on, in a thread.

    The thread ends when nothing is left to do. Where the kernel cannot, that is for good:
    memory is then faulted in by its use.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._lock = threading.Lock()
        self._wanted = 0
        self._done = 0
        self._is_running = False

    def warm(self, stop: int) -> None:
        """Have the first `stop` bytes be there soon, unless that is not worth a thread."""
        with self._lock:
            if stop - self._done < _WARMED_AT_LEAST:
                return
            self._wanted = max(self._wanted, stop)
            if self._is_running:
                return
            self._is_running = True
        threading.Thread(target=self._run, name="hftransfer-warmer", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                size = min(_WARMED_AT_ONCE, self._wanted - self._done)
                if size <= 0:
                    self._is_running = False
                    return
                start = self._done
                self._done += size
            if not _populate(self._memory, start, size):
                return  # still marked as running: no other thread comes after this one


def _populate(memory: mmap.mmap, start: int, size: int) -> bool:
    """Take the faults of a stretch, without the GIL; return False where the kernel cannot."""
    import ctypes  # not needed, and slow to load, where there are only small files

    place = ctypes.addressof(ctypes.c_char.from_buffer(memory, start))
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is None:
        return False
    given = ctypes.c_void_p(place), ctypes.c_size_t(size), ctypes.c_int(_MADV_POPULATE_WRITE)
    return bool(madvise(*given) == 0)


def _map(size: int) -> mmap.mmap:
    # Python maps shared memory by default, which gets no huge pages and costs more per fault.
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(AttributeError, OSError, ValueError):  # not every kernel has huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
