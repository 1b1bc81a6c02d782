"""`hftransfer.testing`: slow file systems and those without flock."""

from __future__ import annotations

import errno
import fcntl
import io
import os
from pathlib import Path

import pytest

from hftransfer.testing import SlowFileSystem, no_flock


def test_each_metadata_call_below_the_folder_sleeps_once(tmp_path: Path) -> None:
    """Whichever way a library calls it; the calls are counted by name."""
    slept: list[float] = []
    slow = SlowFileSystem(tmp_path, delay=0.02, sleep=slept.append)
    file = tmp_path / "a" / "f"
    with slow:
        os.makedirs(file.parent)
        file.write_bytes(b"x")
        with open(file) as opened, open(str(file)):
            fcntl.flock(opened, fcntl.LOCK_EX)
        os.close(os.open(file, os.O_RDONLY))
        assert file.exists()
        assert os.path.isfile(file)
        os.utime(file)
        file.rename(tmp_path / "g")
        os.replace(tmp_path / "g", file)
        os.unlink(file)

    assert slow.calls["open"] == 4
    # `os.makedirs` looks at the parent, and then the file is looked at twice.
    assert (slow.calls["mkdir"], slow.calls["stat"], slow.calls["flock"]) == (1, 3, 1)
    assert (slow.calls["rename"], slow.calls["replace"], slow.calls["unlink"]) == (1, 1, 1)
    assert slept == [0.02] * slow.calls.total()


def test_other_folders_and_other_times_are_not_slow(tmp_path: Path) -> None:
    """The functions of `os` are the original ones again after the block."""
    before = (os.open, os.stat, io.open, open, fcntl.flock, set(os.supports_fd))
    slow = SlowFileSystem(tmp_path / "slow", delay=0)
    with slow:
        (tmp_path / "slow-not").mkdir()
        os.stat(tmp_path)
        assert os.utime in os.supports_fd

    assert not slow.calls
    assert (os.open, os.stat, io.open, open, fcntl.flock, set(os.supports_fd)) == before


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EIO, errno.EACCES])
def test_flock_fails_with_the_error_that_was_chosen(tmp_path: Path, code: int) -> None:
    """Until the end of the block."""
    with (tmp_path / "f").open("w") as file:
        with no_flock(code), pytest.raises(OSError, match=os.strerror(code)) as caught:
            fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.flock(file, fcntl.LOCK_EX)

    assert caught.value.errno == code
