"""The same repository downloaded by huggingface_hub and by us: equal on the disk, byte for byte.

huggingface_hub is the oracle: what it leaves in a cache or a ``local_dir`` is what others
read, so everything but time stamps has to be the same, and each has to read the other's.
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
# huggingface_hub keeps listings from this version on.
_HUB = tuple(int(part) for part in huggingface_hub.__version__.split(".")[:2])
_KEEPS_TREES = _HUB >= (1, 22)

Download = Callable[..., Any]


@pytest.fixture
def repo(hub: HubServer) -> str:
    """A repository with small and large, nested, equal, empty and oddly named files."""
    created = hub.create_repo(_REPO, files=_FILES)
    created.create_branch("refs/pr/1")
    return created.find("main").id


def described(root: Path) -> dict[str, object]:
    """Everything below `root`: link targets, contents, parsed where their form is free."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_dir():
            found[f"{name}/"] = None
        elif "trees" in path.parts:
            if _KEEPS_TREES:
                found[name] = json.loads(path.read_text())
        elif path.name == "CACHEDIR.TAG":
            found[name] = path.read_text().splitlines()[0]  # the rest is prose
        elif path.suffix == ".metadata":
            found[name] = path.read_text().splitlines()[:2]  # the third one is the time
        else:
            found[name] = path.read_bytes()
    if not _KEEPS_TREES:
        found = {name: value for name, value in found.items() if not name.endswith("trees/")}
    return found


def both(hub: HubServer, tmp_path: Path, download: str, *args: Any, **kwargs: Any) -> list[Path]:
    """Download by each library into a cache of its own; return the two caches, theirs first."""
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
    """Blobs, links, refs, listings and locks are the same whoever downloaded."""
    revision = repo if revision == "pinned" else revision

    theirs, ours = both(hub, tmp_path, "snapshot_download", _REPO, revision=revision)

    assert described(ours) == described(theirs)


@pytest.mark.parametrize("repo_type", ["dataset", "space"])
def test_other_kinds_of_repository_are_equal_too(
    hub: HubServer, tmp_path: Path, repo_type: str
) -> None:
    """Datasets and spaces lie where huggingface_hub puts them."""
    hub.create_repo("acme/other", repo_type=repo_type, files=_FILES)  # type: ignore[arg-type]

    theirs, ours = both(hub, tmp_path, "snapshot_download", "acme/other", repo_type=repo_type)

    assert described(ours) == described(theirs)


def test_a_second_commit_shares_what_did_not_change(hub: HubServer, tmp_path: Path) -> None:
    """After a new commit both caches hold two snapshots, and each blob once."""
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
    """`hf_hub_download` leaves what huggingface_hub's leaves: no listing, one link."""
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


def test_a_missing_file_is_noted_alike(hub: HubServer, repo: str, tmp_path: Path) -> None:
    """After EntryNotFound both caches know that the commit has no such file."""
    caches = []
    for name, download in _single.items():
        caches.append(tmp_path / name)
        with pytest.raises(errors.EntryNotFoundError):
            download(_REPO, "missing.json", cache_dir=caches[-1], endpoint=hub.endpoint)

    theirs, ours = caches

    assert described(ours) == described(theirs)
    assert (
        type(huggingface_hub.try_to_load_from_cache(_REPO, "missing.json", cache_dir=ours))
        is object
    )


_single: dict[str, Download] = {
    "theirs": huggingface_hub.hf_hub_download,
    "ours": hftransfer.hf_hub_download,
}
_whole: dict[str, Download] = {
    "theirs": huggingface_hub.snapshot_download,
    "ours": hftransfer.snapshot_download,
}


def test_local_dirs_are_equal(hub: HubServer, repo: str, tmp_path: Path) -> None:
    """Files, metadata, locks and listings in a ``local_dir`` are the same, and so is the cache."""
    folders = []
    for name, download in _whole.items():
        root = tmp_path / name
        folders.append(root)
        download(_REPO, local_dir=root / "dir", cache_dir=root / "cache", endpoint=hub.endpoint)

    theirs, ours = folders

    assert described(ours) == described(theirs)


@pytest.mark.parametrize("filename", ["config.json", "onnx/model.bin"])
def test_single_files_in_local_dirs_are_equal(
    hub: HubServer, repo: str, tmp_path: Path, filename: str
) -> None:
    """One file in a ``local_dir`` comes with the same metadata and leaves the cache alone."""
    folders = []
    for name, download in _single.items():
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
    """With ``local_files_only`` one library returns what the other one downloaded."""
    written = _whole[writer](_REPO, cache_dir=tmp_path, endpoint=hub.endpoint)
    hub.clear_requests()

    read = _whole[reader](_REPO, cache_dir=tmp_path, local_files_only=True)
    file = _single[reader](_REPO, "config.json", cache_dir=tmp_path, local_files_only=True)

    assert (read, file) == (written, f"{written}/config.json")
    assert hub.requests == []
    assert huggingface_hub.scan_cache_dir(tmp_path).warnings == []


@pytest.mark.parametrize(("writer", "reader"), [("theirs", "ours"), ("ours", "theirs")])
def test_each_completes_what_the_other_began(
    hub: HubServer, repo: str, tmp_path: Path, writer: str, reader: str
) -> None:
    """What one library has downloaded the other one does not download again."""
    _whole[writer](_REPO, cache_dir=tmp_path, endpoint=hub.endpoint, allow_patterns="*.safetensors")
    hub.clear_requests()

    _whole[reader](_REPO, cache_dir=tmp_path, endpoint=hub.endpoint)

    fetched = [r.file for r in hub.requests if r.method == "GET" and r.file is not None]
    assert f"{_REPO}/model.safetensors" not in fetched
    assert f"{_REPO}/onnx/model.bin" in fetched
    assert huggingface_hub.scan_cache_dir(tmp_path).warnings == []


@pytest.mark.parametrize(("writer", "reader"), [("theirs", "ours"), ("ours", "theirs")])
def test_each_knows_the_local_dir_of_the_other(
    hub: HubServer, repo: str, tmp_path: Path, writer: str, reader: str
) -> None:
    """A pinned ``local_dir`` is complete for one library when the other one filled it."""
    where = {"local_dir": tmp_path / "dir", "cache_dir": tmp_path / "cache", "revision": repo}
    _whole[writer](_REPO, endpoint=hub.endpoint, **where)
    hub.clear_requests()

    _whole[reader](_REPO, endpoint=hub.endpoint, **where)

    assert [r.path for r in hub.requests if r.file is not None] == []


@pytest.mark.skipif(_HUB < (1, 0), reason="dry_run came with huggingface_hub 1.0")
@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("force", [False, True])
def test_dry_runs_say_the_same(
    hub: HubServer, repo: str, tmp_path: Path, local: bool, force: bool
) -> None:
    """With one file there and the others not, both libraries announce the same downloads."""
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
