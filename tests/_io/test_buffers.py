"""Buffers stay under their budget, are lent in order and never leak."""

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
def test_an_arena_lends_each_stretch_once(steps: list[int | None]) -> None:
    """What is taken never overlaps, and what is given back can be taken again as one."""
    allocator = Allocator(16)
    taken: list[tuple[int, int]] = []
    for size in steps:
        if size is None:
            if taken:
                allocator.free(*taken.pop(len(taken) // 2))
            continue
        start = allocator.allocate(size)
        longest = max((stop - first for first, stop in allocator.free_ranges), default=0)
        if start is None:
            assert longest < size
        else:
            taken.append((start, size))
        used = [unit for first, length in taken for unit in range(first, first + length)]
        assert len(used) == len(set(used))
        assert set(used) <= set(range(16))
        free = [unit for first, stop in allocator.free_ranges for unit in range(first, stop)]
        assert sorted(used + free) == list(range(16))

    for stretch in taken:
        allocator.free(*stretch)

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
    """Loans fit the budget or are a single oversize one, and at the end nothing is lent."""
    pool = BufferPool(BUDGET)
    lent: list[Buffer] = []

    async def work(size: int, turns: int, scope: anyio.CancelScope) -> None:
        with scope:
            buffer = await pool.acquire(size)
            lent.append(buffer)
            try:
                assert len(buffer.view) == size
                capacities = [other.capacity for other in lent]
                assert sum(capacities) <= BUDGET or len(lent) == 1
                assert sum(capacities) <= pool.in_use
                places = sorted(
                    (other.start, other.capacity) for other in lent if other.start is not None
                )
                for (first, size), (second, _) in itertools.pairwise(places):
                    assert first + size <= second
                for _ in range(turns):
                    await checkpoint()
            finally:
                lent.remove(buffer)
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
    pool.release(await pool.acquire(BUDGET))  # the whole budget is to be had again


async def test_first_come_first_served() -> None:
    """A small request does not overtake a large one that came before it."""
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
        assert served == []  # one unit is free, and the one in front needs four
        pool.release(first)

    assert served == ["large", "small", "last"]


async def test_a_waiter_that_is_cancelled_lets_the_next_one_pass() -> None:
    """The small request behind a cancelled large one is served without any release."""
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
async def test_granted_and_cancelled_a_waiter_gives_it_back(is_cancelled_first: bool) -> None:
    """A buffer granted to a waiter that is cancelled before it could run is not lost."""
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


async def test_cancelled_before_it_waits_nothing_is_taken() -> None:
    """A free budget is still free after an acquire inside a cancelled scope."""
    pool = BufferPool(BUDGET)

    with anyio.CancelScope() as scope:
        scope.cancel()
        await pool.acquire(UNIT)

    assert scope.cancelled_caught
    assert pool.in_use == 0


async def test_an_oversize_buffer_is_lent_alone() -> None:
    """A chunk larger than the budget moves when nothing else does, instead of never."""
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
    """What comes next gets the same memory, whatever its size, and no page more is touched."""
    pool = BufferPool(BUDGET)
    first = await pool.acquire(2 * UNIT)
    first.view[:4] = b"mark"
    pool.release(first)

    second = await pool.acquire(UNIT - 7)

    assert len(second.view) == UNIT - 7
    assert bytes(second.view[:4]) == b"mark"
    pool.release(second)


async def test_memory_is_page_aligned() -> None:
    """Direct I/O needs buffers that begin at a page."""
    pool = BufferPool(BUDGET)
    buffers = [await pool.acquire(size) for size in (1, UNIT + 1, 5)]

    for buffer in buffers:
        address = ctypes.addressof(ctypes.c_char.from_buffer(buffer.view))
        assert address % mmap.PAGESIZE == 0
        pool.release(buffer)


def _resident(view: memoryview) -> float:
    """Return the share of the pages of `view` that have memory: see mincore(2)."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(view))
    pages = -(-len(view) // mmap.PAGESIZE)
    states = (ctypes.c_ubyte * pages)()
    done = ctypes.CDLL(None).mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(view)), states)
    assert done == 0
    return sum(state & 1 for state in states) / pages


def _wait_for_prefault() -> None:
    """Wait until no thread takes page faults."""
    for thread in threading.enumerate():
        if thread.name == "hftransfer-prefault":
            thread.join()


async def test_what_is_lent_is_there_before_it_is_used() -> None:
    """A thread takes its page faults; what nobody has asked for costs no memory."""
    pool = BufferPool(64 * MIB)
    buffer = await pool.acquire(8 * MIB)
    _wait_for_prefault()
    resident = _resident(buffer.view)
    if not resident:
        pytest.skip("this kernel has no MADV_POPULATE_WRITE")
    assert pool._memory is not None
    # A huge page may reach beyond what was lent.
    unused = _resident(memoryview(pool._memory)[12 * MIB :])
    more = await pool.acquire(8 * MIB)
    _wait_for_prefault()

    assert (resident, unused, _resident(more.view)) == (1.0, 0.0, 1.0)


async def test_little_memory_is_faulted_in_by_its_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files need no thread."""
    monkeypatch.setattr(buffers, "_populate", None)  # would end in an error
    pool = BufferPool(64 * MIB)
    async with pool.lease(MIB) as view:
        _wait_for_prefault()
        assert _resident(view) == 0.0
        view[:] = bytes(MIB)


async def test_without_help_of_the_kernel_memory_is_lent_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An old one does not know what it is asked for, and is asked only once."""
    asked: list[int] = []

    def refuse(_: mmap.mmap, start: int, size: int) -> bool:
        asked.append(start)
        return False

    monkeypatch.setattr(buffers, "_populate", refuse)
    pool = BufferPool(64 * MIB)
    for _ in range(2):
        buffer = await pool.acquire(8 * MIB)
        _wait_for_prefault()
        buffer.view[:] = bytes(8 * MIB)

    assert asked == [0]


async def test_a_released_buffer_shows_nothing() -> None:
    """Its view is empty, so that late use cannot touch what the next borrower writes."""
    pool = BufferPool(BUDGET)
    buffer = await pool.acquire(10)
    pool.release(buffer)

    assert len(buffer.view) == 0


async def test_a_lease_ends_with_its_block_also_on_errors() -> None:
    """What a block raises passes, and its memory is free again."""
    pool = BufferPool(BUDGET)

    with pytest.raises(KeyError):
        async with pool.lease(UNIT):
            raise KeyError("x")

    assert pool.in_use == 0


async def test_a_budget_must_be_positive() -> None:
    """A pool that could never lend is refused."""
    with pytest.raises(OptionsError, match="positive"):
        BufferPool(0)
