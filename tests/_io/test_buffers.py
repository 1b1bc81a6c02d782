"""`hftransfer._io.buffers`: the budget, the order of requests, and the return of all memory."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import threading

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hftransfer._io import buffers
from hftransfer._io.buffers import Allocator, Buffer, BufferPool
from hftransfer.errors import OptionsError

UNIT = 64 * 1024  # the smallest capacity, so that sizes below are exact
BUDGET = 4 * UNIT
MIB = 1 << 20

pytestmark = pytest.mark.anyio


async def _settle() -> None:
    """Let every other task run until it waits for something."""
    await anyio.wait_all_tasks_blocked()


@given(st.lists(st.integers(1, 8) | st.none(), max_size=60))
def test_allocated_ranges_never_overlap(steps: list[int | None]) -> None:
    """Freed ranges are merged, and can be allocated again as one."""
    allocator = Allocator(16)
    allocated: list[tuple[int, int]] = []
    for size in steps:
        if size is None:
            if allocated:
                allocator.free(*allocated.pop(len(allocated) // 2))
            continue
        start = allocator.allocate(size)
        longest = max((stop - first for first, stop in allocator.free_ranges), default=0)
        if start is None:
            assert longest < size
        else:
            allocated.append((start, size))
        used = [unit for first, length in allocated for unit in range(first, first + length)]
        assert len(used) == len(set(used))
        assert set(used) <= set(range(16))
        free = [unit for first, stop in allocator.free_ranges for unit in range(first, stop)]
        assert sorted(used + free) == list(range(16))

    for start, size in allocated:
        allocator.free(start, size)

    assert allocator.free_ranges == [(0, 16)]


_jobs = st.lists(
    st.tuples(
        st.integers(1, 6 * UNIT),  # size, up to beyond the budget
        st.integers(0, 4),  # checkpoints while holding it
        st.integers(0, 4),  # checkpoints before it is cancelled
        st.booleans(),  # whether it is cancelled
    ),
    min_size=1,
    max_size=12,
)


@given(jobs=_jobs)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_budget_holds_under_any_interleaving(
    jobs: list[tuple[int, int, int, bool]],
) -> None:
    """Buffers fit the budget, or there is a single oversize one; at the end all are free.

    The pool's own peak is compared with the largest sum that the test has seen.
    """
    pool = BufferPool(BUDGET)
    held: list[Buffer] = []
    peak = 0

    async def work(size: int, turns: int, scope: anyio.CancelScope) -> None:
        nonlocal peak
        with scope:
            buffer = await pool.acquire(size)
            held.append(buffer)
            try:
                assert len(buffer.view) == size
                capacities = [other.capacity for other in held]
                peak = max(peak, sum(capacities))
                assert sum(capacities) <= BUDGET or len(held) == 1
                assert sum(capacities) <= pool.in_use
                ranges = sorted(
                    (other.start, other.capacity) for other in held if other.start is not None
                )
                for (first, size), (second, _) in itertools.pairwise(ranges):
                    assert first + size <= second
                for _ in range(turns):
                    await checkpoint()
            finally:
                held.remove(buffer)
                pool.release(buffer)

    async def cancel(turns: int, scope: anyio.CancelScope) -> None:
        for _ in range(turns):
            await checkpoint()
        scope.cancel()

    async with anyio.create_task_group() as group:
        for size, turns, before_cancel, is_cancelled in jobs:
            scope = anyio.CancelScope()
            group.start_soon(work, size, turns, scope)
            if is_cancelled:
                group.start_soon(cancel, before_cancel, scope)

    assert pool.in_use == 0
    assert not pool._waiting
    assert not pool._granted
    largest = max(-(-size // UNIT) * UNIT for size, *_ in jobs)
    assert peak <= pool.peak_in_use <= max(BUDGET, largest)
    pool.release(await pool.acquire(BUDGET))  # the whole budget is available again


async def test_requests_are_served_in_order() -> None:
    """A small request does not overtake an earlier large one."""
    pool = BufferPool(BUDGET)
    served: list[str] = []
    first = await pool.acquire(2 * UNIT)
    second = await pool.acquire(UNIT)

    async def wait(name: str, size: int) -> None:
        async with pool.lease(size):
            served.append(name)

    async with anyio.create_task_group() as group:
        for name, size in [("large", 4 * UNIT), ("small", UNIT), ("last", 4 * UNIT)]:
            group.start_soon(wait, name, size)
            await _settle()
        pool.release(second)
        await _settle()
        assert served == []  # one unit is free, and the first request needs four
        pool.release(first)

    assert served == ["large", "small", "last"]


async def test_a_cancelled_waiter_does_not_block_the_next_one() -> None:
    """A small request behind a cancelled large one is served without a release."""
    pool = BufferPool(BUDGET)
    held = await pool.acquire(2 * UNIT)
    large = anyio.CancelScope()
    served = anyio.Event()

    async def wait_large() -> None:
        with large:
            await pool.acquire(4 * UNIT)

    async def wait_small() -> None:
        async with pool.lease(UNIT):
            served.set()

    async with anyio.create_task_group() as group:
        group.start_soon(wait_large)
        await _settle()
        group.start_soon(wait_small)
        await _settle()
        assert not served.is_set()
        large.cancel()
        await served.wait()

    pool.release(held)
    assert pool.in_use == 0


@pytest.mark.parametrize("is_cancelled_first", [True, False])
async def test_a_cancelled_waiter_frees_a_granted_buffer(is_cancelled_first: bool) -> None:
    """A buffer that is granted to a waiter which is cancelled before it runs is not lost."""
    pool = BufferPool(BUDGET)
    held = await pool.acquire(BUDGET)
    scope = anyio.CancelScope()

    async def wait() -> None:
        with scope:
            pool.release(await pool.acquire(BUDGET))

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await _settle()
        if is_cancelled_first:
            scope.cancel()
        pool.release(held)  # grants
        scope.cancel()

    assert pool.in_use == 0
    assert not pool._granted


async def test_a_cancelled_acquire_allocates_nothing() -> None:
    """The budget is free after an acquire in a cancelled scope."""
    pool = BufferPool(BUDGET)

    with anyio.CancelScope() as scope:
        scope.cancel()
        await pool.acquire(UNIT)

    assert scope.cancelled_caught
    assert pool.in_use == 0


async def test_an_oversize_buffer_is_allocated_alone() -> None:
    """A chunk larger than the budget waits until no other buffer is allocated."""
    pool = BufferPool(UNIT)
    small = await pool.acquire(UNIT)
    got = anyio.Event()

    async def wait() -> None:
        async with pool.lease(3 * UNIT) as view:
            got.set()
            assert len(view) == 3 * UNIT

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await _settle()
        assert not got.is_set()
        pool.release(small)

    assert got.is_set()


async def test_memory_is_reused_from_the_low_end() -> None:
    """The next buffer gets the same memory, whatever its size, and touches no further page."""
    pool = BufferPool(BUDGET)
    first = await pool.acquire(2 * UNIT)
    first.view[:4] = b"mark"
    pool.release(first)

    second = await pool.acquire(UNIT - 7)

    assert len(second.view) == UNIT - 7
    assert bytes(second.view[:4]) == b"mark"
    pool.release(second)


async def test_memory_is_page_aligned() -> None:
    """Direct I/O requires it."""
    pool = BufferPool(BUDGET)
    buffers = [await pool.acquire(size) for size in (1, UNIT + 1, 5)]

    for buffer in buffers:
        address = ctypes.addressof(ctypes.c_char.from_buffer(buffer.view))
        assert address % mmap.PAGESIZE == 0
        pool.release(buffer)


def _resident(view: memoryview) -> float:
    """Return the share of the pages of `view` that are in memory, by mincore(2)."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(view))
    pages = -(-len(view) // mmap.PAGESIZE)
    states = (ctypes.c_ubyte * pages)()
    done = ctypes.CDLL(None).mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(view)), states)
    assert done == 0
    return sum(state & 1 for state in states) / pages


