"""`hftransfer._io.thread_batch`: calls run in batches, each once, side by side if they sleep."""

from __future__ import annotations

import select
import threading
from functools import partial

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hftransfer._io import thread_batch
from hftransfer._io.thread_batch import ThreadBatch, _SleepDetector, _Usage

pytestmark = pytest.mark.anyio


async def test_each_call_gets_its_own_result_or_error() -> None:
    """The call runs in a worker thread, and its own caller gets the outcome."""
    batch = ThreadBatch()
    results: dict[int, object] = {}

    def compute(number: int) -> int:
        assert threading.current_thread() is not threading.main_thread()
        if number % 3 == 0:
            raise ValueError(number)
        return number * 2

    async def ask(number: int) -> None:
        try:
            results[number] = await batch.run(lambda: compute(number))
        except ValueError as error:
            results[number] = error.args

    async with anyio.create_task_group() as group:
        for number in range(200):
            group.start_soon(ask, number)

    expected = {n: (n,) if n % 3 == 0 else n * 2 for n in range(200)}
    assert results == expected


async def test_waiting_calls_run_in_one_batch() -> None:
    """Calls wait while another one runs; then one thread runs them one after another."""
    batch = ThreadBatch()
    release = threading.Event()
    threads: list[int] = []

    async with anyio.create_task_group() as group:
        group.start_soon(batch.run, release.wait)
        await anyio.wait_all_tasks_blocked()
        for _ in range(10):
            group.start_soon(batch.run, lambda: threads.append(threading.get_ident()))
        await anyio.wait_all_tasks_blocked()
        assert threads == []
        release.set()

    assert len(threads) == 10
    assert len(set(threads)) == 1


async def test_a_cancelled_caller_waits_for_a_call_that_runs() -> None:
    """The call may use memory of its caller until it ends."""
    batch = ThreadBatch()
    running, release = threading.Event(), threading.Event()
    ended: list[str] = []

    def work() -> None:
        running.set()
        release.wait()
        ended.append("call")

    async def ask(task_status: anyio.abc.TaskStatus[anyio.CancelScope]) -> None:
        with anyio.CancelScope() as scope:
            task_status.started(scope)
            try:
                await batch.run(work)
            finally:
                ended.append("caller")

    async with anyio.create_task_group() as group:
        scope = await group.start(ask)
        await anyio.to_thread.run_sync(running.wait)
        scope.cancel()
        await checkpoint()
        assert ended == []
        release.set()

    assert ended == ["call", "caller"]


@given(
    calls=st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=20),
    width=st.sampled_from([1, 2, 16]),
)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_a_cancelled_caller_does_not_affect_others(
    calls: list[tuple[bool, int]], width: int
) -> None:
    """A call runs once, or not at all if its caller was cancelled, and all others finish."""
    batch = ThreadBatch()
    batch._detector.width = width
    ran: list[int] = []
    returned: list[int] = []

    async def ask(number: int, is_cancelled: bool, before: int) -> None:
        with anyio.CancelScope() as scope:

            async def cancel() -> None:
                for _ in range(before):
                    await checkpoint()
                scope.cancel()

            async with anyio.create_task_group() as group:
                if is_cancelled:
                    group.start_soon(cancel)
                await batch.run(lambda: ran.append(number))
                returned.append(number)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for number, (is_cancelled, before) in enumerate(calls):
                group.start_soon(ask, number, is_cancelled, before)

    assert len(ran) == len(set(ran))
    assert set(returned) <= set(ran)
    assert {n for n, (is_cancelled, _) in enumerate(calls) if not is_cancelled} <= set(returned)
    assert not batch._waiting
    assert not batch._leaders


async def test_fast_calls_run_in_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread is used, and exceptions are raised to the caller."""
    monkeypatch.setattr(thread_batch, "_INLINE_MAX", 60.0)
    monkeypatch.setattr(thread_batch, "_times_blocked", lambda: 0)
    batch = ThreadBatch(allow_inline=True)

    for _ in range(3):
        assert await batch.run(threading.current_thread) is threading.current_thread()
    with pytest.raises(ZeroDivisionError):
        await batch.run(lambda: 1 // 0)


@pytest.mark.skipif(not thread_batch._CAN_COUNT_BLOCKING, reason="the system cannot count them")
async def test_after_a_call_that_blocked_the_next_ones_run_in_a_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel counts that the thread gave up its core; later, one call runs inline again."""
    monkeypatch.setattr(thread_batch, "_INLINE_MAX", 60.0)
    monkeypatch.setattr(thread_batch, "_INLINE_BACKOFF", 3)
    monkeypatch.setattr(thread_batch, "_MIN_ASLEEP", 60.0)  # one call is no slow file system
    batch = ThreadBatch(allow_inline=True)

    async def is_inline() -> bool:
        return await batch.run(threading.current_thread) is threading.current_thread()

    await batch.run(partial(select.select, [], [], [], 0.001))  # blocks
    monkeypatch.setattr(thread_batch, "_times_blocked", lambda: 0)
    in_loop = [await is_inline() for _ in range(4)]

    assert in_loop == [False, False, False, True]


async def test_an_inline_call_does_not_run_beside_a_call_in_a_thread() -> None:
    """It waits for the thread and then runs in the next batch."""
    batch = ThreadBatch(allow_inline=True)
    batch._thread_calls = 1
    release = threading.Event()
    order: list[str] = []

    def slow() -> None:
        release.wait()
        order.append("slow")

    async with anyio.create_task_group() as group:
        group.start_soon(batch.run, slow)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(batch.run, lambda: order.append("fast"))
        await anyio.wait_all_tasks_blocked()
        assert order == []
        release.set()

    assert order == ["slow", "fast"]


async def test_calls_that_sleep_run_side_by_side() -> None:
    """Two samples decide it; then 16 calls are in progress at once, in threads."""
    batch = ThreadBatch(allow_inline=True)
    for _ in range(2):
        await batch.run(partial(select.select, [], [], [], 0.003))
    together = threading.Barrier(16)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for _ in range(32):
                group.start_soon(batch.run, partial(together.wait, 20))


_FAST = _Usage(wall=0.00005, cpu=0.00005, blocked=0)
_BUSY = _Usage(wall=0.009, cpu=0.007, blocked=3)
_ASLEEP = _Usage(wall=0.02, cpu=0.001, blocked=4)
_PREEMPTED = _Usage(wall=0.02, cpu=0.001, blocked=0)


@pytest.mark.parametrize(
    ("samples", "width"),
    [
        ([_ASLEEP], 1),
        ([_ASLEEP, _ASLEEP], 16),
        ([_ASLEEP, _FAST, _ASLEEP], 1),
        ([_BUSY] * 9, 1),
        ([_PREEMPTED] * 9, 1),
        ([_ASLEEP, _ASLEEP, _FAST], 16),
        ([_ASLEEP, _ASLEEP, _FAST, _BUSY], 1),
        ([_ASLEEP, _ASLEEP, _FAST, _ASLEEP, _FAST], 16),
    ],
)
async def test_two_samples_in_a_row_decide(samples: list[_Usage], width: int) -> None:
    """One slow call is no slow file system; a busy or preempted thread does not sleep."""
    detector = _SleepDetector()
    for sample in samples:
        detector.record(sample, 1)

    assert detector.width == width


async def test_many_fast_calls_in_a_batch_are_not_sleep() -> None:
    """What a batch took is divided by its calls."""
    detector = _SleepDetector()
    for _ in range(9):
        detector.record(_ASLEEP, 64)

    assert detector.width == 1
