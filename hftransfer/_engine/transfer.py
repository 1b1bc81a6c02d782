"""The engine: one data path for all stores. It knows their protocols and no concrete store.

::

    source.pages → FileQueue ─┬→ small files, many at a time ─┐
                              └→ large files, a few at a time ┴→ FileTransfer → sinks

Read on in `file`: the data path of a chunk, and what happens after a failure. `context` has the
order of all limits; `scheduler` decides which request runs on which connection, and lists
the objects that threads share.

The source is listed while its files are moved: `FileQueue` holds some pages of the listing at
most, and the listing waits for room there. So neither the memory nor the number of tasks depends
on the number of files.

Small and large files have workers of their own, so small files do not wait for large ones.
Both share memory and connections, first come, first served, so neither starves the other.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import NamedTuple, TypeAlias

import anyio
from anyio.abc import TaskGroup

from hftransfer._core.events import (
    BytesMoved,
    FileFinished,
    FileStarted,
    ListingProgress,
    TransferStarted,
    emit,
)
from hftransfer._core.manifest import FileManifest, Manifest
from hftransfer._core.manifest_records import ManifestRecords
from hftransfer._core.path_check import PathCheck
from hftransfer._core.plan import align_chunk_size, fit_chunk_size
from hftransfer._engine.compare import is_stored
from hftransfer._engine.context import Context, TransferStats
from hftransfer._engine.file import FileTransfer
from hftransfer._engine.file_queue import FileQueue, Lane
from hftransfer._engine.file_state import FileState
from hftransfer._engine.server_copy import ServerCopies
from hftransfer.errors import (
    IntegrityError,
    TransferError,
    UnsupportedError,
    single_error,
)
from hftransfer.options import TransferOptions
from hftransfer.report import Report
from hftransfer.stores.base import (
    ConfirmingSink,
    Entry,
    FileSink,
    FileTreeSink,
    ListingPage,
    Sink,
    Source,
)

__all__ = ("Complete", "Context", "Files", "transfer")

Files: TypeAlias = Sequence[Entry] | AsyncGenerator[ListingPage, None]
"""What to move: entries, or pages of a listing, of which the next is requested while the files of
the earlier ones are moved."""
Complete: TypeAlias = Callable[[Entry], Awaitable[Entry | None]]
"""Returns an entry with what its listing lacks, or None to leave the file out."""

_logger = logging.getLogger("hftransfer")

# Seconds for the clean-up of a file in all sinks. A cancelled caller waits this long at most.
_CLEANUP_TIMEOUT = 1.5
# Attempts to move a file whose bytes do not match its digest. Damage in transit is rare enough
# for one more attempt to succeed; if that fails, too, the source has other bytes.
_FILE_ATTEMPTS = 2
# Workers for files of one chunk: enough requests to hide the latency of opening, reading and
# publishing a file, which for small files takes most of the time.
_SMALL_FILE_WORKERS = 32
# Workers for files of several chunks: enough to keep every core hashing when each file has a
# digest that only one thread can compute, few enough for the first files to finish early.
_LARGE_FILE_WORKERS = max(4, 2 * (os.cpu_count() or 1))
# Things that an error names; of more it gives the number.
_NAMED = 5


async def transfer(
    source: Source,
    sinks: Sequence[Sink],
    files: Files,
    context: Context,
    *,
    tolerated: Callable[[Entry, TransferError], bool] = lambda entry, error: False,
    complete: Complete | None = None,
    server_side: bool = False,
    keep_manifest: bool = True,
    recorder: Sink | None = None,
) -> Report:
    """Move `files` of `source` into every one of `sinks`, in one pass over the source.

    A file appears in a sink when all its bytes are there and verified. After an error or
    a cancellation the sinks keep only what the next call can resume.

    Args:
        source: where to read.
        sinks: where to write; each gets every file.
        files: what to move, as listed by `source`.
        context: the client's shared limits.
        tolerated: called with each file that failed; returns True to continue with the others.
        complete: called for each file before it is moved. Default: entries have all they need.
        server_side: let the store copy files itself if it can: those are not in the manifest.
        keep_manifest: False to return a manifest without files.
        recorder: gets the files that all of `sinks` have already, so that they are read and the
            manifest has their digests, too. Default: they are not read, and not in the manifest.

    Raises:
        LocationError: if a path is listed twice, or cannot exist beside another one.
        TransferError: the first failure; further ones are its notes.
    """
    started = time.perf_counter()
    copies = ServerCopies(source, sinks, is_enabled=server_side)
    run = _TransferRun(source, sinks, context, tolerated, complete, copies)
    run.keeps_manifest = keep_manifest
    run.recorder = recorder
    async with aclosing(files if isinstance(files, AsyncGenerator) else _one_page(files)) as pages:
        await run.move(pages)
    manifest = Manifest(source=source.location, commit=source.commit, files=run.manifests)
    for sink in sinks:
        await sink.finish(manifest)
    return run.stats.report(manifest, sinks, seconds=time.perf_counter() - started)


async def _one_page(entries: Sequence[Entry]) -> AsyncGenerator[ListingPage, None]:
    yield ListingPage(entries, is_last=True)


class _Moved(NamedTuple):
    """What was done with one file."""

    manifest: FileManifest | None
    """None if the file was not read."""
    is_new: bool
    """False if every sink had the file already."""


class _TransferRun:
    """One call of `transfer`: its queue of files, those in progress, and those published."""

    def __init__(
        self,
        source: Source,
        sinks: Sequence[Sink],
        context: Context,
        tolerated: Callable[[Entry, TransferError], bool],
        complete: Complete | None,
        copies: ServerCopies,
    ) -> None:
        self._source = source
        self._sinks = sinks
        self._context = context
        self._tolerated = tolerated
        self._complete = complete
        self._copies = copies
        self._queue = FileQueue()
        self._paths = PathCheck()
        self._in_folders = any(isinstance(sink, FileTreeSink) for sink in sinks)
        self._listed_files = 0
        self._listed_bytes = 0
        self._workers: dict[Lane, int] = {self._queue.small: 0, self._queue.large: 0}
        """Workers that were started."""
        self._in_progress: dict[str, FileTransfer | None] = {}
        """By path, files that a worker has taken; None while the sinks open the file."""
        self.keeps_manifest = True
        self.recorder: Sink | None = None
        self.stats = TransferStats()
        self.manifests = ManifestRecords()

    async def move(self, pages: AsyncGenerator[ListingPage, None]) -> None:
        """Move the files of all `pages`, small files and large ones with workers of their own."""
        with single_error():
            async with anyio.create_task_group() as background:
                background.start_soon(self._context.scheduler.run, self._is_draining)
                background.start_soon(self._context.checkpointer.run)
                async with anyio.create_task_group() as workers:
                    await self._list(pages, workers)
                background.cancel_scope.cancel()

    async def _list(self, pages: AsyncGenerator[ListingPage, None], tasks: TaskGroup) -> None:
        """Queue the files of all pages, and start the workers that they need."""
        is_first = True
        async for page in pages:
            _refuse_special_files(page.entries, self._source.location)
            for entry in page.entries:
                self._paths.add(entry.path, in_folders=self._in_folders)
            for sink in self._sinks:
                await sink.prepare(page.entries)
            self._announce(page, is_first=is_first)
            is_first = False
            await self._enqueue(page.entries, tasks)
        self._queue.close()

    def _announce(self, page: ListingPage, *, is_first: bool) -> None:
        """Emit the totals as far as the source is listed."""
        self._listed_files += len(page.entries)
        self._listed_bytes += sum(entry.size for entry in page.entries)
        event = TransferStarted if is_first else ListingProgress
        emit(self._context.observer, event(self._listed_files, self._listed_bytes, page.is_last))

    async def _enqueue(self, entries: Sequence[Entry], tasks: TaskGroup) -> None:
        chunk_size = self._context.options.chunk_size
        small: list[Entry] = []
        large: list[Entry] = []
        for entry in entries:
            is_small = entry.size <= chunk_size or self._copies.covers(entry)
            (small if is_small else large).append(entry)
        await self._queue.put(small, large)
        self._start_workers(tasks, self._queue.small, len(small), _SMALL_FILE_WORKERS)
        self._start_workers(tasks, self._queue.large, len(large), _LARGE_FILE_WORKERS)

    def _start_workers(self, tasks: TaskGroup, lane: Lane, files: int, most: int) -> None:
        started = self._workers[lane]
        self._workers[lane] = min(started + files, most)
        for _ in range(started, self._workers[lane]):
            tasks.start_soon(self._work, lane)

    def _is_draining(self) -> bool:
        """Return True if the bytes of every remaining chunk have been requested."""
        return (
            self._queue.is_closed
            and not len(self._queue)
            and all(
                file is not None and file.is_fully_started for file in self._in_progress.values()
            )
        )

    async def _work(self, lane: Lane) -> None:
        # One task for many files: starting a task costs as much as moving a small file.
        while (entry := await lane.get()) is not None:
            try:
                await self._move_file(entry)
            except TransferError as error:
                if not self._tolerated(entry, error):
                    raise
            finally:
                self._in_progress.pop(entry.path, None)

    async def _move_file(self, listed: Entry) -> None:
        self._in_progress[listed.path] = None
        entry = listed if self._complete is None else await self._complete(listed)
        if entry is None:
            return
        observer = self._context.observer
        emit(observer, FileStarted(entry.path, entry.size))
        was_moved = await self._copy_on_server(entry)
        if was_moved is None:
            was_moved = await self._transfer(entry)
        if was_moved:
            self.stats.files += 1
        else:
            self.stats.skipped += 1
        emit(observer, FileFinished(entry.path, entry.size, skipped=not was_moved))

    async def _copy_on_server(self, entry: Entry) -> bool | None:
        """Make the store copy one file.

        Returns:
            True if it did, False if every sink has it already, None if it does not copy it.
        """
        if not self._copies.covers(entry):
            return None
        copies = await self._copies.copy(entry)
        if copies:
            self.stats.server_side += copies * entry.size
            emit(self._context.observer, BytesMoved(entry.path, entry.size))
        return None if copies is None else copies > 0

    async def _transfer(self, entry: Entry) -> bool:
        """Move one file; return False if every sink has it already."""
        moved = await self._transfer_file(entry)
        if moved.manifest is not None and self.keeps_manifest:
            self.manifests.add(entry.path, moved.manifest)
        return moved.is_new

    async def _transfer_file(self, entry: Entry) -> _Moved:
        for remaining in reversed(range(_FILE_ATTEMPTS)):
            try:
                return await self._attempt(entry, is_last=not remaining)
            except IntegrityError:
                if not remaining:
                    raise
                self.stats.retries += 1
        raise AssertionError("unreachable")

    async def _attempt(self, entry: Entry, *, is_last: bool) -> _Moved:
        opened: list[FileSink] = []
        file: FileTransfer | None = None
        self._in_progress[entry.path] = None
        try:
            chunk_size = _chunk_size(entry, self._sinks, self._context.options)
            for sink in self._sinks:
                file_sink = await self._begin(sink, entry, chunk_size)
                if file_sink is not None:
                    opened.append(file_sink)
            is_new = bool(opened)
            if not is_new and self.recorder is not None:
                file_sink = await self.recorder.begin(entry, chunk_size)
                if file_sink is not None:
                    opened.append(file_sink)
            if not opened:
                return _Moved(None, is_new=False)
            file = FileTransfer(
                FileState(entry, chunk_size, self._source, opened, self._context, self.stats)
            )
            self._in_progress[entry.path] = file
            manifest = await file.run()
            on_arrival = file.is_checked_on_arrival
            checks = [] if on_arrival is None else [on_arrival]
            while opened:
                await opened[0].commit(manifest)
                published = opened.pop(0)
                if isinstance(published, ConfirmingSink):
                    checks.append(published.is_confirmed)
            if is_new:
                self.stats.record_checks(checks)
            return _Moved(manifest, is_new=is_new)
        except BaseException as error:
            discard = isinstance(error, IntegrityError)
            if not discard or is_last:
                del self._in_progress[entry.path]
            elif file is not None:
                file.rollback_progress()
            await _abort(opened, discard=discard)
            raise

    async def _begin(self, sink: Sink, entry: Entry, chunk_size: int) -> FileSink | None:
        if await is_stored(self._source, sink, entry, chunk_size, self._context, self.stats):
            return None
        return await sink.begin(entry, chunk_size)


def _refuse_special_files(entries: Sequence[Entry], location: str) -> None:
    """Raise UnsupportedError if one of `entries` is not a regular file."""
    if special := [entry for entry in entries if entry.unreadable]:
        named = ", ".join(f"{entry.path!r} is {entry.unreadable}" for entry in special[:_NAMED])
        more = f", and {len(special) - _NAMED} more" if len(special) > _NAMED else ""
        raise UnsupportedError(
            f"{location}: only regular files can be copied: {named}{more}; exclude what should "
            "not be copied"
        )


def _chunk_size(entry: Entry, sinks: Sequence[Sink], options: TransferOptions) -> int:
    """Return the bytes per chunk of a file: those of its manifest, else what fits every sink.

    Raises:
        IntegrityError: if the file is longer or shorter than its manifest says.
        UnsupportedError: if a sink does not accept the chunks of the manifest.
        OptionsError: if the file is too large for a sink.
    """
    limits = [sink.limits for sink in sinks]
    if entry.manifest is None:
        preferred = options.chunk_size
        if entry.size > preferred:
            preferred = align_chunk_size(preferred, entry.part_size)
        return fit_chunk_size(entry.size, preferred, limits)
    recorded = entry.manifest.chunk_size
    if entry.manifest.size != entry.size:
        raise IntegrityError(
            f"{entry.path}: size mismatch: expected {entry.manifest.size} bytes, got {entry.size}"
        )
    if fit_chunk_size(entry.size, recorded, limits) != recorded:
        raise UnsupportedError(
            f"{entry.path}: its manifest has chunks of {recorded} bytes, which a destination "
            "does not accept"
        )
    return recorded


async def _abort(opened: Sequence[FileSink], *, discard: bool) -> None:
    """Abort files in all sinks, even when cancelled, within `_CLEANUP_TIMEOUT`."""
    with anyio.move_on_after(_CLEANUP_TIMEOUT, shield=True):
        async with anyio.create_task_group() as tasks:
            for file_sink in opened:
                tasks.start_soon(partial(_abort_one, file_sink, discard=discard))


async def _abort_one(file_sink: FileSink, *, discard: bool) -> None:
    try:
        await file_sink.abort(discard=discard)
    except Exception as error:  # noqa: BLE001
        # The caller gets the failure that led here; this one would hide it, so it is logged.
        _logger.warning("could not clean up after a failed transfer: %s", error)
