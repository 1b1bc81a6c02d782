"""The engine: one path for all stores. It knows the protocols and no concrete store.

::

    source.list → entries ─┬→ small files, many at a time ─┐
                           └→ large files, a few at a time ┴→ FileTransfer → sinks

Small files do not wait for large ones, since each kind has its own line; that both share
memory and connections, first come, first served, keeps either from starving the other.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import anyio

from hftransfer._core.events import FileFinished, FileStarted, TransferStarted, emit
from hftransfer._core.manifest import FileManifest, Manifest
from hftransfer._core.plan import align_chunk_size, fit_chunk_size
from hftransfer._engine.context import Context, TransferStats
from hftransfer._engine.file import FileTransfer
from hftransfer.errors import (
    IntegrityError,
    LocationError,
    TransferError,
    UnsupportedError,
    single_error,
)
from hftransfer.options import TransferOptions
from hftransfer.report import Report
from hftransfer.stores.base import Entry, FileSink, Sink, Source

__all__ = ("Context", "transfer")

_logger = logging.getLogger("hftransfer")

# All cleaning up after a failure or a cancellation together, seconds.
_CLEANUP = 1.5
# A file whose bytes turn out wrong is fetched once more from its start.
_FILE_TRIES = 2
# Files of one chunk at a time: enough to hide the latency of beginning and ending them.
_SMALL_FILES = 32
# Larger ones: enough to make their digests on every core, few enough to finish one early.
_LARGE_FILES = max(4, 2 * (os.cpu_count() or 1))


async def transfer(
    source: Source,
    sinks: Sequence[Sink],
    entries: Sequence[Entry],
    context: Context,
    *,
    tolerated: Callable[[Entry, TransferError], bool] = lambda entry, error: False,
) -> Report:
    """Move `entries` of `source` into every one of `sinks`, in one pass over the source.

    A file appears in a sink when all its bytes are there and verified. After an error or
    a cancellation nothing is left but what the next call resumes.

    Args:
        source: where to read.
        sinks: where to write; each gets every file.
        entries: what to move, as listed by `source`.
        context: the client's shared limits.
        tolerated: told each file that failed; returns True for the others to go on.

    Raises:
        TransferError: the first failure; further ones are its notes.
    """
    started = time.perf_counter()
    _check_paths(entries)
    for sink in sinks:
        await sink.prepare(entries)
    files = _Files(source, sinks, context, tolerated)
    await files.move(entries)
    manifest = Manifest(source=source.location, commit=source.commit, files=files.manifests)
    for sink in sinks:
        await sink.finish(manifest)
    return files.tally.report(manifest, sinks, seconds=time.perf_counter() - started)


class _Files:
    """The files of one transfer on their way, and what is known of those that arrived."""

    def __init__(
        self,
        source: Source,
        sinks: Sequence[Sink],
        context: Context,
        tolerated: Callable[[Entry, TransferError], bool],
    ) -> None:
        self._source = source
        self._sinks = sinks
        self._context = context
        self._tolerated = tolerated
        self.tally = TransferStats()
        self.manifests: dict[str, FileManifest] = {}

    async def move(self, entries: Sequence[Entry]) -> None:
        """Move all of `entries`: small files and large ones each in a line of their own."""
        size = self.tally.unstarted = sum(entry.size for entry in entries)
        emit(self._context.observer, TransferStarted(len(entries), size))
        chunk_size = self._context.options.chunk_size
        large = [entry for entry in entries if entry.size > chunk_size]
        small = [entry for entry in entries if entry.size <= chunk_size]
        with single_error():
            async with anyio.create_task_group() as steering:
                steering.start_soon(self._context.fetcher.run, lambda: self.tally.unstarted <= 0)
                async with anyio.create_task_group() as moving:
                    moving.start_soon(self._move_in_line, large, _LARGE_FILES)
                    moving.start_soon(self._move_in_line, small, _SMALL_FILES)
                steering.cancel_scope.cancel()

    async def _move_in_line(self, entries: Sequence[Entry], at_a_time: int) -> None:
        # One task for many files: beginning one costs as much as moving a small file.
        line = iter(entries)
        async with anyio.create_task_group() as tasks:
            for _ in range(min(at_a_time, len(entries))):
                tasks.start_soon(self._move_some, line)

    async def _move_some(self, line: Iterator[Entry]) -> None:
        for entry in line:
            try:
                await self._move_one(entry)
            except TransferError as error:
                if not self._tolerated(entry, error):
                    raise

    async def _move_one(self, entry: Entry) -> None:
        observer = self._context.observer
        emit(observer, FileStarted(entry.path, entry.size))
        manifest = await _move_file(entry, self._source, self._sinks, self._context, self.tally)
        if manifest is None:
            self.tally.skipped += 1
            self.tally.unstarted -= entry.size
        else:
            self.tally.files += 1
            self.manifests[entry.path] = manifest
        emit(observer, FileFinished(entry.path, entry.size, skipped=manifest is None))


def _check_paths(entries: Sequence[Entry]) -> None:
    """Refuse listings in which one file would overwrite another."""
    seen: set[str] = set()
    for entry in entries:
        if entry.path in seen:
            raise LocationError(f"{entry.path!r} is listed twice")
        seen.add(entry.path)


async def _move_file(
    entry: Entry, source: Source, sinks: Sequence[Sink], context: Context, tally: TransferStats
) -> FileManifest | None:
    """Move one file; return its manifest, or None if every sink had it already."""
    for remaining in reversed(range(_FILE_TRIES)):
        try:
            return await _try_file(entry, source, sinks, context, tally, draining=not remaining)
        except IntegrityError:
            if not remaining:
                raise
            tally.retries += 1
    raise AssertionError("unreachable")


async def _try_file(
    entry: Entry,
    source: Source,
    sinks: Sequence[Sink],
    context: Context,
    tally: TransferStats,
    *,
    draining: bool,
) -> FileManifest | None:
    opened: list[FileSink] = []
    file = None
    try:
        chunk_size = _chunk_size(entry, sinks, context.options)
        for sink in sinks:
            begun = await sink.begin(entry, chunk_size)
            if begun is not None:
                opened.append(begun)
        if not opened:
            return None
        file = FileTransfer(entry, chunk_size, source, opened, context, tally)
        manifest = await file.move()
        while opened:
            await opened[0].commit(manifest)
            opened.pop(0)
        return manifest
    except BaseException as error:
        discard = isinstance(error, IntegrityError)
        comes_again = discard and not draining
        if file is not None:
            file.withdraw() if comes_again else file.abandon()
        elif not comes_again:
            tally.unstarted -= entry.size
        await _abort(opened, discard=discard)
        raise


def _chunk_size(entry: Entry, sinks: Sequence[Sink], options: TransferOptions) -> int:
    limits = [sink.limits for sink in sinks]
    if entry.manifest is None:
        wanted = options.chunk_size
        if entry.size > wanted:
            wanted = align_chunk_size(wanted, entry.part_size)
        return fit_chunk_size(entry.size, wanted, limits)
    recorded = entry.manifest.chunk_size
    if entry.manifest.size != entry.size:
        raise IntegrityError(
            f"{entry.path}: {entry.size} bytes are there, {entry.manifest.size} were recorded"
        )
    if fit_chunk_size(entry.size, recorded, limits) != recorded:
        raise UnsupportedError(
            f"{entry.path}: its manifest has chunks of {recorded} bytes, which a destination "
            "does not accept"
        )
    return recorded


async def _abort(opened: Sequence[FileSink], *, discard: bool) -> None:
    """Give up files, whatever happens: shielded from cancellation, bounded in time."""
    with anyio.move_on_after(_CLEANUP, shield=True):
        async with anyio.create_task_group() as tasks:
            for file_sink in opened:
                tasks.start_soon(partial(_abort_one, file_sink, discard=discard))


async def _abort_one(file_sink: FileSink, *, discard: bool) -> None:
    try:
        await file_sink.abort(discard=discard)
    except Exception as error:  # noqa: BLE001
        # The failure that led here is what its reader needs; this one goes to the log.
        _logger.warning("could not clean up after a failed transfer: %s", error)
