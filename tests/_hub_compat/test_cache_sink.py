"""Downloads to the cache: permissions, resuming, and two processes at once."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hftransfer import snapshot_download
from hftransfer.testing import Fault, HubServer, RandomFile, Repo, Stall
from support.downloads import DEADLINE, MODEL, REPO, contents, expected
from support.hub import cdn_bytes

_MIB = 1 << 20


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_files_have_the_permissions_of_the_umask(repo: Repo, tmp_path: Path, mask: int) -> None:
    """In a shared cache the umask decides which users may read the files."""
    previous = os.umask(mask)
    try:
        folder = snapshot_download(REPO, cache_dir=tmp_path)
    finally:
        os.umask(previous)

    modes = {stat.S_IMODE(path.stat().st_mode) for path in Path(folder).rglob("*.*")}
    assert modes == {0o666 & ~mask}


_CHILD = """
import sys
from hftransfer import snapshot_download
snapshot_download(sys.argv[1], cache_dir=sys.argv[2])
"""


def downloading(hub: HubServer, repo_id: str, cache: Path) -> subprocess.Popen[bytes]:
    """Start a process that downloads a repository to `cache`."""
    environ = {**os.environ, **hub.environ()}
    return subprocess.Popen([sys.executable, "-c", _CHILD, repo_id, str(cache)], env=environ)


def test_a_killed_download_is_resumed(
    hub: HubServer, repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After SIGKILL the journalled chunks are not downloaded again; no partial file is left."""
    monkeypatch.setenv("HFTRANSFER_CHUNK_SIZE", str(_MIB))
    size = 16 * _MIB
    big = hub.create_repo("acme/big", files={"model.safetensors": RandomFile(size, seed=3)})
    blobs = tmp_path / "models--acme--big" / "blobs"
    stalled = hub.add_fault(Fault(host="cdn", ranged=True, after=4, action=Stall(), times=None))
    child = downloading(hub, "acme/big", tmp_path)
    try:
        assert stalled.wait(DEADLINE)
        # The CDN sends four chunks and stalls; wait until all four are in the journal.
        _wait_for(lambda: _journaled(blobs) == 4, child)
    finally:
        child.kill()
        child.wait()
    hub.clear_faults()
    hub.release()
    assert hub.wait_idle()
    hub.clear_requests()

    folder = snapshot_download("acme/big", cache_dir=tmp_path)

    assert contents(folder) == expected(big)
    assert cdn_bytes(hub) == size - 4 * _MIB
    assert list(blobs.glob("*.incomplete")) == []


def test_two_processes_download_each_blob_once(
    hub: HubServer, repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second process waits for the lock of the first, and finds the complete blob."""
    # With a second connection the scheduler would request the stalled range again.
    monkeypatch.setenv("HFTRANSFER_CONNECTIONS", "1")
    fault = hub.add_fault(Fault(host="cdn", action=Stall(), times=1))
    children = [downloading(hub, REPO, tmp_path)]
    try:
        assert fault.wait(DEADLINE)
        children.append(downloading(hub, REPO, tmp_path))
        _wait_for(lambda: sum("/revision/" in r.path for r in hub.requests) == 2, children[1])
        hub.release()
        assert [child.wait(DEADLINE) for child in children] == [0, 0]
    finally:
        for child in children:
            child.kill()
            child.wait()

    assert cdn_bytes(hub) == MODEL.size
    assert contents(next(tmp_path.glob("models--*/snapshots/*"))) == expected(repo)


def _journaled(blobs: Path) -> int:
    """Return the number of chunks in the journal of the partial file, which has one header line."""
    journals = blobs.glob("*.journal.incomplete")
    return sum(max(0, path.read_bytes().count(b"\n") - 1) for path in journals)


def _wait_for(condition: Callable[[], bool], child: subprocess.Popen[bytes]) -> None:
    """Wait until `condition` holds; fail when the child process ends before that."""
    while not condition():
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.05)
