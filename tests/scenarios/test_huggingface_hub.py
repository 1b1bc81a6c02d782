"""The same repository downloaded by huggingface_hub and by hftransfer: the files are identical.

huggingface_hub is the reference: other programs read what it writes to a cache or a
``local_dir``. Everything but time stamps must be equal, and each library must read what the
other one wrote.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

import hftransfer
from hftransfer.testing import HubServer, RandomFile
from support.downloads import HUB_VERSION

_REPO = "acme/tiny"
_FILES: dict[str, bytes | Path | RandomFile] = {
    "README.md": b"# tiny\n",
    "config.json": b'{"hidden_size": 8}\n',
    "copy of config.json": b'{"hidden_size": 8}\n',
    "empty.txt": b"",
    "model.safetensors": RandomFile(3_000_000, seed=1),
    "onnx/model.bin": RandomFile(70_000, seed=2),
    "sub folder/to?/awful#name%20&.json": b"[]",
}
_CACHES_LISTINGS = HUB_VERSION >= (1, 22)
"""Whether the installed huggingface_hub writes listings to ``trees/``."""

Download = Callable[..., Any]

_FILE_DOWNLOAD: dict[str, Download] = {
    "theirs": huggingface_hub.hf_hub_download,
    "ours": hftransfer.hf_hub_download,
}
_SNAPSHOT_DOWNLOAD: dict[str, Download] = {
    "theirs": huggingface_hub.snapshot_download,
    "ours": hftransfer.snapshot_download,
}


@pytest.fixture
def repo(hub: HubServer) -> str:
    """A repository with small, large, nested, equal and empty files, and unusual names."""
    created = hub.create_repo(_REPO, files=_FILES)
    created.create_branch("refs/pr/1")
    return created.find("main").id


def described(root: Path) -> dict[str, object]:
    """Return all paths below `root` with link targets and contents.

    Files whose format leaves a choice are parsed, and time stamps are left out.
    """
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_dir():
            found[f"{name}/"] = None
        elif "trees" in path.parts:
            if _CACHES_LISTINGS:
                found[name] = json.loads(path.read_text())
        elif path.name == "CACHEDIR.TAG":
            found[name] = path.read_text().splitlines()[0]  # the rest is a comment
        elif path.suffix == ".metadata":
            found[name] = path.read_text().splitlines()[:2]  # the third line is the time
        else:
            found[name] = path.read_bytes()
    if not _CACHES_LISTINGS:
        found = {name: value for name, value in found.items() if not name.endswith("trees/")}
    return found


def both(hub: HubServer, tmp_path: Path, download: str, *args: Any, **kwargs: Any) -> list[Path]:
    """Download with each library to its own cache; return both, huggingface_hub's first."""
    caches = []
    libraries: dict[str, Any] = {"theirs": huggingface_hub, "ours": hftransfer}
    for name, library in libraries.items():
        cache = tmp_path / name
        getattr(library, download)(*args, cache_dir=cache, endpoint=hub.endpoint, **kwargs)
        caches.append(cache)
    return caches


@pytest.mark.parametrize("revision", ["main", "refs/pr/1", None, "pinned"])
def test_snapshots_are_equal_in_the_cache(
    hub: HubServer, repo: str, tmp_path: Path, revision: str | None
) -> None:
    """Blobs, links, refs, listings and locks are the same."""
    revision = repo if revision == "pinned" else revision

    theirs, ours = both(hub, tmp_path, "snapshot_download", _REPO, revision=revision)

    assert described(ours) == described(theirs)


@pytest.mark.parametrize("repo_type", ["dataset", "space"])
def test_datasets_and_spaces_are_equal_in_the_cache(
    hub: HubServer, tmp_path: Path, repo_type: str
) -> None:
    """Their folders have the names that huggingface_hub gives them."""
    hub.create_repo("acme/other", repo_type=repo_type, files=_FILES)  # type: ignore[arg-type]

    theirs, ours = both(hub, tmp_path, "snapshot_download", "acme/other", repo_type=repo_type)

    assert described(ours) == described(theirs)


def test_a_second_commit_shares_unchanged_blobs(hub: HubServer, tmp_path: Path) -> None:
    """After a new commit both caches have two snapshots, and each blob once."""
    created = hub.create_repo(_REPO, files=_FILES)
    both(hub, tmp_path, "snapshot_download", _REPO)
    created.commit({"config.json": b"{}", "new/model.bin": RandomFile(70_000, seed=2)})

    theirs, ours = both(hub, tmp_path, "snapshot_download", _REPO)

    assert described(ours) == described(theirs)
    assert len(list((ours / "models--acme--tiny" / "snapshots").iterdir())) == 2
    assert huggingface_hub.scan_cache_dir(ours).warnings == []


@pytest.mark.parametrize(
    ("filename", "subfolder"),
    [("config.json", None), ("model.safetensors", None), ("model.bin", "onnx"), ("empty.txt", "")],
)
@pytest.mark.parametrize("pinned", [False, True])
def test_single_files_are_equal_in_the_cache(
    hub: HubServer, repo: str, tmp_path: Path, filename: str, subfolder: str | None, pinned: bool
) -> None:
    """`hf_hub_download` writes a blob and a link, and no listing."""
    theirs, ours = both(
        hub,
        tmp_path,
        "hf_hub_download",
        _REPO,
        filename,
        subfolder=subfolder,
        revision=repo if pinned else "main",
    )

    assert described(ours) == described(theirs)


