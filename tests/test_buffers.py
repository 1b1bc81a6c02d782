"""Buffers stay under their budget, are lent in order and never leak."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hftransfer._buffers import Buffer, BufferPool
from hftransfer.errors import OptionsError

UNIT = 64 * 1024  # the smallest capacity, so that sizes below are exact
BUDGET = 4 * UNIT

pytestmark = pytest.mark.anyio


async def _settle() -> None:
    """Let every other task run until it waits for something."""
    await anyio.wait_all_tasks_blocked()


def _mapped(pool: BufferPool) -> int:
    """Bytes on loan and idle, by the pool's own account."""
    return pool.in_use + pool._idle_bytes


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
                assert sum(capacities) + pool._idle_bytes <= max(BUDGET, *capacities)
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
            assert pool._idle_bytes == 0  # nothing idle beside it

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await _settle()
        assert not got.is_set()
        pool.release(small)

    assert got.is_set()


async def test_memory_is_reused_for_sizes_of_one_capacity() -> None:
    """The next request of about the same size gets the same memory, as long as it asked for."""
    pool = BufferPool(BUDGET)
    first = await pool.acquire(2 * UNIT)
    first.view[:4] = b"mark"
    pool.release(first)

    second = await pool.acquire(2 * UNIT - 7)

    assert second is first
    assert len(second.view) == 2 * UNIT - 7
    assert bytes(second.view[:4]) == b"mark"


async def test_idle_memory_of_other_sizes_makes_room() -> None:
    """Idle buffers count against the budget and are dropped for a size they do not serve."""
    pool = BufferPool(BUDGET)
    buffers = [await pool.acquire(UNIT) for _ in range(4)]
    for buffer in buffers:
        pool.release(buffer)
    assert _mapped(pool) == BUDGET

    large = await pool.acquire(2 * UNIT)

    assert _mapped(pool) <= BUDGET
    pool.release(large)


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
