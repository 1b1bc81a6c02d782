"""Locks between the tasks of one machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("metaflow.decorators")

from metaflow_extensions.hftransfer.plugins.hub.host_lock import host_lock, is_locked

pytestmark = pytest.mark.metaflow


def test_the_file_of_a_lock_is_removed(tmp_path: Path) -> None:
    """While it is held it is at its name, and other locks are free."""
    with host_lock("a", folder=str(tmp_path)) as lock:
        assert lock.held
        assert not lock.waited
        assert is_locked("a", folder=str(tmp_path))
        assert not is_locked("b", folder=str(tmp_path))

    assert list(tmp_path.iterdir()) == []
    assert not is_locked("a", folder=str(tmp_path))


def test_a_waiting_task_gets_the_lock_when_its_holder_dies(tmp_path: Path) -> None:
    """`on_wait` is called before the wait; the kernel releases the lock of a killed process."""
    program = """
import sys, time
from metaflow_extensions.hftransfer.plugins.hub.host_lock import host_lock
with host_lock("a", folder=sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with host_lock("a", on_wait=holder.kill, folder=str(tmp_path)) as lock:
            assert lock.waited
    assert holder.returncode != 0
    assert list(tmp_path.iterdir()) == []


def test_where_no_lock_can_be_made_the_block_runs_without(tmp_path: Path) -> None:
    """A folder that cannot be created is no reason to fail."""
    (tmp_path / "file").write_text("")

    with host_lock("a", folder=str(tmp_path / "file" / "below")) as lock:
        assert not lock.held
