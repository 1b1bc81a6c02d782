"""Downloads to a `local_dir`."""

from __future__ import annotations

import os
from pathlib import Path

from hftransfer import snapshot_download
from hftransfer.testing import HubServer, Repo
from support.downloads import REPO, contents, expected


def test_other_files_of_a_local_dir_are_kept(repo: Repo, tmp_path: Path) -> None:
    """Only files of the repository are replaced, and all files are plain files, not links."""
    (tmp_path / "other.txt").write_bytes(b"other")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "own").write_bytes(b"own")
    (tmp_path / "config.json").write_bytes(b"older than the repository's")

    folder = snapshot_download(REPO, local_dir=tmp_path)

    assert folder == os.path.realpath(tmp_path)
    assert contents(folder) == {**expected(repo), "other.txt": b"other", "sub/own": b"own"}
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


def test_a_local_dir_is_copied_from_the_cache(hub: HubServer, repo: Repo, tmp_path: Path) -> None:
    """Files that the cache has are not downloaded, and no temporary file is left."""
    snapshot_download(REPO, cache_dir=tmp_path / "cache")
    hub.clear_requests()

    folder = snapshot_download(REPO, cache_dir=tmp_path / "cache", local_dir=tmp_path / "dir")

    assert contents(folder) == expected(repo)
    assert [record for record in hub.requests if record.file is not None] == []
    assert list(Path(folder).rglob("*.incomplete")) == []


def test_a_damaged_cache_is_not_copied(hub: HubServer, repo: Repo, tmp_path: Path) -> None:
    """A blob whose content does not match its digest is downloaded instead."""
    cached = snapshot_download(REPO, cache_dir=tmp_path / "cache")
    blob = Path(cached, "model.safetensors").resolve()
    blob.write_bytes(bytes(blob.stat().st_size))

    folder = snapshot_download(REPO, cache_dir=tmp_path / "cache", local_dir=tmp_path / "dir")

    assert contents(folder) == expected(repo)
