"""One file on its way to a place that huggingface_hub may write at the same time.

A large file is locked from its first byte on, so that it is fetched once by whoever comes
first. A small one is locked only while it is written: to fetch it twice costs less than
to ask for a lock before it is known whether anybody else wants it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from anyio import to_thread

from hftransfer._core.manifest import FileManifest
from hftransfer._core.plan import Chunk
from hftransfer._io.file_lock import FileLock
from hftransfer._io.os_errors import map_write_errors
from hftransfer._io.thread_batch import ThreadBatch
from hftransfer.stores.local.sink import LocalFileSink, SmallFileSink

__all__ = ("LockedFileSink", "LockedSmallFileSink", "storing")

T = TypeVar("T")


async def storing(path: Path, action: Callable[[], T]) -> T:
    """Run `action` in a worker thread.

    Raises:
        DestinationError: about `path`, if `action` raises an ``OSError``.
    """

    def guarded() -> T:
        with map_write_errors(path):
            return action()

    return await to_thread.run_sync(guarded)


class LockedFileSink:
    """A local file that is locked until it is published and what belongs to it is done."""

    def __init__(
        self, inner: LocalFileSink, lock: FileLock, after: Callable[[], None], target: Path
    ) -> None:
        self._inner = inner
        self._lock = lock
        self._after = after
        self._target = target

    @property
    def resumable_chunks(self) -> Mapping[int, str]:
        return self._inner.resumable_chunks

    async def read_into(self, chunk: Chunk, buffer: memoryview) -> None:
        await self._inner.read_into(chunk, buffer)

    async def write(self, chunk: Chunk, data: memoryview, digest: str) -> None:
        await self._inner.write(chunk, data, digest)

    async def commit(self, manifest: FileManifest) -> None:
        try:
            await self._inner.commit(manifest)
            await storing(self._target, self._after)
        finally:
            self._lock.release()

    async def abort(self, *, discard: bool) -> None:
        try:
            await self._inner.abort(discard=discard)
        finally:
            self._lock.release()


class LockedSmallFileSink:
    """A small file that is locked only while it is written.

    Two processes may both fetch it; one after the other they write the same.

    Args:
        publish: gives the file its content and does what belongs to it; called in a worker
            thread, with the lock held.
        lock: of the file.
        batch: shared by the small files of one sink.
    """

    def __init__(
        self,
        publish: Callable[[memoryview], None],
        lock: FileLock,
        batch: ThreadBatch,
        target: Path,
    ) -> None:
        self._lock = lock
        self._locked_publish = publish
        self._target = target
        self._inner = SmallFileSink(self._publish, batch)

    @property
    def resumable_chunks(self) -> Mapping[int, str]:
        return self._inner.resumable_chunks

    async def read_into(self, chunk: Chunk, buffer: memoryview) -> None:
        await self._inner.read_into(chunk, buffer)

    async def write(self, chunk: Chunk, data: memoryview, digest: str) -> None:
        await self._when_free(partial(self._inner.write, chunk, data, digest))

    async def commit(self, manifest: FileManifest) -> None:
        await self._when_free(partial(self._inner.commit, manifest))

    async def abort(self, *, discard: bool) -> None:
        await self._inner.abort(discard=discard)

    async def _when_free(self, action: Callable[[], Awaitable[None]]) -> None:
        """Run `action`; if another process holds the lock, again when it was given back."""
        try:
            await action()
        except _LockedError:
            await self._lock.acquire()
            await action()

    def _publish(self, data: memoryview) -> None:
        if not self._lock.is_held and self._lock.try_acquire() is None:
            raise _LockedError
        try:
            with map_write_errors(self._target):
                self._locked_publish(data)
        finally:
            self._lock.release()


class _LockedError(Exception):
    """Another process works on the file."""
