"""Event loops in threads of their own, for more than one core's worth of receiving.

Receiving and decrypting release the GIL but hold their event loop; a second loop lets a
second core do the same. A `Lane` is one such loop. Work that is handed to it can be
cancelled, and has then ended: the memory it wrote into is free again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import TypeVar

import anyio
import anyio.to_thread
from anyio.from_thread import BlockingPortal, start_blocking_portal

__all__ = ("Lane",)

T = TypeVar("T")


class Lane:
    """One event loop in a thread, of the same kind as the loop that opens it."""

    def __init__(self) -> None:
        self._manager: AbstractContextManager[BlockingPortal] | None = None
        self._portal: BlockingPortal | None = None

    def open(self) -> None:
        """Start the thread, and wait the few milliseconds until its loop runs.

        It does not give way to other tasks, so that no cancellation can leave a thread behind.
        """
        kind = type(asyncio.get_running_loop()).__module__.partition(".")[0]
        options = {"use_uvloop": kind == "uvloop"}
        manager = start_blocking_portal("asyncio", backend_options=options)
        self._portal = manager.__enter__()
        self._manager = manager

    async def aclose(self) -> None:
        """End the thread; nothing may run in it any more."""
        if self._manager is not None:
            manager, self._manager, self._portal = self._manager, None, None
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(manager.__exit__, None, None, None)

    async def run(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Run `operation` in the lane's loop and return its result.

        When this is cancelled, so is the operation, and this waits until it has ended.
        """
        assert self._portal is not None, "the lane is not open"
        ended = asyncio.Event()
        here = asyncio.get_running_loop()

        async def work() -> T:
            try:
                return await operation()
            finally:
                here.call_soon_threadsafe(ended.set)

        future = self._portal.start_task_soon(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.cancel()
            await _outlast(ended)
            raise


async def _outlast(ended: asyncio.Event) -> None:
    """Wait for `ended`, however often this task is cancelled meanwhile."""
    while not ended.is_set():
        try:
            with anyio.CancelScope(shield=True):  # against anyio's cancellation
                await ended.wait()
        except asyncio.CancelledError:  # asyncio's own comes through a shield
            continue