def test_a_missing_file_is_recorded_equally(hub: HubServer, repo: str, tmp_path: Path) -> None:
    """After EntryNotFound both caches record that the commit has no such file."""
    caches = []
    for name, download in _FILE_DOWNLOAD.items():
        caches.append(tmp_path / name)
        with pytest.raises(errors.EntryNotFoundError):
            download(_REPO, "missing.json", cache_dir=caches[-1], endpoint=hub.endpoint)

    theirs, ours = caches

    assert described(ours) == described(theirs)
    assert (
        type(huggingface_hub.try_to_load_from_cache(_REPO, "missing.json", cache_dir=ours))
        is object
    )


def test_local_dirs_are_equal(hub: HubServer, repo: str, tmp_path: Path) -> None:
    """Files, metadata, locks and listings of a ``local_dir`` are equal, and so is the cache."""
    folders = []
    for name, download in _SNAPSHOT_DOWNLOAD.items():
        root = tmp_path / name
        folders.append(root)
        download(_REPO, local_dir=root / "dir", cache_dir=root / "cache", endpoint=hub.endpoint)

    theirs, ours = folders

    assert described(ours) == described(theirs)


@pytest.mark.parametrize("filename", ["config.json", "onnx/model.bin"])
def test_single_files_in_local_dirs_are_equal(
    hub: HubServer, repo: str, tmp_path: Path, filename: str
) -> None:
    """One file in a ``local_dir`` has the same metadata."""
    folders = []
    for name, download in _FILE_DOWNLOAD.items():
        root = tmp_path / name
        folders.append(root)
        cache = root / "cache"
        download(_REPO, filename, local_dir=root / "dir", cache_dir=cache, endpoint=hub.endpoint)

    theirs, ours = folders

    assert described(ours / "dir") == described(theirs / "dir")


@pytest.mark.parametrize(("writer", "reader"), [("theirs", "ours"), ("ours", "theirs")])
def test_each_reads_the_cache_of_the_other(
    hub: HubServer, repo: str, tmp_path: Path, writer: str, reader: str
) -> None:
    """With ``local_files_only`` each library returns what the other one downloaded."""
    written = _SNAPSHOT_DOWNLOAD[writer](_REPO, cache_dir=tmp_path, endpoint=hub.endpoint)
    hub.clear_requests()

    read = _SNAPSHOT_DOWNLOAD[reader](_REPO, cache_dir=tmp_path, local_files_only=True)
    file = _FILE_DOWNLOAD[reader](_REPO, "config.json", cache_dir=tmp_path, local_files_only=True)

    assert (read, file) == (written, f"{written}/config.json")
    assert hub.requests == []
    assert huggingface_hub.scan_cache_dir(tmp_path).warnings == []


@pytest.mark.parametrize(("writer", "reader"), [("theirs", "ours"), ("ours", "theirs")])
def test_each_completes_the_snapshot_of_the_other(
    hub: HubServer, repo: str, tmp_path: Path, writer: str, reader: str
) -> None:
    """A file that one library has downloaded is not downloaded again by the other one."""
    where: dict[str, Any] = {"cache_dir": tmp_path, "endpoint": hub.endpoint}
    _SNAPSHOT_DOWNLOAD[writer](_REPO, allow_patterns="*.safetensors", **where)
    hub.clear_requests()

    _SNAPSHOT_DOWNLOAD[reader](_REPO, **where)

    fetched = [r.file for r in hub.requests if r.method == "GET" and r.file is not None]
    assert f"{_REPO}/model.safetensors" not in fetched
    assert f"{_REPO}/onnx/model.bin" in fetched
    assert huggingface_hub.scan_cache_dir(tmp_path).warnings == []


@pytest.mark.parametrize(("writer", "reader"), [("theirs", "ours"), ("ours", "theirs")])
def test_each_reads_the_local_dir_of_the_other(
    hub: HubServer, repo: str, tmp_path: Path, writer: str, reader: str
) -> None:
    """A ``local_dir`` of a pinned commit that one library has written is complete for the other."""
    where = {"local_dir": tmp_path / "dir", "cache_dir": tmp_path / "cache", "revision": repo}
    _SNAPSHOT_DOWNLOAD[writer](_REPO, endpoint=hub.endpoint, **where)
    hub.clear_requests()

    _SNAPSHOT_DOWNLOAD[reader](_REPO, endpoint=hub.endpoint, **where)

    assert [r.path for r in hub.requests if r.file is not None] == []


@pytest.mark.skipif(HUB_VERSION < (1, 0), reason="dry_run came with huggingface_hub 1.0")
@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("force", [False, True])
def test_dry_runs_are_equal(
    hub: HubServer, repo: str, tmp_path: Path, local: bool, force: bool
) -> None:
    """With one of the files on the disk both libraries return the same information."""
    where: dict[str, Any] = {"cache_dir": tmp_path / "cache", "endpoint": hub.endpoint}
    if local:
        where["local_dir"] = tmp_path / "dir"
    huggingface_hub.hf_hub_download(_REPO, "model.safetensors", **where)
    before = described(tmp_path)

    ours = hftransfer.snapshot_download(_REPO, dry_run=True, force_download=force, **where)
    one = hftransfer.hf_hub_download(
        _REPO, "model.safetensors", dry_run=True, force_download=force, **where
    )

    assert described(tmp_path) == before
    theirs = huggingface_hub.snapshot_download(_REPO, dry_run=True, force_download=force, **where)
    assert sorted(ours, key=str) == sorted(theirs, key=str)
    assert one in theirs
