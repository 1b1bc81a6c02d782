"""Small files whose lock another process holds."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from hftransfer._core.plan import Chunk
from hftransfer._hub_compat.locked_sink import LockedSmallFileSink
from hftransfer._io.file_lock import FileLock
from hftransfer._io.thread_batch import ThreadBatch
from hftransfer.errors import DestinationError

pytestmark = pytest.mark.anyio


class RecordingPublish:
    """Records each content that it is called with, and whether the lock was held."""

    def __init__(self, lock: FileLock) -> None:
        self._lock = lock
        self.calls: list[tuple[bytes, bool]] = []

    def __call__(self, data: memoryview) -> None:
        self.calls.append((bytes(data), self._lock.is_held))


class BlockedLock(FileLock):
    """Sets `blocked` when the lock turns out to be held by another one."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.blocked = anyio.Event()

    async def acquire(self) -> bool:
        self.blocked.set()
        return await super().acquire()


async def test_a_small_file_is_written_under_its_lock(tmp_path: Path) -> None:
    """A free lock is taken for the write alone."""
    lock = FileLock(tmp_path / "lock")
    publish = RecordingPublish(lock)
    sink = LockedSmallFileSink(publish, lock, ThreadBatch(), tmp_path / "file")

    await sink.write(Chunk(0, 0, 1), memoryview(b"x"), "digest")

    assert publish.calls == [(b"x", True)]
    assert not lock.is_held


async def test_a_small_file_is_written_after_the_other_process(tmp_path: Path) -> None:
    """While another process holds the lock nothing is written; then the write is done once."""
    lock, other = BlockedLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    publish = RecordingPublish(lock)
    sink = LockedSmallFileSink(publish, lock, ThreadBatch(), tmp_path / "file")
    assert await other.acquire()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sink.write, Chunk(0, 0, 1), memoryview(b"x"), "digest")
        await lock.blocked.wait()
        assert publish.calls == []
        other.release()

    assert publish.calls == [(b"x", True)]
    assert not lock.is_held


async def test_a_failed_write_releases_the_lock(tmp_path: Path) -> None:
    """An OSError becomes a DestinationError that names the file."""

    def publish(data: memoryview) -> None:
        raise OSError("the disk is gone")

    lock = FileLock(tmp_path / "lock")
    sink = LockedSmallFileSink(publish, lock, ThreadBatch(), tmp_path / "file")

    with pytest.raises(DestinationError, match=str(tmp_path / "file")):
        await sink.write(Chunk(0, 0, 1), memoryview(b"x"), "digest")

    assert not lock.is_held
