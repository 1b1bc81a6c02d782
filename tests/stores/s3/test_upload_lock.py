"""`hftransfer.stores.s3.upload_lock`: which process may continue an upload."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hftransfer.stores.s3.upload_lock import UploadLock, has_lock_file

UPLOAD = ("bucket", "a/key", "id")


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for the lock files."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def test_a_held_lock_is_exclusive() -> None:
    """It can be neither created nor adopted again until it is deleted."""
    lock = UploadLock.create(*UPLOAD)

    assert lock is not None
    assert has_lock_file(*UPLOAD)
    assert UploadLock.create(*UPLOAD) is None
    assert UploadLock.adopt(*UPLOAD) is None
    lock.delete()
    lock.delete()
    assert not has_lock_file(*UPLOAD)
    assert UploadLock.adopt(*UPLOAD) is None


def test_an_unlocked_file_can_be_adopted_once() -> None:
    """The lock of that upload, and of no other."""
    created = UploadLock.create(*UPLOAD)
    assert created is not None
    created.unlock()

    assert UploadLock.adopt("bucket", "a/key", "another") is None
    adopted = UploadLock.adopt(*UPLOAD)
    assert adopted is not None
    assert UploadLock.adopt(*UPLOAD) is None
    adopted.delete()


def test_the_lock_of_a_killed_process_can_be_adopted() -> None:
    """The kernel releases the lock when the process dies, and not before."""
    code = (
        "import sys\n"
        "from hftransfer.stores.s3.upload_lock import UploadLock\n"
        f"lock = UploadLock.create(*{UPLOAD!r})\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        assert UploadLock.adopt(*UPLOAD) is None
        process.kill()
        process.wait()
        adopted = UploadLock.adopt(*UPLOAD)

    assert adopted is not None
    adopted.delete()


def test_an_unusable_state_folder_means_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No error is raised, so that the transfer goes on without resuming."""
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))

    assert UploadLock.create(*UPLOAD) is None
    assert UploadLock.adopt(*UPLOAD) is None
    assert not has_lock_file(*UPLOAD)


def test_old_lock_files_are_deleted_unless_they_are_held(state_folder: Path) -> None:
    """Creating a lock deletes the files of uploads that the store has long removed."""
    old, held = UploadLock.create("b", "old", "1"), UploadLock.create("b", "held", "2")
    assert old is not None
    assert held is not None
    old.unlock()
    files = list(state_folder.rglob("*.upload"))
    assert len(files) == 2
    for path in files:
        os.utime(path, (0, 0))

    new = UploadLock.create("b", "new", "3")

    assert new is not None
    assert not has_lock_file("b", "old", "1")
    assert has_lock_file("b", "held", "2")
    for lock in (held, new):
        lock.delete()
    assert list(state_folder.rglob("*.upload")) == []
