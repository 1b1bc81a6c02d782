"""The files between the listing and the workers: a bounded queue for each of two kinds of worker.

The listing waits while many files are queued, so a transfer holds some pages of its listing,
however long that is. Used by tasks of one event loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import anyio

from hftransfer.stores.base import Entry

__all__ = ("FileQueue", "Lane")

# A page is added when fewer files than this are queued; the next one has arrived by then. Enough
# for the workers: at 5,000 small files per second they last 100 ms. Less than a page, so that
# before the first byte is moved two pages are requested at most.
_REFILL_BELOW = 500


class Lane:
    """The queue of one kind of worker."""

    def __init__(self, owner: FileQueue) -> None:
        self._owner = owner
        self._entries: deque[Entry] = deque()
        self._changed = anyio.Event()

    def __len__(self) -> int:
        return len(self._entries)

    async def get(self) -> Entry | None:
        """Return the next file, when there is one; None if no file will follow."""
        while not self._entries:
            if self._owner.is_closed:
                return None
            await self._changed.wait()
        entry = self._entries.popleft()
        self._owner.removed()
        return entry

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _extend(self, entries: Iterable[Entry]) -> None:
        self._entries.extend(entries)
        self._wake()


class FileQueue:
    """The lanes of small and of large files."""

    def __init__(self) -> None:
        self.small = Lane(self)
        self.large = Lane(self)
        self.is_closed = False
        """True if no file will be added."""
        self._has_room = anyio.Event()

    def __len__(self) -> int:
        return len(self.small) + len(self.large)

    async def put(self, small: Iterable[Entry], large: Iterable[Entry]) -> None:
        """Add the files of one page, when fewer than `_REFILL_BELOW` files are queued."""
        while len(self) >= _REFILL_BELOW:
            self._has_room = anyio.Event()
            await self._has_room.wait()
        self.small._extend(small)
        self.large._extend(large)

    def close(self) -> None:
        """Let the workers end once the queue is empty."""
        self.is_closed = True
        self.small._wake()
        self.large._wake()

    def removed(self) -> None:
        """Resume `put` if there is room again; called by the lanes."""
        if len(self) == _REFILL_BELOW - 1:
            self._has_room.set()
