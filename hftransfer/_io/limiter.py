"""How many requests may be in flight: a limit that can change while it is in use."""

from __future__ import annotations

from collections import deque
from types import TracebackType

import anyio

__all__ = ("ResizableLimiter",)

# Between the end of one request and the next, with some of them always on their way to a sink,
# all slots are rarely taken at once: so much of them is enough.
_BUSY = 7 / 8


class ResizableLimiter:
    """A counted limit, first come, first served. Also an async context manager.

    Args:
        limit: at least 1.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_use = 0
        self._waiting: deque[anyio.Event] = deque()
        self._granted: set[anyio.Event] = set()

    @property
    def available(self) -> int:
        """Free slots."""
        return 0 if self._waiting else max(0, self.limit - self.in_use)

    @property
    def is_saturated(self) -> bool:
        """True if more would be in flight with a higher limit, but for a moment's gap."""
        return self.in_use >= self.limit * _BUSY

    def resize(self, limit: int) -> None:
        """Change the limit. Who holds a slot keeps it."""
        self.limit = limit
        self._serve()

    def try_acquire(self) -> bool:
        """Take an idle slot, if there is one."""
        if not self.available:
            return False
        self.in_use += 1
        return True

    async def acquire(self) -> None:
        """Take a slot, waiting in line for it."""
        if self.try_acquire():
            return  # and no checkpoint: whoever takes a slot is about to wait for the network
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
        """Give a slot back."""
        self.in_use -= 1
        self._serve()

    def _serve(self) -> None:
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
