"""The layout of the cache: listings, refs, blobs and links, as huggingface_hub reads them."""

from __future__ import annotations

import os
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants, file_download

from hftransfer._core.digests import Digest
from hftransfer._hub_compat.cache import (
    CachedRepo,
    content_etag,
    create_cachedir_tag,
)
from hftransfer._io.destination_folders import DestinationFolders
from hftransfer.errors import LocationError
from hftransfer.stores.base import Entry

_COMMIT = "c" * 40
_OTHER = "d" * 40
_SHA256 = "5" * 64


def _link(repo: CachedRepo, pointers: list[Path], *, new_blob: bool) -> None:
    create_folder = DestinationFolders(repo.snapshot(_COMMIT)).create
    repo.link("a" * 40, pointers, new_blob=new_blob, create_folder=create_folder)


@pytest.fixture
def repo(tmp_path: Path) -> CachedRepo:
    """A repository in an empty cache."""
    cache = CachedRepo(tmp_path, "model", "acme/tiny")
    cache.blobs.mkdir(parents=True)
    return cache


def regular(path: str = "config.json") -> Entry:
    properties = {"blob-id": "a" * 40}
    return Entry(path=path, size=2, digest=Digest("git-sha1", "a" * 40), properties=properties)


# --- refs, blobs and links


@pytest.mark.parametrize("revision", ["main", "refs/pr/1", "v1.0"])
def test_huggingface_hub_finds_a_ref(repo: CachedRepo, revision: str) -> None:
    """huggingface_hub resolves the revision, and finds no temporary file below refs/."""
    pointer = repo.pointer(_COMMIT, "config.json")
    blob = repo.blob("a" * 40)
    blob.write_bytes(b"{}")
    _link(repo, [pointer], new_blob=True)

    repo.write_ref(revision, _OTHER)
    repo.write_ref(revision, _COMMIT)

    assert repo.read_ref(revision) == _COMMIT
    found = huggingface_hub.try_to_load_from_cache(
        "acme/tiny", "config.json", cache_dir=repo.root, revision=revision
    )
    assert found == str(pointer)
    refs = [path for path in (repo.folder / "refs").rglob("*") if path.is_file()]
    assert refs == [repo.folder / "refs" / revision]
    assert huggingface_hub.scan_cache_dir(repo.root).warnings == []


def test_no_ref_is_written_for_a_commit(repo: CachedRepo) -> None:
    """A commit always is itself."""
    repo.write_ref(_COMMIT, _COMMIT)

    assert not (repo.folder / "refs").exists()


@pytest.mark.parametrize("text", ["", "main", "c" * 39, "../../../etc"])
def test_a_damaged_ref_is_ignored(repo: CachedRepo, text: str) -> None:
    """Only a commit id is accepted: it becomes part of a path."""
    (repo.folder / "refs").mkdir()
    (repo.folder / "refs" / "main").write_text(text)

    assert repo.read_ref("main") is None


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", ""])
def test_a_path_outside_the_snapshot_is_refused(repo: CachedRepo, path: str) -> None:
    """Paths come from a server, which must not choose where files are written."""
    with pytest.raises(LocationError):
        repo.pointer(_COMMIT, path)
    with pytest.raises(LocationError):
        repo.record_missing(_COMMIT, path)


@pytest.mark.parametrize("value", ["", "../../x", "A" * 40, "a" * 41])
def test_an_invalid_digest_is_refused(value: str) -> None:
    """The digest becomes the name of a blob."""
    with pytest.raises(LocationError):
        content_etag(Entry(path="a", size=1, digest=Digest("sha256", value)))


def test_links_are_relative(repo: CachedRepo) -> None:
    """A cache can be moved, or mounted at another path."""
    repo.blob("a" * 40).write_bytes(b"{}")
    pointers = [repo.pointer(_COMMIT, path) for path in ("config.json", "deep/er/config.json")]

    _link(repo, pointers, new_blob=True)

    assert [os.readlink(pointer) for pointer in pointers] == [
        f"../../blobs/{'a' * 40}",
        f"../../../../blobs/{'a' * 40}",
    ]
    assert list(repo.blobs.iterdir()) == [repo.blob("a" * 40)]


def test_a_dangling_link_is_replaced(repo: CachedRepo) -> None:
    """A link whose blob was deleted is replaced by a link to the new blob."""
    pointer = repo.pointer(_COMMIT, "config.json")
    pointer.parent.mkdir(parents=True)
    pointer.symlink_to("../../blobs/gone")
    repo.blob("a" * 40).write_bytes(b"{}")

    _link(repo, [pointer], new_blob=False)

    assert pointer.read_bytes() == b"{}"


@pytest.mark.skipif(
    not hasattr(constants, "HF_HUB_DISABLE_SYMLINKS"),
    reason="HF_HUB_DISABLE_SYMLINKS is new in huggingface_hub 1.9",
)
@pytest.mark.parametrize("new_blob", [True, False])
def test_without_symlinks_files_are_moved_or_copied(
    repo: CachedRepo, monkeypatch: pytest.MonkeyPatch, new_blob: bool
) -> None:
    """A new blob is moved to the last path; a blob of other snapshots is only copied."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    repo.blob("a" * 40).write_bytes(b"{}")
    pointers = [repo.pointer(_COMMIT, path) for path in ("one.json", "two.json")]

    _link(repo, pointers, new_blob=new_blob)

    assert [pointer.read_bytes() for pointer in pointers] == [b"{}", b"{}"]
    assert not any(pointer.is_symlink() for pointer in pointers)
    assert [path.name for path in repo.blobs.iterdir()] == ([] if new_blob else ["a" * 40])


def test_a_commit_of_a_response_is_no_path(repo: CachedRepo) -> None:
    """A missing file is recorded for a commit only; a server chooses no other folder."""
    repo.record_missing("../../../outside", "optional.json")

    assert not (repo.folder / ".no_exist").exists()
    assert not (repo.root.parent / "outside").exists()


def test_huggingface_hub_reads_a_recorded_missing_file(repo: CachedRepo) -> None:
    """Loaders look for optional files; a recorded missing file saves the request."""
    repo.write_ref("main", _COMMIT)
    repo.record_missing(_COMMIT, "deep/optional.json")

    found = huggingface_hub.try_to_load_from_cache(
        "acme/tiny", "deep/optional.json", cache_dir=repo.root
    )

    assert found is file_download._CACHED_NO_EXIST


@pytest.mark.skipif(
    not hasattr(constants, "HF_HUB_DISABLE_SYMLINKS"),
    reason="huggingface_hub before 1.9 reports the tag as a damaged repository",
)
def test_an_existing_cachedir_tag_is_not_replaced(tmp_path: Path) -> None:
    """A tag with another comment is valid: only the first line matters."""
    create_cachedir_tag(tmp_path)
    text = (tmp_path / "CACHEDIR.TAG").read_text()
    assert text.startswith("Signature: 8a477f597d28d172789f06886806bc55\n")
    (tmp_path / "CACHEDIR.TAG").write_text("theirs")

    create_cachedir_tag(tmp_path)

    assert (tmp_path / "CACHEDIR.TAG").read_text() == "theirs"
