"""The engine: one data path for all stores. It knows their protocols and no concrete store.

::

    source.list → entries ─┬→ small files, many at a time ─┐
                           └→ large files, a few at a time ┴→ FileTransfer → sinks

Read on in `file`: the data path of a chunk, and what happens after a failure. `context` has the
order of all limits; `scheduler` decides which request runs on which connection, and lists
the objects that threads share.

Small and large files have workers of their own, so small files do not wait for large ones.
Both share memory and connections, first come, first served, so neither starves the other.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import anyio
from anyio.abc import TaskGroup

from hftransfer._core.events import FileFinished, FileStarted, TransferStarted, emit
from hftransfer._core.manifest import FileManifest, Manifest
from hftransfer._core.plan import align_chunk_size, fit_chunk_size
from hftransfer._engine.context import Context, TransferStats
from hftransfer._engine.file import FileTransfer
from hftransfer._engine.file_state import FileState
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
    a cancellation the sinks keep only what the next call can resume.

    Args:
        source: where to read.
        sinks: where to write; each gets every file.
        entries: what to move, as listed by `source`.
        context: the client's shared limits.
        tolerated: called with each file that failed; returns True to continue with the others.

    Raises:
        TransferError: the first failure; further ones are its notes.
    """
    started = time.perf_counter()
    _check_paths(entries)
    for sink in sinks:
        await sink.prepare(entries)
    run = _TransferRun(source, sinks, context, tolerated)
    await run.move(entries)
    manifest = Manifest(source=source.location, commit=source.commit, files=run.manifests)
    for sink in sinks:
        await sink.finish(manifest)
    return run.stats.report(manifest, sinks, seconds=time.perf_counter() - started)


class _TransferRun:
    """One call of `transfer`: its queue of files, those in progress, and those published."""

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
        self._queued = 0
        """Files that no worker has taken yet."""
        self._in_progress: dict[str, FileTransfer | None] = {}
        """By path, files that a worker has taken; None while the sinks open the file."""
        self.stats = TransferStats()
        self.manifests: dict[str, FileManifest] = {}

    async def move(self, entries: Sequence[Entry]) -> None:
        """Move all of `entries`, small files and large ones with workers of their own."""
        self._queued = len(entries)
        size = sum(entry.size for entry in entries)
        emit(self._context.observer, TransferStarted(len(entries), size))
        chunk_size = self._context.options.chunk_size
        large = [entry for entry in entries if entry.size > chunk_size]
        small = [entry for entry in entries if entry.size <= chunk_size]
        with single_error():
            async with anyio.create_task_group() as background:
                background.start_soon(self._context.scheduler.run, self._is_draining)
                background.start_soon(self._context.checkpointer.run)
                async with anyio.create_task_group() as workers:
                    self._start_workers(workers, large, _LARGE_FILE_WORKERS)
                    self._start_workers(workers, small, _SMALL_FILE_WORKERS)
                background.cancel_scope.cancel()

    def _is_draining(self) -> bool:
        """Return True if the bytes of every remaining chunk have been requested."""
        return not self._queued and all(
            file is not None and file.is_fully_started for file in self._in_progress.values()
        )

    def _start_workers(self, tasks: TaskGroup, entries: Sequence[Entry], count: int) -> None:
        queue = iter(entries)
        for _ in range(min(count, len(entries))):
            tasks.start_soon(self._work, queue)

    async def _work(self, queue: Iterator[Entry]) -> None:
        # One task for many files: starting a task costs as much as moving a small file.
        for entry in queue:
            self._queued -= 1
            try:
                await self._move_file(entry)
            except TransferError as error:
                if not self._tolerated(entry, error):
                    raise
            finally:
                self._in_progress.pop(entry.path, None)

    async def _move_file(self, entry: Entry) -> None:
        observer = self._context.observer
        emit(observer, FileStarted(entry.path, entry.size))
        manifest = await self._transfer_file(entry)
        if manifest is None:
            self.stats.skipped += 1
        else:
            self.stats.files += 1
            self.manifests[entry.path] = manifest
        emit(observer, FileFinished(entry.path, entry.size, skipped=manifest is None))

    async def _transfer_file(self, entry: Entry) -> FileManifest | None:
        """Move one file; return its manifest, or None if every sink has it already."""
        for remaining in reversed(range(_FILE_ATTEMPTS)):
            try:
                return await self._attempt(entry, is_last=not remaining)
            except IntegrityError:
                if not remaining:
                    raise
                self.stats.retries += 1
        raise AssertionError("unreachable")

    async def _attempt(self, entry: Entry, *, is_last: bool) -> FileManifest | None:
        opened: list[FileSink] = []
        file: FileTransfer | None = None
        self._in_progress[entry.path] = None
        try:
            chunk_size = _chunk_size(entry, self._sinks, self._context.options)
            for sink in self._sinks:
                file_sink = await sink.begin(entry, chunk_size)
                if file_sink is not None:
                    opened.append(file_sink)
            if not opened:
                return None
            file = FileTransfer(
                FileState(entry, chunk_size, self._source, opened, self._context, self.stats)
            )
            self._in_progress[entry.path] = file
            manifest = await file.run()
            while opened:
                await opened[0].commit(manifest)
                opened.pop(0)
            return manifest
        except BaseException as error:
            discard = isinstance(error, IntegrityError)
            if not discard or is_last:
                del self._in_progress[entry.path]
            elif file is not None:
                file.rollback_progress()
            await _abort(opened, discard=discard)
            raise


def _check_paths(entries: Sequence[Entry]) -> None:
    """Reject listings in which one file would overwrite another."""
    seen: set[str] = set()
    for entry in entries:
        if entry.path in seen:
            raise LocationError(f"{entry.path!r} is listed twice")
        seen.add(entry.path)


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
