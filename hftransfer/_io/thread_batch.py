"""Runs short blocking calls, many of them for each switch to a worker thread.

Handing one call to a thread costs more than writing a small file, and several threads with little
work compete for the GIL. Therefore one caller, the leader, takes all waiting calls to a worker
thread at once; calls that arrive during that time wait for the next leader.

A call that does not block, such as a write into the page cache, is faster still in the event loop.
A call that sleeps, because each look at a network file system is a round trip to its server, takes
no core: many of them run side by side, each in a thread, with as many leaders. Both are measured:
the kernel counts how often a thread gave up its core, and for how long it had one.

Used by tasks of one event loop; not thread-safe.
"""

from __future__ import annotations

import resource
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import anyio
import anyio.to_thread

__all__ = ("ThreadBatch",)

T = TypeVar("T")

_CAN_COUNT_BLOCKING = hasattr(resource, "RUSAGE_THREAD")

# Number of calls that run in a thread, after one in the event loop blocked or was slow.
_INLINE_BACKOFF = 256
# A call that takes longer than this (seconds) runs in a thread, in parallel to the event loop.
_INLINE_MAX = 0.0003
# Threads while calls sleep. At 5 ms per look and eight looks per file, 16 publish 400 small files
# per second, as many as one core can receive and hash; more hold more buffers.
_SLEEPING_WIDTH = 16
# A call sleeps if it is off the core for at least this time (seconds), and longer than on it. The
# round trips of file servers begin at half a millisecond, and a call makes several; waits for a
# local disk's journal and for the GIL are shorter.
_MIN_ASLEEP = 0.002
# Samples in a row that change the decision, so that one slow call does not.
_CONFIRMATIONS = 2
# Calls per batch: enough to make the cost of a thread switch small, and few enough that the first
# caller does not wait long for its result.
_BATCH_MAX = 64


class _Call:
    """One call and its outcome. Written by the worker thread, read after `changed` is set."""

    __slots__ = ("changed", "error", "finished", "function", "is_taken", "result")

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.changed = anyio.Event()
        """Set when the call is finished, or when its caller should become the leader."""
        self.is_taken = False
        """True while a leader has it, and afterwards."""
        self.finished = False
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.function()
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's task
            self.error = error
        self.finished = True


class _SleepDetector:
    """Decides from samples how many threads run calls: 1, or `_SLEEPING_WIDTH` while they sleep."""

    def __init__(self) -> None:
        self.width = 1
        self._contradictions = 0
        """Samples in a row that contradict `width`."""

    @property
    def is_deciding(self) -> bool:
        """True if one more sample may change `width`."""
        return self._contradictions > 0

    def record(self, usage: _Usage, calls: int) -> None:
        """Add a sample: what `calls` calls, one after another in one thread, took."""
        asleep = usage.wall - usage.cpu
        sleeps = usage.blocked and asleep > max(_MIN_ASLEEP * calls, usage.cpu)
        if sleeps == (self.width > 1):
            self._contradictions = 0
            return
        self._contradictions += 1
        if self._contradictions >= _CONFIRMATIONS:
            self.width = _SLEEPING_WIDTH if sleeps else 1
            self._contradictions = 0


class ThreadBatch:
    """Runs calls one after another, or up to 16 side by side while they sleep.

    Args:
        allow_inline: run calls in the event loop while they are fast and do not block.
            Default False.
    """

    def __init__(self, *, allow_inline: bool = False) -> None:
        self._allow_inline = allow_inline and _CAN_COUNT_BLOCKING
        self._thread_calls = 0
        """Calls to run in threads before the next one in the event loop."""
        self._waiting: deque[_Call] = deque()
        self._leaders = 0
        self._detector = _SleepDetector()
        self._threads = anyio.CapacityLimiter(_SLEEPING_WIDTH)

    async def run(self, function: Callable[[], T]) -> T:
        """Run `function`, usually in a worker thread; return its result or raise its exception.

        If the caller is cancelled, the call either does not start, or finishes before this
        returns.
        """
        if self._allow_inline:
            # Calls that sleep run side by side anyway: a sample shows whether they still do.
            is_alone = not self._leaders and not self._waiting
            if not self._thread_calls and (is_alone or self._detector.width > 1):
                return self._run_inline(function)
            self._thread_calls -= self._thread_calls > 0
        call = _Call(function)
        self._waiting.append(call)
        try:
            while not call.finished:
                await self._lead_or_wait(call)
        except BaseException:
            with anyio.CancelScope(shield=True):
                while call.is_taken and not call.finished:
                    await call.changed.wait()
                    call.changed = anyio.Event()
            if not call.finished:
                self._waiting.remove(call)
                self._wake_next_leader()
            raise
        if call.error is not None:
            raise call.error
        return cast("T", call.result)

    def _run_inline(self, function: Callable[[], T]) -> T:
        start = _Usage.of_thread()
        try:
            return function()
        finally:
            usage = _Usage.of_thread().since(start)
            self._detector.record(usage, 1)
            slow = usage.blocked or usage.wall > _INLINE_MAX
            # The next call is a sample, too, if that can decide how many threads there are.
            if slow and not self._detector.is_deciding:
                self._thread_calls = _INLINE_BACKOFF

    async def _lead_or_wait(self, call: _Call) -> None:
        if call.is_taken or self._leaders >= self._detector.width:
            await call.changed.wait()
            call.changed = anyio.Event()
            return
        self._leaders += 1
        batch = self._next_batch()
        self._wake_next_leader()
        try:
            usage = await anyio.to_thread.run_sync(_run_all, batch, limiter=self._threads)
            if not self._allow_inline:
                # Otherwise calls in the event loop are the samples: in a thread, a wait for the
                # GIL looks like sleep.
                self._detector.record(usage, len(batch))
        finally:
            self._leaders -= 1
            # If the leader was cancelled before its thread began, the next leader runs the batch.
            for other in reversed(batch):
                if not other.finished:
                    other.is_taken = False
                    self._waiting.appendleft(other)
                other.changed.set()
            self._wake_next_leader()

    def _next_batch(self) -> list[_Call]:
        """Take the calls that the new leader runs: its share, if there may be several leaders."""
        size = min(_BATCH_MAX, -(-len(self._waiting) // self._detector.width))
        batch = [self._waiting.popleft() for _ in range(size)]
        for call in batch:
            call.is_taken = True
        return batch

    def _wake_next_leader(self) -> None:
        if self._waiting and self._leaders < self._detector.width:
            self._waiting[0].changed.set()


class _Usage(NamedTuple):
    """What a thread has used until now, or for some calls."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds on a core."""
    blocked: int
    """How often it gave up its core to wait (voluntary context switches)."""

    @classmethod
    def of_thread(cls) -> _Usage:
        return cls(time.perf_counter(), time.thread_time(), _times_blocked())

    def since(self, start: _Usage) -> _Usage:
        return _Usage(self.wall - start.wall, self.cpu - start.cpu, self.blocked - start.blocked)


def _times_blocked() -> int:
    if not _CAN_COUNT_BLOCKING:
        return int(time.perf_counter() * 1e6)  # unknown: each call may have blocked
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def _run_all(batch: list[_Call]) -> _Usage:
    start = _Usage.of_thread()
    for call in batch:
        call.run()
    return _Usage.of_thread().since(start)
