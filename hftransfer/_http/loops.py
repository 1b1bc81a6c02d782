"""Event loops in threads of their own, for more than one core's worth of receiving.

Receiving and decrypting release the GIL but hold their event loop; a second loop lets a
second core do the same. A `LoopThread` is one such loop. Work that is handed to it can be
cancelled, and has then ended: the memory it wrote into is free again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Generic, Protocol, TypeVar

import anyio
import anyio.to_thread
from anyio.from_thread import BlockingPortal, start_blocking_portal

__all__ = ("EventLoopPool", "LoopThread")


class _Closable(Protocol):
    async def aclose(self) -> None: ...


T = TypeVar("T")
C = TypeVar("C", bound=_Closable)


class EventLoopPool(Generic[C]):
    """Clients of the same kind, one in each of several event loops: the running one, and lanes.

    Args:
        here: the running loop's, which is its owner's to close.
        make: gives one for a lane; called in whichever thread.
        count: of loops.
    """

    def __init__(self, here: C, make: Callable[[], C], count: int) -> None:
        self._here = here
        self._others = [_Remote(make()) for _ in range(count - 1)]
        self.under_way = [0] * count
        """Calls of `run` in each loop, the running one first."""

    async def run(self, operation: Callable[[C], Awaitable[T]]) -> T:
        """Run `operation` with the client of the loop in which least is under way."""
        index = self.under_way.index(min(self.under_way))
        self.under_way[index] += 1
        try:
            if index == 0:
                return await operation(self._here)
            return await self._others[index - 1].run(operation)
        finally:
            self.under_way[index] -= 1

    async def aclose(self) -> None:
        """Close the clients of the lanes, and end their threads."""
        for other in self._others:
            await other.aclose()


class _Remote(Generic[C]):
    """The client of a lane; the thread is started by the first use."""

    def __init__(self, client: C) -> None:
        self._client = client
        self._lane: LoopThread | None = None

    async def run(self, operation: Callable[[C], Awaitable[T]]) -> T:
        if self._lane is None:
            lane = LoopThread()
            lane.open()
            self._lane = lane
        return await self._lane.run(partial(operation, self._client))

    async def aclose(self) -> None:
        if self._lane is not None:
            lane, self._lane = self._lane, None
            # Also in a scope that was cancelled: a thread would be left behind.
            with anyio.CancelScope(shield=True):
                try:
                    await lane.run(self._client.aclose)
                finally:
                    await lane.aclose()


class LoopThread:
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
