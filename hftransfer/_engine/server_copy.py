"""Files that a store copies itself: no byte of them passes through this machine."""

from __future__ import annotations

import math
from collections.abc import Sequence

import anyio

from hftransfer.errors import UnsupportedError
from hftransfer.stores.base import Entry, ServerCopySink, Sink, Source

__all__ = ("ServerCopies",)


class ServerCopies:
    """Makes a store copy the files of one transfer, as far as it supports that.

    Args:
        source: of the files.
        sinks: that need each file; the store copies for all of them, or for none.
        is_enabled: False if the bytes must pass through this machine, for example because a
            manifest with their digests is to be written.
    """

    def __init__(self, source: Source, sinks: Sequence[Sink], *, is_enabled: bool) -> None:
        self._source = source
        capable = [sink for sink in sinks if isinstance(sink, ServerCopySink)]
        is_possible = len(capable) == len(sinks) and all(
            sink.copies_from(source) for sink in capable
        )
        self._sinks = capable if is_enabled and is_possible else []
        self._unsupported_from: float = math.inf
        """Bytes: files of this size or larger are not copied by the store."""
        self._is_probed = False
        self._probing = anyio.Lock()
        """Held during the first copy, which shows whether the store supports copies: a store
        that ignores the request may write an empty object."""

    def covers(self, entry: Entry) -> bool:
        """Return True if the store is expected to copy `entry`."""
        return bool(self._sinks) and entry.size < self._unsupported_from and entry.manifest is None

    async def copy(self, entry: Entry) -> int | None:
        """Copy `entry` to all sinks.

        Returns:
            The number of sinks that did not have its content before; None if the store does not
            copy it, so that its bytes have to be read and written.

        Raises:
            TransferError: if a copy fails.
        """
        if not self._is_probed:
            async with self._probing:
                if not self._is_probed:
                    return await self._probe(entry)
        return await self._copy(entry)

    async def _probe(self, entry: Entry) -> int | None:
        if not self.covers(entry):
            return None
        copies = await self._copy(entry)
        # A store that got no request, or refused it, has shown nothing.
        self._is_probed = bool(copies)
        return copies

    async def _copy(self, entry: Entry) -> int | None:
        copies = 0
        for sink in self._sinks:
            try:
                copies += await sink.copy_from(self._source, entry)
            except UnsupportedError:
                self._unsupported_from = min(self._unsupported_from, entry.size)
                return None
        return copies
