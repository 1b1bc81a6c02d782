"""Event loops in threads of their own, to receive and send with more than one core.

Receiving, sending, encryption and decryption release the GIL but block their event loop; a second
loop uses a second core for them. Each loop has an HTTP client of its own, so connections, exchanges
and protocols never cross a thread. These objects do:

- `Request` and the bytes of its body: created by the thread that calls `EventLoopPool.send`, then
  only read, by the thread of one loop.
- `BufferTarget` and its `ByteRangeBuffer`: the loop thread owns `filled`, `response_started_at` and
  the memory of the missing bytes, from the call of `send` until it returns or raises. The calling
  thread owns `limit`, which it lowers (`split_off`) when another connection takes the rest.
  Each attribute has this one writer, and reading the other thread's is atomic under the GIL, so
  there is no lock, and no call of the owner through its loop for each look at the progress.
  Outdated values do no harm. With an outdated `filled`, `split_off` divides a little more than
  what is missing. With an outdated `limit`, the loop thread writes a few bytes beyond it, the same
  ones that the other connection writes there.
- `on_headers` of a target: called in the loop thread.
- `RateLimiter`: has a lock.
- The TLS context and `ProxyEnvironment`: only read after their first use. Two threads that are the
  first at the same time may both create a context or find a proxy, with the same result.

Calls enter a loop thread through anyio's blocking portal, and results return through a
`concurrent.futures.Future`. `LoopThread.run` returns only after its function has ended, which the
loop thread reports by `call_soon_threadsafe`. So the memory is the caller's again when it returns,
also after a cancellation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol, TypeVar

import anyio
import anyio.to_thread
from anyio.from_thread import BlockingPortal, start_blocking_portal

from hftransfer._http.exchange import Request
from hftransfer.errors import Response

__all__ = ("EventLoopPool", "LoopThread")


class _Client(Protocol):
    async def send(self, request: Request) -> Response: ...
    async def aclose(self) -> None: ...


T = TypeVar("T")


class EventLoopPool:
    """HTTP clients of the same kind: one in the running event loop, the others in loop threads.

    Args:
        local: the client of the running loop; it is not closed here.
        make_client: returns a client for a loop thread; it must not need a running loop.
        count: of loops, the running one included.
    """

    def __init__(self, local: _Client, make_client: Callable[[], _Client], count: int) -> None:
        self._local = local
        self._remotes = [_RemoteClient(make_client()) for _ in range(count - 1)]
        self.in_flight = [0] * count
        """Calls of `send` in each loop, the running one first."""

    async def send(self, request: Request) -> Response:
        """Send a request by the client of the loop with the fewest requests in flight."""
        index = self.in_flight.index(min(self.in_flight))
        self.in_flight[index] += 1
        try:
            client = self._local if index == 0 else self._remotes[index - 1]
            return await client.send(request)
        finally:
            self.in_flight[index] -= 1

    async def aclose(self) -> None:
        """Close the clients of the loop threads, and end the threads."""
        for remote in self._remotes:
            await remote.aclose()


class _RemoteClient:
    """A client in a loop thread, which is started by the first request."""

    def __init__(self, client: _Client) -> None:
        self._client = client
        self._thread: LoopThread | None = None

    async def send(self, request: Request) -> Response:
        if self._thread is None:
            thread = LoopThread()
            thread.open()
            self._thread = thread
        return await self._thread.run(partial(self._client.send, request))

    async def aclose(self) -> None:
        if self._thread is not None:
            thread, self._thread = self._thread, None
            # Also in a cancelled scope, because the thread would stay alive.
            with anyio.CancelScope(shield=True):
                try:
                    await thread.run(self._client.aclose)
                finally:
                    await thread.aclose()


class LoopThread:
    """A thread with an event loop, asyncio's or uvloop's as the loop that opens it."""

    def __init__(self) -> None:
        self._manager: AbstractContextManager[BlockingPortal] | None = None
        self._portal: BlockingPortal | None = None

    def open(self) -> None:
        """Start the thread, and block for the few milliseconds until its loop runs.

        It blocks instead of awaiting, so that no cancellation can leave the thread behind.
        """
        kind = type(asyncio.get_running_loop()).__module__.partition(".")[0]
        options = {"use_uvloop": kind == "uvloop"}
        manager = start_blocking_portal("asyncio", backend_options=options)
        self._portal = manager.__enter__()
        self._manager = manager

    async def aclose(self) -> None:
        """End the thread; no function may be running in it."""
        if self._manager is not None:
            manager, self._manager, self._portal = self._manager, None, None
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(manager.__exit__, None, None, None)

    async def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run an async function in the thread's loop and return its result.

        If this is cancelled, the function is cancelled, too, and this waits until it has ended.
        """
        assert self._portal is not None, "the thread is not open"
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()

        async def run_and_report() -> T:
            try:
                return await function()
            finally:
                loop.call_soon_threadsafe(ended.set)

        future = self._portal.start_task_soon(run_and_report)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.cancel()
            await _wait_uncancelled(ended)
            raise


async def _wait_uncancelled(event: asyncio.Event) -> None:
    """Wait for an event, however often this task is cancelled before it is set."""
    while not event.is_set():
        try:
            with anyio.CancelScope(shield=True):  # against anyio's cancellation
                await event.wait()
        except asyncio.CancelledError:  # asyncio's own is not stopped by a shield
            continue
