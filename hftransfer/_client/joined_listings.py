"""Two listings side by side: each file with the one of the same path in the other listing."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing

from hftransfer._core.path_set import PathSet
from hftransfer.errors import UnsupportedError
from hftransfer.stores.base import Entry, ListingPage

__all__ = ("Pair", "joined_listings")

Pair = tuple[Entry | None, Entry | None]
"""The entries of one path: of the first listing, and of the second; None where there is none."""

# Entries without a counterpart that one side holds, beyond which those that the other listing has
# passed are given out: 10 MB. Fewer are held to the end, so that their order does not matter.
_MAX_UNMATCHED = 20_000


async def joined_listings(
    first: AsyncGenerator[ListingPage, None], second: AsyncGenerator[ListingPage, None]
) -> AsyncGenerator[list[Pair], None]:
    """Yield the pairs of all paths, as the pages of both listings arrive.

    The listings may be in any order. An entry is held until its counterpart arrives or both
    listings have ended: little if both are in the same order and have the same files. If the files
    are not the same, listings that are sorted by path bound what is held: an entry that the other
    listing has passed has no counterpart.

    Args:
        first, second: each with every path once at most.

    Raises:
        UnsupportedError: if more than `_MAX_UNMATCHED` files were without a counterpart, and one of
            a listing that had been sorted until then turns up late.
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
            if passed := sides[0].take_passed(sides[1]):
                yield [(entry, None) for entry in passed]
            if passed := sides[1].take_passed(sides[0]):
                yield [(None, entry) for entry in passed]
        yield [(entry, None) for entry in sides[0].unmatched.values()]
        yield [(None, entry) for entry in sides[1].unmatched.values()]


class _Side:
    """One of the listings, as far as it was read."""

    def __init__(self, pages: AsyncGenerator[ListingPage, None]) -> None:
        self.pages = pages
        self.unmatched: dict[str, Entry] = {}
        self.last = ""
        """The last path that was read."""
        self.is_sorted = True
        """True if every path that was read follows the one before it."""
        self.is_complete = False
        self._given_up: PathSet | None = None
        """Paths that `take_passed` has returned."""

    async def advance(self, other: _Side) -> list[Pair]:
        """Read a page; return its entries that the other side has, each with its counterpart."""
        page = await anext(self.pages, None)
        if page is None:
            self.is_complete = True
            return []
        pairs: list[Pair] = []
        for entry in page.entries:
            other.check_not_given_up(entry.path)
            found = other.unmatched.pop(entry.path, None)
            if found is None:
                self.unmatched[entry.path] = entry
            else:
                pairs.append((entry, found))
            self.is_sorted = self.is_sorted and self.last <= entry.path
            self.last = entry.path
        self.is_complete = page.is_last
        return pairs

    def take_passed(self, other: _Side) -> list[Entry]:
        """Remove and return the entries that the other listing has passed, if they are many."""
        if len(self.unmatched) <= _MAX_UNMATCHED or not (other.is_complete or other.is_sorted):
            return []
        passed = [
            entry
            for entry in self.unmatched.values()
            if other.is_complete or entry.path <= other.last
        ]
        if not other.is_complete:
            self._given_up = PathSet() if self._given_up is None else self._given_up
            for entry in passed:
                self._given_up.add(entry.path)
        for entry in passed:
            del self.unmatched[entry.path]
        return passed

    def check_not_given_up(self, path: str) -> None:
        """Raise UnsupportedError if `path`, which the other listing has now, was given up."""
        if self._given_up is not None and path in self._given_up:
            raise UnsupportedError(
                f"{path!r} is listed behind {self.last!r}: very different listings can be compared "
                "only if they are sorted by path, or one folder at a time"
            )
