"""`hftransfer._io.owner_lock`: locks without flock, between processes that die, stop and fork."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from hftransfer._io import owner_lock
from hftransfer._io.owner_lock import STALE_AGE, OwnerLock
from hftransfer._io.process_identity import ProcessIdentity
from hftransfer._io.regular_file import UnsafeFileError, create_exclusive
from support.files import descriptors

_HOLD = """
import sys
from pathlib import Path
from hftransfer._io.owner_lock import OwnerLock
lock = OwnerLock.try_acquire(Path(sys.argv[1]))
print(lock is not None, flush=True)
sys.stdin.read()
"""


def _holder(path: Path) -> subprocess.Popen[str]:
    """Start a process that tries to take the lock; return it when it has."""
    command = [sys.executable, "-c", _HOLD, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


def _set_age(path: Path, seconds: float) -> None:
    when = time.time() - seconds
    os.utime(path, (when, when))


def test_one_process_holds_the_lock_until_it_is_killed(tmp_path: Path) -> None:
    """Its death is seen at once, and the lock is taken over."""
    path = tmp_path / "lock"
    with _holder(path) as holder:
        assert OwnerLock.try_acquire(path) is None
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        lock = OwnerLock.try_acquire(path)

    assert lock is not None
    assert not lock.is_lost
    assert ProcessIdentity.parse(path.read_text()) == ProcessIdentity.current()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_process_keeps_the_lock(tmp_path: Path) -> None:
    """It is not dead, however old its lock is."""
    path = tmp_path / "lock"
    with _holder(path) as holder:
        holder.send_signal(signal.SIGSTOP)
        _set_age(path, 10 * STALE_AGE)
        assert OwnerLock.try_acquire(path) is None
        holder.kill()


@pytest.mark.parametrize(("age", "is_held"), [(0, True), (STALE_AGE / 2, True), (900, False)])
def test_the_age_decides_on_the_owner_of_another_machine(
    tmp_path: Path, age: float, is_held: bool
) -> None:
    """A living owner touches its lock; nobody here can see whether it lives."""
    path = tmp_path / "a.owner.incomplete"
    path.write_text(str(replace(ProcessIdentity.current(), host="elsewhere")))
    _set_age(path, age)

    lock = OwnerLock.try_acquire(path)

    assert (lock is None) == is_held
    if lock is not None:
        lock.release()
    assert [file.name for file in tmp_path.iterdir()] == ([path.name] if is_held else [])


@pytest.mark.parametrize("content", [b"", b"123", b"\xff\xfe\n\n"])
def test_a_file_without_an_owner_is_taken_over_after_seconds(
    tmp_path: Path, content: bytes
) -> None:
    """Its process died before it wrote the record, or it is the lock file of a flock."""
    path = tmp_path / "lock"
    path.write_bytes(content)
    assert OwnerLock.try_acquire(path) is None

    _set_age(path, 60)
    lock = OwnerLock.try_acquire(path)

    assert lock is not None
    lock.release()


def _leave_stale(path: Path) -> None:
    path.write_text(str(replace(ProcessIdentity.current(), start=1)))


def test_of_many_that_find_a_stale_lock_one_takes_it(tmp_path: Path) -> None:
    """Threads of this process at the same moment; the others are told that it is held."""
    for number in range(20):
        path = tmp_path / f"{number}.lock"
        _leave_stale(path)
        start = threading.Barrier(8)

        def take(path: Path, start: threading.Barrier) -> OwnerLock | None:
            start.wait(10)
            return OwnerLock.try_acquire(path)

        with ThreadPoolExecutor(8) as threads:
            found = [threads.submit(take, path, start) for _ in range(8)]
        taken = [lock for each in found if (lock := each.result()) is not None]

        assert len(taken) == 1
        taken[0].release()
    assert list(tmp_path.iterdir()) == []


def _after_the_first_look(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Call `action` when the next `try_acquire` has found the lock to be stale."""
    calls: list[Path] = []

    def create_and_act(path: Path, mode: int) -> int:
        calls.append(path)
        if len(calls) == 2:  # the claim
            action()
        return create_exclusive(path, mode)

    monkeypatch.setattr(owner_lock, "create_exclusive", create_and_act)


def test_a_process_that_is_late_does_not_take_a_lock_that_was_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look and its claim another one took the stale lock over."""
    path, winners = tmp_path / "lock", []
    _leave_stale(path)

    def win() -> None:
        monkeypatch.undo()
        winners.append(OwnerLock.try_acquire(path))

    _after_the_first_look(monkeypatch, win)
    assert OwnerLock.try_acquire(path) is None

    assert winners[0] is not None
    assert not winners[0].is_lost
    winners[0].release()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_of_a_killed_process_does_not_block(tmp_path: Path) -> None:
    """It is a lock with a dead owner, and is taken over like one."""
    path = tmp_path / "lock"
    _leave_stale(path)
    _leave_stale(owner_lock._Record.read(path).claim_path)

    lock = OwnerLock.try_acquire(path)

    assert lock is not None
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_the_owner_sees_that_its_lock_was_taken_over(tmp_path: Path) -> None:
    """And does not delete the new owner's."""
    path = tmp_path / "lock"
    lock = OwnerLock.try_acquire(path)
    assert lock is not None
    path.rename(tmp_path / "aside")
    path.write_text("of another one")

    assert lock.is_lost
    lock.release()
    assert path.read_text() == "of another one"


def test_the_heartbeat_touches_held_locks_and_ends_with_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that other machines see a living owner; without locks there is no thread."""
    monkeypatch.setattr(owner_lock, "_HEARTBEAT_INTERVAL", 0.001)
    touched, touch = threading.Event(), OwnerLock.touch

    def touch_and_tell(lock: OwnerLock) -> None:
        touch(lock)
        touched.set()

    monkeypatch.setattr(OwnerLock, "touch", touch_and_tell)
    before, path = descriptors(), tmp_path / "lock"
    lock = OwnerLock.try_acquire(path)
    assert lock is not None
    thread = owner_lock._heartbeat._thread
    assert thread is not None
    _set_age(path, 900)
    touched.clear()

    assert touched.wait(10)
    assert time.time() - path.stat().st_mtime < STALE_AGE
    lock.release()
    thread.join(10)
    assert not thread.is_alive()
    assert descriptors() == before


def test_a_forked_process_does_not_release_the_lock_of_its_parent(tmp_path: Path) -> None:
    """It closes the file only."""
    lock = OwnerLock.try_acquire(tmp_path / "lock")
    assert lock is not None
    pid = os.fork()
    if pid == 0:
        lock.release()
        os._exit(OwnerLock.try_acquire(tmp_path / "lock") is not None)

    assert os.waitpid(pid, 0)[1] == 0
    assert not lock.is_lost
    lock.release()


def test_a_link_is_no_lock(tmp_path: Path) -> None:
    """What it points to is neither read as a record nor replaced."""
    (tmp_path / "victim").write_text("1\nhost\n")
    (tmp_path / "lock").symlink_to("victim")

    with pytest.raises(UnsafeFileError):
        OwnerLock.try_acquire(tmp_path / "lock")
