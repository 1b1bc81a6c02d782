"""A limit on the number of concurrent operations that can change while it is in use.

`hftransfer._engine.context` has the table of all limits of a client and the order in which they are
acquired.

Used by tasks of one event loop; not thread-safe.
"""

from __future__ import annotations

from collections import deque
from types import TracebackType

import anyio

__all__ = ("ResizableLimiter",)

# From this share of the limit in use, the limit is what bounds the concurrency: between two
# requests a slot is idle for a moment, so that all are rarely in use at once.
_SATURATED = 7 / 8


class ResizableLimiter:
    """A number of slots, acquired in the order of the requests. Also an async context manager.

    Args:
        limit: number of slots, at least 1.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_use = 0
        self._waiting: deque[anyio.Event] = deque()
        self._granted: set[anyio.Event] = set()
        """Waiters that own a slot and have not run yet."""

    @property
    def available(self) -> int:
        """Slots that `try_acquire` can take now."""
        return 0 if self._waiting else max(0, self.limit - self.in_use)

    @property
    def is_saturated(self) -> bool:
        """True if a higher limit would let more operations run."""
        return self.in_use >= self.limit * _SATURATED

    def resize(self, limit: int) -> None:
        """Change the limit. Slots in use stay in use, even if they exceed it."""
        self.limit = limit
        self._grant()

    def try_acquire(self) -> bool:
        """Take a slot and return True, if one is available."""
        if not self.available:
            return False
        self.in_use += 1
        return True

    async def acquire(self) -> None:
        """Take a slot; wait for it behind earlier callers.

        Without waiting this is no checkpoint: the caller is about to wait for the network.
        """
        if self.try_acquire():
            return
        event = anyio.Event()
        self._waiting.append(event)
        try:
            await event.wait()
        except BaseException:
            if event in self._granted:
                self.release()
            else:
                self._waiting.remove(event)
            raise
        finally:
            self._granted.discard(event)

    def release(self) -> None:
        """Return a slot."""
        self.in_use -= 1
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self.in_use < self.limit:
            event = self._waiting.popleft()
            self.in_use += 1
            self._granted.add(event)
            event.set()

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
