"""Two listings side by side: each file with the one of the same path in the other listing."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing

from hftransfer.stores.base import Entry, ListingPage

__all__ = ("Pair", "joined_listings")

Pair = tuple[Entry | None, Entry | None]
"""The entries of one path: of the first listing, and of the second; None where there is none."""


async def joined_listings(
    first: AsyncGenerator[ListingPage, None], second: AsyncGenerator[ListingPage, None]
) -> AsyncGenerator[list[Pair], None]:
    """Yield the pairs of all paths, as the pages of both listings arrive.

    The listings may be in any order. An entry is held until its counterpart arrives or both
    listings have ended: little if both are in the same order and have the same files.

    Args:
        first, second: each with every path once at most.
    """
    sides = (_Side(first), _Side(second))
    async with AsyncExitStack() as stack:
        for side in sides:
            await stack.enter_async_context(aclosing(side.pages))
        while not all(side.is_complete for side in sides):
            # The listing that is behind is continued, so that equal ones stay side by side.
            side = min((side for side in sides if not side.is_complete), key=lambda each: each.last)
            other = sides[1] if side is sides[0] else sides[0]
            pairs = await side.advance(other)
            yield pairs if side is sides[0] else [(theirs, ours) for ours, theirs in pairs]
        yield [(entry, None) for entry in sides[0].unmatched.values()]
        yield [(None, entry) for entry in sides[1].unmatched.values()]


class _Side:
    """One of the listings, as far as it was read."""

    def __init__(self, pages: AsyncGenerator[ListingPage, None]) -> None:
        self.pages = pages
        self.unmatched: dict[str, Entry] = {}
        self.last = ""
        """The last path that was read."""
        self.is_complete = False

    async def advance(self, other: _Side) -> list[Pair]:
        """Read a page; return its entries that the other side has, each with its counterpart."""
        page = await anext(self.pages, None)
        if page is None:
            self.is_complete = True
            return []
        pairs: list[Pair] = []
        for entry in page.entries:
            found = other.unmatched.pop(entry.path, None)
            if found is None:
                self.unmatched[entry.path] = entry
            else:
                pairs.append((entry, found))
            self.last = entry.path
        self.is_complete = page.is_last
        return pairs
