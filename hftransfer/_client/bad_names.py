"""What a copy does with names that a destination cannot write: it fails, or leaves them out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Literal, TypeAlias

from hftransfer.errors import OptionsError
from hftransfer.stores.base import Entry, ListingPage, NameCheckingSink, Sink
from hftransfer.stores.names import BadNames

__all__ = ("NameFilter", "OnBadName", "check_on_bad_name")

OnBadName: TypeAlias = Literal["fail", "skip"]
"""``fail``: an error before any byte of that page of the listing is moved; ``skip``: copy the
other files."""

_HINT = (
    "Exclude them by a pattern, or leave them out with on_bad_name='skip' "
    "(command line: --on-bad-name skip)"
)


def check_on_bad_name(value: str) -> None:
    """Raise OptionsError if `value` is not an `OnBadName`."""
    if value not in ("fail", "skip"):
        raise OptionsError(f"on_bad_name must be fail or skip, not {value!r}")


class NameFilter:
    """Checks the names of one listing with every destination of a copy.

    Args:
        sinks: destinations.
        on_bad_name: what to do with a name that one of them cannot write.
    """

    def __init__(self, sinks: Sequence[Sink], on_bad_name: OnBadName) -> None:
        self._checks = [
            (sink.location, sink.name_check())
            for sink in sinks
            if isinstance(sink, NameCheckingSink)
        ]
        self._fails = on_bad_name == "fail"
        self.skipped = 0
        """Names that were left out so far."""

    def select(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Return those of `entries` that every destination can write.

        Args:
            entries: selected by patterns, in the order of the listing; all of them, or the next.

        Raises:
            LocationError: with ``fail``, if one cannot be written.
        """
        if not self._checks:
            return entries
        bad = {location: BadNames() for location, _ in self._checks}
        good = []
        for entry in entries:
            is_good = True
            for location, check in self._checks:
                if problem := check(entry.path):
                    bad[location].add(entry.path, problem)
                    is_good = False
            if is_good:
                good.append(entry)
        if self._fails:
            for location, names in bad.items():
                if names.count:
                    raise names.error(location, _HINT)
        self.skipped += len(entries) - len(good)
        return good

    async def pages(
        self, pages: AsyncGenerator[ListingPage, None]
    ) -> AsyncGenerator[ListingPage, None]:
        """Yield `pages` with what `select` returns of each."""
        async with aclosing(pages):
            async for page in pages:
                yield page._replace(entries=self.select(page.entries))
