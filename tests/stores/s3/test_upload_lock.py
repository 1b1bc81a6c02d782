"""`hftransfer.stores.s3.upload_lock`: who works on an upload, and who did."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hftransfer.stores.s3.upload_lock import claim, is_recorded, recover

UPLOAD = ("bucket", "a/key", "id")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for the records."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def test_what_is_claimed_is_nobody_elses() -> None:
    """Not to be claimed, not to be recovered, until its owner is done with it."""
    own = claim(*UPLOAD)

    assert own is not None
    assert is_recorded(*UPLOAD)
    assert claim(*UPLOAD) is None
    assert recover(*UPLOAD) is None
    own.release()
    own.release()
    assert not is_recorded(*UPLOAD)
    assert recover(*UPLOAD) is None


def test_what_was_dropped_can_be_recovered_once() -> None:
    """And then belongs to whoever did it."""
    own = claim(*UPLOAD)
    assert own is not None
    own.drop()

    assert recover("bucket", "a/key", "another") is None
    found = recover(*UPLOAD)
    assert found is not None
    assert recover(*UPLOAD) is None
    found.release()


def test_what_a_killed_process_had_can_be_recovered() -> None:
    """Its lock dies with it, and not before."""
    code = (
        "import sys\n"
        "from hftransfer.stores.s3.upload_lock import claim\n"
        f"own = claim(*{UPLOAD!r})\n"
        "print('claimed', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"claimed\n"
        assert recover(*UPLOAD) is None
        process.kill()
        process.wait()
        found = recover(*UPLOAD)

    assert found is not None
    found.release()


def test_where_nothing_can_be_recorded_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transfer goes on without."""
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))

    assert claim(*UPLOAD) is None
    assert recover(*UPLOAD) is None
    assert not is_recorded(*UPLOAD)


def test_records_that_nobody_ended_go_in_the_end(state: Path) -> None:
    """Long after the store has forgotten the upload; those of living processes stay."""
    old, living = claim("b", "old", "1"), claim("b", "living", "2")
    assert old is not None
    assert living is not None
    old.drop()
    for path in state.rglob("*.upload"):
        os.utime(path, (0, 0))

    new = claim("b", "new", "3")

    assert new is not None
    assert not is_recorded("b", "old", "1")
    assert is_recorded("b", "living", "2")
    for each in (living, new):
        each.release()
    assert list(state.rglob("*.upload")) == []
