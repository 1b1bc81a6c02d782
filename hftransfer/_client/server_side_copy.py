"""Copies from S3 to S3 in which the store moves the bytes.

Not in `copy_files`, so that other transfers do not import the S3 store.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import anyio

from hftransfer._core.events import BytesMoved, FileFinished, FileStarted, TransferStarted, emit
from hftransfer._core.manifest import Manifest
from hftransfer._engine.transfer import Context
from hftransfer.errors import UnsupportedError, single_error
from hftransfer.report import Report
from hftransfer.stores.base import Entry, Sink, Source
from hftransfer.stores.s3.copy import ServerCopy
from hftransfer.stores.s3.store import S3Sink, S3Source

__all__ = ("ServerSideCopy", "copy_within_s3")

# Objects that are copied at the same time, if the options do not give the number of connections.
# Each is one request that waits for the store.
_DEFAULT_CONCURRENCY = 32


@dataclass(frozen=True)
class ServerSideCopy:
    """What a store has copied itself."""

    report: Report
    remaining: Sequence[Entry]
    """Entries that it does not copy: their bytes have to be read and written."""

    def combined(self, moved: Report) -> Report:
        """Return the report of the whole copy.

        Args:
            moved: the report of the transfer of `remaining`.
        """
        own = self.report
        return replace(
            moved,
            files=moved.files + own.files,
            server_side_bytes=own.server_side_bytes,
            non_atomic=moved.non_atomic + own.non_atomic,
            seconds=moved.seconds + own.seconds,
        )


async def copy_within_s3(
    source: Source, sinks: Sequence[Sink], entries: Sequence[Entry], context: Context
) -> ServerSideCopy | None:
    """Make the store copy `entries` to all `sinks`.

    Args:
        source: that the entries come from.
        sinks: destinations.
        entries: as listed by `source`.
        context: options and observer.

    Returns:
        None if a store is not S3; then nothing is copied.

    Raises:
        TransferError: the first failure; further ones are its notes.
    """
    s3_sinks = [sink for sink in sinks if isinstance(sink, S3Sink)]
    if not isinstance(source, S3Source) or len(s3_sinks) != len(sinks):
        return None
    started = time.perf_counter()
    for sink in s3_sinks:
        await sink.prepare(entries)
    copies = _Copies(source, s3_sinks, context)
    emit(context.observer, TransferStarted(len(entries), sum(entry.size for entry in entries)))
    with suppress(UnsupportedError):
        await copies.run(entries)
    remaining = [entry for entry in entries if entry.path not in copies.copied]
    report = Report(
        source=source.location,
        destinations=tuple(sink.location for sink in sinks),
        files=len(copies.copied),
        server_side_bytes=copies.bytes,
        non_atomic=copies.non_atomic,
        seconds=time.perf_counter() - started,
        manifest=Manifest(source=source.location),
    )
    return ServerSideCopy(report, remaining)


class _Copies:
    """Copies every entry to every sink, concurrently."""

    def __init__(self, source: S3Source, sinks: Sequence[S3Sink], context: Context) -> None:
        self._source = source
        self._sinks = sinks
        self._observer = context.observer
        self._server = ServerCopy(source.client)
        self._limiter = anyio.CapacityLimiter(context.options.connections or _DEFAULT_CONCURRENCY)
        self.bytes = 0
        """Bytes that the store has copied."""
        self.copied: set[str] = set()
        """Paths that every sink has."""

    @property
    def non_atomic(self) -> int:
        """As `Report.non_atomic`."""
        return self._server.exclusive_writes.non_atomic

    async def run(self, entries: Sequence[Entry]) -> None:
        # The first copy shows whether the store supports it. Largest first, because fewer stores
        # support copying in parts.
        ordered = sorted(entries, key=lambda entry: entry.size, reverse=True)
        for largest in ordered[:1]:
            await self._copy(largest)
        with single_error():
            async with anyio.create_task_group() as tasks:
                for entry in ordered[1:]:
                    tasks.start_soon(self._copy_if_possible, entry)

    async def _copy_if_possible(self, entry: Entry) -> None:
        """Copy one entry; if the store cannot, leave it to the caller and let the others go on."""
        with suppress(UnsupportedError):
            await self._copy(entry)

    async def _copy(self, entry: Entry) -> None:
        async with self._limiter:
            emit(self._observer, FileStarted(entry.path, entry.size))
            source = self._source.object_of(entry)
            for sink in self._sinks:
                await self._server.copy(source, sink.object_of(entry), entry)
                self.bytes += entry.size
            self.copied.add(entry.path)
            emit(self._observer, BytesMoved(entry.path, entry.size))
            emit(self._observer, FileFinished(entry.path, entry.size, skipped=False))
