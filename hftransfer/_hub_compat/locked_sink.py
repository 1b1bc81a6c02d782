"""File sinks that hold the lock which huggingface_hub takes for the same file.

A large file is locked from before its first byte until it is published, so that several
processes download it once. A small file (`is_small_file`) is locked only while it is written: to
download it twice costs less than to take the lock before every download.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from anyio import to_thread

from hftransfer._core.manifest import FileManifest
from hftransfer._core.pieces import Piece
from hftransfer._core.plan import Chunk
from hftransfer._io.file_lock import FileLock
from hftransfer._io.os_errors import map_write_errors
from hftransfer._io.thread_batch import ThreadBatch
from hftransfer.stores.base import PieceWrite
from hftransfer.stores.local.sink import LocalFileSink, SmallFileSink

__all__ = ("LockedFileSink", "LockedSmallFileSink", "write_in_thread")

T = TypeVar("T")


async def write_in_thread(path: Path, action: Callable[[], T]) -> T:
    """Run `action`, which writes `path`, in a worker thread.

    Raises:
        DestinationError: naming `path`, if `action` raises an ``OSError``.
    """
    return await to_thread.run_sync(_write, path, action)


def _write(path: Path, action: Callable[[], T]) -> T:
    with map_write_errors(path):
        return action()


class LockedFileSink:
    """A `LocalFileSink` whose lock is held from its creation until `commit` or `abort`.

    Args:
        inner: writes the file.
        lock: of the file, held by the caller; this object releases it.
        on_published: called in a worker thread, still under the lock, once `inner` has renamed
            the file to its final name: it writes the links or metadata of the file.
        target: the final path, for error messages.
    """

    def __init__(
        self, inner: LocalFileSink, lock: FileLock, on_published: Callable[[], None], target: Path
    ) -> None:
        self._inner = inner
        self._lock = lock
        self._on_published = on_published
        self._target = target

    @property
    def resumable_chunks(self) -> Mapping[int, str]:
        return self._inner.resumable_chunks

    async def read_into(self, chunk: Chunk, buffer: memoryview) -> None:
        await self._inner.read_into(chunk, buffer)

    async def write(self, chunk: Chunk, data: memoryview, digest: str) -> None:
        await self._inner.write(chunk, data, digest)

    @property
    def resumable_pieces(self) -> Mapping[int, Sequence[Piece]]:
        return self._inner.resumable_pieces

    async def write_pieces(self, writes: Sequence[PieceWrite]) -> None:
        await self._inner.write_pieces(writes)

    async def write_ranges(
        self, chunk: Chunk, ranges: Sequence[tuple[int, memoryview]], digest: str
    ) -> None:
        await self._inner.write_ranges(chunk, ranges, digest)

    async def commit(self, manifest: FileManifest) -> None:
        try:
            await self._inner.commit(manifest)
            await write_in_thread(self._target, self._on_published)
        finally:
            self._lock.release()

    async def abort(self, *, discard: bool) -> None:
        try:
            await self._inner.abort(discard=discard)
        finally:
            self._lock.release()


class LockedSmallFileSink:
    """A `SmallFileSink` that takes the lock only while it writes the file.

    Two processes may both download the file; they write it one after the other, with the same
    content.

    `batch` runs the writes of many files one after another, in a worker thread or in the event
    loop's. A write must not wait for a lock there: it tries once to take it. If another process
    holds it, the write fails with `_LockedElsewhereError`, this object waits for the lock without
    a thread, and the write is done again with the lock held.

    Args:
        publish: writes the file, and its links or metadata; called by `batch`, under the lock.
        lock: of the file, not held.
        batch: shared by the small files of one sink.
        target: the final path, for error messages.
    """

    def __init__(
        self,
        publish: Callable[[memoryview], None],
        lock: FileLock,
        batch: ThreadBatch,
        target: Path,
    ) -> None:
        self._publish = publish
        self._lock = lock
        self._target = target
        self._inner = SmallFileSink(self._publish_under_lock, batch)

    @property
    def resumable_chunks(self) -> Mapping[int, str]:
        return self._inner.resumable_chunks

    async def read_into(self, chunk: Chunk, buffer: memoryview) -> None:
        await self._inner.read_into(chunk, buffer)

    async def write(self, chunk: Chunk, data: memoryview, digest: str) -> None:
        await self._retry_under_lock(partial(self._inner.write, chunk, data, digest))

    async def commit(self, manifest: FileManifest) -> None:
        await self._retry_under_lock(partial(self._inner.commit, manifest))

    async def abort(self, *, discard: bool) -> None:
        await self._inner.abort(discard=discard)

    async def _retry_under_lock(self, action: Callable[[], Awaitable[None]]) -> None:
        """Run `action`; if another process holds the lock, wait for it and run `action` again."""
        try:
            await action()
        except _LockedElsewhereError:
            await self._lock.acquire()
            await action()

    def _publish_under_lock(self, data: memoryview) -> None:
        """Write the file, and release the lock; called by `batch`.

        Raises:
            _LockedElsewhereError: if another process holds the lock; nothing was written.
        """
        if not self._lock.is_held and self._lock.try_acquire() is None:
            raise _LockedElsewhereError
        try:
            with map_write_errors(self._target):
                self._publish(data)
        finally:
            self._lock.release()


class _LockedElsewhereError(Exception):
    """Another process holds the lock of the file."""
