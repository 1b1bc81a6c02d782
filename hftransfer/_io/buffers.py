"""Data buffers under one memory budget: ranges of a single mapping, allocated and reused.

Fresh memory is the most expensive resource of a transfer: each page costs a page fault, and in a
virtual machine often a second one in the host. A client therefore maps its budget once and
allocates page-aligned ranges from the low end, whose pages have already been faulted in; pages
that are never needed are never touched.

Waiting for a buffer is the engine's back-pressure. Requests are served in order, so that a task
that asks in the order of a file's chunks is served in that order. `BufferPool` belongs to the
event loop of its client and is not thread-safe; the memory itself may be used in any thread.

The first use of a page costs its fault. A thread takes the faults of a range right after its
allocation and before data arrives, so that the event loop does not.
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

_GRANULE = 64 * 1024
# Fewer bytes than this are faulted in by their use sooner than a thread could be started.
_PREFAULT_MIN = 4 << 20
# The thread faults in one huge page at a time: the kernel locks the address space for each call,
# and other threads wait for that lock.
_PREFAULT_STEP = 2 << 20
_MADV_POPULATE_WRITE = 23  # Linux 5.14, see madvise(2); the mmap module does not define it


class Allocator:
    """First-fit allocator of ranges in ``[0, size)``; adjacent free ranges are merged."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.free_ranges = [(0, size)]
        """Free ranges as (start, stop), sorted; no two are adjacent."""

    def allocate(self, size: int) -> int | None:
        """Allocate the lowest free range of `size` bytes; return its start, None if none fits."""
        for index, (start, stop) in enumerate(self.free_ranges):
            if stop - start > size:
                self.free_ranges[index] = (start + size, stop)
                return start
            if stop - start == size:
                del self.free_ranges[index]
                return start
        return None

    def free(self, start: int, size: int) -> None:
        """Free a range that was allocated."""
        insort(self.free_ranges, (start, start + size))
        merged: list[tuple[int, int]] = []
        for first, last in self.free_ranges:
            if merged and merged[-1][1] == first:
                merged[-1] = (merged[-1][0], last)
            else:
                merged.append((first, last))
        self.free_ranges = merged


class Buffer:
    """Memory of a `BufferPool`, owned by one task until it is released.

    Args:
        view: the memory, of the size that was requested.
        capacity: bytes that it counts for in the budget.
        start: offset in the pool's mapping; None for a mapping of its own.
    """

    __slots__ = ("capacity", "start", "view")

    def __init__(self, view: memoryview, capacity: int, start: int | None) -> None:
        self.view = view
        self.capacity = capacity
        self.start = start


