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

from hftransfer._io.file_lock import FileLock, LockedFile, LockHeldError, open_locked
from hftransfer._io.regular_file import UnsafeFileError
from hftransfer.testing import no_flock
from support.files import descriptors

_CREATE = os.O_RDWR | os.O_CREAT


def test_a_locked_file_cannot_be_locked_again(tmp_path: Path) -> None:
    """The second descriptor gets the lock only after the first one is closed."""
    first = open_locked(tmp_path / "lock", _CREATE)

    with pytest.raises(LockHeldError):
        open_locked(tmp_path / "lock", os.O_RDWR)
    first.close()
    open_locked(tmp_path / "lock", os.O_RDWR).close()


def test_the_lock_of_a_deleted_file_is_not_acquired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It excludes no process: the next one creates and locks a new file at the path."""
    path, flock = tmp_path / "lock", fcntl.flock

    def lock_what_was_deleted(fd: int, operation: int) -> None:
        path.unlink()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", lock_what_was_deleted)
    with pytest.raises(LockHeldError):
        open_locked(path, _CREATE)


def test_a_locked_file_that_was_replaced_is_lost(tmp_path: Path) -> None:
    """Its holder must not rename what is at the path now."""
    path = tmp_path / "lock"
    file = open_locked(path, _CREATE)
    seen = [file.is_lost]

    path.rename(tmp_path / "other")
    seen.append(file.is_lost)
    path.symlink_to("other")
    seen.append(file.is_lost)
    file.close()

    assert seen == [False, True, True]


def test_waiting_ends_with_the_lock_of_the_file_that_is_at_the_path(tmp_path: Path) -> None:
    """If the holder deletes the file and unlocks it, the waiter locks a new file."""
    path = tmp_path / "lock"
    holder = open_locked(path, _CREATE)
    acquired: list[LockedFile] = []
    waiter = threading.Thread(target=lambda: acquired.append(open_locked(path, _CREATE, wait=True)))
    waiter.start()

    path.unlink()
    holder.close()
    waiter.join(10)

    assert len(acquired) == 1
    assert not acquired[0].is_lost
    acquired[0].close()


# Of flock(2), of network file systems and of FUSE; those that mean "held", from a file system
# that says so of every file; one that no program expects.
_ERRNOS = [
    errno.ENOLCK,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EINVAL,
    errno.EIO,
    errno.ESTALE,
    errno.EBADF,
    errno.EPERM,
    errno.EACCES,
    errno.EAGAIN,
    errno.EDOM,
]


@pytest.mark.parametrize("code", _ERRNOS, ids=errno.errorcode.get)
def test_where_flock_fails_a_file_with_the_owner_is_the_lock(tmp_path: Path, code: int) -> None:
    """Whatever the error: one holder at a time, no descriptor and no file left over."""
    path, before = tmp_path / "a.incomplete", descriptors()
    with no_flock(code):
        first = open_locked(path, _CREATE)
        assert (tmp_path / "a.owner.incomplete").exists()
        with pytest.raises(LockHeldError):
            open_locked(path, _CREATE)
        first.close()
        open_locked(path, _CREATE).close()

    assert [file.name for file in tmp_path.iterdir()] == ["a.incomplete"]
    assert descriptors() == before


def test_an_interrupted_flock_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EINTR says nothing about the lock."""
    flock, failures = fcntl.flock, [InterruptedError(errno.EINTR, "interrupted")]

    def interrupted(fd: int, operation: int) -> None:
        if failures:
            raise failures.pop()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", interrupted)
    open_locked(tmp_path / "lock", _CREATE).close()

    assert [file.name for file in tmp_path.iterdir()] == ["lock"]


def test_a_link_at_the_name_of_a_lock_is_refused(tmp_path: Path) -> None:
    """The file that it points to keeps its content, also where flock fails."""
    victim, path = tmp_path / "victim", tmp_path / "lock"
    victim.write_text("content")
    path.symlink_to(victim)

    for lock_file in (path, tmp_path / "other"):
        if lock_file != path:  # the file of the owner
            (tmp_path / "other.owner").symlink_to(victim)
        with no_flock(), pytest.raises(UnsafeFileError):
            open_locked(lock_file, _CREATE)
    with pytest.raises(UnsafeFileError):
        open_locked(path, _CREATE)
    assert victim.read_text() == "content"


def test_the_lock_needs_no_anyio() -> None:
    """Processes without an event loop lock files without the cost of loading anyio."""
    code = "import sys, hftransfer._io.file_lock; print('anyio' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert shown.stdout == "False\n"


@pytest.mark.anyio
@pytest.mark.parametrize("code", _ERRNOS, ids=errno.errorcode.get)
async def test_a_file_lock_without_flock(tmp_path: Path, code: int) -> None:
    """The lock file itself is the lock, as for huggingface_hub, and is deleted on release."""
    first, second = FileLock(tmp_path / "blob.lock"), FileLock(tmp_path / "blob.lock")
    before = descriptors()
    with no_flock(code):
        assert await first.acquire() is True
        assert second.try_acquire() is None
        first.release()
        assert second.try_acquire() is True
        second.release()

    assert os.listdir(tmp_path) == []
    assert descriptors() == before


@pytest.mark.anyio
async def test_without_flock_filelock_takes_the_same_lock(tmp_path: Path) -> None:
    """huggingface_hub falls back to `filelock.SoftFileLock`, and waits for this lock."""
    filelock = pytest.importorskip("filelock")
    lock = FileLock(tmp_path / "blob.lock")
    other = filelock.SoftFileLock(tmp_path / "blob.lock", timeout=0)
    with no_flock():
        assert lock.try_acquire() is True
        with pytest.raises(filelock.Timeout):
            other.acquire()
        lock.release()
        with other:
            assert lock.try_acquire() is None
        assert lock.try_acquire() is True
        lock.release()


@pytest.mark.anyio
async def test_a_lock_that_cannot_be_taken_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file in the way of its folder, for example: the download goes on, with a warning."""
    (tmp_path / "file").touch()
    lock = FileLock(tmp_path / "file" / "blob.lock")

    assert await lock.acquire() is False
    assert not lock.is_held
    assert "continuing without the lock" in caplog.text
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


def test_the_lock_of_a_cache_that_was_copied_by_hard_links(tmp_path: Path) -> None:
    """Nothing is written to the file, so its other name does no harm; a link is refused."""
    path = tmp_path / "blob.lock"
    path.touch()
    (tmp_path / "copy.lock").hardlink_to(path)
    (tmp_path / "link.lock").symlink_to(path)

    lock = FileLock(tmp_path / "copy.lock")
    assert lock.try_acquire() is True
    lock.release()
    assert FileLock(tmp_path / "link.lock").try_acquire() is False
