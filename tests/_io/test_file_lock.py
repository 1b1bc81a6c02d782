"""`hftransfer._io.file_lock`: locks between descriptors, processes and libraries."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import pytest

from hftransfer._io.file_lock import (
    FileLock,
    LockHeldError,
    LocksUnsupportedError,
    lock_descriptor,
    open_locked,
)

_CREATE = os.O_RDWR | os.O_CREAT


def _break_flock(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Make every ``flock`` fail with the errno `code`."""

    def flock(fd: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_locked_file_cannot_be_locked_again(tmp_path: Path) -> None:
    """The second descriptor gets the lock only after the first one is closed."""
    first = open_locked(tmp_path / "lock", _CREATE)

    with pytest.raises(LockHeldError):
        open_locked(tmp_path / "lock", os.O_RDWR)
    os.close(first)
    os.close(open_locked(tmp_path / "lock", os.O_RDWR))


def test_the_lock_of_a_deleted_file_is_not_acquired(tmp_path: Path) -> None:
    """It excludes no process: the next one creates and locks a new file at the path."""
    path = tmp_path / "lock"
    fd = os.open(path, _CREATE)
    path.unlink()

    with pytest.raises(LockHeldError):
        lock_descriptor(fd, path)
    path.touch()
    with pytest.raises(LockHeldError):
        lock_descriptor(fd, path)
    os.close(fd)


def test_waiting_ends_with_the_lock_of_the_file_that_is_at_the_path(tmp_path: Path) -> None:
    """If the holder deletes the file and unlocks it, the waiter locks a new file."""
    path = tmp_path / "lock"
    holder = open_locked(path, _CREATE)
    acquired: list[int] = []
    waiter = threading.Thread(target=lambda: acquired.append(open_locked(path, _CREATE, wait=True)))
    waiter.start()

    path.unlink()
    os.close(holder)
    waiter.join(10)

    assert len(acquired) == 1
    assert os.path.samestat(os.fstat(acquired[0]), path.stat())
    os.close(acquired[0])


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.EAGAIN, LockHeldError),
        (errno.EACCES, LockHeldError),
        (errno.ENOLCK, LocksUnsupportedError),
        (errno.EOPNOTSUPP, LocksUnsupportedError),
        (errno.EIO, OSError),
    ],
)
def test_the_errors_of_flock_are_distinguished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, expected: type[OSError]
) -> None:
    """Held, unsupported and other errors are distinguished; no descriptor stays open."""
    descriptors = len(os.listdir("/proc/self/fd"))
    _break_flock(monkeypatch, code)

    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        open_locked(tmp_path / "lock", _CREATE)

    assert type(caught.value) is expected
    assert caught.value.errno == code
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_the_lock_needs_no_anyio() -> None:
    """Processes without an event loop lock files without the cost of loading anyio."""
    code = "import sys, hftransfer._io.file_lock; print('anyio' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert shown.stdout == "False\n"


@pytest.mark.anyio
async def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`acquire` returns False at once, and there is nothing to release."""
    _break_flock(monkeypatch, errno.ENOLCK)
    lock = FileLock(tmp_path / "blob.lock")

    assert await lock.acquire() is False
    assert not lock.is_held
    lock.release()


@pytest.mark.anyio
async def test_acquire_waits_for_the_holder(tmp_path: Path) -> None:
    """The second caller gets the lock when the first one releases it, and not before."""
    path = tmp_path / ".locks" / "blob.lock"
    first, second = FileLock(path), FileLock(path)
    order = []

    async def wait() -> None:
        assert await second.acquire()
        order.append("acquired")

    assert await first.acquire()
    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        order.append("released")
        first.release()
    second.release()

    assert order == ["released", "acquired"]


@pytest.mark.anyio
async def test_filelock_takes_the_same_lock(tmp_path: Path) -> None:
    """The library that huggingface_hub uses and `FileLock` exclude each other."""
    filelock = pytest.importorskip("filelock")
    lock = FileLock(tmp_path / "blob.lock")
    other = filelock.FileLock(tmp_path / "blob.lock", timeout=0)

    assert await lock.acquire()
    with pytest.raises(filelock.Timeout):
        other.acquire()
    lock.release()

    order = []

    async def wait() -> None:
        assert await lock.acquire()
        order.append("acquired")

    async with anyio.create_task_group() as group:
        other.acquire()
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        order.append("released")
        other.release()
    lock.release()

    assert order == ["released", "acquired"]


@pytest.mark.anyio
async def test_waiting_for_a_lock_can_be_cancelled(tmp_path: Path) -> None:
    """Ctrl-C does not wait for the download of another process."""
    holder, waiter = FileLock(tmp_path / "blob.lock"), FileLock(tmp_path / "blob.lock")
    assert await holder.acquire()

    async with anyio.create_task_group() as group:
        group.start_soon(waiter.acquire)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()

    holder.release()
    assert await waiter.acquire()
    waiter.release()


@pytest.mark.anyio
async def test_a_lock_file_is_writable_for_the_group(tmp_path: Path) -> None:
    """Members of a group share caches, whatever the umask of the process that created it."""
    lock = FileLock(tmp_path / "blob.lock")
    previous = os.umask(0o077)
    try:
        assert await lock.acquire()
    finally:
        os.umask(previous)
    lock.release()

    assert (tmp_path / "blob.lock").stat().st_mode & 0o777 == 0o664