class BufferPool:
    """All memory for file data of one client.

    Args:
        budget: bytes that may be allocated at once, rounded down to a multiple of 64 KiB. A
            single buffer may be larger; it gets a mapping of its own, and only while no other
            buffer is allocated.

    Raises:
        OptionsError: if `budget` is not positive.
    """

    def __init__(self, budget: int) -> None:
        if budget < 1:
            raise OptionsError("the memory budget must be positive")
        self.budget = max(budget - budget % _GRANULE, _GRANULE)
        self.in_use = 0
        """Bytes that are allocated."""
        self.peak_in_use = 0
        """The largest value that `in_use` has had."""
        self._allocator = Allocator(self.budget)
        self._memory: mmap.mmap | None = None
        self._prefaulter: _Prefaulter | None = None
        self._waiting: deque[tuple[int, anyio.Event]] = deque()
        self._granted: dict[anyio.Event, int | None] = {}
        """Start of the memory of waiters that own it and have not run yet."""

    async def acquire(self, size: int) -> Buffer:
        """Return a buffer of `size` bytes; wait behind earlier callers until the budget allows it.

        Raises:
            OSError: if the kernel has no memory for the mapping.
        """
        capacity = max(1, -(-size // _GRANULE)) * _GRANULE
        if not self._waiting and self._fits(capacity):
            start = self._allocate(capacity)
            try:
                await anyio.lowlevel.checkpoint()
            except BaseException:
                self._free(capacity, start)
                raise
        else:
            start = await self._wait(capacity)
        try:
            return Buffer(self._view(start, capacity)[:size], capacity, start)
        except BaseException:
            self._free(capacity, start)
            raise

    def try_acquire(self, size: int) -> Buffer | None:
        """Return a buffer of `size` bytes if the budget allows it now and nobody waits for it.

        Raises:
            OSError: if the kernel has no memory for the mapping.
        """
        capacity = max(1, -(-size // _GRANULE)) * _GRANULE
        if self._waiting or not self._fits(capacity):
            return None
        start = self._allocate(capacity)
        try:
            return Buffer(self._view(start, capacity)[:size], capacity, start)
        except BaseException:
            self._free(capacity, start)
            raise

    def release(self, buffer: Buffer) -> None:
        """Free `buffer`. Views of its memory must not be used any more."""
        buffer.view = memoryview(b"")
        self._free(buffer.capacity, buffer.start)

    @asynccontextmanager
    async def lease(self, size: int) -> AsyncIterator[memoryview]:
        """Acquire `size` bytes for the length of a ``with`` block."""
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
            self._prefaulter = _Prefaulter(self._memory)
        assert self._prefaulter is not None
        self._prefaulter.prefault(start + capacity)
        return memoryview(self._memory)[start : start + capacity]

    def _fits(self, capacity: int) -> bool:
        if self.in_use == 0:
            return True
        return any(stop - start >= capacity for start, stop in self._allocator.free_ranges)

    def _allocate(self, capacity: int) -> int | None:
        """Allocate memory for which `_fits` is True; return None for a mapping of its own."""
        start = self._allocator.allocate(capacity)
        if start is None:
            # An oversize buffer: block the whole budget, so that it stays the only one.
            self._allocator.allocate(self.budget)
        self.in_use += capacity
        self.peak_in_use = max(self.peak_in_use, self.in_use)
        return start

    async def _wait(self, capacity: int) -> int | None:
        event = anyio.Event()
        waiter = (capacity, event)
        self._waiting.append(waiter)
        try:
            await event.wait()
        except BaseException:
            if event in self._granted:
                self._free(capacity, self._granted.pop(event))
            else:
                self._waiting.remove(waiter)
                self._grant()
            raise
        return self._granted.pop(event)

    def _free(self, capacity: int, start: int | None) -> None:
        if start is None:
            self._allocator.free(0, self.budget)
        else:
            self._allocator.free(start, capacity)
        self.in_use -= capacity
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            capacity, event = self._waiting.popleft()
            self._granted[event] = self._allocate(capacity)
            event.set()


class _Prefaulter:
    """Takes the page faults of a mapping, from its low end on, in a thread.

    The thread ends when it has caught up with the requests, and a later request starts another.
    If the kernel has no MADV_POPULATE_WRITE, no other thread is started: the memory is then
    faulted in by its use.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._lock = threading.Lock()  # guards all that follows
        self._requested = 0
        self._done = 0
        self._is_running = False

    def prefault(self, stop: int) -> None:
        """Fault in the first `stop` bytes soon, unless they are too few for a thread."""
        with self._lock:
            if stop - self._done < _PREFAULT_MIN:
                return
            self._requested = max(self._requested, stop)
            if self._is_running:
                return
            self._is_running = True
        threading.Thread(target=self._run, name="hftransfer-prefault", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                size = min(_PREFAULT_STEP, self._requested - self._done)
                if size <= 0:
                    self._is_running = False
                    return
                start = self._done
                self._done += size
            if not _populate(self._memory, start, size):
                return  # `_is_running` stays True, so that no other thread is started


def _populate(memory: mmap.mmap, start: int, size: int) -> bool:
    """Fault in a range, without the GIL; return False if the kernel cannot."""
    import ctypes  # slow to load, and not needed for transfers of small files only

    address = ctypes.addressof(ctypes.c_char.from_buffer(memory, start))
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is None:
        return False
    arguments = ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_int(_MADV_POPULATE_WRITE)
    return bool(madvise(*arguments) == 0)


def _map(size: int) -> mmap.mmap:
    # MAP_SHARED, the default of Python, gets no huge pages and costs more per page fault.
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(AttributeError, OSError, ValueError):  # not every kernel has huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
