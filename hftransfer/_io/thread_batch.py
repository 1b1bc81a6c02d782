"""Runs short blocking calls one after another, many of them for each switch to a worker thread.

Handing one call to a thread costs more than writing a small file, and several threads with little
work compete for the GIL. Therefore one caller, the leader, takes all waiting calls to a worker
thread at once; calls that arrive during that time wait for the next leader.

A call that does not block, such as a write into the page cache, is faster still in the event loop.
Whether calls block is measured: the kernel counts how often a thread gave up its core.

Used by tasks of one event loop; not thread-safe.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread

__all__ = ("ThreadBatch",)

T = TypeVar("T")

_CAN_COUNT_BLOCKING = hasattr(resource, "RUSAGE_THREAD")

# Number of calls that run in a thread, after one in the event loop blocked or was slow.
_INLINE_BACKOFF = 256
# A call that takes longer than this (seconds) runs in a thread, in parallel to the event loop.
_INLINE_MAX = 0.0003
# Calls per batch: enough to make the cost of a thread switch small, and few enough that the first
# caller does not wait long for its result.
_BATCH_MAX = 64


class _Call:
    """One call and its outcome. Written by the worker thread, read after `changed` is set."""

    __slots__ = ("changed", "error", "finished", "function", "result")

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.changed = anyio.Event()
        """Set when the call is finished, or when its caller should become the leader."""
        self.finished = False
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.function()
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's task
            self.error = error
        self.finished = True


class ThreadBatch:
    """Runs calls one after another, never two at a time.

    Args:
        allow_inline: run calls in the event loop while they are fast and do not block.
            Default False.
    """

    def __init__(self, *, allow_inline: bool = False) -> None:
        self._inline_backoff = 0 if allow_inline and _CAN_COUNT_BLOCKING else -1
        """Calls to run in a thread before the next one in the event loop; negative: all."""
        self._waiting: list[_Call] = []
        self._has_leader = False

    async def run(self, function: Callable[[], T]) -> T:
        """Run `function`, usually in a worker thread; return its result or raise its exception.

        If the caller is cancelled, the call either does not start, or finishes before this
        returns.
        """
        if self._inline_backoff == 0 and not self._has_leader and not self._waiting:
            return self._run_inline(function)
        self._inline_backoff -= self._inline_backoff > 0
        call = _Call(function)
        self._waiting.append(call)
        try:
            while not call.finished:
                await self._lead_or_wait(call)
        except BaseException:
            with anyio.CancelScope(shield=True):
                while not call.finished and call not in self._waiting:
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
        blocked, started = _times_blocked(), time.perf_counter()
        try:
            return function()
        finally:
            if _times_blocked() != blocked or time.perf_counter() - started > _INLINE_MAX:
                self._inline_backoff = _INLINE_BACKOFF

    async def _lead_or_wait(self, call: _Call) -> None:
        if self._has_leader:
            await call.changed.wait()
            call.changed = anyio.Event()
            return
        self._has_leader = True
        batch, self._waiting = self._waiting[:_BATCH_MAX], self._waiting[_BATCH_MAX:]
        try:
            await anyio.to_thread.run_sync(_run_all, batch)
        finally:
            self._has_leader = False
            # If the leader was cancelled before its thread began, the next leader runs the batch.
            self._waiting[:0] = [other for other in batch if not other.finished]
            for other in batch:
                other.changed.set()
            self._wake_next_leader()

    def _wake_next_leader(self) -> None:
        if self._waiting and not self._has_leader:
            self._waiting[0].changed.set()


def _times_blocked() -> int:
    """Return how often this thread has given up its core to wait (voluntary context switches)."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def _run_all(batch: list[_Call]) -> None:
    for call in batch:
        call.run()
