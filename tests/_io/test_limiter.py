"""`hftransfer._io.limiter`: a limit that changes while it is in use, and its order."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hftransfer._io.limiter import ResizableLimiter

pytestmark = pytest.mark.anyio


@given(
    jobs=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 5), st.booleans()), min_size=1, max_size=15
    ),
    limits=st.lists(st.integers(1, 5), max_size=6),
)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_no_slot_is_lost_or_used_twice(
    jobs: list[tuple[int, int, bool]], limits: list[int]
) -> None:
    """For any cancellations and resizes: at the end every slot is free."""
    slots = ResizableLimiter(2)
    highest = 2
    held = 0

    async def work(turns: int, before_cancel: int, is_cancelled: bool) -> None:
        nonlocal held
        async with anyio.create_task_group() as group:

            async def cancel() -> None:
                for _ in range(before_cancel):
                    await checkpoint()
                group.cancel_scope.cancel()

            if is_cancelled:
                group.start_soon(cancel)
            async with slots:
                held += 1
                try:
                    assert held <= highest
                    for _ in range(turns):
                        await checkpoint()
                finally:
                    held -= 1
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for turns, before_cancel, is_cancelled in jobs:
            group.start_soon(work, turns, before_cancel, is_cancelled)
        for limit in limits:
            highest = max(highest, limit)
            slots.resize(limit)
            await checkpoint()

    assert slots.in_use == 0
    assert not slots._waiting
    assert not slots._granted


async def test_callers_are_served_in_order() -> None:
    """No caller overtakes a waiting one, not even with `try_acquire`."""
    slots = ResizableLimiter(1)
    served: list[int] = []
    await slots.acquire()

    async def wait(number: int) -> None:
        async with slots:
            served.append(number)

    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(wait, number)
            await anyio.wait_all_tasks_blocked()
        slots.resize(1)
        assert not slots.try_acquire()
        assert slots.available == 0
        slots.release()

    assert served == [0, 1, 2]


async def test_a_higher_limit_serves_waiting_callers() -> None:
    """A higher limit takes effect without a release; a lower one keeps slots in use."""
    slots = ResizableLimiter(1)
    await slots.acquire()
    got = anyio.Event()

    async def wait() -> None:
        await slots.acquire()
        got.set()

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        slots.resize(2)
        await got.wait()

    slots.resize(1)
    assert slots.in_use == 2
    slots.release()
    assert slots.available == 0
    slots.release()
    assert slots.available == 1


@pytest.mark.parametrize(("taken", "is_saturated"), [(13, False), (14, True), (16, True)])
async def test_the_limiter_is_saturated_from_seven_eighths(taken: int, is_saturated: bool) -> None:
    """A slot is idle between two requests, so that all are rarely in use at once."""
    slots = ResizableLimiter(16)
    for _ in range(taken):
        await slots.acquire()

    assert slots.is_saturated is is_saturated