def _wait_for_prefault() -> None:
    """Wait for the end of the thread that takes page faults."""
    for thread in threading.enumerate():
        if thread.name == "hftransfer-prefault":
            thread.join()


async def test_allocated_memory_is_faulted_in_before_its_use() -> None:
    """A thread takes the page faults; memory that is not allocated stays untouched."""
    pool = BufferPool(64 * MIB)
    buffer = await pool.acquire(8 * MIB)
    _wait_for_prefault()
    resident = _resident(buffer.view)
    if not resident:
        pytest.skip("this kernel has no MADV_POPULATE_WRITE")
    assert pool._memory is not None
    # A huge page may extend beyond the allocated range.
    unused = _resident(memoryview(pool._memory)[12 * MIB :])
    more = await pool.acquire(8 * MIB)
    _wait_for_prefault()

    assert (resident, unused, _resident(more.view)) == (1.0, 0.0, 1.0)


async def test_small_buffers_are_faulted_in_by_their_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread is started for them."""
    monkeypatch.setattr(buffers, "_populate", None)  # a call would raise
    pool = BufferPool(64 * MIB)
    async with pool.lease(MIB) as view:
        _wait_for_prefault()
        assert _resident(view) == 0.0
        view[:] = bytes(MIB)


async def test_a_kernel_without_prefaulting_is_asked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Buffers work without it."""
    requests: list[int] = []

    def reject(_: mmap.mmap, start: int, size: int) -> bool:
        requests.append(start)
        return False

    monkeypatch.setattr(buffers, "_populate", reject)
    pool = BufferPool(64 * MIB)
    for _ in range(2):
        buffer = await pool.acquire(8 * MIB)
        _wait_for_prefault()
        buffer.view[:] = bytes(8 * MIB)

    assert requests == [0]


async def test_the_view_of_a_released_buffer_is_empty() -> None:
    """Late use cannot touch the memory of the next owner."""
    pool = BufferPool(BUDGET)
    buffer = await pool.acquire(10)
    pool.release(buffer)

    assert len(buffer.view) == 0


async def test_a_lease_ends_with_its_block() -> None:
    """Also if the block raises; the exception is not changed."""
    pool = BufferPool(BUDGET)

    with pytest.raises(KeyError):
        async with pool.lease(UNIT):
            raise KeyError("x")

    assert pool.in_use == 0


async def test_a_budget_must_be_positive() -> None:
    """Other budgets are rejected."""
    with pytest.raises(OptionsError, match="positive"):
        BufferPool(0)
